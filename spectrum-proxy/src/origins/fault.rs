//! What last went wrong with an address of an origin, in one number that workers write without a lock. Keeps no texts: what
//! can go wrong is few things, and their words are known.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::standing::Moment;
use crate::report::End;

/// Something that went wrong: one of few things, whatever the origin does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Fault(u16);

/// The lowest number of an end; below are errors of the system, which are less than 4,096.
const ENDS: u16 = 0x8000;
/// A dial had no answer in time.
const UNANSWERED: u16 = 0x4000;
/// A dial failed in a way that has no number.
const UNKNOWN: u16 = 0x4001;

impl Fault {
    #[cfg(test)]
    pub(super) const SOME: Self = Self(UNKNOWN);

    /// Of a dial.
    pub(super) fn of_dial(error: &io::Error) -> Self {
        match error.raw_os_error().map(u16::try_from) {
            Some(Ok(errno)) if (1..UNANSWERED).contains(&errno) => Self(errno),
            None if error.kind() == io::ErrorKind::TimedOut => Self(UNANSWERED),
            _ => Self(UNKNOWN),
        }
    }

    /// Of a connection.
    pub(super) fn of_end(end: End) -> Self {
        u16::try_from(end.index()).map_or(Self(UNKNOWN), |index| Self(ENDS | index))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            UNANSWERED => f.write_str("no answer in time"),
            errno @ 1..UNANSWERED => io::Error::from_raw_os_error(errno.into()).fmt(f),
            end => match End::ALL.get(usize::from(end & !ENDS)).filter(|_| end & ENDS != 0) {
                Some(end) => end.fmt(f),
                None => f.write_str("dial failed"),
            },
        }
    }
}

/// The last fault and its moment: the fault in the lowest 16 bits, above it milliseconds. 0: there was none.
#[derive(Debug, Default)]
pub(super) struct LastFault(AtomicU64);

impl LastFault {
    pub(super) fn set(&self, fault: Fault, at: Moment) {
        self.0.store(at.0 << 16 | u64::from(fault.0), Ordering::Relaxed);
    }

    /// With its age.
    pub(super) fn get(&self, now: Moment) -> Option<(Fault, Duration)> {
        let both = self.0.load(Ordering::Relaxed);
        let fault = Fault(u16::try_from(both & 0xffff).unwrap_or(UNKNOWN));
        (both != 0).then(|| (fault, Duration::from_millis(now.0.saturating_sub(both >> 16))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Side;

    #[test]
    fn every_fault_has_its_words_and_the_last_one_its_age() {
        let last = LastFault::default();
        assert_eq!(last.get(Moment(9)), None);
        for (fault, words) in [
            (
                Fault::of_dial(&io::Error::from_raw_os_error(libc::ECONNREFUSED)),
                "Connection refused (os error 111)",
            ),
            (
                Fault::of_dial(&io::Error::from_raw_os_error(libc::ETIMEDOUT)),
                "Connection timed out (os error 110)",
            ),
            (Fault::of_dial(&io::ErrorKind::TimedOut.into()), "no answer in time"),
            (Fault::of_dial(&io::Error::other("anything")), "dial failed"),
            (Fault::of_end(End::Reset(Side::Upstream)), "upstream-reset"),
            (Fault::of_end(End::Closed), "closed"),
        ] {
            last.set(fault, Moment(1_000));
            let (kept, age) = last.get(Moment(3_500)).unwrap();
            assert_eq!((kept.to_string().as_str(), age), (words, Duration::from_millis(2_500)));
        }
    }
}
