//! Feeds the parsers of PROXY headers what libFuzzer makes up. What must hold is in `src/headers.rs`.

#![no_main]

#[path = "../src/headers.rs"]
mod headers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| headers::holds(data));
