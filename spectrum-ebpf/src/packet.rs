//! The context, read once into a `Packet`. Byte orders end here.

use aya_ebpf::programs::SkLookupContext;
use spectrum_common::{Address, Domain, Packet};

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
    let address = match domain {
        Domain::Tcp4 | Domain::Udp4 => Address { hi: u64::from(u32::from_be(lookup.local_ip4)) << 32, lo: 0 },
        Domain::Tcp6 | Domain::Udp6 => {
            let [a, b, c, d] = lookup.local_ip6;
            Address { hi: join(a, b), lo: join(c, d) }
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "a port, which the kernel widens")]
    let port = lookup.local_port as u16;
    Some(Packet { domain, address, port })
}

#[inline(always)]
fn join(upper: u32, lower: u32) -> u64 {
    u64::from(u32::from_be(upper)) << 32 | u64::from(u32::from_be(lower))
}
