//! Samples of packets that are turned away, one a CPU and tick at most, in a ring of fixed size. Who reads too slowly learns less of whom,
//! and of all how many.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::{PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::btf_map;
use spectrum_common::{Address, DenialSample, DenyReason, DestinationId, Packet, names};

#[btf_map]
static DENIALS: RingBuf<DenialSample, { names::DENIALS_BYTES }> = RingBuf::new();

#[btf_map]
static SAMPLING: PerCpuArray<Sampling, 1> = PerCpuArray::new();

/// The state of one CPU.
#[repr(C)]
pub(crate) struct Sampling {
    /// The tick of the last sample.
    tick: u64,
    /// The packets since then.
    packets: u64,
}

/// Notes that `packet`, to `id`, was turned away, and tells of it if it is time. `source` is asked for then alone: its address, and its port
/// in network order.
#[inline(always)]
pub(crate) fn sample(
    id: DestinationId,
    reason: DenyReason,
    packet: impl FnOnce() -> Option<(Packet, Address, u16)>,
) {
    let Some(sampling) = SAMPLING.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own element; the program is not interrupted by itself on one CPU.
    let sampling = unsafe { &mut *sampling };
    sampling.packets += 1;
    // SAFETY: a helper without arguments that every program may call.
    let tick = unsafe { bpf_jiffies64() };
    if tick == sampling.tick {
        return;
    }
    sampling.tick = tick;
    let Some((packet, source, port)) = packet() else { return };
    let sample = DenialSample {
        source: DenialSample::halves(source),
        dialled: DenialSample::halves(packet.address),
        packets: sampling.packets,
        destination: id.0,
        source_port: u16::from_be(port),
        dialled_port: packet.port,
        reason: reason as u32,
        domain: packet.domain.first_step(),
    };
    if DENIALS.output(sample, BPF_RB_NO_WAKEUP.into()).is_ok() {
        sampling.packets = 0;
    }
}
