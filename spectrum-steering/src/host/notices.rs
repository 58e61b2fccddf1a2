//! What the kernel tells of routes, rules, and the loopback interface: that something of ours may have gone. Looks at nothing
//! itself.

use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;

use super::NetError;
use super::announcement::MAIN_TABLE;
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
    /// Routes by which prefixes are announced, or their device.
    pub announcements: bool,
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
                let heard = concerns(message, self.loopback);
                if heard != Concern::default() {
                    port = message.port;
                }
                notice.routes |= heard.routes;
                notice.replies |= heard.replies;
                notice.announcements |= heard.announcements;
            });
            match hearing.await {
                Ok(NoticeReception::Whole) => {}
                Ok(NoticeReception::Lost) => {
                    (notice.routes, notice.replies, notice.announcements) = (true, true, true);
                }
                Err(source) => return Err(NetError::os("hear of changes to", "routes", source, CAPABILITY)),
            }
            if notice.routes || notice.replies || notice.announcements {
                notice.author = Author::at_port(port);
                return Ok(notice);
            }
        }
    }
}

/// The things that a message concerns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Concern {
    routes: bool,
    replies: bool,
    announcements: bool,
}

fn concerns(message: NetlinkMessage<'_>, loopback: u32) -> Concern {
    let byte = |at: usize| message.body.get(at).copied().unwrap_or_default();
    let index = || {
        let bytes = message.body.get(4..8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    let nothing = Concern::default();
    match message.kind {
        // struct rtmsg: the table is the fifth byte, the protocol the sixth.
        libc::RTM_DELROUTE if byte(5) == ROUTE_PROTOCOL => match byte(4) {
            LOCAL_TABLE => Concern { routes: true, ..nothing },
            MAIN_TABLE => Concern { announcements: true, ..nothing },
            _ => Concern { replies: true, ..nothing },
        },
        libc::RTM_NEWROUTE if message.flags & REPLACES != 0 && byte(5) != ROUTE_PROTOCOL => {
            Concern { routes: byte(4) == LOCAL_TABLE, announcements: byte(4) == MAIN_TABLE, ..nothing }
        }
        libc::RTM_DELRULE => Concern { replies: true, ..nothing },
        // Routes go with their interface, and with the address that they prefer as a source, and are not told of: struct
        // ifinfomsg and struct ifaddrmsg have the index at the same place.
        libc::RTM_NEWLINK | libc::RTM_DELADDR | libc::RTM_NEWADDR if index() == loopback => {
            Concern { routes: true, replies: true, ..nothing }
        }
        // Whose interface it was is not said where it matters, and interfaces rarely go or go down.
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Concern { announcements: true, ..nothing },
        _ => nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: u16, flags: u16, table: u8, protocol: u8) -> [bool; 3] {
        let body = [2, 24, 0, 0, table, protocol, 254, 2, 0, 0, 0, 0];
        heard(kind, flags, &body)
    }

    fn heard(kind: u16, flags: u16, body: &[u8]) -> [bool; 3] {
        let concern = concerns(NetlinkMessage { kind, flags, port: 0, body }, 1);
        [concern.routes, concern.replies, concern.announcements]
    }

    #[test]
    fn only_what_may_have_taken_something_of_ours_concerns_us() {
        let nothing = [false; 3];
        assert_eq!(route(libc::RTM_DELROUTE, 0, LOCAL_TABLE, ROUTE_PROTOCOL), [true, false, false]);
        assert_eq!(route(libc::RTM_DELROUTE, 0, 252, ROUTE_PROTOCOL), [false, true, false]);
        assert_eq!(route(libc::RTM_DELROUTE, 0, MAIN_TABLE, ROUTE_PROTOCOL), [false, false, true]);
        assert_eq!(route(libc::RTM_DELROUTE, 0, LOCAL_TABLE, 2), nothing);
        assert_eq!(route(libc::RTM_NEWROUTE, 0, LOCAL_TABLE, 4), nothing);
        assert_eq!(route(libc::RTM_NEWROUTE, REPLACES, LOCAL_TABLE, 4), [true, false, false]);
        assert_eq!(route(libc::RTM_NEWROUTE, REPLACES, MAIN_TABLE, 4), [false, false, true]);
        assert_eq!(route(libc::RTM_DELRULE, 0, 0, 0), [false, true, false]);
        let link = |index: u32| heard(libc::RTM_NEWLINK, 0, &[&[0; 4][..], &index.to_ne_bytes()].concat());
        assert_eq!((link(1), link(2)), ([true, true, false], [false, false, true]));
        assert_eq!(heard(libc::RTM_DELROUTE, 0, &[]), nothing);
    }
}
