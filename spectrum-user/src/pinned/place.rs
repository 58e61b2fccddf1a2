//! Where in a BPF file system the state of a network namespace is pinned: its directories, which of them stand for what, and how one takes
//! the place of another. Changes nothing of what is in them.
//!
//! `<inode>` is what is in force: the link, and a directory with a number that has the program, its maps and the generation. `<inode>-new` is
//! made by a load, and becomes it by one rename; `<inode>-old` was it, until it was unloaded. Whoever finds one of these two finds what a
//! killed process has left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use spectrum_steering::dispatcher::{Dispatcher, DispatcherError, is_bpf_file_system, make_directory, unpin};

use super::state::PinnedError;
use crate::registry::{PINS, pins_of, unfinished_pins};

/// The file of the link.
const LINK: &str = "link";

/// The name of the first directory of objects.
const FIRST: u32 = 1;

/// The place of what is pinned in one network namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedPlace {
    directory: PathBuf,
    /// Of a load, and of an unload.
    unfinished: [PathBuf; 2],
}

/// The reason for which nothing can be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No file system is mounted that could hold it.
    #[error(
        "pin in {PINS}: no BPF file system is mounted at {} (try: mount -t bpf bpf {})", .place.display(), .place.display()
    )]
    NotMounted {
        /// The place where it should be.
        place: PathBuf,
    },
    /// The kernel has no place for one.
    #[error("pin in {PINS}: {} is not there (needs a kernel with CONFIG_BPF_SYSCALL, and sysfs: mount -t sysfs sysfs /sys)", .place.display())]
    NoKernel {
        /// The place where it should be.
        place: PathBuf,
    },
    /// Something of it could not be looked at or changed.
    #[error("{op} {}", .path.display())]
    Os {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
}

impl PinnedPlace {
    /// The place of the network namespace with inode `namespace`.
    #[must_use]
    pub fn of(namespace: u64) -> Self {
        Self { directory: pins_of(namespace), unfinished: unfinished_pins(namespace) }
    }

    /// The directory of what is in force.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// True if something is pinned, as far as who asks may know.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.directory.is_dir()
    }

    /// The directory in which a load prepares what is to be in force.
    #[must_use]
    pub fn aside(&self) -> &Path {
        &self.unfinished[0]
    }

    /// The directory that an unload removes.
    #[must_use]
    pub fn former(&self) -> &Path {
        &self.unfinished[1]
    }

    /// The directory that a killed process has left beside what is in force, if that is to be seen.
    #[must_use]
    pub fn unfinished(&self) -> Option<&Path> {
        self.unfinished.iter().map(PathBuf::as_path).find(|path| path.is_dir())
    }

    /// The link in one of these directories.
    #[must_use]
    pub fn link_in(directory: &Path) -> PathBuf {
        directory.join(LINK)
    }

    /// The first directory of objects in one of these directories.
    #[must_use]
    pub fn first_objects_in(directory: &Path) -> PathBuf {
        directory.join(FIRST.to_string())
    }

    /// The directories of objects, in the order of their numbers: one, unless an upgrade is under way, or was killed.
    ///
    /// # Errors
    /// The directory may not be listed.
    pub fn objects(&self) -> Result<Vec<(u32, PathBuf)>, PlaceError> {
        let listed = fs::read_dir(&self.directory).and_then(|entries| {
            let mut found = Vec::new();
            for entry in entries {
                let entry = entry?;
                let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
                found.extend(number.map(|number| (number, entry.path())));
            }
            Ok(found)
        });
        let mut found = listed.map_err(|source| self.failed("list", source))?;
        found.sort();
        Ok(found)
    }

    /// Makes the directories aside in which something is prepared to be in force, for `group` to read: that of its objects.
    ///
    /// # Errors
    /// One is there, or cannot be made.
    pub fn make_aside(&self, group: Option<u32>) -> Result<PathBuf, PlaceError> {
        self.prepare()?;
        let objects = Self::first_objects_in(self.aside());
        for path in [self.aside(), &objects] {
            made(path, group)?;
        }
        Ok(objects)
    }

    /// Has what was prepared aside be in force, in one step: the directory of its objects.
    ///
    /// # Errors
    /// Something is in force.
    pub fn take_effect(&self) -> Result<PathBuf, PlaceError> {
        fs::rename(self.aside(), &self.directory).map_err(|source| self.failed("rename to", source))?;
        Ok(Self::first_objects_in(&self.directory))
    }

    /// Makes a directory for objects that are to take the place of those in force, with their readers.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_next(&self) -> Result<PathBuf, PlaceError> {
        let all = self.objects()?;
        let last = all.last().map_or(FIRST, |(number, _)| number + 1);
        let group = fs::metadata(&self.directory).map_err(|source| self.failed("look at", source))?.gid();
        let next = self.directory.join(last.to_string());
        made(&next, Some(group))?;
        Ok(next)
    }

    /// Removes all objects but those in `directory`, each out of sight in one step, so that nobody finds half of it.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub fn keep_only(&self, directory: &Path) -> Result<(), PlaceError> {
        for (_, other) in self.objects()?.into_iter().filter(|(_, other)| other != directory) {
            fs::rename(&other, self.former()).map_err(|source| PlaceError::Os {
                op: "rename",
                path: other,
                source,
            })?;
            self.sweep()?;
        }
        Ok(())
    }

    /// The directory of objects that are in force: those whose program the link runs, as far as that is known. The others, of an upgrade that
    /// was killed, are removed.
    ///
    /// # Errors
    /// There are none.
    pub fn in_force(&self, program: Option<u32>) -> Result<PathBuf, PinnedError> {
        let mut all = self.objects()?;
        let is_meant = |path: &Path| {
            Dispatcher::pinned_program(path).is_ok_and(|found| program.is_none_or(|program| program == found))
        };
        let meant = all.iter().position(|(_, path)| is_meant(path)).unwrap_or_default();
        if all.is_empty() {
            let path = self.directory.clone();
            let cause = "nothing is in it (try: spectrum-user unload)";
            return Err(DispatcherError::Charter { path, cause }.into());
        }
        let (_, path) = all.swap_remove(meant);
        for (_, other) in all {
            unpin(&other).map_err(|source| PlaceError::Os { op: "remove", path: other.clone(), source })?;
        }
        Ok(path)
    }

    /// Takes what is in force out of sight, in one step, then takes it away.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub fn remove(&self) -> Result<(), PlaceError> {
        fs::rename(&self.directory, self.former()).map_err(|source| self.failed("rename", source))?;
        self.sweep()?;
        self.tidy();
        Ok(())
    }

    /// Removes what killed processes have left beside what is in force.
    ///
    /// # Errors
    /// Something is left.
    pub fn sweep(&self) -> Result<(), PlaceError> {
        for path in [self.aside(), self.former()] {
            unpin(path).map_err(|source| PlaceError::Os { op: "remove", path: path.to_owned(), source })?;
        }
        Ok(())
    }

    /// Makes sure that there is a BPF file system, and in it a directory for all network namespaces.
    ///
    /// # Errors
    /// There is none, or it may not be written.
    pub fn prepare(&self) -> Result<(), PlaceError> {
        let pins = Path::new(PINS);
        let mount = pins.parent().unwrap_or(pins);
        match is_bpf_file_system(mount) {
            Ok(true) => {}
            Ok(false) => return Err(PlaceError::NotMounted { place: mount.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PlaceError::NoKernel { place: mount.to_owned() });
            }
            Err(source) => return Err(PlaceError::Os { op: "look at", path: mount.to_owned(), source }),
        }
        match fs::create_dir(pins) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(PlaceError::Os { op: "create directory", path: pins.to_owned(), source: error })
            }
            // Whoever may read what is in it has to come by; its names are no secret.
            _ => fs::set_permissions(pins, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .map_err(|source| PlaceError::Os { op: "open to readers", path: pins.to_owned(), source }),
        }
    }

    /// The reason for which members of a group cannot come to what is pinned, if so, and the cure.
    #[must_use]
    pub fn barred(&self) -> Option<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let mount = Path::new(PINS).parent()?;
        let mode = fs::metadata(mount).ok()?.permissions().mode();
        (mode & 0o001 == 0).then(|| {
            let mount = mount.display();
            format!("nobody but its owner may enter {mount} (mode {:04o}), so the group may not read (try: chmod o+x {mount})", mode & 0o7777)
        })
    }

    /// Removes the directory of all network namespaces if nothing is in it.
    pub fn tidy(&self) {
        // Fails where others have something there.
        let _ = fs::remove_dir(PINS);
    }

    pub(super) fn failed(&self, op: &'static str, source: io::Error) -> PlaceError {
        PlaceError::Os { op, path: self.directory.clone(), source }
    }
}

fn made(path: &Path, group: Option<u32>) -> Result<(), PlaceError> {
    make_directory(path, group).map_err(|source| PlaceError::Os {
        op: "make directory",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_directories_of_its_own() {
        let place = PinnedPlace::of(4_026_531_840);
        assert_eq!(place.directory(), Path::new("/sys/fs/bpf/spectrum/4026531840"));
        assert_eq!(place.aside(), Path::new("/sys/fs/bpf/spectrum/4026531840-new"));
        assert_eq!(place.former(), Path::new("/sys/fs/bpf/spectrum/4026531840-old"));
        assert_eq!(
            PinnedPlace::link_in(place.directory()),
            Path::new("/sys/fs/bpf/spectrum/4026531840/link")
        );
        assert!(!place.is_taken());
    }
}
