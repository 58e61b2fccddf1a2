//! Raw access to the kernel: a program that sends what it is run on, running it on frames that nobody sent, and a switch of a driver. No
//! crate offers the flag that has test runs act on real interfaces.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::libc;
use socket2::{Domain, Socket, Type};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// Does with a frame as the program says (Linux 5.18).
const LIVE_FRAMES: u32 = 1 << 1;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_SGRO: u32 = 0x2c;

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instructions: u32,
    instructions_address: u64,
    license_address: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct TestAttributes {
    program: u32,
    result: u32,
    data_in: u32,
    data_out: u32,
    data_in_address: u64,
    data_out_address: u64,
    repeat: u32,
    duration: u32,
    context: [u32; 6],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// `struct ifreq` with a pointer in its union, and what that points to.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    data: *mut [u32; 2],
    rest: [u64; 2],
}

/// A loaded XDP program that sends every frame out of the interface `index`.
pub(super) fn sender(index: u32) -> io::Result<OwnedFd> {
    // r1 = index; r2 = 0; call bpf_redirect; exit
    let program: [u64; 4] = [u64::from(index) << 32 | 0x01b7, 0x02b7, 23 << 32 | 0x85, 0x95].map(u64::to_le);
    let license = c"GPL";
    let attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_XDP,
        instructions: 4,
        instructions_address: (&raw const program).expose_provenance() as u64,
        license_address: license.as_ptr().expose_provenance() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given, and what the addresses in it refer to, which all live until it returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    };
    let descriptor = RawFd::try_from(result).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made it for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Runs `program` on so many copies of `frame`, and has what it says done with each.
pub(super) fn send(program: &OwnedFd, frame: &[u8], copies: u32) -> io::Result<()> {
    let mut attributes = TestAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        data_in: frame.len().try_into().unwrap_or(u32::MAX),
        data_in_address: frame.as_ptr().expose_provenance() as u64,
        repeat: copies,
        flags: LIVE_FRAMES,
        batch: 64,
        ..TestAttributes::default()
    };
    // SAFETY: bpf(2) reads and writes `attributes`, whose size is given, and reads `frame`, whose size stands in it; both live until it
    // returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestAttributes>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches on that the driver of `interface` gathers what belongs together (`ethtool -K interface gro on`).
pub(super) fn gather(interface: &str) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = [ETHTOOL_SGRO, 1];
    let mut request = InterfaceRequest { name: [0; 16], data: &raw mut value, rest: [0; 2] };
    for (to, from) in request.name.iter_mut().zip(interface.bytes().take(15)) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes `request`, as large as `struct ifreq`, and `value`; both live until it returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
