//! One instance that serves while everything around it misbehaves: its log, its name server, those who ask it. What it
//! answers clients must not show it. Which disturbances there are is said in `disturbance`.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::perhaps;
use spectrum_tests::dial::call;
use spectrum_tests::instance::{Finished, Launch};
use spectrum_tests::name_server::NameServer;
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::veth::{origin_address, origin_of};

use super::disturbance::{NAME, Siegeworks, Sink, Spoilt, flood, lie};
use super::tally::{Report, Tally};

const SAID: &str = "is it you?";

/// The ports of the services: an answer of our own, two origins by address, one by the name that is lied about.
const PLAIN: u16 = 80;
const PAIR: u16 = 81;
const NAMED: u16 = 82;

/// The time within which somebody who asks through the crowd is answered, trying again.
const PATIENCE: Duration = Duration::from_mins(1);

/// So long he waits before he tries again.
const WAITING: Duration = Duration::from_secs(10);

/// Longer than an end takes that waits for nothing.
const ENDING: Duration = Duration::from_secs(30);

/// One instance's siege.
#[derive(Debug)]
pub(crate) struct Siege {
    case: Case,
    sink: Sink,
    random: Random,
}

/// The surroundings of the besieged.
struct Surroundings {
    _origins: Netns,
    pair: [SocketAddr; 2],
    names: NameServer,
}

/// A connection that was open before the latest disturbances.
struct Lasting {
    target: SocketAddr,
    stream: TcpStream,
    has_talked: bool,
}

impl Siege {
    pub(crate) fn over(path: Path, sink: Sink, seed: u64) -> Self {
        let mut case = Case::new(path, Family::V4);
        let mut random = Random::from_seed(seed);
        case.random = Random::from_seed(random.bits());
        Self { case, sink, random }
    }

    /// Holds out for so long.
    pub(crate) fn run(mut self, length: Duration) -> Report {
        let tally = Tally::default();
        let surroundings = self.surroundings();
        let Surroundings { pair, names, .. } = &surroundings;
        let place = pair[0].ip();
        names.set(NAME, &[place]);
        configure(&self.case.server, &self.configuration(pair, names));
        let (spoilt, log) = Spoilt::new(self.sink, &self.case.server);
        let instance = self.case.launch(&format!("{CONFIG} --drain 2s")).stderr_to(log).start();
        let works = Siegeworks::default();
        let drawn: Vec<Random> = (0..6).map(|_| Random::from_seed(self.random.bits())).collect();
        let [one, two, three, four, five, six] = drawn.try_into().expect("six");
        let case = &self.case;
        let (targets, spoilt) = (
            [PLAIN, PAIR, NAMED].map(|port| SocketAddr::new(case.address(7), port)),
            Mutex::new(Some(spoilt)),
        );
        thread::scope(|scope| {
            scope.spawn(|| {
                let taken = spoilt.lock().unwrap().take().expect("a log");
                let left = taken.spoil(&case.server, &works, one);
                *spoilt.lock().unwrap() = Some(left);
            });
            scope.spawn(|| lie(names, &[place], &works, two));
            scope.spawn(|| flood(&case.server, &instance.id(&case.server), &works, three));
            for random in [four, five] {
                scope.spawn(|| dial(&case.server, targets, &works, &tally, random));
            }
            // However this ends, the rest must.
            let _guard = EndGuard(&works);
            self.hold_out(pair, targets, length, six, &tally);
        });
        self.judge_the_end(targets[2], &tally);
        instance.signal(Signal::SIGTERM);
        let Finished { status, .. } = instance.finish(ENDING);
        if status.code() != Some(0) {
            tally.wrong(format!("a stop with a log that nobody takes ended with {status}"));
        }
        if let Some(line) = spoilt.lock().unwrap().as_ref().and_then(Spoilt::complaint) {
            tally.wrong(format!("in the log: {line}"));
        }
        tally.note(|report| report.stops += 1);
        tally.report()
    }

    fn surroundings(&self) -> Surroundings {
        let origins = origin_of(&self.case.server);
        let place = origin_address(Family::V4);
        let pair = [(); 2].map(|()| Origin::echo(&origins, place).address());
        // What a lie would lead to.
        let local = SocketAddr::new(self.case.loopback(), pair[0].port());
        let _secret = Origin::saying(&self.case.server, local, "secret");
        let names = NameServer::start(&self.case.server, self.case.loopback());
        Surroundings { _origins: origins, pair, names }
    }

    fn configuration(&self, pair: &[SocketAddr; 2], names: &NameServer) -> String {
        let (prefix, [first, second]) = (self.case.prefix(), pair);
        let service = |name: &str, port: u16, keys: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} }}]\n{keys}\n"
            )
        };
        [
            names.section(Duration::from_millis(300)),
            service("plain", PLAIN, "respond = \"echo\""),
            service("pair", PAIR, &format!("origins = [\"{first}\", \"{second}\"]")),
            service("named", NAMED, &format!("origins = \"{NAME}:{}\"", first.port())),
        ]
        .concat()
    }

    /// Reloads, drains and makes ready, and talks with what was open before.
    fn hold_out(
        &self,
        pair: &[SocketAddr; 2],
        targets: [SocketAddr; 3],
        length: Duration,
        mut random: Random,
        tally: &Tally,
    ) {
        let until = Instant::now() + length;
        let mut open: Vec<Lasting> = Vec::new();
        while Instant::now() < until {
            for target in targets {
                match call(&self.case.server, target) {
                    Ok(stream) if open.len() < 24 => open.push(Lasting { target, stream, has_talked: false }),
                    Ok(_) => {}
                    // As quickly as it was accepted.
                    Err(error) if target.port() == NAMED && is_reset(&error) => {}
                    Err(error) => tally.wrong(format!("a connection to {target}: {error}")),
                }
            }
            self.ask(&format!("origin pair {} drain", pair[random.below::<usize>(2)]), tally);
            open.retain_mut(|lasting| lasting.talk(tally));
            self.ask("reload", tally);
            tally.note(|report| report.reloads += 1);
            open.retain_mut(|lasting| lasting.talk(tally));
            for origin in pair {
                self.ask(&format!("origin pair {origin} ready"), tally);
            }
            self.ask("status", tally);
        }
    }

    /// Asks until there is an answer.
    fn ask(&self, words: &str, tally: &Tally) {
        let mut last = "no answer at all".to_owned();
        let asked = perhaps(PATIENCE, || {
            let mut asking = Launch::new(&self.case.server).arguments(words).spawn();
            // In the crowd some wait for ever: who asks gives up, and asks again.
            perhaps(WAITING, || (!asking.is_running()).then_some(()))?;
            let finished = asking.finish(WAITING);
            last = finished.to_string();
            finished.status.success().then_some(())
        });
        if asked.is_none() {
            tally.wrong(format!("asked in vain for {PATIENCE:?}: {words}: {last}"));
        }
    }

    /// Once the truth is told again, the name leads to its server again; and who asks is answered.
    fn judge_the_end(&self, named: SocketAddr, tally: &Tally) {
        let answered = perhaps(PATIENCE, || {
            let heard = self.case.server.run(|| exchange(named));
            heard.is_ok_and(|text| text == SAID).then_some(())
        });
        if answered.is_none() {
            tally.wrong(format!("{named} is not answered though the name server tells the truth"));
        }
        self.ask("status", tally);
    }
}

/// Ends the disturbances.
struct EndGuard<'a>(&'a Siegeworks);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Lasting {
    /// True if it goes on. One to a name that led nowhere at the time may be refused at first.
    fn talk(&mut self, tally: &Tally) -> bool {
        let mut heard = [0; 5];
        let talked = self.stream.write_all(b"hello").and_then(|()| self.stream.read_exact(&mut heard));
        let goes_on = talked.is_ok() && &heard == b"hello";
        if !goes_on && (self.has_talked || self.target.port() != NAMED || talked.is_ok()) {
            tally.wrong(format!("a lasting connection to {}: {talked:?}, heard {heard:?}", self.target));
        }
        self.has_talked |= goes_on;
        goes_on
    }
}

/// Dials the services until the siege is over, and judges what they say.
fn dial(netns: &Netns, targets: [SocketAddr; 3], until: &Siegeworks, tally: &Tally, mut random: Random) {
    netns.run(move || {
        while until.go_on() {
            let target = targets[random.below::<usize>(3)];
            let heard = exchange(target);
            tally.note(|report| report.connections += 1);
            match heard {
                Ok(text) if text == SAID => {}
                // Nobody knows where it leads: it is reset, whichever call notices first.
                Err(error) if target.port() == NAMED && is_reset(&error) => {
                    tally.note(|report| report.excused += 1);
                }
                wrong => tally.wrong(format!("{target}: {wrong:?}")),
            }
            // Records enough to fill any pipe, and CPU time for the others.
            until.pass(Duration::from_millis(3));
        }
    });
}

fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

fn exchange(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(SAID.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
