//! What a confined process must not be able to do, tried from within. Leaves nothing behind where it could be done all the same.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::kill;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};
use nix::unistd::{Uid, getppid, setuid};
use serde::Serialize;

use super::sys;

/// A program that is not there: to execute it fails, one way or the other.
const NO_PROGRAM: &CStr = c"/nonexistent";

/// One of the things that are tried.
#[derive(Clone, Debug, Serialize)]
pub struct Trespass {
    /// The thing.
    pub what: &'static str,
    /// The name of the system's error, or nothing if it succeeded.
    pub error: Option<String>,
}

/// Tries them, one after the other.
#[must_use]
pub fn trespasses() -> Vec<Trespass> {
    let made = std::env::temp_dir().join(format!("spectrum-trespass-{}", std::process::id()));
    let attempts: [(&str, Result<(), Errno>); 16] = [
        ("open /etc/shadow", of(File::open("/etc/shadow"))),
        ("open /etc/passwd", of(File::open("/etc/passwd"))),
        ("open /proc/self/mem", of(File::open("/proc/self/mem"))),
        ("make a file", of(OpenOptions::new().write(true).create(true).truncate(true).open(&made))),
        ("bpf(2)", of(sys::make_map())),
        ("execve(2)", of(sys::execute(NO_PROGRAM))),
        ("start a program", of(Command::new("/bin/true").status())),
        ("ptrace(2)", of(sys::trace())),
        ("add a route", add_route()),
        ("signal the parent", kill(getppid(), None)),
        ("a socket of the firewall", netlink(SockProtocol::NetlinkNetFilter).map(drop)),
        ("a socket of UNIX", of(UnixDatagram::unbound())),
        ("listen", of(TcpListener::bind("127.0.0.1:0"))),
        ("a user namespace", unshare(CloneFlags::CLONE_NEWUSER)),
        (
            "become root",
            if Uid::effective().is_root() { Err(Errno::EALREADY) } else { setuid(Uid::from_raw(0)) },
        ),
        ("memory to execute", of(sys::map_code())),
    ];
    let _ = std::fs::remove_file(made);
    attempts
        .into_iter()
        .map(|(what, done)| Trespass { what, error: done.err().map(|errno| format!("{errno:?}")) })
        .collect()
}

fn of<T>(done: io::Result<T>) -> Result<(), Errno> {
    done.map(drop).map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}

fn netlink(protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
}

/// Adds a route, and takes it away again.
fn add_route() -> Result<(), Errno> {
    let socket = netlink(SockProtocol::NetlinkRoute)?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    change_route(&socket, libc::RTM_NEWROUTE)?;
    change_route(&socket, libc::RTM_DELROUTE)
}

/// Of an address of documentation to the loopback interface, in a table that nobody asks.
fn change_route(socket: &OwnedFd, change: u16) -> Result<(), Errno> {
    const LENGTH: u32 = 44;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let mut message = Vec::new();
    // struct nlmsghdr
    message.extend(LENGTH.to_ne_bytes());
    message.extend(change.to_ne_bytes());
    message.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    message.extend([0; 8]);
    // struct rtmsg: IPv4, a /32, table 83, protocol 83, in this host, of the type unicast
    message.extend([2, 32, 0, 0, 83, 83, 253, 1]);
    message.extend([0; 4]);
    // RTA_DST and RTA_OIF
    message.extend(8_u16.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend([192, 0, 2, 1]);
    message.extend(8_u16.to_ne_bytes());
    message.extend(4_u16.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 256];
    recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // struct nlmsgerr: after the header a negative errno, or 0
    let [.., a, b, c, d] = *answer.first_chunk::<20>().unwrap_or(&[0; 20]);
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        errno => Err(Errno::from_raw(-errno)),
    }
}
