//! Feeds the plan and the steering table what libFuzzer makes up. What must hold is in `src/steering.rs`.

#![no_main]

#[path = "../src/steering.rs"]
mod steering;

libfuzzer_sys::fuzz_target!(|data: &[u8]| steering::holds(data));
