//! What the kernel tells of interfaces: that one has come, gone, or got another name. Looks at none itself.

use nix::sys::socket::SockProtocol;

use super::NetError;
use super::routes::CAPABILITY;
use crate::netlink::{Groups, NoticeReception};

/// The group that is heard (RTMGRP_LINK).
const GROUPS: u32 = 0x1;

/// Hears what the kernel tells of interfaces.
#[derive(Debug)]
pub struct LinkNotices(Groups);

impl LinkNotices {
    /// Begins to hear, in the network namespace of the calling thread and on the running tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn hear() -> Result<Self, NetError> {
        let groups = Groups::hear(SockProtocol::NetlinkRoute, GROUPS);
        groups
            .map(Self)
            .map_err(|source| NetError::os("hear of changes to", "interfaces", source, CAPABILITY))
    }

    /// Returns when an interface may have come, gone or changed. After an error no more will come.
    ///
    /// # Errors
    /// The socket broke. What was only lost is told as something that happened.
    pub async fn next(&mut self) -> Result<(), NetError> {
        loop {
            let mut is_told = false;
            let hearing = self.0.next(|message| {
                is_told |= matches!(message.kind, libc::RTM_NEWLINK | libc::RTM_DELLINK);
            });
            match hearing.await {
                Ok(NoticeReception::Whole) if !is_told => {}
                Ok(NoticeReception::Whole | NoticeReception::Lost) => return Ok(()),
                Err(source) => {
                    return Err(NetError::os("hear of changes to", "interfaces", source, CAPABILITY));
                }
            }
        }
    }
}
