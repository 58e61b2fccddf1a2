//! The `datagrams` benchmark: UDP datagrams per second through the eBPF program, through one that asks an LPM trie, and to
//! an ordinary socket. `spectrum-steering/benches/datagrams.rs` measures; nothing is measured here.

use anyhow::Result;

use super::Bench;
use super::measured::{self, Measured};
use super::report::Report;
use super::row::{Peer, Row};

/// The subject that every later one is compared with.
const PLAIN: &str = "bound";

/// Measures every case. Here more is better: a ratio is how many times the peer's datagrams there are.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut plain: Option<Measured> = None;
    measured::each(bench, "datagrams", |measured| {
        let peer = plain.as_ref().filter(|plain| plain.case == measured.case && measured.subject != PLAIN);
        report.add(&Row {
            case: measured.case.clone(),
            subject: measured.subject.clone(),
            peer: peer.map(|peer| Peer {
                name: peer.subject.clone(),
                value: peer.spread().median,
                ratio: measured.ratios(peer),
            }),
            value: measured.spread().median,
            unit: measured.unit.clone(),
            goal: None,
        });
        if measured.subject == PLAIN {
            plain = Some(measured);
        }
    })
}
