//! What a network interface says of its features by ioctl(2), which no crate of ours asks. Changes none.
#![allow(unsafe_code, reason = "see above; the block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The question whether an interface makes trains of what comes (ETHTOOL_GGRO of `linux/ethtool.h`).
const GET_GRO: u32 = 0x2b;

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
