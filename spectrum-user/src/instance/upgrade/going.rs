//! The way from this version to another one: tried first, then handed everything, then executed. Returns where that is not to be, with
//! everything as it was.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::binary::NewProgram;
use super::files::HandedFiles;
use super::takeover::execute;
use super::trial::{TrialAnswer, ask};
use super::way_back::AlarmGuard;
use crate::instance::hearing::Hearing;
use crate::instance::notifying::notify;
use crate::instance::running::{Running, WorkerPlace};
use crate::instance::standby::aside;
use crate::model::ResourceKind;
use crate::observe::Output;

/// The time that programs of the firewall have to end by themselves, whose end this program would see.
const SETTLING: Duration = Duration::from_secs(3);

/// Between two looks whether they have.
const GLANCE: Duration = Duration::from_millis(20);

/// The time for writing the log that this program has not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

/// An upgrade that is under way.
#[derive(Debug)]
pub(in crate::instance) struct Upgrade {
    pub(super) program: NewProgram,
    answer: TrialAnswer,
}

impl Upgrade {
    /// The version that it leads to.
    pub(in crate::instance) fn version(&self) -> &str {
        &self.answer.version
    }

    /// The path of its program.
    pub(in crate::instance) fn path(&self) -> &Path {
        &self.program.path
    }
}

impl Running {
    /// Tries the program at `to`, or at the path that this one had, and says how to become it. Nothing has changed then, nor after an error.
    pub(in crate::instance) async fn prepare_upgrade(
        &mut self,
        to: Option<PathBuf>,
    ) -> anyhow::Result<Upgrade> {
        if matches!(self.settings.worker, WorkerPlace::Thread) {
            bail!(
                "with --single-process what is open would be cut, which is what an upgrade is there to avoid: restart the \
                 instance, or start it without --single-process"
            );
        }
        let path = to.unwrap_or_else(|| self.settings.program.path.clone());
        let program = NewProgram::open(&path)?;
        let bindings = self.plan.bindings.len();
        let upgrade = Upgrade { program, answer: TrialAnswer::default() };
        let files = HandedFiles::default();
        let ledger = self.handed(&upgrade, &files)?;
        drop(files);
        let document = ledger.written().context("write the ledger")?;
        let stop = self.stop_asked.clone();
        let words: Vec<_> = self.settings.program.words.iter().skip(1).cloned().collect();
        let asked = aside(move || {
            let answer = ask(&upgrade.program, document.as_fd(), words.into_iter(), bindings);
            answer.map(|answer| Upgrade { answer, ..upgrade })
        });
        let tried = self.meanwhile(stop.unless(asked)).await??;
        let upgrade = tried.with_context(|| format!("try {}", path.display()))?;
        self.retire_handshakes().await?;
        Ok(upgrade)
    }

    /// Waits until listeners are gone which nothing is steered to any more: they are served by who served them.
    async fn retire_handshakes(&mut self) -> anyhow::Result<()> {
        loop {
            let retiring = self.ledger.have().filter(|(resource, _)| {
                matches!(resource.kind(), ResourceKind::Listener | ResourceKind::Serving)
            });
            let Some(due) = retiring.filter_map(|(_, due)| due).max() else { return Ok(()) };
            let stop = self.stop_asked.clone();
            self.meanwhile(stop.unless(sleep_until(due))).await?;
            self.retire_due().await;
        }
    }

    /// Becomes what `upgrade` leads to. Returns only where that fails: the reason.
    pub(in crate::instance) async fn go_over_to(
        &mut self,
        upgrade: Upgrade,
        hearing: &mut Hearing,
        output: &Output,
    ) -> anyhow::Error {
        self.settle_programs().await;
        let failed = match hearing.settle().await {
            Ok(reload_waits) => self.become_it(&upgrade, reload_waits, output).await,
            Err(error) => error,
        };
        hearing.go_on();
        failed.context(format!("become {}", upgrade.program.path.display()))
    }

    async fn become_it(&mut self, upgrade: &Upgrade, reload_waits: bool, output: &Output) -> anyhow::Error {
        let files = HandedFiles::default();
        let mut ledger = match self.handed(upgrade, &files) {
            Ok(ledger) => ledger,
            Err(error) => return error,
        };
        ledger.reload_waits = reload_waits;
        if let Err(error) = self.hand_workers_on(&mut ledger, &files).await {
            return match self.require_worker(Duration::ZERO).await {
                Ok(()) => error,
                Err(more) => anyhow!("{error:#}; then {more:#}"),
            };
        }
        let executed = ledger.written().and_then(|document| {
            let _is_written = output.finish(LAST_LINES);
            // While the other one takes over nobody gives signs of life.
            notify(&[NotifyState::Watchdog], &self.published);
            let bindings = self.plan.bindings.len();
            let _alarm = upgrade.answer.heeds_alarm.then(|| AlarmGuard::set(bindings)).transpose()?;
            execute(&upgrade.program.file, &ledger, &files, &document, None)
        });
        let error = match executed {
            Err(error) => anyhow!(error),
        };
        // Nobody has heard them meanwhile, and nothing is lost of what they say.
        match self.adopt_workers(&ledger, &files) {
            Ok(Some(worker)) => {
                if let Ok(link) = worker.link() {
                    self.published.worker().is(Some(link.clone()));
                }
                self.worker = Some(worker);
            }
            Ok(None) => {}
            Err(error) => self.worker_ended(&format!("{error:#}")).await,
        }
        error
    }

    /// Waits for looks at the firewall, and for whatever else was started to end, for a bounded time.
    async fn settle_programs(&mut self) {
        let deadline = Instant::now() + SETTLING;
        let looks = async { while self.repairing.looks.end_one().await {} };
        drop(timeout(SETTLING, looks).await);
        let mut known: BTreeSet<u32> = self.leaving.shown().into_iter().map(|one| one.pid).collect();
        known.extend(self.worker.as_ref().and_then(crate::worker_process::WorkerProcess::pid));
        while Instant::now() < deadline && children().iter().any(|child| !known.contains(child)) {
            sleep(GLANCE).await;
        }
    }
}

/// The processes that this one has started and not let go of.
pub(super) fn children() -> Vec<u32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    texts
        .flat_map(|text| text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
