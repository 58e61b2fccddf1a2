//! What is decided of a packet before the stack sees it, by the same `steer()`: whether it would be turned away without a word. Charges
//! nobody: the socket lookup does, of whatever is let through.

use spectrum_common::{Address, Domain, Pace, Packet, Sender, Source, Verdict, steer};

use crate::accounts::{Ends, hashes, would_charge};
use crate::counters::{deny, drop_early};
use crate::frame::PlainPacket;
use crate::samples::sample;
use crate::tables;

/// True if nobody is to hear of it. Then it is counted.
#[inline(always)]
pub(crate) fn is_silenced(packet: &PlainPacket) -> bool {
    let PlainPacket { from, to, rest } = packet;
    silenced(to.hi, to.lo, from.hi, from.lo, *rest) != 0
}

/// See [`is_silenced`]. A global function, which the verifier walks once and not for each form of a frame: for that it may be passed
/// numbers alone, five at most.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn silenced(to_hi: u64, to_lo: u64, from_hi: u64, from_lo: u64, rest: u64) -> u64 {
    let Some(table) = tables::current() else { return 0 };
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    let (domain, ports) = (Domain::of_number((rest >> 32) as u32), rest as u32);
    let (from, to) = (Address { hi: from_hi, lo: from_lo }, Address { hi: to_hi, lo: to_lo });
    let packet = Packet { domain, address: to, port: (ports >> 16) as u16 };
    match steer(&packet, &EarlySender { domain, from, to, ports }, &table) {
        Verdict::Silence(id, reason) => {
            deny(id, reason);
            drop_early();
            #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
            let port = ports as u16;
            sample(id, reason, || Some((packet, from, port)));
            1
        }
        // Who is refused is told so, by the stack.
        Verdict::Assign(_) | Verdict::Pass | Verdict::Refuse(..) => 0,
    }
}

struct EarlySender {
    domain: Domain,
    from: Address,
    to: Address,
    ports: u32,
}

impl Sender for EarlySender {
    #[inline(always)]
    fn source(&self) -> Source {
        Source { address: self.from, is_ipv4: self.domain.is_ipv4() }
    }

    /// Unknown: what is on a VLAN, a bridge or a bond comes by that.
    #[inline(always)]
    fn interface(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn may_come(&self, source: Address, rate: u32, pace: Pace) -> bool {
        let is_tcp = !self.domain.is_udp();
        let ends = || Ends { from: self.from, to: self.to, ports: self.ports };
        let (account, connection) = hashes(source, rate, is_tcp, ends);
        would_charge(account, connection, pace)
    }
}
