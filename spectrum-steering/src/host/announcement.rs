//! Announcing: a tun device without addresses that carries one route for each announced prefix, which BGP daemons of the host pass on.
//! Both go with the process, however it ends. Speaks with no daemon, and decides nothing about what is announced.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use futures_util::stream::TryStreamExt as _;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec};
use tokio::task::JoinHandle;

use super::NetError;
use super::routes::{CAPABILITY, LOST, ROUTE_PROTOCOL, address_family, connect, io_error, prefix_of};
use crate::model::{Family, Prefix};

/// The table that daemons learn from (`RT_TABLE_MAIN`).
pub(super) const MAIN_TABLE: u8 = 254;

const TUN: &str = "/dev/net/tun";

/// The kernel counts: configurations of daemons name `spectrum*`.
const DEVICE: &str = "spectrum%d";

/// The prefixes that this process announces: a device that lives as long as this value, and its routes.
#[derive(Debug)]
pub struct Announcement {
    device: Option<Device>,
    handle: Handle,
    connection: JoinHandle<()>,
}

#[derive(Debug)]
struct Device {
    name: String,
    index: u32,
    /// Closing it takes the device away, and with it the routes.
    file: File,
}

impl Announcement {
    /// Announces nothing yet, in the network namespace of the calling thread and on the running tokio runtime. Needs what announcing
    /// will need, so that a start without it fails: `CAP_NET_ADMIN` and `/dev/net/tun`.
    ///
    /// # Errors
    /// [`NetError`]: no `CAP_NET_ADMIN`, no `/dev/net/tun`, or the kernel gives no netlink socket.
    pub async fn open() -> Result<Self, NetError> {
        let (handle, connection) = connect()?;
        let mut announcement = Self { device: None, handle, connection };
        announcement.raise_device().await?;
        Ok(announcement)
    }

    /// The device called `name` behind `file`, which is taken over from another one of this process's programs, with its routes.
    ///
    /// # Errors
    /// [`NetError`]: the kernel gives no netlink socket. A device that has gone is made anew when it is next needed.
    pub fn adopt(name: String, file: OwnedFd) -> Result<Self, NetError> {
        let (handle, connection) = connect()?;
        let index = if_nametoindex(name.as_str()).ok();
        let device = index.map(|index| Device { name, index, file: file.into() });
        Ok(Self { device, handle, connection })
    }

    /// The device and its file, while there is one, for [`adopt`](Self::adopt).
    #[must_use]
    pub fn place(&self) -> Option<(&str, BorrowedFd<'_>)> {
        self.device.as_ref().map(|device| (device.name.as_str(), device.file.as_fd()))
    }

    /// The name of the device, while there is one.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_ref().map(|device| device.name.as_str())
    }

    /// Announces `prefixes`, beside those that are. The device is made anew where somebody removed it, and one that somebody set down
    /// is set up.
    ///
    /// # Errors
    /// [`NetError`]: as for [`open`](Self::open), or somebody else's route for one of them is in the way.
    pub async fn add(&mut self, prefixes: &[Prefix]) -> Result<(), NetError> {
        self.reconnect_if_lost()?;
        let index = self.raise_device().await?;
        for prefix in prefixes {
            let added = self.handle.route().add(route(*prefix, index)).execute().await;
            match added.map_err(io_error) {
                Ok(()) => {}
                Err(source) if source.raw_os_error() == Some(libc::EEXIST) => {
                    if !self.routes(prefix.family()).await?.contains(prefix) {
                        return Err(NetError::AnnouncementTaken { prefix: *prefix });
                    }
                }
                Err(source) => {
                    return Err(NetError::os("add the route that announces", prefix, source, CAPABILITY));
                }
            }
        }
        self.check("add the routes that announce")
    }

    /// Announces `prefixes` no more. What is gone already is no error. The device stays, for what is announced again.
    pub async fn remove(&mut self, prefixes: &[Prefix]) -> Vec<NetError> {
        if let Err(error) = self.reconnect_if_lost() {
            return vec![error];
        }
        let mut errors = Vec::new();
        let Some(index) = self.device.as_ref().map(|device| device.index) else { return errors };
        for prefix in prefixes {
            match self.handle.route().del(route(*prefix, index)).execute().await.map_err(io_error) {
                Ok(()) => {}
                Err(source) if matches!(source.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => {}
                Err(source) => {
                    errors.push(NetError::os("remove the route that announces", prefix, source, CAPABILITY));
                }
            }
        }
        errors.extend(self.check("remove the routes that announce").err());
        errors
    }

    /// Those of `prefixes` that have no route on the device any more, which may be gone.
    ///
    /// # Errors
    /// The kernel does not list its routes.
    pub async fn absent(&mut self, prefixes: &BTreeSet<Prefix>) -> Result<Vec<Prefix>, NetError> {
        self.reconnect_if_lost()?;
        let mut absent = prefixes.clone();
        for family in [Family::Ipv4, Family::Ipv6] {
            if absent.iter().any(|prefix| prefix.family() == family) {
                for prefix in self.routes(family).await? {
                    absent.remove(&prefix);
                }
            }
        }
        self.check("list the routes that announce")?;
        Ok(absent.into_iter().collect())
    }

    /// The prefixes of `family` that have a route on the device.
    async fn routes(&self, family: Family) -> Result<BTreeSet<Prefix>, NetError> {
        let Some(device) = self.device.as_ref().filter(|device| device.is_there()) else {
            return Ok(BTreeSet::new());
        };
        let mut filter = RouteMessage::default();
        filter.header.address_family = address_family(family);
        // The kernel then walks this table only, and tells of this device's routes only, however many a router has.
        filter.header.table = MAIN_TABLE;
        filter.attributes.push(RouteAttribute::Oif(device.index));
        let routes = self.handle.route().get(filter).execute();
        let routes: Vec<RouteMessage> = match routes.try_collect().await.map_err(io_error) {
            Ok(routes) => routes,
            // The kernel does without this family, or the device has gone meanwhile.
            Err(source)
                if matches!(
                    source.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::ENODEV)
                ) =>
            {
                Vec::new()
            }
            Err(source) => {
                return Err(NetError::os("list announced routes of", family, source, CAPABILITY));
            }
        };
        let ours = routes.into_iter().filter(|route| {
            route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
                && route.attributes.contains(&RouteAttribute::Oif(device.index))
        });
        Ok(ours.filter_map(|route| prefix_of(&route, family)).collect())
    }

    /// Has the device there and up: its index.
    async fn raise_device(&mut self) -> Result<u32, NetError> {
        if self.device.as_ref().is_none_or(|device| !device.is_there()) {
            // What is left of one that somebody removed is an empty file.
            self.device = None;
            let file = OpenOptions::new().read(true).write(true).open(Path::new(TUN));
            let file = file.map_err(|source| match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => NetError::TunMissing,
                _ => NetError::os("open", TUN, source, CAPABILITY),
            })?;
            let op = "make the tun device";
            let name = super::sys::tun_device(&file, DEVICE)
                .map_err(|source| NetError::os(op, DEVICE, source, CAPABILITY))?;
            let index = if_nametoindex(name.as_str())
                .map_err(|errno| NetError::os("find interface", &name, errno, CAPABILITY))?;
            self.device = Some(Device { name, index, file });
        }
        let Some(Device { name, index, .. }) = &self.device else { return Err(NetError::TunMissing) };
        // An address that it gave itself would be announced where daemons pass on what is connected. Kernels without IPv6 refuse that.
        let silent = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])];
        let addressless = LinkUnspec::new_with_index(*index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(silent))
            .build();
        if let Err(error) = self.handle.link().set(addressless).execute().await {
            tracing::debug!(error = %io_error(error), "keep the tun device from giving itself an address");
        }
        let up = LinkUnspec::new_with_index(*index).up().build();
        let raised = self.handle.link().set(up).execute().await.map_err(io_error);
        raised.map_err(|source| NetError::os("set up the tun device", name, source, CAPABILITY))?;
        self.check("set up the tun device")?;
        Ok(*index)
    }

    /// The answers of a connection that was lost are not to be believed.
    fn check(&self, op: &'static str) -> Result<(), NetError> {
        if self.connection.is_finished() {
            return Err(NetError::os(op, "by netlink", io::Error::other(LOST), CAPABILITY));
        }
        Ok(())
    }

    fn reconnect_if_lost(&mut self) -> Result<(), NetError> {
        if self.connection.is_finished() {
            (self.handle, self.connection) = connect()?;
        }
        Ok(())
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Device {
    /// Others may take it away, and the number may be another's then, but not the name and the number.
    fn is_there(&self) -> bool {
        if_nametoindex(self.name.as_str()) == Ok(self.index)
    }
}

fn route(prefix: Prefix, device: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(prefix.family());
    message.header.table = MAIN_TABLE;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = match prefix.family() {
        Family::Ipv4 => RouteScope::Link,
        Family::Ipv6 => RouteScope::Universe,
    };
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = prefix.length();
    message.attributes.push(RouteAttribute::Destination(match prefix.address() {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    message.attributes.push(RouteAttribute::Oif(device));
    message
}
