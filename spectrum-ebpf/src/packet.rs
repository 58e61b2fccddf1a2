//! The context, read once into a `Packet`. Byte orders end here.

use aya_ebpf::programs::SkLookupContext;
use spectrum_common::{Address, Domain, Packet, Source};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// The packet that looks for a listener, or `None` for a protocol or family that no binding has.
#[inline(always)]
pub(crate) fn read(ctx: &SkLookupContext) -> Option<Packet> {
    // SAFETY: the kernel hands every run a valid context.
    let lookup = unsafe { &*ctx.lookup };
    let domain = match (lookup.family, lookup.protocol) {
        (AF_INET, IPPROTO_TCP) => Domain::Tcp4,
        (AF_INET, IPPROTO_UDP) => Domain::Udp4,
        (AF_INET6, IPPROTO_TCP) => Domain::Tcp6,
        (AF_INET6, IPPROTO_UDP) => Domain::Udp6,
        _ => return None,
    };
    // bpf_sk_lookup (linux/bpf.h): addresses in network byte order, local_port in host byte order.
    let address = address(domain.is_ipv4(), &lookup.local_ip4, &lookup.local_ip6);
    #[expect(clippy::cast_possible_truncation, reason = "a port, which the kernel widens")]
    let port = lookup.local_port as u16;
    Some(Packet { domain, address, port })
}

/// The sender. Read on its own, since few packets pass a gate.
#[inline(always)]
pub(crate) fn source(ctx: &SkLookupContext) -> Source {
    // SAFETY: the kernel hands every run a valid context.
    let lookup = unsafe { &*ctx.lookup };
    // SAFETY: as above; volatile, or the compiler would keep what is known since `read`.
    let is_ipv4 = unsafe { core::ptr::read_volatile(&raw const lookup.family) } == AF_INET;
    Source { address: address(is_ipv4, &lookup.remote_ip4, &lookup.remote_ip6), is_ipv4 }
}

#[inline(always)]
fn address(is_ipv4: bool, v4: &u32, v6: &[u32; 4]) -> Address {
    if is_ipv4 {
        Address { hi: u64::from(u32::from_be(*v4)) << 32, lo: 0 }
    } else {
        let [a, b, c, d] = *v6;
        Address { hi: join(a, b), lo: join(c, d) }
    }
}

#[inline(always)]
fn join(upper: u32, lower: u32) -> u64 {
    u64::from(u32::from_be(upper)) << 32 | u64::from(u32::from_be(lower))
}
