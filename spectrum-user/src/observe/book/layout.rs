//! The place of everything in a volume of counters, in words of 64 bits: a head, the names of cells, and then blocks of one size. A
//! version that has other cells finds those that it knows by their names; one whose head or blocks begin otherwise has another
//! [`FRAME`]. Reads and writes nothing.

use std::ops::Range;

use crate::observe::histogram::{BOUNDS, Bounds, DIAL, SESSION};
use spectrum_proxy::{End, TrafficCount};

/// The first word.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"spectrum");

/// The version of all in this file but the cells.
pub(super) const FRAME: u64 = 1;

/// The words of a new volume: 64 MiB, of which pages take memory when something is counted there. There are blocks for some
/// 87,000 services, each times protocols and workers.
pub(super) const WORDS: usize = (64 << 20) / 8;

// The head.
pub(super) const MAGIC_AT: usize = 0;
pub(super) const FRAME_AT: usize = 1;
/// The words of a block.
pub(super) const STRIDE_AT: usize = 2;
/// The bytes of the names of cells.
pub(super) const NAMES_LENGTH_AT: usize = 3;
/// The blocks that are taken, the first ones. On a line of its own, as are the next.
pub(super) const TAKEN_AT: usize = 16;
/// The processes so far that count.
pub(super) const PROCESSES_AT: usize = 32;
/// The number of the process that begins and ends the others'.
pub(super) const KEEPER_AT: usize = 33;
/// The events that were not counted for want of a block.
pub(super) const UNCOUNTED_AT: usize = 48;
/// The names of cells, each behind a newline but the first.
pub(super) const NAMES_AT: usize = 64;
/// The first block.
pub(super) const BLOCKS_AT: usize = 2048;

// A block.
/// [`PUBLISHED`] once the rest is there.
pub(super) const STATE_AT: usize = 0;
/// The number of the process that counts in it; 0: none any more.
pub(super) const PROCESS_AT: usize = 1;
pub(super) const KIND_AT: usize = 2;
/// The bytes of the name.
pub(super) const NAME_LENGTH_AT: usize = 3;
pub(super) const NAME_AT: Range<usize> = 4..12;
/// The first cell, on a line of its own.
pub(super) const CELLS_AT: usize = 16;

pub(super) const PUBLISHED: u64 = 1;

/// The words that no two blocks share, so that no two workers write to one cache line, nor to two that are fetched together.
const LINE: usize = 16;

/// The cells of a histogram.
pub(in crate::observe) const HISTOGRAM: usize = BOUNDS + 2;

// The cells, in the order in which they are read: an end is counted after its beginning, so the beginnings are read last, and
// there are never more ends.
pub(in crate::observe) const ENDS: Range<usize> = 0..End::ALL.len();
/// Sessions that were open when their process ended.
pub(in crate::observe) const ABANDONED: usize = ENDS.end;
/// Sessions that another process has taken over, less those that were taken over: below 0 it is counted from 2^64 down.
pub(in crate::observe) const MOVED: usize = ABANDONED + 1;
pub(in crate::observe) const DIALS: Range<usize> = MOVED + 1..MOVED + 1 + HISTOGRAM;
pub(in crate::observe) const DURATIONS: Range<usize> = DIALS.end..DIALS.end + HISTOGRAM;
pub(in crate::observe) const TRAFFIC: Range<usize> = DURATIONS.end..DURATIONS.end + TrafficCount::ALL.len();
pub(in crate::observe) const OPENED: usize = TRAFFIC.end;
pub(in crate::observe) const CELLS: usize = OPENED + 1;

/// The words of a block.
pub(super) const STRIDE: usize = (CELLS_AT + CELLS).next_multiple_of(LINE);

/// The names of ends begin with it.
pub(super) const END: &str = "end ";

/// The names of the cells of sessions, in their order.
pub(super) fn cell_names() -> Vec<String> {
    let mut names = Vec::with_capacity(CELLS);
    names.extend(End::ALL.map(|end| format!("{END}{end}")));
    names.push("abandoned".to_owned());
    names.push("moved".to_owned());
    name_histogram(&mut names, "dial", &DIAL);
    name_histogram(&mut names, "session", &SESSION);
    names.extend(TrafficCount::ALL.map(|count| count.word().to_owned()));
    names.push("opened".to_owned());
    names
}

fn name_histogram(names: &mut Vec<String>, of: &str, bounds: &Bounds) {
    names.extend(bounds.map(|bound| format!("{of} {}us", bound.as_micros())));
    names.push(format!("{of} longer"));
    names.push(format!("{of} ns"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own_and_all_fit_their_place() {
        let names = cell_names();
        assert_eq!(names.len(), CELLS);
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), CELLS);
        let bytes = names.join("\n").len();
        assert!(bytes <= (BLOCKS_AT - NAMES_AT) * 8, "{bytes}");
        assert_eq!((names[ABANDONED].as_str(), names[OPENED].as_str()), ("abandoned", "opened"));
        assert_eq!(names[TRAFFIC.start], TrafficCount::ALL[0].word());
    }

    #[test]
    fn blocks_share_no_line() {
        assert!([BLOCKS_AT, STRIDE, CELLS_AT].iter().all(|at| at % LINE == 0));
        const { assert!(NAME_AT.end <= CELLS_AT) };
    }
}
