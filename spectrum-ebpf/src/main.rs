//! The sk_lookup program: reads the context once, calls `steer()`, acts on the verdict, counts; and the XDP program, which drops what
//! that would turn away without a word. Decides nothing.
#![no_std]
#![no_main]
#![allow(missing_docs, unreachable_pub, reason = "of what #[sk_lookup] and #[xdp] make of a function")]
#![allow(unsafe_code, reason = "map memory and the context are the kernel's")]
#![expect(
    clippy::inline_always,
    reason = "BPF passes five register arguments at most, and the verifier walks one program"
)]
#![expect(clippy::needless_pass_by_value, reason = "#[sk_lookup] and #[xdp] hand the context over by value")]

mod accounts;
mod assign;
mod counters;
mod early;
mod frame;
mod packet;
mod samples;
mod shares;
mod tables;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{sk_lookup, xdp};
use aya_ebpf::programs::{SkLookupContext, XdpContext};
use spectrum_common::{Verdict, names, steer};

use crate::counters::deny;
use crate::samples::sample;

/// Lets the loader refuse an object, or state pinned by one, that speaks another version.
#[unsafe(no_mangle)]
static ABI: u32 = names::ABI_VERSION;

// The kernel offers some helpers only to programs that say they are compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Chooses the listener for a packet that looks for one.
#[sk_lookup]
pub fn spectrum(ctx: SkLookupContext) -> u32 {
    let Some(table) = tables::current() else { return SK_PASS };
    let Some(packet) = packet::read(&ctx) else { return SK_PASS };
    match steer(&packet, &packet::LookupSender::of(&ctx), &table) {
        Verdict::Assign(id) => {
            if assign::assign(&ctx, id) {
                SK_PASS
            } else {
                SK_DROP
            }
        }
        Verdict::Pass => SK_PASS,
        Verdict::Refuse(id, reason) => {
            deny(id, reason);
            sample(id, reason, || packet::read_whole(&ctx));
            SK_DROP
        }
        Verdict::Silence(id, reason) => {
            deny(id, reason);
            sample(id, reason, || packet::read_whole(&ctx));
            if assign::silence(&ctx) { SK_PASS } else { SK_DROP }
        }
    }
}

/// Drops what is to be turned away without a word, and lets everything else through as it is.
#[xdp]
pub fn spectrum_xdp(ctx: XdpContext) -> u32 {
    match frame::read(&ctx) {
        Some(packet) if early::is_silenced(&packet) => XDP_DROP,
        _ => XDP_PASS,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
