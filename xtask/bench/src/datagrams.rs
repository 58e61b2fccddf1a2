//! The `datagrams` benchmark: UDP datagrams per second through the eBPF program, through one that asks an LPM trie, and to
//! an ordinary socket. `spectrum-steering/benches/datagrams.rs` measures; nothing is measured here.

use anyhow::Result;

use super::Bench;
use super::measured;
use super::report::Report;

/// The subject that every later one is compared with.
const PLAIN: &str = "bound";

/// Measures every case. Here more is better: a ratio is how many times the peer's datagrams there are.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    measured::compare(bench, report, "datagrams", &[PLAIN], |_| None)
}
