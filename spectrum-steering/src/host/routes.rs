//! `AnyIP`: `local` routes that make the kernel take every address of a prefix for its own, and their removal. Touches
//! no route of another protocol number, and brings no interface up.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::future::join_all;
use futures_util::stream::TryStreamExt as _;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, new_connection_with_strict_check};
use tokio::task::JoinHandle;

use super::{NetError, interface_addresses};
use crate::model::{Family, Prefix};

/// The routing protocol number that marks our routes, `S`. `ip route` shows it as `proto 83`.
pub const ROUTE_PROTOCOL: u8 = b'S';

/// The kernel's table of local routes, the first one it consults (`RT_TABLE_LOCAL`).
pub(super) const LOCAL_TABLE: u8 = 255;

/// The number of requests under way at once: enough to hide the round trips, few enough that the acknowledgements fit
/// the socket's receive buffer.
const WINDOW: usize = 128;

pub(super) const LOOPBACK: &str = "lo";
pub(super) const CAPABILITY: &str = "CAP_NET_ADMIN";

/// The `local` routes that this process added, and the netlink socket by which it did. What it added it removes only
/// when asked: dropping it leaves the routes.
///
/// Every route names the loopback address as the source that local clients prefer. Without it the kernel gives an IPv4
/// client the dialled address itself as its source (`ip route get` shows it), so that logs name no client and replies
/// are addressed to the prefix and steered in their turn.
///
/// A prefix of length 0 gets no route, which would make the whole internet local: its bindings match only addresses
/// that the host has anyway.
#[derive(Debug)]
pub struct LocalRoutes {
    handle: Handle,
    connection: JoinHandle<()>,
    added: Vec<Prefix>,
}

pub(super) fn connect() -> Result<(Handle, JoinHandle<()>), NetError> {
    let (connection, handle, _) = new_connection_with_strict_check()
        .map_err(|source| NetError::os("open", "netlink socket", source, CAPABILITY))?;
    Ok((handle, tokio::spawn(connection)))
}

impl LocalRoutes {
    /// Opens the netlink socket, in the network namespace of the calling thread and on the running tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open() -> Result<Self, NetError> {
        let (handle, connection) = connect()?;
        Ok(Self { handle, connection, added: Vec::new() })
    }

    /// The routes `added` are there, which another process has added.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    #[doc(hidden)]
    pub fn open_with(added: Vec<Prefix>) -> Result<Self, NetError> {
        let mut routes = Self::open()?;
        routes.added = added;
        Ok(routes)
    }

    /// True if the connection has ended, as it does after a failed system call. Then no answer is to be believed:
    /// rtnetlink takes the end of the answers for success.
    fn is_lost(&self) -> bool {
        self.connection.is_finished()
    }

    fn reconnect(&mut self) -> Result<(), NetError> {
        (self.handle, self.connection) = connect()?;
        Ok(())
    }

    /// Connects anew if an earlier system call failed: who asks now has nothing to do with that.
    fn reconnect_if_lost(&mut self) -> Result<(), NetError> {
        if self.is_lost() { self.reconnect() } else { Ok(()) }
    }

    /// Adds a route for each of `prefixes` that has none. A route of somebody else for the very prefix is left as it is
    /// and stays after [`undo`](Self::undo); one of a dead predecessor is taken over. On failure those added so far
    /// remain, for `undo`.
    ///
    /// # Errors
    /// [`NetError`]: no `CAP_NET_ADMIN`, a loopback interface that is down, or somebody's route of another type for the very
    /// prefix.
    pub async fn add(&mut self, prefixes: &[Prefix]) -> Result<(), NetError> {
        let op = "add local route";
        self.reconnect_if_lost()?;
        let routed: Vec<Prefix> = prefixes.iter().copied().filter(|prefix| prefix.length() > 0).collect();
        let loopback = usable_loopback(&routed)?;
        let mut taken: Vec<Prefix> = Vec::new();
        let mut failure = None;
        for window in routed.chunks(WINDOW) {
            let answers = window.iter().map(|prefix| {
                let request = self.handle.route().add(wanted(*prefix, loopback));
                async move { (*prefix, request.execute().await) }
            });
            for (prefix, answer) in join_all(answers).await {
                match answer.map_err(io_error) {
                    Ok(()) => self.added.push(prefix),
                    Err(source) if source.raw_os_error() == Some(libc::EEXIST) => taken.push(prefix),
                    Err(source) => failure = failure.or(Some(NetError::os(op, prefix, source, CAPABILITY))),
                }
            }
            if self.is_lost() {
                failure = failure.or_else(|| window.first().map(|prefix| lost(op, *prefix)));
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        self.adopt(&taken).await
    }

    /// Looks at the routes that were there before.
    async fn adopt(&mut self, taken: &[Prefix]) -> Result<(), NetError> {
        let mut present: HashMap<Prefix, Vec<(RouteType, RouteProtocol)>> = HashMap::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            if taken.iter().any(|prefix| prefix.family() == family) {
                for (prefix, route) in self.local_table(family).await? {
                    present.entry(prefix).or_default().push((route.header.kind, route.header.protocol));
                }
            }
        }
        for prefix in taken {
            let routes = present.get(prefix).map_or(&[][..], Vec::as_slice);
            if routes.contains(&(RouteType::Local, RouteProtocol::Other(ROUTE_PROTOCOL))) {
                self.added.push(*prefix);
            } else if let Some((kind, _)) = routes.first()
                && routes.iter().all(|(kind, _)| *kind != RouteType::Local)
            {
                return Err(NetError::RouteTaken {
                    prefix: *prefix,
                    kind: format!("{kind:?}").to_ascii_lowercase(),
                });
            }
        }
        Ok(())
    }

    /// The prefixes whose routes we added and have not removed.
    #[must_use]
    pub fn added(&self) -> &[Prefix] {
        &self.added
    }

    /// Those of `prefixes` that have no local route any more, be it ours or somebody else's.
    ///
    /// # Errors
    /// The kernel does not list its routes.
    pub async fn absent(&mut self, prefixes: &BTreeSet<Prefix>) -> Result<Vec<Prefix>, NetError> {
        self.reconnect_if_lost()?;
        let routed = prefixes.iter().filter(|prefix| prefix.length() > 0);
        let mut absent: BTreeSet<Prefix> = routed.copied().collect();
        for family in [Family::Ipv4, Family::Ipv6] {
            if !absent.iter().any(|prefix| prefix.family() == family) {
                continue;
            }
            for (prefix, route) in self.local_table(family).await? {
                if route.header.kind == RouteType::Local {
                    absent.remove(&prefix);
                }
            }
        }
        if self.is_lost() {
            return Err(NetError::os("list", "local routes", io::Error::other(LOST), CAPABILITY));
        }
        Ok(absent.into_iter().collect())
    }

    /// Adds again what others removed.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub async fn put_back(&mut self, absent: &[Prefix]) -> Result<(), NetError> {
        let gone: HashSet<&Prefix> = absent.iter().collect();
        self.added.retain(|prefix| !gone.contains(prefix));
        self.add(absent).await
    }

    /// Every prefix with a route of ours in the namespace, whichever process added it.
    ///
    /// # Errors
    /// The kernel does not list its routes.
    pub async fn list_ours(&self) -> Result<Vec<Prefix>, NetError> {
        let mut ours = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = self.local_table(family).await?;
            ours.extend(
                table.into_iter().filter(|(_, route)| is_ours(&route.header)).map(|(prefix, _)| prefix),
            );
        }
        ours.sort_unstable();
        ours.dedup();
        Ok(ours)
    }

    /// Removes our route of each of `prefixes`, whichever process added it. One that is gone already is no error.
    pub async fn remove(&mut self, prefixes: &[Prefix]) -> Vec<NetError> {
        let op = "remove local route";
        let loopback = match if_nametoindex(LOOPBACK) {
            Ok(index) => index,
            Err(errno) => return vec![NetError::os("find interface", LOOPBACK, errno, CAPABILITY)],
        };
        let mut errors = Vec::new();
        for window in prefixes.chunks(WINDOW) {
            let mut failed = self.remove_window(op, window, loopback).await;
            // Once more on a new connection: what is gone by then is no error.
            if self.is_lost() {
                failed = match self.reconnect() {
                    Ok(()) => self.remove_window(op, window, loopback).await,
                    Err(error) => vec![error],
                };
                if self.is_lost() && failed.is_empty() {
                    failed.extend(window.iter().map(|prefix| lost(op, *prefix)));
                }
            }
            errors.append(&mut failed);
        }
        let removed: HashSet<&Prefix> = prefixes.iter().collect();
        self.added.retain(|prefix| !removed.contains(prefix));
        errors
    }

    async fn remove_window(&self, op: &'static str, window: &[Prefix], loopback: u32) -> Vec<NetError> {
        let answers = window.iter().map(|prefix| {
            let request = self.handle.route().del(any_of_ours(*prefix, loopback));
            async move { (*prefix, request.execute().await) }
        });
        let mut errors = Vec::new();
        for (prefix, answer) in join_all(answers).await {
            match answer.map_err(io_error) {
                Ok(()) => {}
                Err(source) if source.raw_os_error() == Some(libc::ESRCH) => {}
                Err(source) => errors.push(NetError::os(op, prefix, source, CAPABILITY)),
            }
        }
        errors
    }

    /// Removes exactly what [`add`](Self::add) added.
    pub async fn undo(&mut self) -> Vec<NetError> {
        let added = std::mem::take(&mut self.added);
        self.remove(&added).await
    }

    async fn local_table(&self, family: Family) -> Result<Vec<(Prefix, RouteMessage)>, NetError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = address_family(family);
        // The kernel then walks this table only, however many routes the others hold.
        filter.header.table = LOCAL_TABLE;
        let routes = self.handle.route().get(filter).execute();
        let routes: Vec<RouteMessage> = match routes.try_collect().await.map_err(io_error) {
            Ok(routes) => routes,
            // The kernel does without this family.
            Err(source)
                if matches!(
                    source.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)
                ) =>
            {
                Vec::new()
            }
            Err(source) => return Err(NetError::os("list local routes of", family, source, CAPABILITY)),
        };
        Ok(routes
            .into_iter()
            .filter(|route| route.header.table == LOCAL_TABLE)
            .filter_map(|route| Some((prefix_of(&route, family)?, route)))
            .collect())
    }
}

impl Drop for LocalRoutes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn is_ours(header: &RouteHeader) -> bool {
    header.kind == RouteType::Local && header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// The route of `prefix` with the source that local clients are to have.
fn wanted(prefix: Prefix, loopback: u32) -> RouteMessage {
    let mut message = any_of_ours(prefix, loopback);
    message.attributes.push(RouteAttribute::PrefSource(match loopback_address(prefix.family()) {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    message
}

/// A message that every route of `prefix` matches which bears our protocol number.
fn any_of_ours(prefix: Prefix, loopback: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(prefix.family());
    message.header.table = LOCAL_TABLE;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.header.destination_prefix_length = prefix.length();
    message.attributes.push(RouteAttribute::Destination(match prefix.address() {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    message.attributes.push(RouteAttribute::Oif(loopback));
    message
}

pub(super) fn prefix_of(route: &RouteMessage, family: Family) -> Option<Prefix> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    // A default route carries no destination.
    let unspecified = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Prefix::containing(destination.unwrap_or(unspecified), route.header.destination_prefix_length).ok()
}

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

pub(super) fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

pub(super) const LOST: &str = "the netlink connection was lost";

fn lost(op: &'static str, prefix: Prefix) -> NetError {
    NetError::os(op, prefix, io::Error::other(LOST), CAPABILITY)
}

/// The index of `lo`, once it is up and has the source addresses that the routes name: the kernel's own refusals
/// ("Invalid argument") do not say what is missing.
fn usable_loopback(prefixes: &[Prefix]) -> Result<u32, NetError> {
    let op = "add local route";
    let failed = |errno| NetError::os("find interface", LOOPBACK, errno, CAPABILITY);
    let index = if_nametoindex(LOOPBACK).map_err(failed)?;
    let Some(first) = prefixes.first() else { return Ok(index) };
    let up = getifaddrs()
        .map_err(failed)?
        .any(|entry| entry.interface_name == LOOPBACK && entry.flags.contains(InterfaceFlags::IFF_UP));
    if !up {
        return Err(NetError::Loopback {
            op,
            object: first.to_string(),
            state: "lo is down",
            cure: "ip link set lo up",
        });
    }
    let addresses = interface_addresses()?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let Some(prefix) = prefixes.iter().find(|prefix| prefix.family() == family) else { continue };
        let loopback = loopback_address(family);
        if !addresses.iter().any(|of| of.interface == LOOPBACK && of.address == loopback) {
            return Err(loopback_error(op, prefix, family));
        }
    }
    Ok(index)
}

fn loopback_address(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// The error of a `lo` without the loopback address of `family`.
pub(super) fn loopback_error(op: &'static str, object: impl fmt::Display, family: Family) -> NetError {
    let (state, cure) = match family {
        Family::Ipv4 => {
            ("lo has no address 127.0.0.1", "ip link set lo up; ip addr replace 127.0.0.1/8 dev lo")
        }
        Family::Ipv6 => (
            "lo has no address ::1, IPv6 is disabled or lo is down",
            "sysctl -w net.ipv6.conf.lo.disable_ipv6=0; ip link set lo up; ip addr replace ::1/128 dev lo",
        ),
    };
    NetError::Loopback { op, object: object.to_string(), state, cure }
}
