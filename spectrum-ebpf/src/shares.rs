//! The memory of destinations that have registered sockets: whose their clients are by the slots, and whose they were. Decides nothing.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use spectrum_common::{MEMORY_WORDS, RegisteredId, Remembered, SLOTS, Slot, names, slot_of};

// MMAPABLE spares the loader a system call for each slot.
type Slots = Array<[u64; 1], { SLOTS as usize }, { BPF_F_MMAPABLE as usize }>;
type Words = Array<[u64; 1], { MEMORY_WORDS as usize }>;

#[btf_map]
static SHARES: ArrayOfMaps<Slots, { names::DEFAULT_DESTINATIONS }> = ArrayOfMaps::new();

#[btf_map]
static MEMORIES: ArrayOfMaps<Words, { names::DEFAULT_DESTINATIONS }> = ArrayOfMaps::new();

#[btf_map]
static STEERED: PerCpuArray<u64, { names::REGISTERED_SOCKETS }> = PerCpuArray::new();

/// Set by the loader before loading.
#[unsafe(no_mangle)]
static FIRST_REGISTERED: u32 = 0;

const NOBODY: u32 = u32::MAX;

/// The slot of the client with this hash among those of the destination `id`: one of nobody where there are none.
#[inline(always)]
pub(crate) fn slot_of_client(id: u32, client: u64) -> Slot {
    Slot::of_bits(slot(id, client))
}

/// The place of the socket that the client went to lately by the connection with this hash; a place that the map has not is nobody's.
#[inline(always)]
pub(crate) fn known_socket(id: u32, connection: u64, is_tcp: bool, now: u64) -> RegisteredId {
    let ticks = if is_tcp { Remembered::TCP } else { Remembered::UDP };
    #[expect(clippy::cast_possible_truncation, reason = "a place, which the calling convention widens")]
    RegisteredId(known(id, connection, now, ticks) as u32)
}

/// Remembers that the client went to `socket` by the connection with this hash, and counts it.
#[inline(always)]
pub(crate) fn note(id: u32, connection: u64, socket: RegisteredId, now: u64) {
    remember(id, connection, socket.0, now);
    // SAFETY: a read-only global; volatile, because the loader writes what the compiler sees as constant.
    let first = unsafe { core::ptr::read_volatile(&raw const FIRST_REGISTERED) };
    if let Some(count) = STEERED.get_ptr_mut(socket.0.wrapping_sub(first)) {
        // SAFETY: this CPU's own element; the program is not interrupted by itself on one CPU.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

// Global functions, as `said_of` is: the verifier walks each once.

/// See [`slot_of_client`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn slot(id: u32, client: u64) -> u64 {
    let nobody = const { Slot::of(RegisteredId(NOBODY), None).bits() };
    let Some(slots) = SHARES.get(id) else { return nobody };
    slots.get(slot_of(client)).map_or(nobody, |[bits]| *bits)
}

/// See [`known_socket`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn known(id: u32, client: u64, now: u64, ticks: u64) -> u64 {
    let Some(words) = MEMORIES.get(id) else { return NOBODY.into() };
    let [first, second] =
        Remembered::places(client).map(|place| word(words, place).socket(client, now, ticks));
    first.or(second).map_or(NOBODY, |socket| socket.0).into()
}

/// See [`note`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember(id: u32, client: u64, socket: u32, now: u64) -> u64 {
    let Some(words) = MEMORIES.get(id) else { return 0 };
    let [first, second] = Remembered::places(client);
    let said = [word(words, first), word(words, second)];
    let place = if Remembered::takes_second(said, client, now) { second } else { first };
    let Some(word) = words.get_ptr_mut(place) else { return 0 };
    let said = Remembered::of(client, RegisteredId(socket), now).bits();
    // SAFETY: an aligned word of the map, stored as a whole; volatile, since other CPUs read it.
    unsafe { core::ptr::write_volatile(word.cast::<u64>(), said) };
    1
}

#[inline(always)]
fn word(words: &'static Words, place: u32) -> Remembered {
    // SAFETY: as above.
    let bits = words.get_ptr(place).map_or(0, |word| unsafe { core::ptr::read_volatile(word.cast::<u64>()) });
    Remembered::of_bits(bits)
}

/// Nanoseconds since the host began.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments that every program may call.
    unsafe { bpf_ktime_get_ns() }
}
