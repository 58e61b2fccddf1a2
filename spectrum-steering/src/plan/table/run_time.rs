//! The lists of what was said at run time, in a table of their own that is made anew far oftener than the one whose gates lead to it.
//! Judges no source.

use std::collections::BTreeMap;

use spectrum_common::{Node, Page, Source, Value, search};

use super::gates::source_prefixes;
use super::prefixes::BoundPrefix;
use super::{Table, TableError, index};
use crate::model::{Family, ServiceName};
use crate::plan::RunTimeSources;

/// The compiled lists. Each stands where it stood before for as long as no list is added: gates refer to its place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunTimeLists {
    nodes: Vec<Node>,
    /// The first step of each list.
    roots: BTreeMap<(Option<ServiceName>, Family), u32>,
}

impl RunTimeLists {
    /// The lists of `sources`, each with a place.
    pub(super) fn of(sources: &RunTimeSources) -> Result<Self, TableError> {
        // At 0 there is never a list.
        let names = sources.lists().into_iter().map(|(name, family)| (name.cloned(), family));
        let roots = names.zip(1_usize..).map(|(list, at)| Ok((list, index(at)?)));
        Self { nodes: Vec::new(), roots: roots.collect::<Result<_, _>>()? }.filled(sources)
    }

    /// The lists of `sources` in the same places; `None` where one of them has none.
    ///
    /// # Errors
    /// As for [`Table::of`].
    pub fn refilled(&self, sources: &RunTimeSources) -> Result<Option<Self>, TableError> {
        let is_there = |(name, family): &(Option<&ServiceName>, Family)| {
            self.roots.contains_key(&(name.cloned(), *family))
        };
        if !sources.lists().iter().all(is_there) {
            return Ok(None);
        }
        Self { nodes: Vec::new(), roots: self.roots.clone() }.filled(sources).map(Some)
    }

    fn filled(self, sources: &RunTimeSources) -> Result<Self, TableError> {
        let Self { roots, .. } = self;
        if roots.is_empty() {
            return Ok(Self::default());
        }
        let lists: Vec<(Family, u32, Vec<BoundPrefix>)> = roots
            .iter()
            .map(|((name, family), root)| {
                (*family, *root, source_prefixes(sources.list(name.as_ref()), *family))
            })
            .collect();
        let further: usize = lists.iter().map(|(_, _, prefixes)| super::gates::lengths(prefixes)).sum();
        let first = 1 + roots.len();
        let mut table = Table { nodes: vec![Node::default(); first + further], ..Table::default() };
        let mut further = first..;
        for (family, root, prefixes) in &lists {
            if !prefixes.is_empty() {
                table.add_prefixes(*family, prefixes, *root, &mut further)?;
            }
        }
        Ok(Self { nodes: table.nodes, roots })
    }

    /// The first step of the list of `service`, or of all services; `None` where it has no place.
    pub(super) fn root(&self, service: Option<&ServiceName>, family: Family) -> Option<u32> {
        self.roots.get(&(service.cloned(), family)).copied()
    }

    /// The nodes, as the kernel reads them; none where nothing was ever said.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Bytes of kernel memory: whole pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Page::bytes_of(self.nodes.len())
    }

    /// The word of the list at `list` on `source`.
    pub(super) fn said_of(&self, list: u32, source: Source) -> Value {
        search(list, source, self.nodes.as_slice())
    }
}
