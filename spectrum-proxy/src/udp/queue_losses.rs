//! Datagrams that the kernel threw away because a socket's queue was full: nobody reads them, so it is asked how many there were.
//! Makes no queue longer.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::Instant;

use super::sys::drops;

/// A socket is asked no more often.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// So many bytes that wait at once are as good as many datagrams: the usual queue holds three of the longest.
const CROWD: usize = 16 * 1024;

/// What one socket has lost. It is asked only after it was crowded: what has room for all that came has lost nothing.
#[derive(Debug, Default)]
pub(super) struct QueueLosses {
    /// Of these it is known.
    known: Cell<u32>,
    looked: Cell<Option<Instant>>,
    /// True if it has been crowded since.
    is_suspect: Cell<bool>,
}

impl QueueLosses {
    /// Of a socket that others may have read before, of whose losses they have told.
    pub(super) fn since_now(socket: &impl AsFd) -> Self {
        Self { known: Cell::new(drops(socket).unwrap_or(0)), ..Self::default() }
    }

    /// Of a socket that another process has read before, which told of so many.
    pub(super) fn beyond(known: u32) -> Self {
        Self { known: Cell::new(known), ..Self::default() }
    }

    /// The same from now on.
    pub(super) fn tell_beyond(&self, known: u32) {
        self.known.set(known);
    }

    /// The number that was told.
    pub(super) fn known(&self) -> u32 {
        self.known.get()
    }

    /// A batch was read, as long as a batch may be or with so many bytes: how many are known to be lost since the last time. Others
    /// are told when the socket is asked again.
    pub(super) fn read(&self, is_full: bool, bytes: usize, now: Instant, socket: &impl AsFd) -> u64 {
        if is_full || bytes >= CROWD {
            self.is_suspect.set(true);
        }
        let is_time = || self.looked.get().is_none_or(|last| now.duration_since(last) >= LOOK);
        if !self.is_suspect.get() || !is_time() {
            return 0;
        }
        self.looked.set(Some(now));
        // Until the queue has been empty more may be lost.
        self.is_suspect.set(is_full);
        self.more(socket)
    }

    /// The same for the last time, if there is any reason to ask.
    pub(super) fn end(&self, socket: &impl AsFd) -> u64 {
        if self.is_suspect.get() || self.looked.get().is_some() { self.more(socket) } else { 0 }
    }

    /// True if there was never a reason to think that anything was lost.
    pub(super) fn is_none(&self) -> bool {
        !self.is_suspect.get() && self.looked.get().is_none()
    }

    /// How many have been lost since the last time.
    pub(super) fn more(&self, socket: &impl AsFd) -> u64 {
        // Of a kernel that does not tell nothing is known (before Linux 4.12).
        let Ok(all) = drops(socket) else { return 0 };
        all.wrapping_sub(self.known.replace(all)).into()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_found_no_room_is_counted_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(1).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let flood = || (0..100).for_each(|_| drop(client.send_to(&[0; 100], socket.local_addr().unwrap())));
        flood();
        let losses = QueueLosses::default();
        let now = Instant::now();
        assert_eq!(losses.read(false, 100, now, &socket), 0, "nobody suspected anything");
        let first = losses.read(true, 100, now, &socket);
        assert!((50..100).contains(&first), "{first}");
        flood();
        assert_eq!(losses.read(true, 100, now, &socket), 0, "it is not asked all the time");
        let later = QueueLosses::since_now(&socket);
        assert_eq!((losses.end(&socket), losses.end(&socket)), (100, 0));
        assert_eq!(later.more(&socket), 0, "others have told of it");
    }
}
