//! Where the entries of source policies stand, for who asks why a client is denied. Judges none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::model::{ServiceName, SourceEntry, SourceGroup, SourcePolicy};

/// The place of every entry: a line of the configuration, or of a list that it names, or a network of a database.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicyPlaces {
    files: Vec<Arc<Path>>,
    /// The files that are read again when they change.
    list_files: Vec<Arc<Path>>,
    databases: Vec<ReadDatabase>,
    /// In the order of the policy's entries; `None`: of the policy for all services.
    lists: BTreeMap<Option<ServiceName>, Arc<[EntryPlace]>>,
}

/// The place of one entry.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum EntryPlace {
    /// A line of a file.
    Line {
        /// The number of the file.
        file: u32,
        /// The line, the first is 1.
        line: u32,
    },
    /// A network of a database, named as one of a group.
    Network {
        /// The number of the database.
        database: u32,
        /// The group.
        group: SourceGroup,
    },
}

/// The place of an entry, for who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PolicyPlace<'a> {
    /// A line of a file.
    Line {
        /// The file.
        file: &'a Path,
        /// The line, the first is 1.
        line: u32,
    },
    /// A network of a database, named as one of a group.
    Network {
        /// The database.
        database: &'a ReadDatabase,
        /// The group.
        group: SourceGroup,
    },
}

/// A database of networks, as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadDatabase {
    /// Its file.
    pub path: Arc<Path>,
    /// Its type, as it says itself.
    pub kind: String,
    /// The time at which it was made, in seconds since 1970.
    pub built: u64,
    /// The groups that policies name, and how many networks it has of each.
    pub groups: BTreeMap<SourceGroup, usize>,
}

impl ReadDatabase {
    /// Its name without directories.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }
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
        self.watch(path);
        number
    }

    /// The file at `path` is read again when it changes.
    pub(super) fn watch(&mut self, path: &Path) {
        if !self.list_files.iter().any(|list| **list == *path) {
            self.list_files.push(path.into());
        }
    }

    /// Takes down a database that was read: its number is how many there were before.
    pub(super) fn add_database(&mut self, database: ReadDatabase) {
        self.databases.push(database);
    }

    /// `group` has so many networks in the database of this number.
    pub(super) fn add_group(&mut self, database: u32, group: SourceGroup, networks: usize) {
        if let Some(database) = self.databases.get_mut(database as usize) {
            database.groups.insert(group, networks);
        }
    }

    /// The databases of networks that were read.
    #[must_use]
    pub fn databases(&self) -> &[ReadDatabase] {
        &self.databases
    }

    /// The files that are lists of prefixes, or databases of networks.
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
        Some(match self.resolved(place)? {
            PolicyPlace::Line { file, line } => format!("in {}:{line}", file.display()),
            PolicyPlace::Network { database, group } => format!("as {group} of {}", database.name()),
        })
    }

    /// The place of `entry` of `policy`, which is `service`'s own, or that of all.
    #[must_use]
    pub fn of(
        &self,
        service: Option<&ServiceName>,
        policy: &SourcePolicy,
        entry: SourceEntry,
    ) -> Option<PolicyPlace<'_>> {
        let number = policy.entries().binary_search(&entry).ok()?;
        self.resolved(*self.lists.get(&service.cloned())?.get(number)?)
    }

    fn resolved(&self, place: EntryPlace) -> Option<PolicyPlace<'_>> {
        Some(match place {
            EntryPlace::Line { file, line } => {
                PolicyPlace::Line { file: self.files.get(file as usize)?, line }
            }
            EntryPlace::Network { database, group } => {
                PolicyPlace::Network { database: self.databases.get(database as usize)?, group }
            }
        })
    }
}
