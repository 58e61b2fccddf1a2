//! The registry of the instances that live, so that none takes what another has, and so that what dead ones left can be told from
//! what live ones use: a directory per network namespace with a lock and one state file per instance. Starts and asks none.
//!
//! An instance holds a lock (`flock`) on its state file for as long as it lives. The kernel drops it however the
//! process ends, so that a file without a lock is that of a dead instance, whatever it is called. The same
//! goes for directories of namespaces that are gone and whose inode the kernel used again.
//!
//! The directory goes with the last instance, and with whoever looked for leftovers and found no instance: who holds its lock
//! and sees that nothing else is in it removes both. Who waited for that lock finds that another file has its name, or none,
//! and begins anew.
//!
//! A state file appears complete and locked or not at all, and before the instance acts on what it says.

mod error;
mod instance;
mod leftovers;
mod pinned;
mod run_dir;
mod sockets;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::{Group, Uid, chown};
use serde::Serialize;

use crate::model::Prefix;
use crate::plan::firewall::Chain;

pub use error::{RegistryError, RunDirError};
pub use instance::{Instance, InstanceId, InstanceName, Keeper, Mode, NoInstanceName};
pub use leftovers::Leftovers;
pub use pinned::{PINS, is_pinned_for, pins_of, unfinished_pins};
pub use run_dir::run_dir;
pub use sockets::{ControlSocket, control_sockets};

/// Members may ask instances.
pub(crate) const GROUP: &str = "spectrum";
const LOCK: &str = "lock";
const EXTENSION: &str = "json";
const NEW: &str = "new";
const CONTROL: &str = "sock";

/// The time until a lock that another process holds is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The time that an instance that ends waits to see whether it was the last. Who holds the lock meanwhile, and for
/// longer, is about to become an instance, or to see for itself.
const PARTING: Duration = Duration::from_millis(200);

/// So often a directory is made that others remove meanwhile.
const TRIES: usize = 16;

/// The registry of one network namespace.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// Opens the registry of the namespace with inode `namespace` below `run_dir`, which is made if missing.
    pub fn open(run_dir: &Path, namespace: u64) -> Result<Self, RegistryError> {
        let registry = Self { dir: run_dir::open(run_dir)?.join(namespace.to_string()) };
        registry.make()?;
        Ok(registry)
    }

    /// Makes the directory if it is missing.
    fn make(&self) -> Result<(), RegistryError> {
        let dir = &self.dir;
        // The files in it are readable by root alone: whoever can open a file can lock it.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        // One that others remove is there, and then is no directory.
        let is_passing = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        let mut tries = (0..TRIES).map(|_| builder.create(dir));
        let made = tries.find(|made| !made.as_ref().is_err_and(is_passing));
        made.unwrap_or_else(|| builder.create(dir))
            .map_err(|source| failed("create directory", dir, source))?;
        match admit_group(dir) {
            // Another has just removed it, which is for who takes the lock to notice.
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(failed("admit the group spectrum to", dir, source))
            }
            _ => Ok(()),
        }
    }

    /// Takes the lock under which instances claim and leftovers are removed, waiting at most `patience` for others.
    /// Blocks the calling thread.
    pub fn lock(&self, patience: Duration) -> Result<StartupLock, RegistryError> {
        self.lock_unless(patience, || false)
    }

    /// The same, for as long as it is not `given_up`, which is asked again and again.
    pub fn lock_unless(
        &self,
        patience: Duration,
        given_up: impl Fn() -> bool,
    ) -> Result<StartupLock, RegistryError> {
        let path = self.dir.join(LOCK);
        let begun = Instant::now();
        loop {
            match self.try_lock(&path)? {
                Some(file) => return Ok(StartupLock { registry: self.clone(), lock: file }),
                None if given_up() => return Err(RegistryError::GivenUp { path }),
                None if begun.elapsed() < patience => std::thread::sleep(RETRY),
                None => return Err(RegistryError::Busy { path, waited: patience }),
            }
        }
    }

    /// The lock at `path`, if nobody has it, and nobody has removed the file or the directory meanwhile.
    fn try_lock(&self, path: &Path) -> Result<Option<File>, RegistryError> {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                return Ok(None);
            }
            Err(source) => return Err(failed("open lock", path, source)),
        };
        match file.try_lock() {
            Ok(()) => Ok(is_at(&file, path).map_err(|source| failed("lock", path, source))?.then_some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed("lock", path, source)),
        }
    }

    /// Removes the lock, which the caller has, and the directory, unless anything else is in it.
    fn remove_if_empty(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let is_other =
            |entry: io::Result<fs::DirEntry>| entry.map_or(true, |entry| entry.file_name() != LOCK);
        if !entries.into_iter().any(is_other) {
            // What cannot be removed is a file that the next start uses.
            let _ = fs::remove_file(self.dir.join(LOCK));
            // Fails where somebody has just made another lock, and is about to take it.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// The right to claim, and to remove what dead instances left. Released when dropped.
#[derive(Debug)]
pub struct StartupLock {
    registry: Registry,
    #[expect(dead_code, reason = "held, not read: closing it releases the lock")]
    lock: File,
}

impl Drop for StartupLock {
    fn drop(&mut self) {
        // Before the lock is released, which happens when the file closes after this.
        self.registry.remove_if_empty();
    }
}

impl StartupLock {
    /// The live instances of the namespace, and among them what is pinned. State files of dead ones are removed.
    pub fn live(&self) -> Result<Vec<Instance>, RegistryError> {
        let mut live = self.live_processes()?;
        let pinned = self.pinned()?.and_then(|claim| claim.unless_held(&live));
        live.extend(pinned);
        Ok(live)
    }

    /// The same without what is pinned.
    fn live_processes(&self) -> Result<Vec<Instance>, RegistryError> {
        let dir = &self.registry.dir;
        let mut live = Vec::new();
        // NEW is of a claim that was interrupted: claims are made under the lock, and we have it.
        for path in files(dir, &[EXTENSION, NEW]).map_err(|source| failed("list directory", dir, source))? {
            live.extend(examine(&path)?);
        }
        live.sort_by_key(|instance| (instance.started, instance.pid));
        Ok(live)
    }

    /// Claims `prefixes` for this process until the claim is dropped or the process ends. A prefix that equals,
    /// contains or lies within one of a live instance is refused.
    pub fn claim(&self, prefixes: &[Prefix]) -> Result<Claim, RegistryError> {
        self.claim_beside(prefixes, false)
    }

    /// The same of who takes over what is pinned, and may have its prefixes.
    pub fn claim_over_pins(&self, prefixes: &[Prefix]) -> Result<Claim, RegistryError> {
        self.claim_beside(prefixes, true)
    }

    fn claim_beside(&self, prefixes: &[Prefix], is_over_pins: bool) -> Result<Claim, RegistryError> {
        let mut live = self.live()?;
        live.retain(|one| !is_over_pins || one.keeper == Keeper::Process);
        refuse_overlaps(prefixes, &live)?;
        let pid = std::process::id();
        let taken: BTreeSet<Chain> = live.into_iter().map(|instance| instance.chain).collect();
        let id = InstanceId::draw(|id| taken.contains(&Chain::of(id)));
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let instance = Instance {
            pid,
            keeper: Keeper::Process,
            started,
            mode: None,
            prefixes: prefixes.to_vec(),
            chain: Chain::of(id),
        };
        let path = self.registry.dir.join(format!("{id}.{EXTENSION}"));
        let file = write(&path, &instance)?;
        Ok(Claim { id, path, lock: file, instance, is_over_pins })
    }

    /// Replaces what `claim` claims, as on a reload: first by all that is in use and all that will be, then, when the
    /// rest is gone from the kernel, by what remains.
    pub fn amend(
        &self,
        claim: &mut Claim,
        mode: Option<Mode>,
        prefixes: &[Prefix],
    ) -> Result<(), RegistryError> {
        let mut others = self.live()?;
        others.retain(|one| {
            one.chain != claim.instance.chain && !(claim.is_over_pins && one.keeper == Keeper::Pins)
        });
        refuse_overlaps(prefixes, &others)?;
        let instance = Instance { mode, prefixes: prefixes.to_vec(), ..claim.instance.clone() };
        claim.lock = write(&claim.path, &instance)?;
        claim.instance = instance;
        Ok(())
    }
}

/// The claim of this process. Dropping it ends the claim, so it goes last, when the kernel holds nothing of ours
/// any more.
#[derive(Debug)]
pub struct Claim {
    id: InstanceId,
    path: PathBuf,
    lock: File,
    instance: Instance,
    /// True of who takes over what is pinned: nobody else can pin what it claims.
    is_over_pins: bool,
}

impl Claim {
    /// The claim of this process that it made before it became another program: the lock is still held.
    #[must_use]
    pub fn adopt(id: InstanceId, path: PathBuf, lock: OwnedFd, instance: Instance) -> Self {
        Self { id, path, lock: lock.into(), instance, is_over_pins: false }
    }

    /// The path of the state file, and the file that is locked.
    #[must_use]
    pub fn place(&self) -> (&Path, BorrowedFd<'_>) {
        (&self.path, self.lock.as_fd())
    }

    /// The path at which the instance listens for requests.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.with_extension(CONTROL)
    }

    /// The id of the instance.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// True while others see that it is claimed: somebody may have removed the file.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        is_at(&self.lock, &self.path).unwrap_or(false)
    }

    /// The instance as it is claimed.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without the file, and with it, an ended claim is an ended claim: the next start removes the file.
        let _ = fs::remove_file(&self.path);
        if let Some(dir) = self.path.parent() {
            // Releasing the lock removes what is left, if this was the last instance.
            let registry = Registry { dir: dir.to_owned() };
            drop(registry.lock(PARTING));
        }
    }
}

/// True if `file` is what `path` names now.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets members of the group, where there is one, find the control sockets. Whoever else made the directory has decided
/// that for himself.
fn admit_group(dir: &Path) -> io::Result<()> {
    let metadata = fs::metadata(dir)?;
    match Group::from_name(GROUP) {
        Ok(Some(group))
            if metadata.uid() == Uid::effective().as_raw() && metadata.gid() != group.gid.as_raw() =>
        {
            chown(dir, None, Some(group.gid))?;
            fs::set_permissions(dir, Permissions::from_mode(0o750))
        }
        _ => Ok(()),
    }
}

/// The instance whose state file is at `path`, if it lives. Removes the file if not.
fn examine(path: &Path) -> Result<Option<Instance>, RegistryError> {
    match standing(path)? {
        Fate::Gone => Ok(None),
        Fate::Live(instance) => Ok(Some(instance)),
        Fate::Dead => {
            // Its control socket has nobody behind it any more.
            let _ = fs::remove_file(path.with_extension(CONTROL));
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("remove state file", path, error))
                }
                _ => Ok(None),
            }
        }
    }
}

/// The fate of the instance that wrote a state file.
enum Fate {
    /// It was killed.
    Dead,
    /// It has removed the file.
    Gone,
    /// It holds the lock.
    Live(Instance),
}

fn standing(path: &Path) -> Result<Fate, RegistryError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // It ended just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Fate::Gone),
        Err(source) => return Err(failed("open state file", path, source)),
    };
    // Shared, so that two who look do not take each other for the owner.
    match file.try_lock_shared() {
        Ok(()) => return Ok(Fate::Dead),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(source)) => return Err(failed("lock state file", path, source)),
    }
    let mut text = String::new();
    let corrupt = |cause: String| RegistryError::Corrupt { path: path.to_owned(), cause };
    file.read_to_string(&mut text).map_err(|error| corrupt(error.to_string()))?;
    serde_json::from_str(&text).map(Fate::Live).map_err(|error| corrupt(error.to_string()))
}

/// The live instances of the namespace with inode `namespace`, below `run_dir`, and among them what is pinned. Takes no lock that another waits for, and
/// leaves everything as it is: what they are may be another thing a moment later.
pub fn live_instances(run_dir: &Path, namespace: u64) -> Result<Vec<Instance>, RegistryError> {
    let dir = run_dir.join(namespace.to_string());
    let found = match files(&dir, &[EXTENSION]) {
        // Nobody has ever started one here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(|source| failed("list directory", &dir, source))?,
    };
    let mut live = Vec::new();
    for path in found {
        live.extend(live_instance(&path)?);
    }
    let pinned = pinned::pinned_in(&dir, &pins_of(namespace))?.and_then(|claim| claim.unless_held(&live));
    live.extend(pinned);
    Ok(live)
}

/// The files in `dir` that have one of `extensions`.
fn files(dir: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let is_wanted = |path: &PathBuf| {
        extensions.iter().any(|wanted| path.extension().is_some_and(|extension| extension == *wanted))
    };
    paths.filter(|path: &io::Result<PathBuf>| path.as_ref().map_or(true, is_wanted)).collect()
}

/// The instance whose state file is at `path`, if it lives. Leaves the file as it is.
fn live_instance(path: &Path) -> Result<Option<Instance>, RegistryError> {
    Ok(match standing(path)? {
        Fate::Live(instance) => Some(instance),
        Fate::Dead | Fate::Gone => None,
    })
}

/// Puts `instance` at `path`, locked from the moment it can be seen there.
fn write(path: &Path, instance: &impl Serialize) -> Result<File, RegistryError> {
    let new = path.with_extension(NEW);
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&new)?;
        file.lock()?;
        serde_json::to_writer(&mut file, instance)?;
        file.write_all(b"\n")?;
        fs::rename(&new, path)?;
        Ok(file)
    };
    write().map_err(|source: io::Error| {
        let _ = fs::remove_file(&new);
        failed("write state file", path, source)
    })
}

/// Refuses a prefix that one of `others` has, in whole or in part.
fn refuse_overlaps(prefixes: &[Prefix], others: &[Instance]) -> Result<(), RegistryError> {
    taken(prefixes, others).into_iter().next().map_or(Ok(()), Err)
}

/// Why none of `prefixes` that one of `others` has, in whole or in part, can be claimed.
#[must_use]
pub fn taken(prefixes: &[Prefix], others: &[Instance]) -> Vec<RegistryError> {
    let mut taken = Vec::new();
    for other in others {
        // Disjoint and in order, only the neighbours of a prefix can overlap it.
        let theirs: BTreeSet<Prefix> = other.prefixes.iter().copied().collect();
        let mut outermost = BTreeSet::new();
        let mut last: Option<Prefix> = None;
        for prefix in theirs {
            if last.is_none_or(|last| !last.overlaps(&prefix)) {
                outermost.insert(prefix);
                last = Some(prefix);
            }
        }
        for prefix in prefixes {
            let before = outermost.range(..prefix).next_back();
            let after = outermost.range(prefix..).next();
            if let Some(theirs) = before.into_iter().chain(after).find(|theirs| theirs.overlaps(prefix)) {
                let (prefix, theirs) = (*prefix, *theirs);
                taken.push(match other.keeper {
                    Keeper::Process => RegistryError::Claimed { prefix, theirs, pid: other.pid },
                    Keeper::Pins => RegistryError::Pinned { prefix, theirs },
                });
            }
        }
    }
    taken
}

fn failed(op: &'static str, path: &Path, source: io::Error) -> RegistryError {
    RegistryError::RunDir { op, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests;
