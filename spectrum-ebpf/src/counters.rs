//! What became of each destination's packets, per CPU, so that counting never contends.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use spectrum_common::{Counts, DenyReason, DestinationId, names};

#[btf_map]
static COUNTERS: PerCpuArray<Counts, { names::DEFAULT_DESTINATIONS }> = PerCpuArray::new();

#[btf_map]
static EARLY: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Counts a packet that is dropped before the stack sees it.
#[inline(always)]
pub(crate) fn drop_early() {
    if let Some(count) = EARLY.get_ptr_mut(0) {
        // SAFETY: this CPU's own element; the program is not interrupted by itself on one CPU.
        unsafe { *count += 1 };
    }
}

/// Lets `note` count in the destination's counters.
#[inline(always)]
pub(crate) fn count(id: DestinationId, note: impl FnOnce(&mut Counts)) {
    if let Some(counts) = COUNTERS.get_ptr_mut(id.0) {
        // SAFETY: this CPU's own element; the program is not interrupted by itself on one CPU.
        note(unsafe { &mut *counts });
    }
}

/// Counts a packet that the source policy turned away.
#[inline(always)]
pub(crate) fn deny(id: DestinationId, reason: DenyReason) {
    count(id, |counts| {
        if let Some(denied) = counts.denied.get_mut(reason as usize) {
            *denied += 1;
        }
    });
}
