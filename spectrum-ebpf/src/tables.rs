//! The steering table's memory. A generation is one inner map: whoever holds it sees no other.

use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::btf_map;
use spectrum_common::{Address, Node, Nodes, PAGE_NODES, Page, Source, Value, names, search};

// INNER_MAP lets generations differ in size (Linux 5.10). MMAPABLE aligns the nodes to cache lines, which an ordinary
// array does not, and spares the loader a system call for each.
const FLAGS: usize = (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize;

// An array of one page: in a bare struct Linux 5.15 to 6.1 looks for timers, and where it has looked it takes only maps that
// come with types as well (bpf_map_meta_equal in kernel/bpf/map_in_map.c), which those of the loader do not.
type Inner = Array<[Page; 1], 1, FLAGS>;

#[btf_map]
static TABLES: ArrayOfMaps<Inner, { names::TABLE_SLOTS }> = ArrayOfMaps::new();

/// One generation, and its first page at hand: the kernel does not inline look-ups in maps of several sizes, and a call
/// costs as much as all the rest of a step.
pub(crate) struct CurrentTable {
    pages: &'static Inner,
    first: &'static Page,
}

/// The current generation, or `None` before the first.
#[inline(always)]
pub(crate) fn current() -> Option<CurrentTable> {
    at(0)
}

#[inline(always)]
fn at(slot: u32) -> Option<CurrentTable> {
    let pages = TABLES.get(slot)?;
    let [first] = pages.get(0)?;
    Some(CurrentTable { pages, first })
}

/// [`search`] in the table of a slot. A global function: the verifier walks it once for all calls, and for that it may be passed
/// numbers alone.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn said_of(slot: u32, list: u32, hi: u64, lo: u64, is_ipv4: u32) -> u64 {
    let Some(table) = at(slot) else { return Value::PASS.bits().into() };
    let source = Source { address: Address { hi, lo }, is_ipv4: is_ipv4 != 0 };
    search(list, source, &table).bits().into()
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

    #[inline(always)]
    fn said_of(&self, list: u32, source: Source) -> Value {
        let Some(first) = self.step(0) else { return Value::PASS };
        said_in(first.as_step().slot, list, source)
    }

    #[inline(always)]
    fn said_at_run_time(&self, list: u32, source: Source) -> Value {
        let Some(first) = self.step(0) else { return Value::PASS };
        said_in(first.as_step().slot + names::RUN_TIME_SLOTS, list, source)
    }
}

/// [`said_of`] as the crate has it.
#[inline(always)]
fn said_in(slot: u32, list: u32, source: Source) -> Value {
    let Source { address: Address { hi, lo }, is_ipv4 } = source;
    #[expect(clippy::cast_possible_truncation, reason = "a value, which the calling convention widens")]
    Value::of_bits(said_of(slot, list, hi, lo, is_ipv4.into()) as u32)
}
