//! Where the entries of source policies stand, for who asks why a client is denied. Judges none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::model::{ServiceName, SourceEntry, SourcePolicy};

/// The file and line of every entry: of the configuration, or of a list that it names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicyPlaces {
    files: Vec<Arc<Path>>,
    /// The lists among them.
    list_files: Vec<Arc<Path>>,
    /// In the order of the policy's entries; `None`: of the policy for all services.
    lists: BTreeMap<Option<ServiceName>, Arc<[EntryPlace]>>,
}

/// The place of one entry.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct EntryPlace {
    /// The number of the file.
    pub(super) file: u32,
    /// The line, the first is 1.
    pub(super) line: u32,
}

impl PolicyPlaces {
    /// The number of the file at `path`.
    pub(super) fn file(&mut self, path: &Path) -> u32 {
        let known = self.files.iter().rposition(|known| **known == *path);
        let number = known.unwrap_or_else(|| {
            self.files.push(path.into());
            self.files.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// The number of the list at `path`.
    pub(super) fn list(&mut self, path: &Path) -> u32 {
        let number = self.file(path);
        if !self.list_files.iter().any(|list| **list == *path) {
            self.list_files.push(path.into());
        }
        number
    }

    /// The files that are lists of prefixes.
    #[must_use]
    pub fn lists(&self) -> &[Arc<Path>] {
        &self.list_files
    }

    /// Takes down where the entries of `policy` stand; `entries` has them all, in any order.
    pub(super) fn add(
        &mut self,
        service: Option<&ServiceName>,
        policy: &SourcePolicy,
        mut entries: Vec<(SourceEntry, EntryPlace)>,
    ) {
        // As the policy has them: one that is there twice is told by the first.
        entries.sort_unstable();
        entries.dedup_by_key(|(entry, _)| *entry);
        debug_assert_eq!(entries.len(), policy.entries().len(), "an entry for each");
        self.lists.insert(service.cloned(), entries.into_iter().map(|(_, place)| place).collect());
    }

    /// A place as messages have it.
    pub(super) fn shown(&self, place: EntryPlace) -> Option<String> {
        Some(format!("{}:{}", self.files.get(place.file as usize)?.display(), place.line))
    }

    /// The file and line of `entry` of `policy`, which is `service`'s own, or that of all.
    #[must_use]
    pub fn of(
        &self,
        service: Option<&ServiceName>,
        policy: &SourcePolicy,
        entry: SourceEntry,
    ) -> Option<(&Path, u32)> {
        let number = policy.entries().binary_search(&entry).ok()?;
        let place = self.lists.get(&service.cloned())?.get(number)?;
        Some((self.files.get(place.file as usize)?, place.line))
    }
}
