//! What is asked of network interfaces and sockets by ioctl(2), for which no crate of ours has a call: their features, a tun device, and the
//! network namespace of a socket; and by which number a network namespace is known. Sets no address and brings nothing up.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

/// The question whether an interface makes trains of what comes (ETHTOOL_GGRO of `linux/ethtool.h`).
const GET_GRO: u32 = 0x2b;

/// The question for the network namespace of a socket (SIOCGSKNS of `linux/sockios.h`, Linux 4.10).
const GET_NAMESPACE: libc::Ioctl = 0x894c;

/// The network namespace of `socket`, whoever has made that. Needs CAP_NET_ADMIN in it.
pub(super) fn namespace_of(socket: &impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the command takes no argument, and returns a new descriptor, or -1.
    let descriptor = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), GET_NAMESPACE) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// True if the interface of this name makes trains of what comes (GRO). Any socket of its namespace can ask. Needs no capability.
pub(super) fn makes_trains(socket: &impl AsFd, interface: &str) -> io::Result<bool> {
    let mut value = EthtoolValue { command: GET_GRO, data: 0 };
    let mut name = [0; libc::IFNAMSIZ];
    let room = name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in name.iter_mut().zip(interface.bytes()) {
        *place = byte.cast_signed();
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() };
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru };
    // SAFETY: the kernel reads the request, whose name ends with a zero, and writes to the value it points to, which has the layout
    // that this command has; both are there until the call is over.
    let asked = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if asked == 0 { Ok(value.data != 0) } else { Err(io::Error::last_os_error()) }
}

/// Makes of `file`, which is `/dev/net/tun`, a tun device that goes when the file is closed: its name, for which `pattern` has `%d` where
/// the kernel is to put a number.
pub(super) fn tun_device(file: &impl AsFd, pattern: &str) -> io::Result<String> {
    let mut name = [0; libc::IFNAMSIZ];
    let room = name.len() - 1;
    if pattern.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in name.iter_mut().zip(pattern.bytes()) {
        *place = byte.cast_signed();
    }
    let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).map_err(io::Error::other)?;
    let mut request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the kernel reads the request, whose name ends with a zero, and writes the device's name and flags to it; it is there
    // until the call is over.
    let made = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned());
    String::from_utf8(name.collect()).map_err(io::Error::other)
}

/// `SO_NETNS_COOKIE` of asm-generic/socket.h.
const NETNS_COOKIE: libc::c_int = 71;

/// The number of the network namespace of `socket`, which no other has had since the host was started (Linux 5.14).
pub(super) fn namespace_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has as many, and the number of them to `length`.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if asked == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
