//! SYN cookies, and listeners that are to believe them though others have sent them. Decides on no listener.

use std::fs;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::settings::setting;
use super::silent_listener::NOTHING;

/// What is known of the SYN cookies of the calling thread's network namespace.
#[derive(Debug)]
pub struct SynCookies {
    /// The cookies sent, as of the last look; `None` where the kernel does not tell.
    sent: Option<u64>,
}

impl SynCookies {
    /// A first look.
    #[must_use]
    pub fn now() -> Self {
        Self { sent: sent_so_far() }
    }

    /// True if clients may be about to answer cookies, since everybody gets one (`net.ipv4.tcp_syncookies` is 2), or a queue was full since
    /// the last look.
    pub fn are_about(&mut self) -> bool {
        let level = setting("net/ipv4/tcp_syncookies");
        let sent = sent_so_far();
        let before = std::mem::replace(&mut self.sent, sent);
        match level {
            Some(0) => false,
            Some(2) => true,
            _ => sent != before,
        }
    }
}

fn sent_so_far() -> Option<u64> {
    cookies_sent(&fs::read_to_string("/proc/thread-self/net/netstat").ok()?)
}

/// The field `SyncookiesSent` of /proc/net/netstat, whose lines come in pairs: names, then numbers.
fn cookies_sent(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "SyncookiesSent")?;
    numbers.split(' ').nth(at)?.parse().ok()
}

/// Has the listeners at `address` believe cookies for two minutes (`TCP_SYNCOOKIE_VALID` in include/net/tcp.h). The kernel resets
/// who answers a cookie to a group of listeners that has sent none lately, whoever has sent this one; and by one SYN, whose answer nobody
/// gets, this group sends one. Where not everybody gets a cookie that takes a group with a backlog of 0.
///
/// # Errors
/// No descriptors, or no memory.
pub(super) fn have_sent_one(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.attach_filter(&NOTHING)?;
    // Over loopback the listener has got it by now: that it is in progress is all that there is to be told. Where a firewall has dropped
    // it nothing is worse than before.
    let _ = socket.connect(&address.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_below_its_name() {
        let text = "TcpExt: SyncookiesSent SyncookiesRecv\nTcpExt: 7 8\nIpExt: InNoRoutes\nIpExt: 9\n";
        assert_eq!(cookies_sent(text), Some(7));
        assert_eq!(cookies_sent("TcpExt: SyncookiesRecv SyncookiesSent\nTcpExt: 8 7\n"), Some(7));
        for other in ["", "TcpExt: SyncookiesSent\n", "TcpExt: Other\nTcpExt: 1\n"] {
            assert_eq!(cookies_sent(other), None, "{other:?}");
        }
    }
}
