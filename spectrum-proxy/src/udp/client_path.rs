//! How far a client is believed to be where it says it is now: it had another address when its session began, and whoever saw its
//! connection id could say the same of a stranger. Decides of bytes alone; moves no session.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// To an address that is not believed go no more than so many times the bytes that came from there (RFC 9000, 8.1).
const FACTOR: u64 = 3;

/// An address is believed once the client has kept to it for so long,
const KEPT: Duration = Duration::from_millis(500);

/// and has sent so many datagrams from there.
const DATAGRAMS: u64 = 4;

/// The way to the client of a session that has had more than one.
#[derive(Debug)]
pub(super) struct ClientPath {
    /// The address that was believed last.
    proven: Cell<IpAddr>,
    trial: Cell<Option<Trial>>,
}

/// An address that is not believed yet.
#[derive(Clone, Copy, Debug)]
struct Trial {
    address: IpAddr,
    began: Instant,
    datagrams: u64,
    received: u64,
    sent: u64,
}

/// The same for another process.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct MovingPath {
    proven: IpAddr,
    trial: Option<MovingTrial>,
}

#[derive(Debug, serde::Deserialize, serde::Serialize)]
struct MovingTrial {
    address: IpAddr,
    age: Duration,
    datagrams: u64,
    received: u64,
    sent: u64,
}

impl ClientPath {
    /// What another process goes on with.
    pub(super) fn move_away(&self, now: Instant) -> MovingPath {
        let trial = self.trial.get().map(|Trial { address, began, datagrams, received, sent }| MovingTrial {
            address,
            age: now.duration_since(began),
            datagrams,
            received,
            sent,
        });
        MovingPath { proven: self.proven.get(), trial }
    }

    /// Goes on with what another process had.
    pub(super) fn resume(MovingPath { proven, trial }: MovingPath, now: Instant) -> Self {
        let trial = trial.map(|MovingTrial { address, age, datagrams, received, sent }| {
            let began = now.checked_sub(age).unwrap_or(now);
            Trial { address, began, datagrams, received, sent }
        });
        Self { proven: Cell::new(proven), trial: Cell::new(trial) }
    }

    /// That of a client which was at `proven` until now.
    pub(super) fn from(proven: IpAddr) -> Self {
        Self { proven: Cell::new(proven), trial: Cell::new(None) }
    }

    /// The client is at `address` from now on. Where that is the one that is believed, it only has another port, as a NAT gives it.
    pub(super) fn moved(&self, address: IpAddr, now: Instant) {
        let former = self.trial.get().filter(|trial| trial.address == address);
        let new = Trial { address, began: now, datagrams: 0, received: 0, sent: 0 };
        self.trial.set((address != self.proven.get()).then_some(former.unwrap_or(new)));
    }

    /// So many datagrams came from where the client is.
    pub(super) fn received(&self, datagrams: u64, bytes: u64, now: Instant) {
        let Some(mut trial) = self.trial.get() else { return };
        trial.datagrams += datagrams;
        trial.received += bytes;
        if trial.datagrams >= DATAGRAMS && now - trial.began >= KEPT {
            self.proven.set(trial.address);
            self.trial.set(None);
        } else {
            self.trial.set(Some(trial));
        }
    }

    /// True if so many bytes may go to where the client is, which count as gone then.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        let Some(mut trial) = self.trial.get() else { return true };
        trial.sent += bytes;
        let takes = trial.sent <= trial.received.saturating_mul(FACTOR);
        if takes {
            self.trial.set(Some(trial));
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    #[test]
    fn another_port_of_the_same_address_is_believed_at_once() {
        let path = ClientPath::from(HOME);
        path.moved(HOME, Instant::now());
        assert!(path.takes(1 << 40));
    }

    #[test]
    fn to_another_address_goes_little_until_the_client_has_kept_to_it() {
        let (path, begin) = (ClientPath::from(HOME), Instant::now());
        path.moved(ELSEWHERE, begin);
        assert!(!path.takes(1));
        path.received(1, 100, begin);
        assert!(path.takes(200) && !path.takes(101) && path.takes(100) && !path.takes(1));
        // Much at once is no proof, and neither is the time alone.
        path.received(100, 100, begin);
        assert!(path.takes(300) && !path.takes(1));
        path.received(1, 1, begin + KEPT);
        assert!(path.takes(1 << 40));
        path.moved(ELSEWHERE, begin + KEPT);
        assert!(path.takes(1 << 40), "it is the one that is believed now");
    }

    #[test]
    fn who_is_back_where_it_was_is_believed_and_a_stranger_s_port_gains_nothing() {
        let (path, begin) = (ClientPath::from(HOME), Instant::now());
        for turn in 0..10 {
            let now = begin + KEPT * turn;
            path.moved(ELSEWHERE, now);
            path.received(1, 100, now);
            path.moved(ELSEWHERE, now);
            assert!(path.takes(300) && !path.takes(1));
            path.moved(HOME, now);
            assert!(path.takes(1 << 40));
        }
        path.moved(ELSEWHERE, begin);
        path.received(3, 100, begin + KEPT);
        assert!(!path.takes(301), "time alone is no proof");
    }
}
