//! The context, read once into a `Packet`. Byte orders end here.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use spectrum_common::{Address, Domain, Pace, Packet, Remembered, Sender, Source};

use crate::accounts::{self, Ends};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// Set by the loader before loading; the verifier of a kernel that does not tell the interface never sees us ask for it.
#[unsafe(no_mangle)]
static HAS_INTERFACE: u8 = 0;

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

/// The packet once more with its source, and the port of that in network order.
#[inline(always)]
pub(crate) fn read_whole(ctx: &SkLookupContext) -> Option<(Packet, Address, u16)> {
    let packet = read(ctx)?;
    let sender = LookupSender::of(ctx);
    Some((packet, sender.source().address, sender.lookup.remote_port))
}

/// The sender of the packet. Read on its own, since few packets pass a gate.
pub(crate) struct LookupSender<'a> {
    lookup: &'a bpf_sk_lookup,
}

impl<'a> LookupSender<'a> {
    #[inline(always)]
    pub(crate) fn of(ctx: &'a SkLookupContext) -> Self {
        // SAFETY: the kernel hands every run a valid context.
        Self { lookup: unsafe { &*ctx.lookup } }
    }

    /// The hash of its address and port, which are the same for the first packet of a handshake and for the last.
    #[inline(always)]
    pub(crate) fn hash(&self) -> u64 {
        let from = self.source().address;
        // What is hashed for accounts is below.
        accounts::hash(from.hi, from.lo, 1 << 63 | u64::from(self.lookup.remote_port))
    }

    /// The hash `client` of it together with what it dialled.
    #[inline(always)]
    pub(crate) fn connection(&self, client: u64) -> u64 {
        let lookup = self.lookup;
        let dialled = address(self.is_ipv4(), &lookup.local_ip4, &lookup.local_ip6);
        Remembered::key(client, dialled, lookup.local_port.into())
    }

    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        // SAFETY: a field of the context; volatile, or the compiler would keep what is known since `read`.
        unsafe { core::ptr::read_volatile(&raw const self.lookup.family) == AF_INET }
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const self.lookup.protocol) == IPPROTO_TCP }
    }
}

impl Sender for LookupSender<'_> {
    #[inline(always)]
    fn source(&self) -> Source {
        let (lookup, is_ipv4) = (self.lookup, self.is_ipv4());
        Source { address: address(is_ipv4, &lookup.remote_ip4, &lookup.remote_ip6), is_ipv4 }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: a read-only global; volatile, because the loader writes what the compiler sees as constant.
        if unsafe { core::ptr::read_volatile(&raw const HAS_INTERFACE) } == 0 {
            return 0;
        }
        self.lookup.ingress_ifindex
    }

    #[inline(always)]
    fn may_come(&self, source: Address, rate: u32, pace: Pace) -> bool {
        let ends = || {
            let lookup = self.lookup;
            let to = address(self.is_ipv4(), &lookup.local_ip4, &lookup.local_ip6);
            Ends {
                from: self.source().address,
                to,
                ports: lookup.local_port << 16 | u32::from(lookup.remote_port),
            }
        };
        let (account, connection) = accounts::hashes(source, rate, self.is_tcp(), ends);
        accounts::charge(account, connection, pace)
    }
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
