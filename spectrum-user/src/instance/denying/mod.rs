//! Clients denied at run time: hears who says it, has the kernel judge by it, ends it in time and keeps it. What the words mean the
//! model knows.

mod kept_file;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::kept_file::KeptDenials;
use super::exit_code::USAGE;
use super::running::Running;
use super::state_dir::state_dir;
use crate::config::nearest;
use crate::control::{Asked, ControlError, DenyAnswer, DenyQuery, Request};
use crate::model::{
    DenialChange, DenialKey, HeldDenial, Prefix, ServiceName, SharedDenials, SourceRule, visible,
};
use crate::plan::RunTimeSources;
use crate::plan::table::RunTimeLists;
use crate::registry::Mode;
use crate::view::{Damage, DeniedView, Present, RunTimePresent};
use spectrum_steering::tproxy::Tproxy;

/// After a change the kernel has at least as long a rest as that took, and at most so long.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The pause after which what could not be ended is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The words said at run time, and those who say it.
#[derive(Debug, Default)]
pub(super) struct Denying {
    asked: Option<mpsc::Receiver<Asked>>,
    denials: SharedDenials,
    /// The words that the kernel judges by.
    sources: Arc<RunTimeSources>,
    /// The lists in the kernel, over sk_lookup.
    lists: RunTimeLists,
    kept: Option<KeptDenials>,
    /// Nothing is changed before.
    rest: Option<Instant>,
}

/// A cause to change whom services let in.
#[derive(Debug)]
pub(super) enum DenyEvent {
    /// Somebody says something, perhaps several at once.
    Asked(Vec<Asked>),
    /// Something ends.
    Ended,
}

/// The words that hold of one prefix, as one version of the program tells it to the next.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct HandedDenial {
    service: Option<ServiceName>,
    prefix: Prefix,
    is_denied: bool,
    left_ms: Option<u64>,
    uid: Option<u32>,
    /// In seconds since 1970.
    since: u64,
    /// A version that does not count has none.
    #[serde(default)]
    packets: u64,
}

impl Denying {
    /// The words that the kernel judges by.
    pub(super) fn sources(&self) -> Arc<RunTimeSources> {
        Arc::clone(&self.sources)
    }

    /// The kernel has these lists now.
    pub(super) fn published(&mut self, lists: &RunTimeLists) {
        self.lists = lists.clone();
    }

    /// Hears `asked` from now on.
    pub(super) fn hear(&mut self, asked: Option<mpsc::Receiver<Asked>>) {
        self.asked = asked;
    }

    /// The next cause. Dropped while it waits, it forgets nothing.
    pub(super) async fn next(&mut self) -> DenyEvent {
        if let Some(rest) = self.rest {
            sleep_until(rest).await;
        }
        let end = self.denials.lock().next_end().map(Instant::from_std);
        let Some(asked) = &mut self.asked else { return std::future::pending().await };
        tokio::select! {
            first = asked.recv() => match first {
                Some(first) => {
                    let mut all = vec![first];
                    while let Ok(more) = asked.try_recv() {
                        all.push(more);
                    }
                    DenyEvent::Asked(all)
                }
                None => std::future::pending().await,
            },
            () = until(end) => DenyEvent::Ended,
        }
    }

    fn held(&self) -> Vec<(DenialKey, HeldDenial)> {
        self.denials.lock().iter().map(|(key, denial)| (key.clone(), *denial)).collect()
    }

    /// The words that hold, for the program that takes the place of this one.
    pub(super) fn handed(&self) -> Vec<HandedDenial> {
        let now = std::time::Instant::now();
        let handed = |((service, prefix), denial): (DenialKey, HeldDenial)| HandedDenial {
            service,
            prefix,
            is_denied: denial.rule == SourceRule::Deny,
            left_ms: denial.until.map(|until| millis(until.saturating_duration_since(now))),
            uid: denial.uid,
            since: denial.since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs(),
            packets: denial.packets,
        };
        self.held().into_iter().map(handed).collect()
    }

    /// Takes up what is kept, or what was handed over where anything was. Nothing is changed in the kernel.
    pub(super) fn begin(&mut self, handed: Option<&[HandedDenial]>) -> RunTimePresent {
        let (kept, read) = KeptDenials::open(state_dir());
        let now = std::time::Instant::now();
        let of = |handed: &HandedDenial| {
            let rule = if handed.is_denied { SourceRule::Deny } else { SourceRule::Allow };
            let until = handed.left_ms.and_then(|left| now.checked_add(Duration::from_millis(left)));
            let since = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(handed.since));
            let since = since.unwrap_or(std::time::UNIX_EPOCH);
            let denial = HeldDenial { rule, until, uid: handed.uid, since, packets: handed.packets };
            ((handed.service.clone(), handed.prefix), denial)
        };
        let held = match handed {
            Some(handed) => handed.iter().map(of).collect(),
            None => read,
        };
        self.denials.lock().adopt(held);
        self.kept = Some(kept);
        self.sources = Arc::new(self.said());
        if handed.is_some() {
            // The version before may not have come to it.
            self.keep(Vec::new());
        }
        self.present()
    }

    fn said(&self) -> RunTimeSources {
        let (common, own, is_in_use) = self.denials.lock().policies();
        RunTimeSources { common, own: Arc::new(own), is_in_use }
    }

    /// The view of those who ask.
    pub(super) fn present(&self) -> RunTimePresent {
        RunTimePresent { sources: self.sources(), denials: self.denials.clone(), damage: self.damage() }
    }

    fn damage(&self) -> Damage {
        self.kept.as_ref().map(KeptDenials::damage).unwrap_or_default()
    }

    /// Keeps what holds, then answers.
    fn keep(&self, answers: Vec<(Asked, DenyAnswer)>) {
        match &self.kept {
            Some(kept) => kept.keep(self.held(), answers),
            None => answers.into_iter().for_each(|(asked, answer)| asked.done(&answer)),
        }
    }
}

impl Running {
    /// Does what somebody says, or ends what is over: one change of the kernel for all that came together.
    pub(super) async fn deny(&mut self, event: DenyEvent) {
        let begun = Instant::now();
        match event {
            DenyEvent::Asked(asked) => self.say(asked).await,
            DenyEvent::Ended => self.end_denials().await,
        }
        let rest = begun.elapsed().min(LONGEST_REST);
        self.denying.rest = Some(self.denying.rest.unwrap_or(begun).max(Instant::now() + rest));
    }

    async fn say(&mut self, asked: Vec<Asked>) {
        let mut changes: Vec<(Asked, DenialChange)> = Vec::new();
        for asked in asked.into_iter().filter(|asked| !asked.is_gone()) {
            match self.change_denials(&asked) {
                Ok(change) => changes.push((asked, change)),
                Err(error) => {
                    let code = super::exit_code::code(&error);
                    asked.refused(&format!("{error:#}"), code, &[]);
                }
            }
        }
        let judges_otherwise = changes.iter().any(|(_, change)| change.judges_otherwise);
        let applied = if judges_otherwise { self.judge_by_denials().await } else { Ok(()) };
        if let Err(error) = applied {
            tracing::error!("whom services let in is as before: {error:#}");
            for (asked, change) in changes.into_iter().rev() {
                self.denying.denials.lock().take_back(change);
                asked.refused(&format!("{error:#}"), super::exit_code::FAILURE, &[]);
            }
            return;
        }
        let (denied, excepted) = self.denying.denials.lock().counts();
        let answers = changes.into_iter().map(|(asked, change)| {
            let DenialChange { changed: new, unchanged, .. } = change;
            if let Request::Deny(DenyQuery { word, service, prefixes, for_ms }) = &asked.request {
                let (pid, uid) = (asked.peer.and_then(|peer| peer.pid), asked.peer.map(|peer| peer.uid));
                let first = prefixes.first().map(|first| visible(first).into_owned());
                let service = service.as_deref();
                tracing::info!(%word, service, first, new, unchanged, for_ms, pid, uid, "told whom to let in");
            }
            (asked, DenyAnswer { changed: new, unchanged, denied, excepted, unsaved: None })
        });
        self.denying.keep(answers.collect());
        self.show_denials();
    }

    /// Changes what holds as is `asked`; not in the kernel yet.
    fn change_denials(&mut self, asked: &Asked) -> anyhow::Result<DenialChange> {
        let Request::Deny(DenyQuery { word, service, prefixes, for_ms }) = &asked.request else {
            bail!("deny: it is asked for something else");
        };
        let service = service.as_deref().map(|typed| self.service_named(typed)).transpose()?;
        let keys = prefixes.iter().map(|typed| {
            let prefix: Result<Prefix, _> = typed.parse();
            let prefix = prefix.map_err(|error| refused(format!("{word} {}: {error}", visible(typed))))?;
            Ok((service.clone(), prefix))
        });
        let keys = keys.collect::<anyhow::Result<Vec<DenialKey>>>()?;
        let uid = asked.peer.map(|peer| peer.uid);
        let time = for_ms.map(Duration::from_millis);
        self.denying.denials.lock().say(*word, keys, time, uid).context("deny")
    }

    /// The service that is meant. One that is gone may still have something of which it is to be undone.
    fn service_named(&self, typed: &str) -> anyhow::Result<ServiceName> {
        let names: Vec<&str> = self.config.services.iter().map(|service| service.name.as_str()).collect();
        if let Ok(name) = typed.parse::<ServiceName>()
            && (names.contains(&typed) || self.denying.sources.own.contains_key(&name))
        {
            return Ok(name);
        }
        let near = nearest(typed, &names).map_or_else(
            || "say a service of this instance, or none for all of them".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        Err(refused(format!("deny: {:?} is neither a prefix nor a service; {near}", visible(typed))))
    }

    async fn end_denials(&mut self) {
        let change = self.denying.denials.lock().end(std::time::Instant::now());
        if !change.judges_otherwise {
            return;
        }
        match self.judge_by_denials().await {
            Ok(()) => {
                tracing::debug!(count = change.changed, "denials at run time have ended");
                self.denying.keep(Vec::new());
                self.show_denials();
            }
            Err(error) => {
                tracing::error!("whom services let in is as before, although some of it is over: {error:#}");
                self.denying.denials.lock().take_back(change);
                self.denying.rest = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Has the kernel judge by what holds now. After an error it judges as before.
    async fn judge_by_denials(&mut self) -> anyhow::Result<()> {
        let next = Arc::new(self.denying.said());
        match self.mode().context("deny before steering")? {
            Mode::SkLookup => {
                let dispatcher = self.dispatcher.as_mut().context("deny without a program")?;
                // What is nobody's place yet takes a table whose gates lead there.
                let refilled = if self.denying.lists.nodes().is_empty() {
                    None
                } else {
                    self.denying.lists.refilled(&next)?
                };
                match refilled {
                    Some(lists) => {
                        dispatcher.amend(lists.nodes())?;
                        self.denying.lists = lists;
                    }
                    None => self.publish_denials(&next).await?,
                }
            }
            Mode::Tproxy => {
                let plan = Arc::clone(&self.plan);
                let firewall = self.firewall(&self.config, &plan, &next)?;
                let amend = move |tproxy: &mut Option<Tproxy>| {
                    tproxy.as_mut().map_or(Ok(()), |tproxy| tproxy.amend(&firewall))
                };
                self.with_firewall(|all| &mut all.tproxy, amend).await??;
            }
        }
        match self.judge_at_run_time(&next).await {
            // Nobody else does.
            Err(error) if self.judges_all(&self.config) => return Err(error),
            Err(error) => tracing::warn!("clients that trusted proxies name are judged as before: {error:#}"),
            Ok(()) => {}
        }
        self.denying.sources = next;
        Ok(())
    }

    /// Publishes the whole table, with a place for each list of `next`.
    pub(in crate::instance) async fn publish_denials(
        &mut self,
        next: &Arc<RunTimeSources>,
    ) -> anyhow::Result<()> {
        let plan = Arc::clone(&self.plan);
        let before = std::mem::replace(&mut self.denying.sources, Arc::clone(next));
        let published = match self.compiled(&plan).await {
            Ok(table) => {
                let config = Arc::clone(&self.config);
                self.publish_table(&table, &config, &plan, self.revision)
            }
            Err(error) => Err(error),
        };
        if published.is_err() {
            self.denying.sources = before;
        }
        published
    }

    /// Shows to those who ask what holds.
    pub(super) fn show_denials(&self) {
        let present = self.denying.present();
        self.published.change(|now| now.run_time = present);
    }
}

impl Present {
    /// The words that hold at run time, a few at a time.
    pub(super) fn denied(&self) -> impl Iterator<Item = Vec<DeniedView>> + use<> {
        // Over TPROXY nobody samples.
        let all = self.run_time.listed(self.mode == Some(Mode::SkLookup));
        let batches: Vec<Vec<_>> = all.chunks(BATCH).map(<[_]>::to_vec).collect();
        batches.into_iter()
    }
}

/// So many are listed before others have their turn.
const BATCH: usize = 512;

/// A request that makes no sense here.
fn refused(message: String) -> anyhow::Error {
    ControlError::Refused { message, code: USAGE, problems: Vec::new() }.into()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}
