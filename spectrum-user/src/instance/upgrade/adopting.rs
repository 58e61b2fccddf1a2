//! The adoption of what the version before has raised: everything is as it was, and then another worker process serves by this program.
//! Until the very last step nothing is changed that the version before could not take back.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::files::HandedFiles;
use super::going::children;
use super::handed_ledger::{HandedDispatcher, HandedLedger, HandedXdp};
use super::takeover::Takeover;
use crate::admin::AdminServer;
use crate::config::Config;
use crate::control::ControlServer;
use crate::instance::Farewell;
use crate::instance::denials;
use crate::instance::effects::{firewall_of, loaded, namespace};
use crate::instance::own_bindings::Speaking;
use crate::instance::registering::Registered;
use crate::instance::running::Running;
use crate::model::{Destination, Forced, Protocol, Resource, ResourceKind, registered};
use crate::plan::firewall::Firewall;
use crate::plan::{Plan, RunTimeSources};
use crate::registry::{Claim, InstanceId, Mode};
use crate::worker_process::WorkerProcess;
use spectrum_steering::dispatcher::{FormerCounts, XdpLink};
use spectrum_steering::host::{Announcement, ListenerGroup, LocalRoutes};
use spectrum_steering::tproxy::{SideTable, Tproxy};

/// Between two looks whether a child has ended.
const GLANCE: Duration = Duration::from_millis(100);

impl HandedLedger {
    /// `plan` of `config`, which is a first one, with the numbers that its destinations have.
    pub(super) fn renumbered(&self, config: &Config, plan: Plan) -> Plan {
        let before = Plan { destinations: self.destinations.clone(), ..Plan::default() };
        plan.after(&before, &config.services, &config.services, self.revision)
    }

    /// The firewall of `plan`, as far as there are listeners.
    pub(super) fn firewall(
        &self,
        config: &Config,
        plan: &Plan,
        run_time: &RunTimeSources,
    ) -> anyhow::Result<Firewall> {
        let listeners: BTreeMap<&Destination, _> =
            self.listeners.iter().map(|one| (&one.destination, one.address)).collect();
        let mut others = Registered::default();
        others.adopt(self.registered.iter().cloned(), []);
        firewall_of(config, plan, run_time, |one| listeners.get(one).copied(), &others.sockets)
    }
}

impl Running {
    /// Goes from what `takeover` hands over to traffic that this program serves. After an error everything is still as it was, and to be
    /// gone back to, unless all has been taken over by then.
    pub(in crate::instance) async fn adopt(&mut self, takeover: &Takeover) -> anyhow::Result<()> {
        let ledger = &takeover.ledger;
        self.reap_strangers(ledger);
        takeover.step("words")?;
        self.adopt_words(ledger)?;
        takeover.step("kernel")?;
        self.adopt_kernel(takeover)?;
        self.bindings.are(vec![Arc::clone(&self.plan)], Speaking::of(&[&self.config]))?;
        self.worker = self.adopt_workers(ledger, &takeover.files)?;
        let link = self.worker.as_ref().map(|worker| worker.link().cloned()).transpose()?;
        self.published.worker().is(link);
        takeover.step("worker")?;
        // It reads nothing yet, and is ready to.
        // Where this program had handed over in vain, the worker process is its own.
        let is_own = takeover.failure().is_some() && self.worker.is_some();
        let next = if is_own { None } else { Some(self.next_worker().await?) };
        takeover.step("program")?;
        if let Some(handed) = &ledger.dispatcher {
            self.prepare_program(handed, &takeover.files).await?;
        }
        takeover.step("last")?;

        // From here on this program has it all.
        if let Some(handed) = &ledger.dispatcher {
            self.take_program_over(handed, takeover)?;
        }
        takeover.done();
        self.listen_on(ledger, takeover);
        self.publish();
        self.published.upgraded(&ledger.version, takeover.failure());
        if let Some(next) = next
            && let Err(error) = self.change_to(next).await
        {
            self.worker_ended(&format!("{error:#}")).await;
        }
        self.go_to_what_is_wanted().await;
        Ok(())
    }

    /// Lets go of children of which this program knows nothing: of a trial, or of a version that did not take over.
    fn reap_strangers(&self, ledger: &HandedLedger) {
        let known: Vec<i32> = ledger
            .worker
            .iter()
            .chain(ledger.leaving.iter().map(|(one, _)| one))
            .map(|one| one.pid)
            .collect();
        let pids = children().into_iter().filter_map(|pid| i32::try_from(pid).ok());
        for pid in pids.filter(|pid| !known.contains(pid)) {
            self.hearing.0.spawn(async move {
                let is_there = || {
                    let looked = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
                    matches!(looked, Ok(WaitStatus::StillAlive))
                };
                while is_there() {
                    sleep(GLANCE).await;
                }
            });
        }
    }

    /// The part of `ledger` that is in no kernel.
    fn adopt_words(&mut self, ledger: &HandedLedger) -> anyhow::Result<()> {
        self.path = Some(ledger.mode);
        self.revision = ledger.revision;
        self.steered = ledger.steered;
        self.settings.program.path.clone_from(&ledger.path);
        self.settings.program.words.clone_from(&ledger.words);
        let forced = ledger.force.iter().map(|typed| Ok(typed.parse()?));
        let forced = forced.collect::<anyhow::Result<Vec<Forced>>>().context("adopt what is forced")?;
        self.settings.force.extend(&forced.into());
        let now = Instant::now();
        let grace = if ledger.worker.is_some() { self.settings.drain } else { Duration::ZERO };
        self.ledger.adopt(ledger.have.iter().map(|(resource, due)| {
            // Whoever drains now still needs what would have gone a little sooner.
            let due = due.map(|due| now + Duration::from_millis(due).max(grace));
            (resource.clone(), due)
        }));
        self.ends.adopt(ledger.ends.iter().map(|ago| Duration::from_millis(*ago)));
        self.addresses = ledger.addresses.clone();
        let gone = ledger.gone.iter().cloned().map(serde_json::from_value);
        // Where another version of them is not understood they are not shown, and cut in time all the same.
        self.gone = gone.filter_map(Result::ok).collect();
        self.published.worker().adopt(ledger.set_origins.clone());
        self.denying.begin(ledger.denials.as_deref());
        self.show_denials();
        self.published.change(|now| {
            now.mode = Some(ledger.mode);
            Arc::make_mut(&mut now.known).extend(ledger.known.iter().cloned());
        });
        Ok(())
    }

    /// The part that is in the kernel and stays as it is.
    fn adopt_kernel(&mut self, takeover: &Takeover) -> anyhow::Result<()> {
        let Takeover { ledger, files, .. } = takeover;
        let claim = &ledger.claim;
        let id = claim.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let id: InstanceId = id.parse().context("adopt the state file")?;
        let lock = files.copy(claim.lock).context("adopt the state file")?;
        self.claim = Some(Claim::adopt(id, claim.path.clone(), lock, claim.instance.clone()));
        self.published.change(|now| now.id = Some(id));
        self.routes = Some(LocalRoutes::open_with(ledger.routes.clone())?);
        if let Some((name, file)) = &ledger.announcement {
            let file = files.copy(*file).context("adopt the device by which prefixes are announced")?;
            self.announcement = Some(Announcement::adopt(name.clone(), file)?);
        }
        for HandedXdp { interface, link } in ledger.xdp.clone() {
            let adopt = |(mode, file)| Ok::<_, std::io::Error>((mode, files.copy(file)?));
            let link = link.map(adopt).transpose().context("adopt the XDP program")?;
            let link = link.map(|(mode, file)| XdpLink::adopt(interface.clone(), mode, file));
            self.xdp.adopt(interface, link);
        }
        self.replies.adopt(ledger.replies.iter().copied());
        self.replies.mark = ledger.mark.clone().map(SideTable::adopt).transpose()?;
        self.exempting.adopt(ledger.exemption.clone().map(SideTable::adopt).transpose()?);
        self.tproxy = ledger.rules.clone().map(Tproxy::adopt).transpose()?;
        self.others.adopt(ledger.registered.iter().cloned(), ledger.registered_before.iter().cloned());
        if self.ledger.has(ResourceKind::Pins) {
            self.pinning.adopt().context("adopt what is pinned")?;
        }
        for listener in &ledger.listeners {
            let sockets = listener.sockets.iter().map(|number| files.copy(*number));
            let group = sockets.collect::<std::io::Result<_>>().and_then(ListenerGroup::adopt);
            let group = group.with_context(|| format!("adopt the listeners of {}", listener.destination))?;
            self.listeners.insert(listener.destination.clone(), group);
        }
        Ok(())
    }

    /// Loads this version's program with maps of its own, which have all that is steered by, beside the one that steers.
    async fn prepare_program(
        &mut self,
        handed: &HandedDispatcher,
        files: &HandedFiles,
    ) -> anyhow::Result<()> {
        if handed.link.is_none() {
            return Ok(());
        }
        let plan = Arc::clone(&self.plan);
        let table = self.compiled(&plan).await?;
        let directory = self.pinning.make_directory().context("pin beside what is pinned")?;
        let mut dispatcher = Box::new(loaded(&plan, handed.secret, directory.as_deref())?);
        if let Some(samples) = dispatcher.take_samples() {
            self.hearing.0.spawn(denials::read(samples, self.published.clone()));
        }
        for (id, destination) in &plan.destinations {
            // One whose registration is no more wanted is on its way out.
            if let Some(group) = self.listeners.get(destination) {
                dispatcher.register(*id, group.first())?;
                self.registered.insert(*id);
            }
        }
        // Of these nobody here has descriptors, and those that were closed meanwhile are nowhere any more.
        if let Some(listeners) = handed.listeners {
            let listeners = files.copy(listeners).context("adopt registered sockets")?;
            self.take_places(&mut dispatcher, listeners.as_fd())?;
        }
        let registered = registered(&self.config.services);
        let others = plan.destinations.iter().filter(|(_, one)| registered.contains(&one.service));
        self.registered.extend(others.map(|(id, _)| *id));
        self.dispatcher = Some(dispatcher);
        let config = Arc::clone(&self.config);
        self.publish_table(&table, &config, &plan, self.revision)?;
        // Nothing ever waits in those of the version before.
        let silent = plan.silent().into_iter().map(|(protocol, family)| Resource::Silent(protocol, family));
        self.listen_silently(&silent.collect::<Vec<_>>())
    }

    /// The one moment from which packets see this version's program.
    fn take_program_over(&mut self, handed: &HandedDispatcher, takeover: &Takeover) -> anyhow::Result<()> {
        let (Some(dispatcher), Some(link)) = (&mut self.dispatcher, handed.link) else { return Ok(()) };
        let op = "adopt the sk_lookup program";
        let counters = takeover.files.copy(handed.counters).context(op)?;
        let former = FormerCounts::open(handed.counted.clone(), counters).context(op)?;
        let link = takeover.files.copy(link).context(op)?;
        dispatcher.take_over(link, former, namespace()?)?;
        self.xdp.take_over(dispatcher);
        if let Err(error) = self.have_left_pins() {
            tracing::warn!("remove what the version before had pinned: {error:#}");
        }
        Ok(())
    }

    /// Hears and shows again. Where that fails it is missing, and put back.
    fn listen_on(&mut self, ledger: &HandedLedger, takeover: &Takeover) {
        if let Some((path, listener)) = &ledger.control {
            let (handle, requests) = self.hearing.clone();
            let adopted = takeover.files.copy(*listener).map_err(anyhow::Error::from);
            let adopted = adopted.and_then(|file| Ok(ControlServer::adopt(path, file, &handle, requests)?));
            self.control = adopted.map_err(|error| tracing::warn!("{error:#}")).ok();
        }
        if let Some((address, listener)) = &ledger.admin {
            let published = self.published.clone();
            let adopted = takeover.files.copy(*listener).map_err(anyhow::Error::from).and_then(|file| {
                Ok(AdminServer::adopt(*address, file, move |scope| published.now().view(scope))?)
            });
            self.admin = adopted.map_err(|error| tracing::warn!("{error:#}")).ok();
        }
    }

    /// Has `next` serve, in the place of the worker process of before, if there is one.
    async fn change_to(&mut self, next: WorkerProcess) -> anyhow::Result<()> {
        if self.worker.is_some() {
            return self.change_workers(next).await.map(drop);
        }
        let link = next.link()?.clone();
        self.published.worker().is(Some(link.clone()));
        self.worker = Some(next);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            link.begin_reading(protocol).await?;
        }
        Ok(())
    }

    /// What this version wants and the one before had not, or had in another form.
    async fn go_to_what_is_wanted(&mut self) {
        let (Some(mode), mut aim) = (self.path, self.aim()) else { return };
        if mode == Mode::Tproxy
            && let Ok(firewall) = self.firewall(&aim.config, &aim.plan, &self.denying.sources())
            && self.tproxy.as_ref().is_some_and(|tproxy| !tproxy.is_of(&firewall))
        {
            let replaced = self.with_firewall(
                |all| &mut all.tproxy,
                move |tproxy| tproxy.as_mut().map_or(Ok(()), |tproxy| tproxy.replace(&firewall)),
            );
            match replaced.await {
                Ok(Ok(())) => tracing::info!("firewall rules are this version's now"),
                Ok(Err(error)) => tracing::warn!("firewall rules are those of the version before: {error}"),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        let course = self.course_to(&aim, mode, Farewell::Drain(self.settings.drain));
        if course.to_raise().next().is_some() && mode == Mode::SkLookup {
            aim.table = match self.compiled(&Arc::clone(&aim.plan)).await {
                Ok(table) => Some(Arc::new(table)),
                Err(error) => return tracing::warn!("{error:#}"),
            };
        }
        match self.go(course, &aim).await.outcome() {
            Ok(errors) => errors.iter().for_each(|error| tracing::warn!("{error:#}")),
            Err(error) => tracing::warn!("what this version wants beside is not there: {error:#}"),
        }
        self.publish();
    }
}
