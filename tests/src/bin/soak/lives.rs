//! The lives of instances over one path: started, reloaded, stopped or killed at random, one after the other; and at last a
//! long one, which must not hold more at its end than at its beginning.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::deadline::eventually;
use spectrum_tests::dial::call;
use spectrum_tests::holdings::Holdings;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::record::records;
use spectrum_tests::scan::{Protocol, Service, configuration, winner};
use spectrum_tests::state::{BpfObjects, State};

use super::arena::{Arena, Traffic};
use super::drawn;
use super::tally::{Report, Tally};
use super::traffic::{self, Journal};

/// Longer than a UDP session without datagrams and a retiring listener last.
const SETTLING: Duration = Duration::from_mins(1);

/// Longer than a client waits.
const HALTING: Duration = Duration::from_secs(40);

/// The KiB that the allocator may keep of what it was given back.
const SLACK: u64 = 8_192;

/// With fewer lasting connections than this, there will be more.
const FEW: usize = 10;

/// One path's part of the run.
#[derive(Debug)]
pub(crate) struct Soak {
    case: Case,
    random: Random,
    length: Duration,
    arena: Arc<Arena>,
    journal: Journal,
    tally: Tally,
    before: State,
    /// The kernel's objects of instances that are gone.
    bpf: Vec<BpfObjects>,
}

/// The end of a life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Kill,
    KillAmidReload,
    Stop,
}

impl Soak {
    pub(crate) fn over(path: Path, seed: u64, length: Duration) -> Self {
        let server = Netns::create().expect("make a namespace");
        assert!(path.install(&server), "no tools for {path}");
        let mut random = Random::from_seed(seed);
        let case = Case { path, family: Family::V4, server, random: Random::from_seed(random.bits()) };
        drawn::own(&case.server);
        // Refusals are counted, and none may be kept back.
        case.server.sysctl("net/ipv4/icmp_ratelimit", "0");
        let first = Arc::new(drawn::services(&mut random));
        let before = State::of(&case.server);
        Self {
            case,
            random,
            length,
            arena: Arc::new(Arena::new(first)),
            journal: Journal::default(),
            tally: Tally::default(),
            before,
            bpf: Vec::new(),
        }
    }

    /// Lives until the time is up.
    pub(crate) fn run(mut self) -> Report {
        let begun = Instant::now();
        let (server, arena) = (&self.case.server, Arc::clone(&self.arena));
        let random = Random::from_seed(self.random.bits());
        thread::scope(|scope| {
            scope.spawn(|| traffic::run(server, &arena, &self.journal, &self.tally, random));
            // However this ends, clients must.
            let _guard = OverGuard(&arena);
            let mut lives = Lives {
                case: &self.case,
                random: &mut self.random,
                arena: &arena,
                journal: &self.journal,
                tally: &self.tally,
                before: &self.before,
                bpf: &mut self.bpf,
            };
            while begun.elapsed() < self.length.mul_f64(0.6) {
                lives.short();
            }
            lives.long(self.length.saturating_sub(begun.elapsed()));
        });
        for held in &self.bpf {
            held.assert_freed();
        }
        self.tally.report()
    }
}

/// Ends the clients.
struct OverGuard<'a>(&'a Arena);

impl Drop for OverGuard<'_> {
    fn drop(&mut self) {
        self.0.direct(Traffic::Over);
    }
}

struct Lives<'a> {
    case: &'a Case,
    random: &'a mut Random,
    arena: &'a Arena,
    journal: &'a Journal,
    tally: &'a Tally,
    before: &'a State,
    bpf: &'a mut Vec<BpfObjects>,
}

impl Lives<'_> {
    /// Some seconds.
    fn short(&mut self) {
        let drain = self.random.below::<u8>(3);
        let instance = self.start(&format!("--drain {drain}s"));
        self.arena.direct(Traffic::Flows);
        let mut open = self.open();
        let until = Instant::now() + Duration::from_millis(self.random.below(8_000));
        while Instant::now() < until {
            let services = drawn::services(self.random);
            self.go_over(&instance, services);
            self.talk(&mut open);
        }
        let end = [End::Kill, End::KillAmidReload, End::Stop][self.random.below::<usize>(3)];
        self.end(instance, end);
        // Looking takes a while, and nobody may dial meanwhile.
        if self.random.below::<u8>(4) == 0 {
            self.halt();
            let cleaned = Launch::new(&self.case.server).arguments("clean").finish();
            assert_eq!(cleaned.code(), 0, "{cleaned}");
            self.before.assert_restored(&self.case.server, "an instance and clean");
        }
    }

    /// The rest of the time: what is held after traffic is what was held before.
    fn long(&mut self, length: Duration) {
        self.halt();
        let instance = self.start("--drain 0s");
        let first = self.arena.latest();
        let during = State::of(&self.case.server);
        let Holdings { descriptors, .. } = Holdings::of(&instance);
        let mut resident = [0; 2];
        for (half, share) in [0.25, 0.75].into_iter().enumerate() {
            self.arena.direct(Traffic::Flows);
            let mut open = self.open();
            let until = Instant::now() + length.mul_f64(share);
            while Instant::now() < until {
                let services = drawn::services(self.random);
                self.go_over(&instance, services);
                self.talk(&mut open);
            }
            drop(open);
            self.halt();
            self.go_over(&instance, (*first).clone());
            resident[half] = eventually("as few descriptors as at the start", SETTLING, || {
                let Holdings { descriptors: now, resident } = Holdings::of(&instance);
                (now <= descriptors).then_some(resident)
            });
            let _now = during.await_amounts(&self.case.server, "reloads under traffic");
        }
        let now = Holdings::of(&instance).descriptors;
        self.tally.note(|report| {
            report.descriptors = (descriptors, now);
            report.resident = (resident[0], resident[1]);
        });
        if resident[1] > resident[0] + SLACK {
            self.tally.wrong(format!("{} KiB in use after traffic, {} before", resident[1], resident[0]));
        }
        self.end(instance, End::Stop);
        self.before.assert_restored(&self.case.server, "the long life");
    }

    fn start(&mut self, arguments: &str) -> Instance {
        let services = Arc::new(drawn::services(self.random));
        self.arena.propose(Arc::clone(&services));
        configure(&self.case.server, &configuration(&services));
        let instance = self.case.start(&format!("{CONFIG} {arguments}"));
        self.arena.serve();
        instance
    }

    /// Reloads, which must succeed, after clients have had some time with what is in force.
    fn go_over(&mut self, instance: &Instance, services: Vec<Service>) {
        if self.arena.traffic() == Traffic::Flows {
            let seen = self.tally.exchanges() + self.random.below::<u64>(60);
            eventually("clients to be answered", HALTING, || (self.tally.exchanges() >= seen).then_some(()));
        }
        let services = Arc::new(services);
        self.arena.propose(Arc::clone(&services));
        configure(&self.case.server, &configuration(&services));
        match reload(&self.case.server, instance) {
            Ok(_) => {
                self.arena.settle();
                self.tally.note(|report| report.reloads += 1);
            }
            Err(refused) => {
                self.tally.wrong(format!("{refused:?}\n{}", configuration(&services)));
                panic!("a reload was refused: {refused:?}");
            }
        }
    }

    fn end(&mut self, instance: Instance, end: End) {
        self.bpf.push(BpfObjects::of_process(instance.pid()));
        if end == End::KillAmidReload {
            let services = Arc::new(drawn::services(self.random));
            self.arena.propose(Arc::clone(&services));
            configure(&self.case.server, &configuration(&services));
            connect(&self.case.server, &instance).send("reload");
            // Anywhere between nothing and all of it.
            let until = Instant::now() + Duration::from_micros(self.random.below(40_000));
            while Instant::now() < until {
                thread::yield_now();
            }
        }
        self.arena.disturb();
        instance.signal(if end == End::Stop { Signal::SIGTERM } else { Signal::SIGKILL });
        let finished = instance.finish(HALTING);
        if end == End::Stop && finished.status.code() != Some(0) {
            self.tally.wrong(format!("a stop ended with {}", finished.status));
        }
        for line in
            finished.stderr.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked"))
        {
            self.tally.wrong(format!("in the log: {line}"));
        }
        self.tally.note(|report| match end {
            End::Stop => report.stops += 1,
            End::Kill | End::KillAmidReload => report.kills += 1,
        });
        self.judge_records(&finished.stderr);
    }

    /// The service of a record is one that the scan names.
    fn judge_records(&self, log: &str) {
        let mut journal = self.journal.take();
        for record in records(log) {
            let Some((protocol, target, between)) =
                record.get("client").and_then(|client| journal.remove(&client.parse().ok()?))
            else {
                continue;
            };
            let service = record["service"];
            let named = |services: &Arc<Vec<Service>>| {
                winner(services, protocol, target).is_some_and(|winner| winner.name == service)
            };
            self.tally.note(|report| report.records += 1);
            if record["dialled"] != target.to_string() || !between.generations.iter().any(named) {
                self.tally.wrong(format!("a record of {protocol:?} {target}: {record:?}"));
            }
        }
    }

    fn halt(&self) {
        if self.arena.traffic() == Traffic::Flows {
            self.arena.direct(Traffic::Halting);
        }
        eventually("clients to finish", HALTING, || (self.arena.traffic() == Traffic::Halted).then_some(()));
    }

    /// Connections that have to outlive everything but their instance.
    fn open(&mut self) -> Vec<Lasting> {
        let services = self.arena.latest();
        let mut open = Vec::new();
        for _ in 0..40 {
            let (_, target) = drawn::target(self.random, &services);
            let Some(service) = winner(&services, Protocol::Tcp, target) else { continue };
            if service.respond != "echo" {
                continue;
            }
            match call(&self.case.server, target) {
                Ok(stream) => open.push(Lasting { service: service.name.clone(), target, stream }),
                Err(error) => self.tally.wrong(format!("a lasting connection to {target}: {error}")),
            }
        }
        open
    }

    /// Talks over connections that were open before a reload, which are so after it, unless its service went: that may be
    /// cut. Where little is left to talk with, there will be more.
    fn talk(&mut self, open: &mut Vec<Lasting>) {
        let services = self.arena.latest();
        open.retain_mut(|lasting| {
            let mut heard = [0; 5];
            if !lasting.is_served_by(&services) {
                return false;
            }
            let stream = &mut lasting.stream;
            let talked = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut heard));
            if let Err(error) = &talked {
                self.tally.wrong(format!("a lasting connection to {}: {error}", lasting.target));
            } else if &heard != b"hello" {
                self.tally.wrong(format!("a lasting connection heard {heard:?}"));
            }
            talked.is_ok()
        });
        if open.len() < FEW {
            open.extend(self.open());
        }
    }
}

/// A connection that outlives reloads.
struct Lasting {
    service: String,
    target: SocketAddr,
    stream: TcpStream,
}

impl Lasting {
    /// True if its service is still there, for connections of its family. It may bind other ports by now.
    fn is_served_by(&self, services: &[Service]) -> bool {
        let binds = |service: &Service| {
            service.bindings.iter().any(|binding| {
                binding.protocol == Protocol::Tcp && binding.network.is_ipv4() == self.target.is_ipv4()
            })
        };
        services.iter().any(|service| service.name == self.service && binds(service))
    }
}
