//! A dispatcher whose program, maps and link are files of a BPF file system, where they outlive every process: pinned state. Each
//! generation of it has its *charter* behind its nodes, in the same map: a text that says what the table was made of. One update of one
//! map publishes both, so that no crash can part them. What the text means is the caller's.
//!
//! A directory has what belongs together: `program`, each map by its name, and `generation-` with a number for the generation in force. Which
//! that is the kernel says, not the name: the first element of [`names::TABLES`] has the id of a map. Any other is what a writer left
//! that was killed.

mod sys;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::{Gid, chown};
use spectrum_common::{Counts, Page, RegisteredId, Step, names};

use super::DispatcherError;
use super::generation::Generation;
use super::probe::{PacketCounters, sum_of};
use super::secret::Secret;
use crate::model::DestinationId;
use sys::Access;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: libc::c_long = 0xcafe_4a11;

/// The file of the program in a directory of pins.
const PROGRAM: &str = "program";

/// Before the number of a generation.
const GENERATION: &str = "generation-";

/// The mode of a file: who may write it may do anything, its group may look.
const FILE: u32 = 0o640;

/// The mode of a file that nobody else may look at.
const HIDDEN_FILE: u32 = 0o600;

/// The file of what keys the program's hashes.
const SECRET: &str = "secret";

/// The directory that is there while registered sockets are changed.
const CHANGING: &str = "changing";

/// The mode of a directory.
const DIRECTORY: u32 = 0o750;

/// The last bytes of a generation with a charter: these, and the length of the charter as eight bytes, little end first.
const SEAL: [u8; 8] = *b"charter1";
const SEAL_AND_LENGTH: usize = 16;

/// So often is looked again what a writer has replaced meanwhile.
const LOOKS: usize = 64;

/// The bytes of an element of a generation's map.
const PAGE: usize = size_of::<Page>();

/// The place in the first node, a step, that says which slot it is in.
const SLOT: usize = std::mem::offset_of!(Step, slot);

/// True if `path` is in a BPF file system.
///
/// # Errors
/// There is nothing of that name, or it may not be looked at.
pub fn is_bpf_file_system(path: &Path) -> io::Result<bool> {
    let kind = statfs(path)?.filesystem_type();
    Ok(kind == FsType(BPF_FS as _))
}

/// Makes the directory `path` for pins that `group` may read: none is that of the directory above.
///
/// # Errors
/// It is there, or no such file system is.
pub fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(path)?;
    chown(path, None, group.map(Gid::from_raw))?;
    fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY))
}

/// Removes the directory `path` with all pins in it, links first, so that what is attached is detached before anything it needs is gone. One
/// that is not there is no error.
///
/// # Errors
/// Something of it could not be removed.
pub fn unpin(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (directories, files): (Vec<_>, Vec<_>) =
        entries.iter().map(fs::DirEntry::path).partition(|path| path.is_dir());
    files.iter().try_for_each(fs::remove_file)?;
    directories.iter().try_for_each(|directory| unpin(directory))?;
    fs::remove_dir(path)
}

/// The network namespace that a pinned link is attached to, and the program that it runs there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PinnedLink {
    /// As `bpftool prog show` prints it.
    pub program_id: u32,
    /// The inode of the namespace; 0: it has been detached, or the namespace is gone.
    pub namespace: u32,
}

impl PinnedLink {
    /// The link that is the file `path`, and what is known of it.
    ///
    /// # Errors
    /// There is no such file, or it may not be opened.
    pub fn open(path: &Path) -> Result<(OwnedFd, Self), DispatcherError> {
        let link = sys::open(path, Access::Write).map_err(failed("open", path))?;
        let [_, _, program_id, _, namespace] =
            sys::told_of(link.as_fd()).map_err(failed("ask about", path))?;
        Ok((link, Self { program_id, namespace }))
    }
}

/// The directory that a dispatcher's objects are pinned in.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    /// Of the directory, and of all that is made in it.
    group: u32,
    /// The objects that this process has pinned, by their files, so that they can be pinned again.
    held: Vec<(String, OwnedFd)>,
    /// The generation in force, and the pages of its nodes.
    current: Option<(String, usize)>,
}

impl Pins {
    pub(super) fn at(directory: &Path) -> Result<Self, DispatcherError> {
        let metadata = fs::metadata(directory).map_err(failed("look at", directory))?;
        let (directory, group) = (directory.to_owned(), metadata.gid());
        Ok(Self { directory, group, held: Vec::new(), current: None })
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory has another name now.
    pub(super) fn are_moved_to(&mut self, directory: &Path) {
        directory.clone_into(&mut self.directory);
    }

    /// The file `name` of the directory.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Pins the program.
    pub(super) fn keep_program(&mut self, program: BorrowedFd<'_>) -> Result<(), DispatcherError> {
        self.keep(program, PROGRAM)
    }

    /// Pins a map of the object.
    pub(super) fn keep_map(&mut self, map: &Map, name: &str) -> Result<(), DispatcherError> {
        let path = self.path(name);
        map.pin(&path).map_err(|source| pin_error("pin to", &path, Box::new(source)))?;
        admit(&path, FILE, self.group)?;
        let held = sys::open(&path, Access::Write).map_err(failed("open", &path))?;
        self.held.push((name.to_owned(), held));
        Ok(())
    }

    /// Pins `secret`, which nobody but the owner may read.
    pub(super) fn keep_secret(&mut self, secret: Secret) -> Result<(), DispatcherError> {
        let path = self.path(SECRET);
        let words = super::shares::array("SECRET", 2, 0);
        let words = words.map_err(|source| pin_error("pin to", &path, Box::new(source)))?;
        sys::pin(words.fd().as_fd(), &path).map_err(failed("pin to", &path))?;
        admit(&path, HIDDEN_FILE, self.group)?;
        let held = words.fd().as_fd().try_clone_to_owned().map_err(failed("pin to", &path))?;
        self.held.push((SECRET.to_owned(), held));
        let mut map: Array<_, u64> = Map::Array(words)
            .try_into()
            .map_err(|source: MapError| pin_error("write to", &path, Box::new(source)))?;
        for (index, word) in (0..).zip(secret.0) {
            map.set(index, word, 0).map_err(|source| pin_error("write to", &path, Box::new(source)))?;
        }
        Ok(())
    }

    /// The secret that is pinned.
    pub(super) fn secret(&self) -> Result<Secret, DispatcherError> {
        let (path, file) = (self.path(SECRET), self.file(SECRET)?);
        let mut words = [0; 2];
        for (index, word) in (0..).zip(&mut words) {
            let mut bytes = [0; 8];
            sys::element(file.as_fd(), index, &mut bytes).map_err(failed("read", &path))?;
            *word = u64::from_ne_bytes(bytes);
        }
        Ok(Secret(words))
    }

    /// True if the array of maps `name` has a map for `key`.
    pub(super) fn has(&self, name: &str, key: u32) -> Result<bool, DispatcherError> {
        let (path, file) = (self.path(name), self.file(name)?);
        sys::element(file.as_fd(), key, &mut [0; 4]).map_err(failed("read", &path))
    }

    /// The files that this process has pinned and that somebody has removed.
    pub(super) fn missing(&self) -> Vec<PathBuf> {
        let paths = self.held.iter().map(|(name, _)| self.path(name));
        paths.filter(|path| fs::symlink_metadata(path).is_err()).collect()
    }

    /// Pins again what somebody has removed.
    pub(super) fn put_back(&self) -> Result<(), DispatcherError> {
        for above in [self.directory.parent(), Some(&*self.directory)].into_iter().flatten() {
            match make_directory(above, Some(self.group)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make directory", above)(error));
                }
                _ => {}
            }
        }
        for (name, object) in &self.held {
            let path = self.path(name);
            if fs::symlink_metadata(&path).is_err() {
                sys::pin(object.as_fd(), &path).map_err(failed("pin to", &path))?;
                admit(&path, if name == SECRET { HIDDEN_FILE } else { FILE }, self.group)?;
            }
        }
        Ok(())
    }

    /// The number of elements of the map `name`.
    pub(super) fn capacity(&self, name: &str) -> Result<usize, DispatcherError> {
        let path = self.path(name);
        let map = sys::open(&path, Access::Write).map_err(failed("open", &path))?;
        let [_, _, _, _, entries] = sys::told_of(map.as_fd()).map_err(failed("ask about", &path))?;
        Ok(entries as usize)
    }

    /// Pins `object` as the file `name`.
    fn keep(&mut self, object: BorrowedFd<'_>, name: &str) -> Result<(), DispatcherError> {
        let path = self.path(name);
        sys::pin(object, &path).map_err(failed("pin to", &path))?;
        admit(&path, FILE, self.group)?;
        let held = object.try_clone_to_owned().map_err(failed("pin to", &path))?;
        self.held.push((name.to_owned(), held));
        Ok(())
    }

    /// Pins a generation before it is in force, by a number that none has: the name of its file.
    pub(super) fn keep_generation(&mut self, generation: &Generation) -> Result<String, DispatcherError> {
        let highest = generations(&self.directory).map_err(failed("list", &self.directory))?;
        let known = self.current.as_ref().and_then(|(name, _)| name.strip_prefix(GENERATION)?.parse().ok());
        let number = highest.iter().map(|(number, _)| number + 1).chain(known.map(|known: u64| known + 1));
        let name = format!("{GENERATION}{}", number.max().unwrap_or(1));
        self.keep(generation.map().fd().as_fd(), &name)?;
        Ok(name)
    }

    /// The generation `name` is in force, of which the first `node_pages` have nodes. Lets go of every other.
    pub(super) fn keep_only(&mut self, name: String, node_pages: usize) {
        let path = self.path(&name);
        let others = generations(&self.directory).unwrap_or_default();
        for (_, other) in others.iter().filter(|(_, other)| *other != path) {
            // What stays costs memory until the next one, and is never taken for the one in force.
            if let Err(error) = fs::remove_file(other) {
                tracing::debug!(path = %other.display(), %error, "let go of a former generation");
            }
        }
        self.held.retain(|(held, _)| !held.starts_with(GENERATION) || *held == name);
        self.current = Some((name, node_pages));
    }

    /// The generation in force, and the pages of its nodes.
    pub(super) fn current(&self) -> Result<(OwnedFd, usize), DispatcherError> {
        let Some((name, node_pages)) = &self.current else {
            let (path, cause) = (self.directory.clone(), "no generation is in force");
            return Err(DispatcherError::Charter { path, cause });
        };
        let held = self.held.iter().find(|(held, _)| held == name);
        let file = match held {
            Some((_, held)) => held.try_clone().map_err(failed("open", &self.path(name)))?,
            None => self.file(name)?,
        };
        Ok((file, *node_pages))
    }

    /// Marks that what is registered is being changed: whoever finds the mark of a process that was killed has it be as the charter says.
    pub(super) fn mark(&self) -> Result<(), DispatcherError> {
        let path = self.path(CHANGING);
        match make_directory(&path, Some(self.group)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", &path)(error)),
            _ => Ok(()),
        }
    }

    /// True if there is such a mark.
    pub(super) fn is_marked(&self) -> bool {
        self.path(CHANGING).is_dir()
    }

    /// Takes the mark away.
    pub(super) fn unmark(&self) {
        // Who finds it has more to do, and nothing else.
        if let Err(error) = fs::remove_dir(self.path(CHANGING)) {
            tracing::debug!(%error, "take a mark away");
        }
    }

    /// The map `name`, to be changed.
    pub(super) fn map(&self, name: &str) -> Result<Map, DispatcherError> {
        let path = self.path(name);
        let opened = sys::open(&path, Access::Write).map_err(failed("open", &path))?;
        let map = MapData::from_fd(opened).and_then(Map::from_map_data);
        map.map_err(|source| pin_error("open", &path, Box::new(source)))
    }

    /// A descriptor of the map `name`, to be changed.
    pub(super) fn file(&self, name: &str) -> Result<OwnedFd, DispatcherError> {
        let path = self.path(name);
        sys::open(&path, Access::Write).map_err(failed("open", &path))
    }

    /// The program and its id.
    pub(super) fn program(&self) -> Result<(OwnedFd, u32), DispatcherError> {
        let path = self.path(PROGRAM);
        let program = sys::open(&path, Access::Write).map_err(failed("open", &path))?;
        let [_, id, ..] = sys::told_of(program.as_fd()).map_err(failed("ask about", &path))?;
        Ok((program, id))
    }
}

/// Has the file `path` be of `group`, with this mode.
fn admit(path: &Path, mode: u32, group: u32) -> Result<(), DispatcherError> {
    let admit = || {
        chown(path, None, Some(Gid::from_raw(group)))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    admit().map_err(failed("admit readers to", path))
}

/// Pins the link `link` as the file `path`, which its group may read.
///
/// # Errors
/// [`DispatcherError::Pin`]: it is there, or there is no BPF file system.
pub fn pin_link(link: BorrowedFd<'_>, path: &Path) -> Result<(), DispatcherError> {
    let directory = path.parent().unwrap_or(path);
    sys::pin(link, path).map_err(failed("pin to", path))?;
    admit(path, FILE, Pins::at(directory)?.group)
}

/// The generations that are pinned in `directory`, with their numbers.
fn generations(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(GENERATION)?.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    Ok(found)
}

/// The generation in force of a pinned dispatcher.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedGeneration {
    /// Counted from 1.
    pub number: u64,
    /// The text that was published with it.
    pub charter: Vec<u8>,
    pub(super) path: PathBuf,
    /// The slot beside the first one that it is in; 0: none.
    pub(super) slot: u32,
    /// The pages before the charter.
    pub(super) node_pages: usize,
}

impl PinnedGeneration {
    /// The generation in force of what is pinned in `directory`. Who may read the files may ask. A writer may go on meanwhile.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`]: there is none, or it may not be read; [`DispatcherError::Charter`]: it has no charter.
    pub fn read(directory: &Path) -> Result<Self, DispatcherError> {
        let tables = directory.join(names::TABLES);
        let opened = sys::open(&tables, Access::Read).map_err(failed("open", &tables))?;
        for _ in 0..LOOKS {
            let mut in_force = [0; 4];
            if !sys::element(opened.as_fd(), 0, &mut in_force).map_err(failed("read", &tables))? {
                break;
            }
            let in_force = u32::from_ne_bytes(in_force);
            for (number, path) in generations(directory).map_err(failed("list", directory))? {
                let map = match sys::open(&path, Access::Read) {
                    Ok(map) => map,
                    // A writer has let go of it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(failed("open", &path)(source)),
                };
                let [_, id, _, _, pages] = sys::told_of(map.as_fd()).map_err(failed("ask about", &path))?;
                if id == in_force {
                    return Self::of(&map, pages as usize, number, path);
                }
            }
        }
        Err(DispatcherError::Charter {
            path: directory.to_owned(),
            cause: "no generation is in force (try: spectrum-user unload)",
        })
    }

    fn of(map: &OwnedFd, pages: usize, number: u64, path: PathBuf) -> Result<Self, DispatcherError> {
        let broken = |cause| DispatcherError::Charter { path: path.clone(), cause };
        // Not by its memory, which only who may write it may share.
        let page = |number: usize| -> Result<Vec<u8>, DispatcherError> {
            let mut bytes = vec![0; PAGE];
            let key = u32::try_from(number).unwrap_or(u32::MAX);
            let is_there = sys::element(map.as_fd(), key, &mut bytes).map_err(failed("read", &path))?;
            is_there.then_some(bytes).ok_or_else(|| broken("it is cut off"))
        };
        let last = page(pages.saturating_sub(1))?;
        let length = charter_length(&last).filter(|length| charter_pages(*length) <= pages);
        let length = length.ok_or_else(|| broken("it does not say what it was made of"))?;
        let begin = pages - charter_pages(length);
        let mut charter = Vec::with_capacity(length);
        for number in begin..pages {
            charter.extend(page(number)?);
        }
        charter.truncate(length);
        let first = page(0)?;
        let slot =
            first.get(SLOT..).and_then(<[u8]>::first_chunk).map_or(0, |slot| u32::from_ne_bytes(*slot));
        Ok(Self { number, charter, path, slot, node_pages: begin })
    }
}

/// The pages that a charter of `length` bytes takes; none for none.
pub(super) fn charter_pages(length: usize) -> usize {
    if length == 0 { 0 } else { length.saturating_add(SEAL_AND_LENGTH).div_ceil(PAGE) }
}

/// The charter as its pages have it.
pub(super) fn sealed(charter: &[u8]) -> Vec<u8> {
    let mut pages = vec![0; charter_pages(charter.len()) * PAGE];
    pages.iter_mut().zip(charter).for_each(|(to, from)| *to = *from);
    let seal = SEAL.into_iter().chain((charter.len() as u64).to_le_bytes());
    let begin = pages.len().saturating_sub(SEAL_AND_LENGTH);
    pages.iter_mut().skip(begin).zip(seal).for_each(|(to, from)| *to = from);
    pages
}

/// The length of the charter that ends with `page`.
fn charter_length(page: &[u8]) -> Option<usize> {
    let (rest, length) = page.split_last_chunk::<8>()?;
    let (_, seal) = rest.split_last_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    (*seal == SEAL && length > 0).then_some(length)
}

/// The counters and the sockets of a pinned dispatcher, for who may not change it.
pub struct PinnedLook {
    counters: PacketCounters,
    listeners: OwnedFd,
    steered: PerCpuArray<MapData, u64>,
    /// The place of the first registered socket.
    first: u32,
}

impl PinnedLook {
    /// A look at what is pinned in `directory`.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`]: something is missing, or may not be read.
    pub fn open(directory: &Path) -> Result<Self, DispatcherError> {
        let open = |name: &str| {
            let path = directory.join(name);
            sys::open(&path, Access::Read).map_err(failed("open", &path))
        };
        let failed = |name: &str| {
            let path = directory.join(name);
            move |source: MapError| pin_error("open", &path, Box::new(source))
        };
        let counters = MapData::from_fd(open(names::COUNTERS)?).and_then(Map::from_map_data);
        let counters = counters.and_then(PacketCounters::try_from).map_err(failed(names::COUNTERS))?;
        let steered = MapData::from_fd(open(names::STEERED)?).and_then(Map::from_map_data);
        let steered = steered.and_then(PerCpuArray::try_from).map_err(failed(names::STEERED))?;
        let first = counters.len();
        Ok(Self { counters, listeners: open(names::LISTENERS)?, steered, first })
    }

    /// The counters themselves, for the program that takes the place of this one.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`]: they may not be opened.
    pub fn counters(directory: &Path) -> Result<OwnedFd, DispatcherError> {
        Pins::at(directory)?.file(names::COUNTERS)
    }

    /// The cookie of the registered socket at `place`, while there is one: a socket that is closed is none.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn registered_cookie(&self, place: RegisteredId) -> io::Result<Option<u64>> {
        super::sys::cookie(self.listeners.as_fd(), place.0)
    }

    /// The packets that were given to the registered socket at `place`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn steered_to(&self, place: RegisteredId) -> io::Result<u64> {
        let counted = self.steered.get(&place.0.wrapping_sub(self.first), 0).map_err(io::Error::other)?;
        Ok(counted.iter().fold(0, |sum, count| sum.wrapping_add(*count)))
    }

    /// The counters of packets to destination `id`, all CPUs together.
    ///
    /// # Errors
    /// [`DispatcherError::Count`]: `id` is beyond the capacity.
    pub fn counts(&self, id: DestinationId) -> Result<Counts, DispatcherError> {
        sum_of(&self.counters, id)
    }

    /// The cookie of the socket that is the listener of destination `id`, while there is one: a socket that is closed is none.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn cookie(&self, id: DestinationId) -> io::Result<Option<u64>> {
        super::sys::cookie(self.listeners.as_fd(), id.0)
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DispatcherError {
    move |source| pin_error(op, path, Box::new(source))
}

fn pin_error(
    op: &'static str,
    path: &Path,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> DispatcherError {
    DispatcherError::Pin { op, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charter_is_found_by_its_last_page() {
        for length in [1, 7, PAGE - SEAL_AND_LENGTH, PAGE - SEAL_AND_LENGTH + 1, 2 * PAGE] {
            let charter: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0] | 1).collect();
            let pages = sealed(&charter);
            assert_eq!(pages.len(), charter_pages(length) * PAGE);
            assert_eq!(pages[..length], charter);
            assert_eq!(charter_length(&pages[pages.len() - PAGE..]), Some(length));
        }
    }

    #[test]
    fn what_has_no_charter_says_so() {
        assert_eq!(charter_length(&vec![0; PAGE]), None);
        assert_eq!(charter_length(b"charter1"), None);
        assert_eq!(sealed(b""), b"");
        // A length beyond all pages is no reason to overflow.
        let mut beyond = sealed(b"x");
        let end = beyond.len();
        beyond[end - 8..].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(charter_length(&beyond).is_none_or(|length| charter_pages(length) > 1));
    }
}
