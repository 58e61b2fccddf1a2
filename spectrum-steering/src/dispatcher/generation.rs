//! One generation of the steering table in kernel memory. Publishing it is the dispatcher's.

use std::os::fd::BorrowedFd;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use spectrum_common::{ACCOUNT_WORDS, Node, Page, Step};

use super::pins::{charter_pages, sealed};
use super::{DispatcherError, sys};

/// The name of a generation's map, as bpftool prints it.
const NAME: &str = "TABLE";

/// The map of the accounts of sources, which all generations share: 2 MiB.
pub(super) fn accounts() -> Result<MapData, DispatcherError> {
    #[expect(clippy::cast_possible_truncation, reason = "a key has four bytes, a word eight")]
    let definition = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        size_of::<u64>() as u32,
        ACCOUNT_WORDS,
        BPF_F_INNER_MAP,
    );
    MapData::create(definition, "ACCOUNT", None)
        .map_err(|source| DispatcherError::Publish { source: Box::new(source) })
}

/// A map that holds a table.
#[derive(Debug)]
pub(super) struct Generation(MapData);

impl Generation {
    /// Copies `nodes`, whose slot is `slot` if there are gates, into a map of as many pages as they need, and behind them `charter`, if it
    /// is to have one. The flags are those of the inner map that the program declares.
    pub(super) fn of(nodes: &[Node], slot: u32, charter: &[u8]) -> Result<Self, DispatcherError> {
        let map = pages(Page::count_of(nodes.len()).max(1) + charter_pages(charter.len()))?;
        let failed = |source| DispatcherError::Publish { source: Box::new(source) };
        sys::fill(map.fd(), Node::bytes(nodes), 0).map_err(failed)?;
        sys::fill(map.fd(), &sealed(charter), Page::bytes_of(nodes.len())).map_err(failed)?;
        if let Some(first) = nodes.first().map(Node::as_step).filter(|step| step.slot != 0) {
            sys::fill(map.fd(), Node::bytes(&[Step { slot, ..*first }.into()]), 0).map_err(failed)?;
        }
        Ok(Self(map))
    }

    /// Copies the first `node_pages` pages of the map `former`, and puts `charter` behind them.
    pub(super) fn again(
        former: BorrowedFd<'_>,
        node_pages: usize,
        charter: &[u8],
    ) -> Result<Self, DispatcherError> {
        let failed = |source| DispatcherError::Publish { source: Box::new(source) };
        let map = pages(node_pages + charter_pages(charter.len()))?;
        let length = node_pages * size_of::<Page>();
        sys::copy(former, map.fd(), length).map_err(failed)?;
        sys::fill(map.fd(), &sealed(charter), length).map_err(failed)?;
        Ok(Self(map))
    }

    /// The map.
    pub(super) fn map(&self) -> &MapData {
        &self.0
    }
}

/// A map of so many pages.
fn pages(count: usize) -> Result<MapData, DispatcherError> {
    let count =
        u32::try_from(count).map_err(|source| DispatcherError::Publish { source: Box::new(source) })?;
    #[expect(clippy::cast_possible_truncation, reason = "a page has 256 KiB, a key four bytes")]
    let definition = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        size_of::<Page>() as u32,
        count,
        BPF_F_INNER_MAP | BPF_F_MMAPABLE,
    );
    MapData::create(definition, NAME, None)
        .map_err(|source| DispatcherError::Publish { source: Box::new(source) })
}
