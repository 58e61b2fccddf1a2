//! The accounts of sources, in one map of fixed size that is there while rates are configured. Decides nothing: `charge()` does.

use aya_ebpf::bindings::BPF_F_INNER_MAP;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use spectrum_common::{Accounts, Charge, Pace, hash_of};

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
    // SAFETY: a helper without arguments that every program may call.
    let now = unsafe { bpf_ktime_get_ns() } >> 10;
    spectrum_common::charge(Charge { account, connection, now }, Pace { cost, window }, &Words(words)).into()
}
