//! Feeds the reader of QUIC's connection ids what libFuzzer makes up. What must hold is in `src/quic.rs`.

#![no_main]

#[path = "../src/quic.rs"]
mod quic;

libfuzzer_sys::fuzz_target!(|data: &[u8]| quic::holds(data));
