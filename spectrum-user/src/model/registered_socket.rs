//! A socket of another program that a destination's packets go to, as it was when it was registered. Whether it is still there, the
//! kernel knows.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use spectrum_common::{RegisteredId, SocketShare, hash_of};

use super::{SocketSource, Weight};

/// A socket of another program that is registered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegisteredSocket {
    /// By which BPF and `ss -e` know it.
    pub cookie: u64,
    /// By which /proc knows it.
    pub inode: u64,
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// The process that it was taken from.
    pub pid: u32,
    /// The name of that, as it can be shown.
    pub command: String,
    /// Its weight among those of the destination.
    #[serde(default = "RegisteredSocket::weight_of_one")]
    pub weight: Weight,
    /// Its place in the program's map, over `sk_lookup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RegisteredId>,
    /// The other sockets of its `SO_REUSEPORT` group, as far as they are known: one of them stands for all when this one is closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<GroupSocket>,
    /// The words of the configuration by which it was found; none, if somebody registered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketSource>,
}

/// A socket of the group of one that is registered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupSocket {
    /// By which BPF and `ss -e` know it.
    pub cookie: u64,
    /// By which /proc knows it.
    pub inode: u64,
    /// Its place in the program's map, over `sk_lookup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RegisteredId>,
}

impl RegisteredSocket {
    /// All sockets of its group that are known, itself first.
    pub fn group(&self) -> impl Iterator<Item = GroupSocket> {
        let Self { cookie, inode, place, .. } = *self;
        std::iter::once(GroupSocket { cookie, inode, place }).chain(self.beside.iter().copied())
    }

    /// The same server, of whose sockets `group` are left; `None` if none are.
    #[must_use]
    pub fn with_group(self, group: &[GroupSocket]) -> Option<Self> {
        let (first, beside) = group.split_first()?;
        let GroupSocket { cookie, inode, place } = *first;
        Some(Self { cookie, inode, place, beside: beside.to_vec(), ..self })
    }

    /// The place of another socket of its group, which gets what comes when it is closed itself.
    #[must_use]
    pub fn spare(&self) -> Option<RegisteredId> {
        self.beside.iter().find_map(|socket| socket.place)
    }

    fn weight_of_one() -> Weight {
        Weight::ONE
    }

    /// What a socket of the same server had before it was started again, and no other of the destination has of which `before` so many with
    /// the same name and address are.
    #[must_use]
    pub fn key(&self, before: usize) -> u64 {
        let named = format!("{} {} {before}", self.command, self.address);
        named.bytes().fold(0, |hash, byte| hash_of([0; 2], [hash, byte.into()]))
    }

    /// The places of its group in the program's map.
    pub fn places(&self) -> impl Iterator<Item = RegisteredId> {
        self.group().filter_map(|one| one.place)
    }

    /// True if nothing but when they were started tells them apart.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.command, self.address) == (&other.command, other.address)
    }
}

impl fmt::Display for RegisteredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cookie, address, pid, command, .. } = self;
        write!(f, "{address} of {command} (process {pid}, sk:{cookie:x})")
    }
}

/// So many sockets share the clients of a destination at most.
pub const MOST_SOCKETS: usize = 128;

/// The sockets of a destination that has `before` when `socket` comes, and those that leave: it takes the place of all, or is `is_beside` them.
/// One that is there already keeps its place in their order.
#[must_use]
pub fn beside(
    before: &[RegisteredSocket],
    socket: RegisteredSocket,
    is_beside: bool,
) -> (Vec<RegisteredSocket>, Vec<RegisteredSocket>) {
    let (mut stay, leave): (Vec<_>, Vec<_>) =
        before.iter().cloned().partition(|one| is_beside || one.cookie == socket.cookie);
    match stay.iter_mut().find(|one| one.cookie == socket.cookie) {
        Some(known) => *known = socket,
        None => stay.push(socket),
    }
    (stay, leave)
}

/// The shares of `sockets` in the clients of their destination: of those that have places.
#[must_use]
pub fn shares(sockets: &[RegisteredSocket]) -> Vec<SocketShare> {
    let shares = sockets.iter().enumerate().filter_map(|(index, socket)| {
        Some(SocketShare {
            socket: socket.place?,
            key: key_of(sockets, index),
            weight: socket.weight.get(),
            spare: socket.spare(),
        })
    });
    shares.collect()
}

/// The key of one of `sockets`.
#[must_use]
pub fn key_of(sockets: &[RegisteredSocket], index: usize) -> u64 {
    let Some(socket) = sockets.get(index) else { return 0 };
    socket.key(sockets.iter().take(index).filter(|one| one.is_like(socket)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_the_same_for_as_long_as_one_socket_of_its_group_is_left() {
        let of = |cookie: u64| GroupSocket { cookie, inode: cookie + 100, place: Some(RegisteredId(7)) };
        let socket = RegisteredSocket {
            cookie: 1,
            inode: 101,
            address: "0.0.0.0:80".parse().unwrap(),
            pid: 12,
            command: "nginx".to_owned(),
            weight: Weight::ONE,
            place: Some(RegisteredId(7)),
            beside: vec![of(2), of(3)],
            source: None,
        };
        assert_eq!(socket.group().map(|one| one.cookie).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(socket.clone().with_group(&socket.group().collect::<Vec<_>>()), Some(socket.clone()));
        let left = socket.clone().with_group(&[of(3)]).unwrap();
        assert_eq!((left.cookie, left.inode, left.spare()), (3, 103, None));
        assert_eq!((left.key(0), left.is_like(&socket)), (socket.key(0), true));
        assert_eq!(socket.with_group(&[]), None);
        // As a version that knew no groups handed it on.
        let before = r#"{"cookie":1,"inode":2,"address":"0.0.0.0:80","pid":3,"command":"nginx"}"#;
        let before: RegisteredSocket = serde_json::from_str(before).unwrap();
        assert_eq!((before.beside.len(), before.source), (0, None));
    }
}
