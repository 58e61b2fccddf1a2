//! What is done to an instance while it serves, each by a thread of its own until the siege is over. Judges nothing.

mod control_flood;
mod full_disk;
mod liar;
mod log_reader;

use std::fmt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;

pub(crate) use control_flood::flood;
pub(crate) use liar::{NAME, lie};

/// The sink of an instance's log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sink {
    /// A disk that fills, and has room again.
    Disk,
    /// A pipe whose reader stalls, dies and comes back.
    Reader,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "a disk that fills",
            Self::Reader => "a reader that stalls and dies",
        })
    }
}

/// A log that somebody spoils.
#[derive(Debug)]
pub(crate) enum Spoilt {
    Disk(full_disk::FullDisk),
    Reader(log_reader::LogReader),
}

impl Spoilt {
    /// Made ready in `netns`, with what an instance is to write to.
    pub(crate) fn new(sink: Sink, netns: &Netns) -> (Self, Stdio) {
        match sink {
            Sink::Disk => {
                let (disk, log) = full_disk::FullDisk::mount(netns);
                (Self::Disk(disk), log.into())
            }
            Sink::Reader => {
                let (reader, log) = log_reader::LogReader::open(netns);
                (Self::Reader(reader), log.into())
            }
        }
    }

    /// Spoils it until the siege is over, and leaves it spoilt.
    pub(crate) fn spoil(self, netns: &Netns, until: &Siegeworks, random: Random) -> Self {
        netns.run(move || match self {
            Self::Disk(disk) => Self::Disk(disk.fill(until, random)),
            Self::Reader(reader) => Self::Reader(reader.read_badly(until, random)),
        })
    }

    /// A complaint about the log, if anything was seen of it that must not be there.
    pub(crate) fn complaint(&self) -> Option<String> {
        match self {
            Self::Disk(_) => None,
            Self::Reader(reader) => reader.complaint(),
        }
    }
}

/// The flag that keeps the disturbances going.
#[derive(Debug, Default)]
pub(crate) struct Siegeworks(AtomicBool);

impl Siegeworks {
    pub(crate) fn go_on(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets that much time pass, or what is left.
    pub(crate) fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.go_on() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20).min(time));
        }
    }

    /// Between half of `time` and all of it.
    pub(crate) fn pass_some(&self, time: Duration, random: &mut Random) {
        let half = u64::try_from(time.as_millis()).unwrap_or(0) / 2;
        self.pass(Duration::from_millis(half + random.below::<u64>(half.max(1))));
    }
}
