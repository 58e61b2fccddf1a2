//! The worker process of an instance: started with it, and once more whenever it ends before its time. What it serves is raised
//! like everything else.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::effects::{by_name, served};
use super::lookups::{NAMES_PATIENCE, origins_of, places};
use super::running::Running;
use super::stop::Stopped;
use crate::config::Config;
use crate::confinement::Needs;
use crate::model::{Resource, ResourceKind, ServiceName};
use crate::observe::RecordRules;
use crate::plan::Plan;
use crate::worker_process::{Begun, HandoverOf, Link, WorkerProcess};

/// So many may end within a minute before the next has to wait.
const FREE: usize = 4;

/// The time in which ends are counted.
const MINUTE: Duration = Duration::from_mins(1);

/// The time in which it is noticed at the latest that one has ended.
pub(super) const NOTICE: Duration = Duration::from_secs(1);

/// The first wait, which doubles, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// The ends of worker processes that came before their time.
#[derive(Debug, Default)]
pub(super) struct WorkerEnds {
    /// In the last minute.
    lately: VecDeque<Instant>,
    /// When the next one is started, while there is none.
    due: Option<Instant>,
}

impl WorkerEnds {
    /// One has ended, or could not be started: the time until the next one is.
    fn one_more(&mut self, now: Instant) -> Duration {
        while self.lately.front().is_some_and(|then| now.duration_since(*then) >= MINUTE) {
            self.lately.pop_front();
        }
        self.lately.push_back(now);
        let pause = match self.lately.len().saturating_sub(FREE) {
            0 => Duration::ZERO,
            more => PAUSE.saturating_mul(1 << (more - 1).min(8)).min(LONGEST_PAUSE),
        };
        self.due = Some(now + pause);
        pause
    }

    /// How long ago those of the last minute were.
    pub(super) fn ages(&self) -> impl Iterator<Item = Duration> {
        let now = Instant::now();
        self.lately.iter().map(move |then| now.duration_since(*then))
    }

    /// So long ago one has ended each.
    pub(super) fn adopt(&mut self, ages: impl Iterator<Item = Duration>) {
        let now = Instant::now();
        self.lately = ages.filter_map(|age| now.checked_sub(age)).collect();
    }

    /// When the next one is to be started, while there is none.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Running {
    /// Starts a worker process, which serves nothing yet, and has it look up the names of the origins of `config`.
    pub(super) fn start_worker_process(&mut self, config: &Config) -> anyhow::Result<Begun> {
        let (worker, lookups) = self.another_worker_process(config)?;
        self.published.worker().is(Some(worker.link()?.clone()));
        self.worker = Some(worker);
        Ok(lookups)
    }

    /// The same while there is one, which stays.
    pub(super) fn another_worker_process(&self, config: &Config) -> anyhow::Result<(WorkerProcess, Begun)> {
        let worker = WorkerProcess::start(
            &self.host,
            &Needs::of_worker(&config.services),
            &self.hearing.0,
            self.bindings.answering(),
        )?;
        let link = worker.link()?;
        link.configure(config.resolver.clone());
        link.follow(RecordRules::of(&config.log, &config.services));
        let lookups = look_up(link, config)?;
        Ok((worker, lookups))
    }

    /// The way to the worker process.
    pub(super) fn link(&self) -> anyhow::Result<Link> {
        Ok(self.published.worker().link()?)
    }

    /// The number of workers that there are to be.
    pub(super) fn worker_count(&self) -> anyhow::Result<NonZeroUsize> {
        match self.settings.workers {
            Some(count) => Ok(count),
            None => thread::available_parallelism().context("count the cores"),
        }
    }

    /// There is no worker process any more: another one is started at once, or soon.
    pub(super) async fn worker_ended(&mut self, why: &str) {
        self.let_worker_go();
        let how = self.worker.take().and_then(|mut worker| worker.end()).unwrap_or_default();
        tracing::error!(
            how,
            "the worker process has ended before its time, and with it what was open; listeners stay, and another one takes its place: {why}"
        );
        self.try_again(format!("the worker process has ended: {why} {how}").trim_end().to_owned()).await;
    }

    /// Has a worker process there, if one can be had now: for what is to be done with it. That it has ended may take so long to
    /// be noticed.
    ///
    /// # Errors
    /// [`Stopped`], while the next one has to wait.
    pub(super) async fn require_worker(&mut self, notice: Duration) -> Result<(), Stopped> {
        let over = match &self.worker {
            Some(worker) => timeout(notice, worker.over()).await.ok(),
            None => None,
        };
        if let Some(why) = over {
            self.worker_ended(&why).await;
        }
        if self.worker.is_none() {
            // Whoever wants something of it is no reason to start it sooner.
            if let Some(due) = self.ends.due() {
                let stop = self.stop_asked.clone();
                self.meanwhile(stop.unless(sleep_until(due))).await?;
            }
            self.replace_worker().await;
        }
        Ok(())
    }

    /// Starts another worker process that takes the place of the one before.
    pub(super) async fn replace_worker(&mut self) {
        self.ends.due = None;
        let begun = std::time::Instant::now();
        match self.worker_replaced().await {
            Ok(()) => {
                self.repairs.done(ResourceKind::Workers, std::time::Instant::now());
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(took_ms = took, "another worker process serves");
                self.publish();
            }
            Err(error) => {
                self.let_worker_go();
                drop(self.worker.take());
                let error = format!("{error:#}");
                tracing::error!("start another worker process: {error}");
                self.try_again(error).await;
            }
        }
    }

    async fn try_again(&mut self, why: String) {
        let pause = self.ends.one_more(Instant::now());
        self.repairs.failed(ResourceKind::Workers, &[Resource::Workers], None, why);
        self.publish();
        if pause.is_zero() {
            Box::pin(self.replace_worker()).await;
        } else {
            let pause = humantime::format_duration(pause);
            tracing::error!("worker processes end again and again: the next one is started in {pause}");
        }
    }

    async fn worker_replaced(&mut self) -> anyhow::Result<()> {
        let aim = self.aim();
        // What is not looked up yet is looked up while the rest is served.
        drop(self.start_worker_process(&aim.config)?);
        let link = self.link()?;
        link.avoid().await?;
        self.raise(&[Resource::Workers], &aim).await?;
        self.publish();
        self.serve_all(&link, &aim.config).await
    }

    /// Hands all listeners that are served to the worker process behind `link`, which is to serve them as the one before.
    pub(super) async fn serve_all(&mut self, link: &Link, config: &Config) -> anyhow::Result<()> {
        // It is to know the origins that are set before the first connection may go to one of them.
        let set = served_of(&self.plan, config, &self.published.worker().set_services());
        let any_set = !set.is_empty();
        if any_set {
            link.prepare(set).await?;
            self.published.worker().set_again(link).await;
        }
        let plan = Arc::clone(&self.plan);
        self.have_judged(link, config, &plan).await?;
        let have = self.ledger.have().map(|(resource, _)| resource);
        let serving: Vec<Resource> =
            have.filter(|resource| resource.kind() == ResourceKind::Serving).cloned().collect();
        self.serve(link, &serving, config).await?;
        if any_set {
            // What is served keeps them from now on.
            link.prepare(Vec::new()).await?;
        }
        Ok(())
    }

    fn let_worker_go(&self) {
        self.published.worker().is(None);
    }
}

/// Waits until there is no worker process any more, which must not be: why.
pub(super) async fn worker_over(worker: Option<&WorkerProcess>) -> String {
    match worker {
        Some(worker) => worker.over().await,
        None => std::future::pending().await,
    }
}

/// What each destination of `services` serves, as if it took the place of itself.
fn served_of(plan: &Plan, config: &Config, services: &HashSet<ServiceName>) -> Vec<HandoverOf> {
    let by_name = by_name(&config.services);
    let of_services = plan.destinations.values().filter(|one| services.contains(&one.service));
    let served = of_services.filter_map(|one| {
        let served = served(by_name.get(&one.service)?);
        Some(HandoverOf { from: one.clone(), to: one.clone(), served })
    });
    served.collect()
}

/// Begins to look up the names of the origins of `config`, and has what is wrong with them said with their places.
pub(super) fn look_up(link: &Link, config: &Config) -> anyhow::Result<Begun> {
    link.place(places(config));
    let origins = origins_of(config).map(|origin| (origin.origin.clone(), origin.local)).collect();
    Ok(link.look_up(origins, NAMES_PATIENCE)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Planned;

    #[tokio::test(start_paused = true)]
    async fn the_next_one_waits_longer_the_more_often_they_end_and_not_for_ever() {
        let mut ends = WorkerEnds::default();
        let pauses: Vec<u64> = (0..12).map(|_| ends.one_more(Instant::now()).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 16, 16]);
        tokio::time::advance(MINUTE).await;
        assert_eq!(ends.one_more(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn the_next_one_is_told_beforehand_of_what_is_set_by_hand_alone() {
        let service = |name: &str, prefix: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"{prefix}\", ports = 443 }}]\norigins = [\"203.0.113.9\"]\n"
            )
        };
        let text = service("one", "192.0.2.0/24") + &service("two", "2001:db8::/64");
        let Planned { config, plan } = Config::parse(Path::new("spectrum.toml"), &text).unwrap();
        let told = |services: &[&str]| {
            let services = services.iter().map(|name| name.parse().unwrap()).collect();
            let told = served_of(&plan, &config, &services).into_iter();
            told.map(|one| one.to.service.to_string()).collect::<Vec<_>>()
        };
        assert!(told(&[]).is_empty() && told(&["gone"]).is_empty());
        assert_eq!(told(&["two"]), ["two"]);
    }
}
