//! What the kernel tells of routes, rules, and the loopback interface: that something of ours may have gone. Looks at nothing
//! itself.

use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;

use super::NetError;
use super::routes::{CAPABILITY, LOCAL_TABLE, LOOPBACK, ROUTE_PROTOCOL};
use crate::netlink::{Author, Groups, NetlinkMessage, NoticeReception};

/// The groups that are heard (RTMGRP_LINK, RTMGRP_IPV4_IFADDR and so on; of RTNLGRP_IPV6_RULE only the number has a name).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << (19 - 1);

/// Replaces what is there (NLM_F_REPLACE): no removal is told of.
const REPLACES: u16 = 0x100;

/// Hears what the kernel tells of routes and rules.
#[derive(Debug)]
pub struct RouteNotices {
    groups: Groups,
    loopback: u32,
}

/// The things that may have gone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteNotice {
    /// Local routes.
    pub routes: bool,
    /// Rules and routes for what origins answer.
    pub replies: bool,
    /// The process that did it, where the kernel says so.
    pub author: Option<Author>,
}

impl RouteNotices {
    /// Begins to hear, in the network namespace of the calling thread and on the running tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn hear() -> Result<Self, NetError> {
        let failed = |source| NetError::os("hear of changes to", "routes", source, CAPABILITY);
        let loopback = if_nametoindex(LOOPBACK)
            .map_err(|errno| NetError::os("find interface", LOOPBACK, errno, CAPABILITY))?;
        let groups = Groups::hear(SockProtocol::NetlinkRoute, GROUPS).map_err(failed)?;
        Ok(Self { groups, loopback })
    }

    /// The next that may concern us. After an error no more will come.
    ///
    /// # Errors
    /// The socket broke. What was only lost is told as all that may have happened.
    pub async fn next(&mut self) -> Result<RouteNotice, NetError> {
        loop {
            let mut notice = RouteNotice::default();
            let mut port = 0;
            let hearing = self.groups.next(|message| {
                let (routes, replies) = concerns(message, self.loopback);
                if routes || replies {
                    port = message.port;
                }
                notice.routes |= routes;
                notice.replies |= replies;
            });
            match hearing.await {
                Ok(NoticeReception::Whole) => {}
                Ok(NoticeReception::Lost) => (notice.routes, notice.replies) = (true, true),
                Err(source) => return Err(NetError::os("hear of changes to", "routes", source, CAPABILITY)),
            }
            if notice.routes || notice.replies {
                notice.author = Author::at_port(port);
                return Ok(notice);
            }
        }
    }
}

/// True twice: local routes may have gone, and routes or rules for replies.
fn concerns(message: NetlinkMessage<'_>, loopback: u32) -> (bool, bool) {
    let byte = |at: usize| message.body.get(at).copied().unwrap_or_default();
    let index = || {
        let bytes = message.body.get(4..8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    match message.kind {
        // struct rtmsg: the table is the fifth byte, the protocol the sixth.
        libc::RTM_DELROUTE => {
            let is_ours = byte(5) == ROUTE_PROTOCOL;
            (is_ours && byte(4) == LOCAL_TABLE, is_ours && byte(4) != LOCAL_TABLE)
        }
        libc::RTM_NEWROUTE => {
            let displaces = message.flags & REPLACES != 0 && byte(5) != ROUTE_PROTOCOL;
            (displaces && byte(4) == LOCAL_TABLE, false)
        }
        libc::RTM_DELRULE => (false, true),
        // Routes go with their interface, and with the address that they prefer as a source, and are not told of: struct
        // ifinfomsg and struct ifaddrmsg have the index at the same place.
        libc::RTM_NEWLINK | libc::RTM_DELADDR | libc::RTM_NEWADDR => {
            let is_loopback = index() == loopback;
            (is_loopback, is_loopback)
        }
        _ => (false, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: u16, flags: u16, table: u8, protocol: u8) -> (bool, bool) {
        let body = [2, 24, 0, 0, table, protocol, 254, 2, 0, 0, 0, 0];
        concerns(NetlinkMessage { kind, flags, port: 0, body: &body }, 1)
    }

    #[test]
    fn only_what_may_have_taken_something_of_ours_concerns_us() {
        assert_eq!(route(libc::RTM_DELROUTE, 0, LOCAL_TABLE, ROUTE_PROTOCOL), (true, false));
        assert_eq!(route(libc::RTM_DELROUTE, 0, 252, ROUTE_PROTOCOL), (false, true));
        assert_eq!(route(libc::RTM_DELROUTE, 0, LOCAL_TABLE, 2), (false, false));
        assert_eq!(route(libc::RTM_NEWROUTE, 0, LOCAL_TABLE, 4), (false, false));
        assert_eq!(route(libc::RTM_NEWROUTE, REPLACES, LOCAL_TABLE, 4), (true, false));
        assert_eq!(route(libc::RTM_DELRULE, 0, 0, 0), (false, true));
        let link = |index: u32| {
            let body = [&[0; 4][..], &index.to_ne_bytes()].concat();
            concerns(NetlinkMessage { kind: libc::RTM_NEWLINK, flags: 0, port: 0, body: &body }, 1)
        };
        assert_eq!((link(1), link(2)), ((true, true), (false, false)));
        let short = NetlinkMessage { kind: libc::RTM_DELROUTE, flags: 0, port: 0, body: &[] };
        assert_eq!(concerns(short, 1), (false, false));
    }
}
