//! The steering table's memory. A generation is one inner map: whoever holds it sees no other.

use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::btf_map;
use spectrum_common::{Node, Nodes, PAGE_NODES, Page};

// INNER_MAP lets generations differ in size (Linux 5.10). MMAPABLE aligns the nodes to cache lines, which an ordinary
// array does not, and spares the loader a system call for each.
const FLAGS: usize = (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize;

// An array of one page: in a bare struct Linux 5.15 to 6.1 looks for timers, and where it has looked it takes only maps that
// come with types as well (bpf_map_meta_equal in kernel/bpf/map_in_map.c), which those of the loader do not.
type Inner = Array<[Page; 1], 1, FLAGS>;

#[btf_map]
static TABLES: ArrayOfMaps<Inner, 1> = ArrayOfMaps::new();

/// One generation, and its first page at hand: the kernel does not inline look-ups in maps of several sizes, and a call
/// costs as much as all the rest of a step.
pub(crate) struct CurrentTable {
    pages: &'static Inner,
    first: &'static Page,
}

/// The current generation, or `None` before the first.
#[inline(always)]
pub(crate) fn current() -> Option<CurrentTable> {
    let pages = TABLES.get(0)?;
    let [first] = pages.get(0)?;
    Some(CurrentTable { pages, first })
}

impl Nodes for CurrentTable {
    #[inline(always)]
    fn node(&self, index: u32) -> Option<&Node> {
        let page = index / PAGE_NODES;
        let page = if page == 0 {
            self.first
        } else {
            let [page] = self.pages.get(page)?;
            page
        };
        page.nodes.get((index % PAGE_NODES) as usize)
    }

    #[inline(always)]
    fn step(&self, index: u32) -> Option<&Node> {
        self.first.nodes.get((index % PAGE_NODES) as usize)
    }
}
