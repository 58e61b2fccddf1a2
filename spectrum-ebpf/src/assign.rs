//! Gives a packet to its destination's listener, or to one that never answers.

use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SOCKMAP;
use aya_ebpf::btf_maps::SockMap;
use aya_ebpf::helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::warn;
use spectrum_common::{DestinationId, Domain, Refusal, names};

use crate::counters::count;
use crate::{packet, shares};

const ENOENT: i32 = 2;

#[btf_map]
static LISTENERS: Listeners<{ names::DEFAULT_DESTINATIONS }> = Listeners::new();

#[btf_map]
static SILENT: SockMap<{ Domain::ALL.len() }> = SockMap::new();

/// Set by the loader before loading; the verifier removes the logging of a program that has 0 here.
#[unsafe(no_mangle)]
static LOG_DROPS: u8 = 0;

/// A sockmap with values of eight bytes: of such a one the kernel tells the loader which socket is where, by its cookie. That of
/// aya has four. The names and the order of the fields are what loaders look for.
#[repr(C)]
struct Listeners<const ENTRIES: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SOCKMAP as usize],
    key: *const u32,
    value: *const u64,
    max_entries: *const [i32; ENTRIES],
    map_flags: *const [i32; 0],
}

// SAFETY: its fields are never read: they are there for what is told of their types.
unsafe impl<const ENTRIES: usize> Sync for Listeners<ENTRIES> {}

impl<const ENTRIES: usize> Listeners<ENTRIES> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// Gives the packet to the socket at `index`, or says by which errno it cannot be.
    #[inline(always)]
    fn redirect(&self, ctx: &SkLookupContext, index: u32, flags: u64) -> Result<(), i32> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the loader puts the map in the place of this reference, and the key is one of its keys.
        let socket = unsafe { bpf_map_lookup_elem(map, ptr::from_ref(&index).cast()) };
        if socket.is_null() {
            return Err(-ENOENT);
        }
        // SAFETY: the context is the kernel's, the socket what it has just given, which is let go of afterwards, once.
        let outcome = unsafe {
            let outcome = bpf_sk_assign(ctx.as_ptr().cast(), socket, flags);
            let _always_done = bpf_sk_release(socket);
            outcome
        };
        #[expect(clippy::cast_possible_truncation, reason = "an errno")]
        if outcome == 0 { Ok(()) } else { Err(outcome as i32) }
    }
}

/// Gives the packet to the listener of `id`, or to that of its registered sockets whose the client is. `false`: it has none, or the
/// kernel refused it; drop the packet, so that what is reserved for a service never lands in somebody else's socket.
#[inline(always)]
pub(crate) fn assign(ctx: &SkLookupContext, id: DestinationId) -> bool {
    // Flags 0: the socket's SO_REUSEPORT group chooses which of its sockets gets the packet, and another program's
    // choice stands (EEXIST).
    let mut given = LISTENERS.redirect(ctx, id.0, 0);
    if given == Err(-ENOENT) {
        given = give_by_shares(ctx, id);
    }
    match given {
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

/// Gives the packet to the registered socket whose the client is.
#[inline(always)]
fn give_by_shares(ctx: &SkLookupContext, id: DestinationId) -> Result<(), i32> {
    let sender = packet::LookupSender::of(ctx);
    let client = sender.hash();
    let (connection, now) = (sender.connection(client), shares::now());
    let mut given = Err(-ENOENT);
    let slot = shares::slot_of_client(id.0, client);
    let known = shares::known_socket(id.0, connection, sender.is_tcp(), now);
    for socket in [known, slot.first(), slot.next()] {
        match LISTENERS.redirect(ctx, socket.0, 0) {
            Ok(()) => {
                shares::note(id.0, connection, socket, now);
                return Ok(());
            }
            Err(errno) if errno == -ENOENT => {}
            Err(errno) => given = Err(errno),
        }
    }
    given
}

/// Gives the packet to the listener of its domain that never answers. `false`: there is none; drop the packet, which tells
/// the client that it is refused.
#[inline(always)]
pub(crate) fn silence(ctx: &SkLookupContext) -> bool {
    // Read anew, for the sake of the verifier: see `Source`.
    packet::read(ctx).is_some_and(|packet| SILENT.redirect_sk_lookup(ctx, packet.domain as u32, 0).is_ok())
}
