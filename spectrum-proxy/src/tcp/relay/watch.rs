//! When a connection has had its time. Looks rarely, however often bytes move: a timer is set anew only when it goes off.
//! Ends nothing itself.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::time::{Instant, sleep_until};

use super::delivery::Delivery;
use crate::model::Timeouts;
use crate::report::{End, Expiry};
use crate::tcp::stream::Stream;

/// The age at which a connection's upstream is set to be kept. Many are over by then, and need it as little as any
/// connection needs it in its first second.
const SETTLED: Duration = Duration::from_secs(1);

/// The number of probes that go unanswered before a peer counts as gone, and how far they are apart: a fifth of the
/// silence before the first.
const PROBES: u32 = 5;

/// One connection's times.
#[derive(Debug)]
pub(crate) struct ConnectionTimer<'a> {
    timeouts: &'a Timeouts,
    began: Instant,
    moved: Cell<Instant>,
    stage: Cell<Stage>,
}

/// The part of a connection that is open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Both sides may speak.
    Open,
    /// One side has sent its FIN.
    HalfClosed,
}

impl<'a> ConnectionTimer<'a> {
    /// From now on.
    pub(crate) fn start(timeouts: &'a Timeouts) -> Self {
        let now = Instant::now();
        Self { timeouts, began: now, moved: Cell::new(now), stage: Cell::new(Stage::Open) }
    }

    /// Bytes moved.
    pub(crate) fn touch(&self) {
        self.moved.set(Instant::now());
    }

    /// One side's FIN was passed on.
    pub(crate) fn half_closed(&self) {
        self.stage.set(Stage::HalfClosed);
        self.touch();
    }

    /// Waits until one of the times is over, for ever without any: how the connection is to end. What the peers of `sockets`
    /// take of what these were given counts as moving. Calls `settled` once the connection is no longer young.
    pub(crate) async fn expired<const N: usize>(&self, sockets: [&Stream; N], settled: impl FnOnce()) -> End {
        let mut settled = Some(settled);
        let mut acknowledged = None;
        let young = Instant::now() + SETTLED;
        loop {
            let now = Instant::now();
            if young <= now
                && let Some(settled) = settled.take()
            {
                settled();
            }
            let due = self.due();
            if let Some((due, end)) = due
                && due <= now
            {
                if end == End::Expired(Expiry::Lifetime)
                    || !self.moved_unseen(&sockets, &mut acknowledged, now)
                {
                    return end;
                }
                continue;
            }
            // A FIN may come while we wait, from when on less time is left than we know of now.
            let soon = self.timeouts.half_closed.map(|half| now + half);
            let looks = [due.map(|(due, _)| due), due.and(soon), settled.as_ref().map(|_| young)];
            match looks.into_iter().flatten().min() {
                Some(look) => sleep_until(look).await,
                None => return std::future::pending().await,
            }
        }
    }

    /// True if the peers took something since bytes were last seen to move. `acknowledged` is what they had taken in all at the
    /// look before.
    fn moved_unseen(&self, sockets: &[&Stream], acknowledged: &mut Option<u64>, now: Instant) -> bool {
        let deliveries = || sockets.iter().filter_map(|socket| Delivery::of(socket));
        let total = deliveries().map(|delivery| delivery.acknowledged).sum();
        let is_fresh = acknowledged.replace(total) != Some(total);
        let ago = deliveries().filter_map(|delivery| delivery.progressed(is_fresh)).min();
        let Some(moved) = ago.and_then(|ago| now.checked_sub(ago)).filter(|moved| *moved > self.moved.get())
        else {
            return false;
        };
        self.moved.set(moved);
        true
    }

    /// Has the kernel see to it that an upstream that is gone is noticed. The downstream has inherited that.
    pub(crate) fn keep(&self, upstream: &Stream) {
        if let Err(error) = keep(upstream, self.timeouts) {
            tracing::debug!(%error, "set timeouts of an upstream");
        }
    }

    /// When the first of the times is over if nothing happens until then.
    fn due(&self) -> Option<(Instant, End)> {
        let Timeouts { idle, half_closed, lifetime, .. } = *self.timeouts;
        let moved = self.moved.get();
        let half_closed = half_closed.filter(|_| self.stage.get() == Stage::HalfClosed);
        [
            lifetime.map(|lifetime| (self.began + lifetime, End::Expired(Expiry::Lifetime))),
            half_closed.map(|half| (moved + half, End::Expired(Expiry::HalfClosed))),
            idle.map(|idle| (moved + idle, End::Idle)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(due, _)| *due)
    }
}

/// Sets on `socket`, or on a listener for all that it accepts, what the kernel has to watch for.
pub(crate) fn keep(socket: impl AsFd, timeouts: &Timeouts) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    match timeouts.keepalive {
        Some(silence) => {
            let interval = (silence / PROBES).max(Duration::from_secs(1));
            let keepalive =
                TcpKeepalive::new().with_time(silence).with_interval(interval).with_retries(PROBES);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        None => socket.set_keepalive(false)?,
    }
    socket.set_tcp_user_timeout(timeouts.unacknowledged)
}
