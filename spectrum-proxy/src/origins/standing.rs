//! How one address of an origin fares with real connections: failures, ejection, and what the workers' tallies come to.
//! Shared by all workers, and written only where something is not as it should be, or least-connections has them share a
//! count.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::fault::{Fault, LastFault};
use super::tally::Tallies;
use crate::model::{Ejection, Protocol};

/// The time for which an address that lost a race despite its head start begins no other (RFC 8305 leaves the time to
/// us).
const SLOW: Duration = Duration::from_mins(1);

/// The turn that a dial made, should it be more than one success among others or one failure among others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It will not be dialled for a time.
    Ejected,
    /// It was ejected, or would have been soon, and is not any more.
    Returned,
}

/// One address of one origin of one service.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) address: IpAddr,
    tcp: Dials,
    udp: Dials,
    /// Until when others are dialled before it.
    slow_until: AtomicU64,
    /// True if there is no route to it.
    routeless: AtomicBool,
    /// Dials that failed, in a row or not.
    failed_dials: AtomicU64,
    /// Connections that the origin's side ended otherwise than by a FIN.
    broken: AtomicU64,
    last: LastFault,
    pub(super) tallies: Tallies,
}

/// How dials by one protocol fare. Of the other they say nothing: a port may be open for one alone.
#[derive(Debug, Default)]
struct Dials {
    /// Those in a row that failed.
    failures: AtomicU32,
    /// Until when there are none, by [`Moment`]; 0: there are.
    ejected_until: AtomicU64,
}

/// Milliseconds since the process first asked, so that a time fits an atomic number. Never 0.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn now() -> Self {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        Self::after(BEGIN.get_or_init(Instant::now).elapsed())
    }

    fn after(elapsed: Duration) -> Self {
        Self(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }

    fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Standing {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            tcp: Dials::default(),
            udp: Dials::default(),
            slow_until: AtomicU64::new(0),
            routeless: AtomicBool::new(false),
            failed_dials: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            last: LastFault::default(),
            tallies: Tallies::default(),
        }
    }

    fn dials(&self, by: Protocol) -> &Dials {
        match by {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Asks the clock only where that matters.
    pub(super) fn is_ejected(&self, by: Protocol) -> bool {
        self.ejected_at(by, Moment::now)
    }

    fn ejected_at(&self, by: Protocol, now: impl FnOnce() -> Moment) -> bool {
        let until = self.dials(by).ejected_until.load(Ordering::Relaxed);
        until != 0 && until > now().0
    }

    pub(super) fn is_slow(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until != 0 && until > Moment::now().0
    }

    pub(super) fn is_routed(&self) -> bool {
        !self.routeless.load(Ordering::Relaxed)
    }

    /// Notes if there is a route to it now.
    pub(super) fn note_route(&self, is_routed: bool) {
        self.routeless.store(!is_routed, Ordering::Relaxed);
    }

    /// Dials in a row that failed, by the protocol that has more of them.
    pub(super) fn failures(&self) -> u32 {
        let of = |dials: &Dials| dials.failures.load(Ordering::Relaxed);
        of(&self.tcp).max(of(&self.udp))
    }

    /// All dials that failed.
    pub(super) fn failed_dials(&self) -> u64 {
        self.failed_dials.load(Ordering::Relaxed)
    }

    /// Connections that broke.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// The last fault, and the time since then.
    pub(super) fn last_fault(&self) -> Option<(Fault, Duration)> {
        self.last.get(Moment::now())
    }

    /// A connection to it ended in `fault`.
    pub(super) fn broke(&self, fault: Fault) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        self.last.set(fault, Moment::now());
    }

    /// It was dialled and answered.
    pub(super) fn succeeded(&self, by: Protocol) -> Option<Turn> {
        let Dials { failures, ejected_until } = self.dials(by);
        if failures.load(Ordering::Relaxed) != 0 {
            failures.store(0, Ordering::Relaxed);
        }
        if ejected_until.load(Ordering::Relaxed) == 0 {
            return None;
        }
        (ejected_until.swap(0, Ordering::Relaxed) != 0).then_some(Turn::Returned)
    }

    /// It was dialled and did not answer. One failure after the time of an ejection is another ejection.
    pub(super) fn failed(
        &self,
        by: Protocol,
        fault: Fault,
        ejection: Option<Ejection>,
        now: Moment,
    ) -> Option<Turn> {
        let dials = self.dials(by);
        self.failed_dials.fetch_add(1, Ordering::Relaxed);
        self.last.set(fault, now);
        let failures = dials.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let Ejection { failures: allowed, time } = ejection?;
        // Connections that were being dialled when it was ejected tell nothing new.
        let until = dials.ejected_until.load(Ordering::Relaxed);
        if failures < u32::from(allowed) || until > now.0 {
            return None;
        }
        let ejected = dials.ejected_until.compare_exchange(
            until,
            now.plus(time).0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        // Only one of several workers that come here at once has ejected it.
        ejected.is_ok().then_some(Turn::Ejected)
    }

    /// It was overtaken by an address that was dialled later.
    pub(super) fn overtaken(&self) {
        self.slow_until.store(Moment::now().plus(SLOW).0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTION: Option<Ejection> = Some(Ejection { failures: 3, time: Duration::from_secs(30) });

    const FAULT: Fault = Fault::SOME;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn standing() -> Standing {
        Standing::new("192.0.2.1".parse().unwrap())
    }

    #[test]
    fn failures_in_a_row_eject_for_a_time() {
        let standing = standing();
        assert_eq!(
            [0, 1].map(|second| standing.failed(Protocol::Tcp, FAULT, EJECTION, at(second))),
            [None, None]
        );
        assert!(!standing.ejected_at(Protocol::Tcp, || at(1)));
        assert_eq!(standing.failed(Protocol::Tcp, FAULT, EJECTION, at(2)), Some(Turn::Ejected));
        assert_eq!(standing.failed(Protocol::Tcp, FAULT, EJECTION, at(3)), None, "it is ejected already");
        assert!(standing.ejected_at(Protocol::Tcp, || at(31)));
        assert!(
            !standing.ejected_at(Protocol::Tcp, || at(32)),
            "the time is not lengthened by late failures"
        );
        assert_eq!(
            standing.failed(Protocol::Tcp, FAULT, EJECTION, at(33)),
            Some(Turn::Ejected),
            "one more failure is enough"
        );
        assert_eq!(standing.succeeded(Protocol::Tcp), Some(Turn::Returned));
        assert_eq!(standing.succeeded(Protocol::Tcp), None);
        assert_eq!(standing.failed(Protocol::Tcp, FAULT, EJECTION, at(64)), None, "it begins anew");
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let standing = standing();
        for second in 0..9 {
            assert_eq!(standing.failed(Protocol::Tcp, FAULT, EJECTION, at(second)), None);
            assert_eq!(standing.failed(Protocol::Tcp, FAULT, EJECTION, at(second)), None);
            standing.succeeded(Protocol::Tcp);
        }
        assert_eq!(standing.failures(), 0);
    }

    #[test]
    fn who_is_ejected_by_one_protocol_is_dialled_by_the_other() {
        let standing = standing();
        for second in 0..3 {
            standing.failed(Protocol::Udp, FAULT, EJECTION, at(second));
        }
        let ejected = |by| standing.ejected_at(by, || at(3));
        assert_eq!([Protocol::Tcp, Protocol::Udp].map(ejected), [false, true]);
        assert_eq!(standing.succeeded(Protocol::Tcp), None);
        assert!(ejected(Protocol::Udp));
        assert_eq!(standing.failures(), 3);
    }

    #[test]
    fn without_ejection_nothing_is_ejected() {
        let standing = standing();
        assert!((0..99).all(|second| standing.failed(Protocol::Tcp, FAULT, None, at(second)).is_none()));
        assert!(!standing.ejected_at(Protocol::Tcp, || at(100)));
    }
}
