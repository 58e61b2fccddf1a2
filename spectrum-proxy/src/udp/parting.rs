//! Sessions whose listener is gone, while their clients and those who answer go on: each gets a socket that is bound to what was
//! dialled and connected to the client, which the kernel prefers to whatever is steered. Not for the usual: a socket that is connected to each client makes
//! every datagram of an unknown one walk them all.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::options;
use crate::model::Family;

/// The most sessions of one service that are given such a socket, by each worker.
pub(super) const MOST: usize = 4096;

/// A socket that only `client` is heard by, and only what it sends to `dialled`. `transparent` as the listener was: TPROXY drops what finds a connected socket that
/// is not.
pub(crate) fn open(dialled: SocketAddr, client: SocketAddr, transparent: bool) -> io::Result<OwnedFd> {
    let socket = options::unbound(dialled)?;
    let family = Family::of(dialled.ip());
    match family {
        Family::Ipv4 if transparent => socket.set_ip_transparent_v4(true)?,
        Family::Ipv6 if transparent => socket.set_ip_transparent_v6(true)?,
        Family::Ipv4 | Family::Ipv6 => {}
    }
    options::ask_for_circumstances(&socket, family)?;
    socket.bind(&dialled.into())?;
    socket.connect(&client.into())?;
    // Only now, so that nothing of somebody else's got in before.
    socket.detach_filter()?;
    Ok(socket.into())
}
