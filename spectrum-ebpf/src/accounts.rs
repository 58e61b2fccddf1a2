//! The accounts of sources, in one map of fixed size that is there while rates are configured. Decides nothing: `charge()` does.

use aya_ebpf::bindings::BPF_F_INNER_MAP;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use spectrum_common::{Accounts, Address, Charge, Pace, hash_of};

type Inner = Array<[u64; 1], 1, { BPF_F_INNER_MAP as usize }>;

#[btf_map]
static ACCOUNTS: ArrayOfMaps<Inner, 1> = ArrayOfMaps::new();

/// Drawn by the loader before loading.
#[unsafe(no_mangle)]
static SECRET: [u64; 2] = [0; 2];

struct Words(&'static Inner);

impl Accounts for Words {
    #[inline(always)]
    fn load(&self, index: u32) -> u64 {
        // SAFETY: an aligned word of the map; volatile, since other CPUs change it.
        self.0.get_ptr(index).map_or(0, |word| unsafe { core::ptr::read_volatile(word.cast::<u64>()) })
    }

    #[inline(always)]
    fn store(&self, index: u32, word: u64) {
        if let Some(at) = self.0.get_ptr_mut(index) {
            // SAFETY: as above: one store of a whole word.
            unsafe { core::ptr::write_volatile(at.cast::<u64>(), word) };
        }
    }
}

#[inline(always)]
fn secret() -> [u64; 2] {
    // SAFETY: a read-only global; volatile, because the loader writes what the compiler sees as constant.
    unsafe { core::ptr::read_volatile(&raw const SECRET) }
}

// Global functions, as `said_of` is: the verifier walks each once, and they are passed numbers alone.

/// The hash of three words.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash(one: u64, two: u64, three: u64) -> u64 {
    hash_of(secret(), [one, two, three])
}

/// The hash of four words, never 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_on(one: u64, two: u64, three: u64, four: u64) -> u64 {
    hash_of(secret(), [one, two, three, four]) | 1 << 63
}

/// The two ends of a connection.
pub(crate) struct Ends {
    pub(crate) from: Address,
    pub(crate) to: Address,
    /// The dialled port in front of the source's, that in network order.
    pub(crate) ports: u32,
}

/// The hashes by which a packet is counted: that of its account, and that of its connection, which datagrams have none of.
#[inline(always)]
pub(crate) fn hashes(counted: Address, rate: u32, is_tcp: bool, ends: impl FnOnce() -> Ends) -> (u64, u64) {
    let account = hash(counted.hi, counted.lo, u64::from(rate) << 1 | u64::from(is_tcp));
    if !is_tcp {
        return (account, 0);
    }
    // Of the source the account has what its mask leaves; whoever is behind one mask has ports of his own.
    let Ends { from, to, ports } = ends();
    (account, hash_on(account ^ from.hi, from.lo, to.hi ^ u64::from(ports), to.lo))
}

/// True if what has these hashes may come; then it is charged. It may where there are no accounts.
#[inline(always)]
pub(crate) fn charge(account: u64, connection: u64, pace: Pace) -> bool {
    may_come(account, connection, pace.cost, pace.window) != 0
}

/// See [`charge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn may_come(account: u64, connection: u64, cost: u32, window: u32) -> u64 {
    let Some(words) = ACCOUNTS.get(0) else { return 1 };
    let charge = Charge { account, connection, now: now() };
    spectrum_common::charge(charge, Pace { cost, window }, &Words(words)).into()
}

/// As [`charge`], and nothing is charged.
#[inline(always)]
pub(crate) fn would_charge(account: u64, connection: u64, pace: Pace) -> bool {
    might_come(account, connection, pace.window) != 0
}

/// See [`would_charge`]. What it did not look at it must not be passed: the compiler would pass anything, which the verifier refuses.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn might_come(account: u64, connection: u64, window: u32) -> u64 {
    let Some(words) = ACCOUNTS.get(0) else { return 1 };
    let charge = Charge { account, connection, now: now() };
    spectrum_common::would_charge(charge, window, &Words(words)).into()
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments that every program may call.
    let nanoseconds = unsafe { bpf_ktime_get_ns() };
    nanoseconds >> 10
}
