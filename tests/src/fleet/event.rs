//! What happens to one server of a fleet under load, and what became of everybody meanwhile. Judges nothing: tests assert what must be,
//! the measuring command prints the rest.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::daemon::Speaker;
use super::load::{Attempt, LoadSize, Tally};
use super::route_watch::RouteWatch;
use super::{DRAIN, Fleet, SERVERS, Spreading};
use crate::control::{await_logged, reload};
use crate::deadline::{PATIENCE, eventually};
use crate::instance::Launch;
use crate::path::{Family, Path};

/// The server to which everything happens.
pub const VICTIM: usize = 0;

/// How long before and after a router's change a connection may have begun that was on its way just then.
const SLACK: Duration = Duration::from_secs(1);

/// What may happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A reload, an upgrade, and the death of the worker process.
    Changed,
    /// The BGP daemon is killed and started again.
    DaemonRestarted,
    /// SIGTERM, with a lame duck.
    Ended,
    /// SIGKILL of the steerer.
    Killed,
    /// The service's only origin goes and comes back.
    OriginsGone,
    /// A reload removes one of two prefixes, under load on that one.
    PrefixRemoved,
    /// One leaves and comes back behind a resilient group of next hops.
    Resilient,
    /// Somebody removes the route on the tun device.
    RouteRemoved,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Killed,
        Self::Ended,
        Self::Changed,
        Self::DaemonRestarted,
        Self::OriginsGone,
        Self::RouteRemoved,
        Self::PrefixRemoved,
        Self::Resilient,
    ];
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Changed => "upgrade, reload, worker killed",
            Self::DaemonRestarted => "BGP daemon killed and restarted",
            Self::Ended => "SIGTERM with lame duck",
            Self::Killed => "SIGKILL of the steerer",
            Self::OriginsGone => "origins down and back",
            Self::PrefixRemoved => "reload that removes a prefix",
            Self::Resilient => "leaves and joins, resilient group",
            Self::RouteRemoved => "tun route removed",
        })
    }
}

/// What came of an event.
#[derive(Debug)]
pub struct Aftermath {
    /// How long it took until the router sent the server nothing more, where it was to.
    pub withdrawn: Option<Duration>,
    /// What became of all connections.
    pub tally: Tally,
    /// From when until when what is on its way may break: changes of the router's, deaths of processes, and all the time from a death
    /// until the router knows of it.
    pub disturbances: Vec<(Instant, Instant)>,
    /// The changes of the router's routes, in words.
    pub changes: Vec<String>,
}

impl Aftermath {
    /// The new connections that were lost although nothing disturbed them on their way.
    pub fn lost_undisturbed(&self) -> Vec<&Attempt> {
        let is_disturbed = |attempt: &Attempt| {
            self.disturbances
                .iter()
                .any(|(from, until)| attempt.begun <= *until + SLACK && attempt.ended + SLACK >= *from)
        };
        self.tally.lost().filter(|attempt| !is_disturbed(attempt)).collect()
    }

    /// The long connections of the victim, or of the others, and how many of them broke.
    pub fn long(&self, others: bool) -> (usize, usize) {
        self.tally.long_of(u8::try_from(VICTIM).expect("few servers"), others)
    }
}

/// How it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// How the servers steer.
    pub path: Path,
    /// The family of everything.
    pub family: Family,
    /// What speaks BGP on the servers.
    pub speaker: Speaker,
    /// The load.
    pub size: LoadSize,
    /// New connections that come to their end after the event.
    pub count: usize,
}

impl Trial {
    /// Makes a fleet, and has `event` happen to one of its servers.
    pub fn run(&self, event: Event) -> Aftermath {
        let spreading = if event == Event::Resilient { Spreading::Resilient } else { Spreading::Hashed };
        let mut fleet = Fleet::start(self.path, self.family, self.speaker, spreading);
        let prefix = if event == Event::PrefixRemoved { fleet.prefixes()[1] } else { fleet.prefix() };
        let watch = RouteWatch::of(&fleet.router);
        let load = fleet.load(prefix, self.size);
        load.await_more(self.count / 10);
        let begun = Instant::now();
        let mut deaths = Vec::new();
        let withdrawn = match event {
            Event::Changed => {
                fleet.change(&mut deaths);
                None
            }
            Event::DaemonRestarted => {
                let server = &mut fleet.servers[VICTIM];
                server.daemon.kill();
                load.await_more(self.count / 4);
                server.daemon.start_again(&server.case.server);
                None
            }
            Event::Ended => {
                fleet.servers[VICTIM].instance().signal(Signal::SIGTERM);
                Some(fleet.await_gone(prefix, begun))
            }
            Event::Killed => {
                fleet.servers[VICTIM].instance.take().expect("an instance").kill();
                let gone = fleet.await_gone(prefix, begun);
                deaths.push((begun, begun + gone));
                Some(gone)
            }
            Event::OriginsGone => Some(fleet.lose_origin(begun)),
            Event::PrefixRemoved => {
                let server = &fleet.servers[VICTIM];
                server.configure(&[server.case.prefix()], DRAIN, "");
                let gone = std::thread::scope(|scope| {
                    let reloading = scope.spawn(|| reload(&server.case.server, server.instance()));
                    let gone = fleet.await_gone(prefix, begun);
                    reloading.join().expect("a reload").expect("a reload that is done");
                    gone
                });
                Some(gone)
            }
            Event::Resilient => {
                fleet.servers[VICTIM].instance().signal(Signal::SIGTERM);
                fleet.await_learned(&others());
                let gone = begun.elapsed();
                load.await_more(self.count / 2);
                fleet.servers[VICTIM].instance.take().expect("an instance").finish_after(Signal::SIGTERM);
                fleet.servers[VICTIM].start();
                fleet.await_learned(&(0..SERVERS).collect());
                Some(gone)
            }
            Event::RouteRemoved => {
                let family = self.family.pick("-4", "-6");
                let server = &fleet.servers[VICTIM];
                server.case.server.ip(&format!("{family} route del {prefix} proto 83"));
                await_logged(server.instance(), &format!("the route that announces {prefix}"), 1);
                fleet.await_learned(&(0..SERVERS).collect());
                None
            }
        };
        load.await_more(self.count);
        let tally = load.end();
        let told = watch.of_prefix(prefix);
        if event == Event::Ended {
            let instance = fleet.servers[VICTIM].instance.take().expect("an instance");
            let finished = instance.finish(PATIENCE);
            assert_eq!(finished.code(), 0, "{finished}");
        }
        let disturbances = told.iter().map(|(at, _)| (*at, *at)).chain(deaths).collect();
        Aftermath {
            withdrawn,
            tally,
            disturbances,
            changes: told.into_iter().map(|(_, line)| line).collect(),
        }
    }
}

/// The servers to which nothing happens.
fn others() -> BTreeSet<usize> {
    (0..SERVERS).filter(|number| *number != VICTIM).collect()
}

impl Fleet {
    /// The time since `begun` at which the router sends nothing more to the victim.
    fn await_gone(&self, prefix: &str, begun: Instant) -> Duration {
        eventually("the victim withdrawn", PATIENCE, || {
            let hops = self.hops(prefix);
            (!hops.contains(&VICTIM)).then(|| begun.elapsed())
        })
    }

    /// Reloads, upgrades, and kills a worker process.
    fn change(&self, deaths: &mut Vec<(Instant, Instant)>) {
        let server = &self.servers[VICTIM];
        let netns = &server.case.server;
        server.configure(&self.prefixes(), "1h", "limits = { connections = 5000 }\n");
        reload(netns, server.instance()).expect("a reload");
        let upgraded = Launch::new(netns).arguments("upgrade").finish();
        assert_eq!(upgraded.code(), 0, "{upgraded}");
        await_logged(server.instance(), "upgraded", 1);
        let killed = Instant::now();
        server.instance().signal_worker(Signal::SIGKILL);
        await_logged(server.instance(), "another worker process serves", 1);
        deaths.push((killed, Instant::now()));
    }

    /// Takes the victim's origin away until it is withdrawn, and has it back: the time until it was withdrawn.
    fn lose_origin(&mut self, begun: Instant) -> Duration {
        let prefix = self.prefix();
        let server = &mut self.servers[VICTIM];
        server.origin.go(&server.case.server);
        let gone = self.await_gone(prefix, begun);
        let server = &mut self.servers[VICTIM];
        server.origin.come_back(&server.case.server);
        self.await_learned(&(0..SERVERS).collect());
        gone
    }
}
