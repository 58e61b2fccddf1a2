//! The losses of clients, and the deaths that excuse some of them. Dials nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use spectrum_tests::control::count_logged;
use spectrum_tests::instance::{Finished, Instance};

/// Longer than any connection takes on this machine unless something of it was lost and sent again.
const SLOW: Duration = Duration::from_millis(900);

/// Changes are told that ended so shortly before what was lost began, or after it.
const NEAR: Duration = Duration::from_secs(3);

/// So many are told one by one.
const TOLD: usize = 10;

/// What became of what clients began.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    served: BTreeMap<Kind, u64>,
    slow: BTreeMap<Kind, u64>,
    excused: BTreeMap<Kind, u64>,
    lost: BTreeMap<(Kind, &'static str), u64>,
    told: Vec<String>,
    changes: Vec<(Instant, &'static str)>,
    reloads: u64,
    upgrades: u64,
    /// From just before a worker process was killed until it had ended.
    deaths: Vec<(Instant, Instant)>,
    ends_logged: usize,
}

/// Something that a client begins.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// A connection that is over with its answer.
    Connection,
    /// A datagram of a session, and its answer.
    Datagram,
    /// A message of a long connection, and its echo.
    Message,
}

impl Losses {
    pub(crate) fn served(&self, kind: Kind, begun: Instant) {
        let mut sums = self.0.lock().unwrap();
        *sums.served.entry(kind).or_default() += 1;
        if begun.elapsed() > SLOW {
            *sums.slow.entry(kind).or_default() += 1;
        }
    }

    /// Something failed that began at `begun`, or whose connection did.
    pub(crate) fn failed(&self, kind: Kind, begun: Instant, why: &io::Error) {
        let ended = Instant::now();
        let mut sums = self.0.lock().unwrap();
        // What one that was killed had open.
        if sums.deaths.iter().any(|(from, until)| begun <= *until && *from <= ended) {
            *sums.excused.entry(kind).or_default() += 1;
            return;
        }
        let how = match why.kind() {
            ErrorKind::ConnectionRefused => "refused",
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out",
            ErrorKind::AddrNotAvailable => "moved",
            _ => "wrong",
        };
        *sums.lost.entry((kind, how)).or_default() += 1;
        if sums.told.len() < TOLD {
            let about = |then: Instant| {
                if then < begun {
                    format!("{:?} before", begun - then)
                } else {
                    format!("{:?} after", then - begun)
                }
            };
            let near = sums
                .changes
                .iter()
                .filter(|(then, _)| begun.max(*then).duration_since(begun.min(*then)) < NEAR);
            let near: Vec<String> = near.map(|(then, what)| format!("{what} {}", about(*then))).collect();
            let line = format!("{kind:?} after {:?}: {why}; changed: {}", begun.elapsed(), near.join(", "));
            sums.told.push(line);
        }
    }

    /// A reload has ended.
    pub(crate) fn changed(&self, what: &&'static str, done: Result<(), impl fmt::Debug>) {
        let mut sums = self.0.lock().unwrap();
        sums.reloads += 1;
        sums.changes.push((Instant::now(), what));
        if let Err(refused) = done {
            sums.told.push(format!("a reload that changed {what} was refused: {refused:?}"));
            *sums.lost.entry((Kind::Connection, "reloads refused")).or_default() += 1;
        }
    }

    /// An upgrade has ended, and how.
    pub(crate) fn upgraded(&self, outcome: &Finished) {
        let mut sums = self.0.lock().unwrap();
        sums.upgrades += 1;
        sums.changes.push((Instant::now(), "upgrade"));
        if !outcome.status.success() {
            sums.told.push(format!("an upgrade was refused: {}", outcome.stderr));
            *sums.lost.entry((Kind::Connection, "upgrades refused")).or_default() += 1;
        }
    }

    /// What `kill` kills has an excuse for what it had open.
    pub(crate) fn during_death(&self, kill: impl FnOnce()) {
        let begun = Instant::now();
        // While it dies nothing may be judged.
        self.0.lock().unwrap().deaths.push((begun, begun + Duration::from_mins(1)));
        kill();
        let mut sums = self.0.lock().unwrap();
        if let Some((_, until)) = sums.deaths.last_mut() {
            *until = Instant::now();
        }
        sums.changes.push((begun, "death of the worker process"));
    }

    pub(crate) fn are_any(&self) -> bool {
        !self.0.lock().unwrap().lost.is_empty()
    }

    /// Adds what the instance itself says of deaths.
    pub(crate) fn say_of(&self, instance: &Instance) {
        self.0.lock().unwrap().ends_logged =
            count_logged(instance, "the worker process has ended before its time");
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = self.0.lock().unwrap();
        let Sums { reloads, upgrades, deaths, ends_logged, .. } = &*sums;
        write!(f, "{upgrades} upgrades, {reloads} reloads, {} deaths ({ends_logged} told)", deaths.len())?;
        for kind in [Kind::Connection, Kind::Message, Kind::Datagram] {
            let of = |counts: &BTreeMap<Kind, u64>| counts.get(&kind).copied().unwrap_or(0);
            let (served, slow, excused) = (of(&sums.served), of(&sums.slow), of(&sums.excused));
            write!(f, "; {kind:?}: {served} served ({slow} slow), {excused} lost with who was killed")?;
        }
        if sums.lost.is_empty() {
            return write!(f, "; nothing else lost");
        }
        for ((kind, how), count) in &sums.lost {
            write!(f, "; {kind:?} {how}: {count}")?;
        }
        sums.told.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}
