//! What an instance has, as it is handed to the program that takes its place: copies of descriptors, and words. The instance goes on as if
//! nothing had happened, but for the conversations with its worker processes, which are handed over last.

use std::time::Duration;

use anyhow::Context as _;

use super::binary::OwnProgram;
use super::files::HandedFiles;
use super::going::Upgrade;
use super::handed_ledger::{
    HandedClaim, HandedDispatcher, HandedLedger, HandedListener, HandedXdp, ParkedWorker,
};
use crate::control::ControlServer;
use crate::instance::running::Running;
use crate::model::ResourceKind;
use crate::worker_process::{HandedLink, HandedWorker, HeardPart, WorkerProcess};
use spectrum_steering::host::{Announcement, LocalRoutes};
use spectrum_steering::tproxy::{SideTable, Tproxy};

impl Running {
    /// The ledger as it is handed to what `upgrade` leads to, without worker processes; the descriptors in it are added to `files`.
    pub(super) fn handed(&self, upgrade: &Upgrade, files: &HandedFiles) -> anyhow::Result<HandedLedger> {
        let mode = self.mode().context("upgrade before steering")?;
        let now = tokio::time::Instant::now();
        let in_ms =
            |due: Option<tokio::time::Instant>| due.map(|due| millis(due.saturating_duration_since(now)));
        let claim = self.claim.as_ref().context("upgrade without a claim")?;
        let (path, lock) = claim.place();
        let claim =
            HandedClaim { path: path.to_owned(), lock: files.add(lock)?, instance: claim.instance().clone() };
        let control = self.control.as_ref().map(ControlServer::place);
        let admin = self.admin.as_ref();
        let listeners = self.listeners.iter().map(|(destination, group)| {
            let sockets = group.copies()?.into_iter().map(|socket| files.give(socket)).collect();
            Ok(HandedListener { destination: destination.clone(), address: group.address(), sockets })
        });
        let book = self.published.now().book.files().context("hand on the counters")?;
        let denials = self.denying.handed();
        Ok(HandedLedger {
            ledger: HandedLedger::version_of(&denials, self.ledger.has(ResourceKind::Pins)),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: files.give(OwnProgram::open().context("open the own program")?),
            path: self.settings.program.path.clone(),
            words: self.settings.program.words.clone(),
            environment: std::env::vars_os().collect(),
            to: upgrade.program.path.clone(),
            // Once all are in.
            files: Vec::new(),
            config: self.config.texts.to_vec(),
            revision: self.revision,
            mode,
            force: self.settings.force.values().map(|forced| forced.to_string()).collect(),
            destinations: self.plan.destinations.clone(),
            have: self.ledger.have().map(|(resource, due)| (resource.clone(), in_ms(due))).collect(),
            steered: self.steered,
            claim,
            control: control
                .map(|(path, file)| Ok::<_, std::io::Error>((path.to_owned(), files.add(file)?)))
                .transpose()?,
            admin: admin
                .map(|admin| Ok::<_, std::io::Error>((admin.address(), files.add(admin.listener())?)))
                .transpose()?,
            announcement: self
                .announcement
                .as_ref()
                .and_then(Announcement::place)
                .map(|(name, file)| Ok::<_, std::io::Error>((name.to_owned(), files.add(file)?)))
                .transpose()?,
            dispatcher: self.handed_dispatcher(files)?,
            xdp: self.handed_xdp(files).context("hand on the XDP program")?,
            routes: self
                .routes
                .as_ref()
                .map_or_else(Vec::new, |routes: &LocalRoutes| routes.added().to_vec()),
            replies: self.replies.routed().collect(),
            mark: self.replies.mark.as_ref().map(SideTable::handed_on),
            exemption: self.exempting.handed_on(),
            listeners: listeners.collect::<std::io::Result<_>>().context("hand on the listeners")?,
            addresses: self.addresses.clone(),
            registered: self.others.all().map(|(one, socket)| (one.clone(), socket.clone())).collect(),
            registered_before: self.others.gone.clone().into_iter().collect(),
            rules: self.tproxy.as_ref().map(Tproxy::handed_on),
            book: book.into_iter().map(|file| files.give(file)).collect(),
            known: self.published.now().known.iter().cloned().collect(),
            gone: self.gone.iter().filter_map(|service| serde_json::to_value(service).ok()).collect(),
            worker: None,
            leaving: Vec::new(),
            ends: self.ends.ages().map(millis).collect(),
            set_origins: self.published.worker().settings(),
            denials: Some(denials),
            reload_waits: false,
        })
    }

    fn handed_xdp(&self, files: &HandedFiles) -> std::io::Result<Vec<HandedXdp>> {
        let handed = self.xdp.links().map(|(interface, link)| {
            let link = link.map(|link| Ok::<_, std::io::Error>((link.mode(), files.add(link.link())?)));
            Ok(HandedXdp { interface: interface.clone(), link: link.transpose()? })
        });
        handed.collect()
    }

    fn handed_dispatcher(&self, files: &HandedFiles) -> anyhow::Result<Option<HandedDispatcher>> {
        let Some(dispatcher) = &self.dispatcher else { return Ok(None) };
        let (counted, counters) = dispatcher.probe().all_counts()?.into_parts();
        let counters = counters.context("hand on the counters of packets")?;
        let link = dispatcher.link().map(|link| files.add(link)).transpose()?;
        let listeners = Some(files.add(dispatcher.listeners())?);
        let secret = Some(dispatcher.secret());
        Ok(Some(HandedDispatcher { link, counters: files.give(counters), counted, listeners, secret }))
    }

    /// Hands the conversations with all worker processes over: from here on nobody hears them until the next program does, or
    /// [`adopt_workers`](Self::adopt_workers).
    pub(super) async fn hand_workers_on(
        &mut self,
        ledger: &mut HandedLedger,
        files: &HandedFiles,
    ) -> anyhow::Result<()> {
        self.published.worker().is(None);
        for (mut worker, time) in self.leaving.take() {
            match worker.hand_on().await {
                Ok(handed) => ledger.leaving.push((parked(handed, files), millis(time))),
                Err(error) => tracing::warn!("one that drains ends with what it has open: {error:#}"),
            }
            worker.let_go();
        }
        if let Some(mut worker) = self.worker.take() {
            let handed = worker.hand_on().await?;
            ledger.worker = Some(parked(handed, files));
            worker.let_go();
        }
        ledger.files = files.numbers();
        Ok(())
    }

    /// Adopts the worker processes of `ledger`: the one that serves, if there is one, and those that drain, which go on doing so.
    pub(super) fn adopt_workers(
        &mut self,
        ledger: &HandedLedger,
        files: &HandedFiles,
    ) -> anyhow::Result<Option<WorkerProcess>> {
        let book = self.published.now().book.clone();
        let mut leaving = Vec::new();
        for (parked, time) in &ledger.leaving {
            match self.adopt_worker(parked, files, &book) {
                Ok(worker) => leaving.push((worker, Duration::from_millis(*time))),
                Err(error) => tracing::warn!("one that drains ends with what it has open: {error:#}"),
            }
        }
        for (worker, time) in leaving {
            self.leaving.adopt(worker, time);
        }
        ledger.worker.as_ref().map(|parked| self.adopt_worker(parked, files, &book)).transpose()
    }

    fn adopt_worker(
        &self,
        parked: &ParkedWorker,
        files: &HandedFiles,
        book: &crate::observe::Book,
    ) -> anyhow::Result<WorkerProcess> {
        let heard_files = parked.heard_files.iter().map(|number| files.copy(*number));
        let heard =
            HeardPart { bytes: parked.heard.clone(), files: heard_files.collect::<std::io::Result<_>>()? };
        let handed = HandedWorker {
            pid: parked.pid,
            pidfd: files.copy(parked.pidfd)?,
            process: parked.process,
            link: HandedLink {
                stream: files.copy(parked.stream)?,
                next: parked.next,
                heard,
                awaited: parked.awaited.clone(),
            },
        };
        WorkerProcess::adopt(handed, book, &self.hearing.0, self.bindings.answering())
    }
}

fn parked(handed: HandedWorker, files: &HandedFiles) -> ParkedWorker {
    let HandedWorker { pid, pidfd, process, link: HandedLink { stream, next, heard, awaited } } = handed;
    ParkedWorker {
        pid,
        pidfd: files.give(pidfd),
        process,
        stream: files.give(stream),
        next,
        awaited,
        heard: heard.bytes,
        heard_files: heard.files.into_iter().map(|file| files.give(file)).collect(),
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
