//! The steering table's memory. A generation is one inner map: whoever holds it sees no other.

use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::btf_map;
use spectrum_common::{Node, Nodes};

// INNER_MAP lets generations differ in size (Linux 5.10). MMAPABLE aligns the nodes to cache lines, which an ordinary
// array does not, and spares the loader a system call for each.
const FLAGS: usize = (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize;

type Inner = Array<Node, 1, FLAGS>;

#[btf_map]
static TABLES: ArrayOfMaps<Inner, 1> = ArrayOfMaps::new();

/// One generation.
pub(crate) struct Table(&'static Inner);

/// The current generation, or `None` before the first.
#[inline(always)]
pub(crate) fn current() -> Option<Table> {
    TABLES.get(0).map(Table)
}

impl Nodes for Table {
    #[inline(always)]
    fn node(&self, index: u32) -> Option<&Node> {
        self.0.get(index)
    }
}
