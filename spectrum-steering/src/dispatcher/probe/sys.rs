//! Test runs of the sk_lookup program. aya has none for its type.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use crate::dispatcher::sys::{BPF_PROG_TEST_RUN, TestAttributes, call};
use crate::model::Protocol;

/// The result of a test run of an sk_lookup program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TestRun {
    /// The program's return value: `SK_DROP` or `SK_PASS`.
    pub(super) verdict: u32,
    /// The cookie of the socket that was chosen; 0 if none was.
    pub(super) cookie: u64,
}

/// Runs `program` once as if a packet from `from` to `to` had arrived (BPF_PROG_TEST_RUN; for sk_lookup programs Linux
/// 5.13). The addresses must be of one family. Needs CAP_BPF and CAP_NET_ADMIN.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
) -> io::Result<TestRun> {
    let mut context = TestedPacket::new(protocol, from, to);
    let mut attributes = TestAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        context_in: size_of::<TestedPacket>().try_into().unwrap_or(u32::MAX),
        context_out: size_of::<TestedPacket>().try_into().unwrap_or(u32::MAX),
        context_in_address: (&raw const context).expose_provenance() as u64,
        context_out_address: (&raw mut context).expose_provenance() as u64,
        ..TestAttributes::default()
    };
    // SAFETY: bpf(2) reads and writes `attributes`, whose size is given, and `context`, whose size stands in it twice;
    // both live until it returns.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes)? };
    // SAFETY: `context` was handed to the kernel as a raw pointer; it is read back as one.
    let cookie = unsafe { ptr::read_volatile(&raw const context.cookie) };
    Ok(TestRun { verdict: attributes.result, cookie })
}

/// `struct bpf_sk_lookup` of linux/bpf.h as user space sees it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct TestedPacket {
    cookie: u64,
    family: u32,
    protocol: u32,
    remote_ip4: [u8; 4],
    remote_ip6: [u8; 16],
    remote_port: [u8; 2],
    reserved: u16,
    local_ip4: [u8; 4],
    local_ip6: [u8; 16],
    /// In host byte order, unlike the remote one.
    local_port: u32,
    ingress_interface: u32,
    padding: u32,
}

impl TestedPacket {
    fn new(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Self {
        let mut lookup = Self {
            protocol: match protocol {
                Protocol::Tcp => libc::IPPROTO_TCP.cast_unsigned(),
                Protocol::Udp => libc::IPPROTO_UDP.cast_unsigned(),
            },
            remote_port: from.port().to_be_bytes(),
            local_port: to.port().into(),
            ..Self::default()
        };
        match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                lookup.family = libc::AF_INET.cast_unsigned();
                lookup.remote_ip4 = from.ip().octets();
                lookup.local_ip4 = to.ip().octets();
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                lookup.family = libc::AF_INET6.cast_unsigned();
                lookup.remote_ip6 = from.ip().octets();
                lookup.local_ip6 = to.ip().octets();
            }
            // The kernel refuses family 0.
            _ => {}
        }
        lookup
    }
}
