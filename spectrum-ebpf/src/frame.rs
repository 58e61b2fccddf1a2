//! A frame as a driver hands it over, read as far as it takes to know who dials what. Byte orders end here. What is not plain is
//! not read: it is for the stack.

use core::ptr;

use aya_ebpf::programs::XdpContext;
use spectrum_common::Address;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
/// A customer's tag in a provider's.
const TAGS: usize = 2;

/// More fragments, or not the first one.
const FRAGMENT: u16 = 0x3fff;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const DESTINATION_OPTIONS: u8 = 60;
/// The extension headers that are passed over: options before and after a routing header, and room for what nobody sends. A routing
/// header, behind which another address counts, and a fragment are for the stack.
const EXTENSIONS: usize = 3;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A SYN or a datagram, which a frame brings.
pub(crate) struct PlainPacket {
    pub(crate) from: Address,
    pub(crate) to: Address,
    /// The domain's number in front of the dialled port in front of the source's, that in network order.
    pub(crate) rest: u64,
}

/// The packet of which the kernel would ask who listens: a SYN without an ACK, or a datagram.
#[inline(always)]
pub(crate) fn read(ctx: &XdpContext) -> Option<PlainPacket> {
    let frame = Frame { start: ctx.data(), end: ctx.data_end() };
    let mut offset = ETHERNET;
    let mut kind = u16::from_be_bytes(frame.at(ETHERNET - 2)?);
    for _ in 0..TAGS {
        if kind == VLAN || kind == SERVICE_VLAN {
            kind = u16::from_be_bytes(frame.at(offset + 2)?);
            offset += 4;
        }
    }
    match kind {
        IPV4 => ipv4(&frame, offset),
        IPV6 => ipv6(&frame, offset),
        _ => None,
    }
}

#[inline(always)]
fn ipv4(frame: &Frame, offset: usize) -> Option<PlainPacket> {
    let header: [u8; 20] = frame.at(offset)?;
    let words = usize::from(header[0] & 0xf);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT;
    if header[0] >> 4 != 4 || words < 5 || fragment != 0 {
        return None;
    }
    let (is_udp, ports) = ports(frame, offset + words * 4, header[9])?;
    let address = |at: usize| {
        let [a, b, c, d] = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        Address { hi: u64::from(u32::from_be_bytes([a, b, c, d])) << 32, lo: 0 }
    };
    Some(PlainPacket { from: address(12), to: address(16), rest: u64::from(is_udp) << 32 | u64::from(ports) })
}

#[inline(always)]
fn ipv6(frame: &Frame, offset: usize) -> Option<PlainPacket> {
    let [version, .., next, _hops] = frame.at::<[u8; 8]>(offset)?;
    if version >> 4 != 6 {
        return None;
    }
    let (mut at, mut next) = (offset + 40, next);
    for _ in 0..EXTENSIONS {
        if next == HOP_BY_HOP || next == DESTINATION_OPTIONS {
            let [after, eights] = frame.at(at)?;
            next = after;
            at += (usize::from(eights) + 1) * 8;
        }
    }
    let (is_udp, ports) = ports(frame, at, next)?;
    let half = |at: usize| Some(u64::from_be_bytes(frame.at(offset + at)?));
    Some(PlainPacket {
        from: Address { hi: half(8)?, lo: half(16)? },
        to: Address { hi: half(24)?, lo: half(32)? },
        rest: (2 | u64::from(is_udp)) << 32 | u64::from(ports),
    })
}

/// The ports behind an IP header whose payload is of `protocol`, if that is a SYN or a datagram: true of the latter.
#[inline(always)]
fn ports(frame: &Frame, offset: usize, protocol: u8) -> Option<(bool, u32)> {
    let is_udp = match protocol {
        TCP => {
            let [.., flags] = frame.at::<[u8; 14]>(offset)?;
            // What belongs to a connection is never judged, nor what pretends to.
            if flags & (SYN | ACK) != SYN {
                return None;
            }
            false
        }
        UDP => true,
        _ => return None,
    };
    let [a, b, c, d] = frame.at(offset)?;
    let (source, dialled) = (u16::from_ne_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some((is_udp, u32::from(dialled) << 16 | u32::from(source)))
}

struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The bytes at `offset`, as far as they are there.
    #[inline(always)]
    fn at<T: Copy>(&self, offset: usize) -> Option<T> {
        let from = self.start + offset;
        if from + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the packet, which is what the verifier takes the comparison for; T is bytes.
        Some(unsafe { ptr::read_unaligned(from as *const T) })
    }
}
