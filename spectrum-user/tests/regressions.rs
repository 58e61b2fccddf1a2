//! Replays what the fuzz targets began with and what they found, for everybody who has no fuzzer. Looks for nothing new.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/headers.rs"]
mod headers;
#[path = "../../fuzz/src/quic.rs"]
mod quic;
#[path = "../../fuzz/src/steering.rs"]
mod steering;

/// Calls `holds` with every input of `target`, and names each that it does not hold for.
fn replay(target: &str, holds: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let inputs: Vec<PathBuf> = ["seeds", "regressions"]
        .into_iter()
        .filter_map(|kind| fs::read_dir(fuzz.join(kind).join(target)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!inputs.is_empty(), "no inputs for {target} in {}", fuzz.display());
    let failed: Vec<&PathBuf> = inputs
        .iter()
        .filter(|path| {
            let input = fs::read(path).unwrap();
            panic::catch_unwind(|| holds(&input)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{target} does not hold for {failed:#?}");
}

#[test]
fn configurations_are_understood_or_refused() {
    replay("config", config::holds);
}

#[test]
fn headers_are_read_alike_however_they_come() {
    replay("headers", headers::holds);
}

#[test]
fn connection_ids_are_read_within_their_datagrams() {
    replay("quic", quic::holds);
}

#[test]
fn every_judge_of_steering_agrees() {
    replay("steering", steering::holds);
}
