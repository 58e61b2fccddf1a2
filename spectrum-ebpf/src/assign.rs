//! Gives a packet to its destination's listener, or to one that never answers.

use aya_ebpf::btf_maps::SockMap;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::warn;
use spectrum_common::{DestinationId, Domain, Refusal, names};

use crate::counters::count;
use crate::packet;

const ENOENT: i32 = 2;

#[btf_map]
static LISTENERS: SockMap<{ names::DEFAULT_DESTINATIONS }> = SockMap::new();

#[btf_map]
static SILENT: SockMap<{ Domain::ALL.len() }> = SockMap::new();

/// Set by the loader before loading; the verifier removes the logging of a program that has 0 here.
#[unsafe(no_mangle)]
static LOG_DROPS: u8 = 0;

/// Gives the packet to the listener of `id`. `false`: it has none, or the kernel refused it; drop the packet, so that
/// what is reserved for a service never lands in somebody else's socket.
#[inline(always)]
pub(crate) fn assign(ctx: &SkLookupContext, id: DestinationId) -> bool {
    // Flags 0: the socket's SO_REUSEPORT group chooses which of its sockets gets the packet, and another program's
    // choice stands (EEXIST).
    match LISTENERS.redirect_sk_lookup(ctx, id.0, 0) {
        Ok(()) => {
            count(id, |counts| counts.steered += 1);
            true
        }
        Err(errno) => {
            count(id, |counts| {
                if errno == -ENOENT {
                    counts.missed += 1;
                } else if let Some(refused) = counts.refused.get_mut(Refusal::of(errno) as usize) {
                    *refused += 1;
                }
            });
            // SAFETY: a read-only global; volatile, because the loader writes what the compiler sees as constant.
            if unsafe { core::ptr::read_volatile(&raw const LOG_DROPS) } != 0 {
                warn!(ctx, "dropped: destination {} errno {}", id.0, -errno);
            }
            false
        }
    }
}

/// Gives the packet to the listener of its domain that never answers. `false`: there is none; drop the packet, which tells
/// the client that it is refused.
#[inline(always)]
pub(crate) fn silence(ctx: &SkLookupContext) -> bool {
    // Read anew, for the sake of the verifier: see `Source`.
    packet::read(ctx).is_some_and(|packet| SILENT.redirect_sk_lookup(ctx, packet.domain as u32, 0).is_ok())
}
