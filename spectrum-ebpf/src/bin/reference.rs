//! What `cargo xtask bench dispatch` compares the program with: an empty one, and one that steers the usual way, by an
//! LPM trie over protocol, port and address that is asked twice, for the port and for "any port". Never shipped.
#![no_std]
#![no_main]
#![allow(missing_docs, unreachable_pub, reason = "of what #[sk_lookup] makes of a function")]
#![allow(unsafe_code, reason = "map memory and the context are the kernel's")]
#![expect(clippy::cast_possible_truncation, reason = "a protocol and a port, which the kernel widens")]
#![expect(clippy::needless_pass_by_value, reason = "#[sk_lookup] hands the context over by value")]

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{LpmTrie, PerCpuArray, SockMap};
use aya_ebpf::macros::{btf_map, sk_lookup};
use aya_ebpf::programs::SkLookupContext;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Protocol, zero, port (big-endian) and IPv4-mapped or IPv6 address.
type Data = [u8; 20];

/// Destination in the lower 24 bits, prefix length above.
#[btf_map]
static BINDINGS: LpmTrie<Data, u32, 1, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();

#[btf_map]
static LISTENERS: SockMap<4096> = SockMap::new();

#[btf_map]
static COUNTERS: PerCpuArray<[u64; 8], 4096> = PerCpuArray::new();

/// Passes everything.
#[sk_lookup]
pub fn empty(_ctx: SkLookupContext) -> u32 {
    SK_PASS
}

/// Steers by the trie.
#[sk_lookup]
pub fn reference(ctx: SkLookupContext) -> u32 {
    // SAFETY: the kernel hands every run a valid context.
    let lookup = unsafe { &*ctx.lookup };
    // Volatile and before the branch, lest the compiler reads the context at an offset that varies, which the verifier
    // refuses.
    // SAFETY: as above.
    let word = |field: &u32| unsafe { core::ptr::read_volatile(field) };
    let v4 = word(&lookup.local_ip4);
    let [a, b, c, d] = &lookup.local_ip6;
    let v6 = [word(a), word(b), word(c), word(d)];
    let words = match lookup.family {
        2 => [0, 0, 0xffff_u32.to_be(), v4],
        10 => v6,
        _ => return SK_PASS,
    };
    let mut data: Data = [0; 20];
    data[0] = lookup.protocol as u8;
    let [high, low] = (lookup.local_port as u16).to_be_bytes();
    data[2] = high;
    data[3] = low;
    for (index, word) in words.into_iter().enumerate() {
        let [a, b, c, d] = word.to_ne_bytes();
        data[4 + index * 4] = a;
        data[5 + index * 4] = b;
        data[6 + index * 4] = c;
        data[7 + index * 4] = d;
    }
    let exact = BINDINGS.get(&Key::new(20 * 8, data)).copied().unwrap_or(0);
    data[2] = 0;
    data[3] = 0;
    let any = BINDINGS.get(&Key::new(20 * 8, data)).copied().unwrap_or(0);
    let value = if any >> 24 > exact >> 24 { any } else { exact };
    if value == 0 {
        return SK_PASS;
    }
    let id = value & 0xff_ffff;
    if let Some(counts) = COUNTERS.get_ptr_mut(id) {
        // SAFETY: this CPU's own element.
        unsafe { (*counts)[0] += 1 };
    }
    match LISTENERS.redirect_sk_lookup(&ctx, id, 0) {
        Ok(()) => SK_PASS,
        Err(_) => SK_DROP,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
