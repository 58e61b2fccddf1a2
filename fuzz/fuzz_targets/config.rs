//! Feeds the configuration parser what libFuzzer makes up. What must hold is in `src/config.rs`.

#![no_main]

#[path = "../src/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config::holds(data));
