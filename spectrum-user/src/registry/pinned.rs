//! The claim of what is pinned in a network namespace: no process holds it. It holds for as long as there is something pinned, and is
//! as old as that, or newer. Pins nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::instance::Keeper;
use super::{Instance, RegistryError, StartupLock, failed, refuse_overlaps, write};
use crate::model::Prefix;
use crate::plan::firewall::Chain;

/// The directory that has, for each network namespace, a directory with what is pinned.
pub const PINS: &str = "/sys/fs/bpf/spectrum";

/// The state file, beside those of instances: with a lock on it or without.
const CLAIM: &str = "pinned.claim";

/// The directory of what is pinned in the namespace with inode `namespace`.
#[must_use]
pub fn pins_of(namespace: u64) -> PathBuf {
    Path::new(PINS).join(namespace.to_string())
}

/// The directories beside it that killed processes may have left: of a load that was never done, and of an unload that was.
#[must_use]
pub fn unfinished_pins(namespace: u64) -> [PathBuf; 2] {
    ["new", "old"].map(|suffix| Path::new(PINS).join(format!("{namespace}-{suffix}")))
}

impl StartupLock {
    /// The inode of the network namespace.
    #[must_use]
    pub fn namespace(&self) -> u64 {
        let name = self.registry.dir.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    /// The pinned state, as if it were an instance. A claim of what is pinned no more is removed.
    ///
    /// # Errors
    /// The claim cannot be read, or is missing.
    pub(super) fn pinned(&self) -> Result<Option<Instance>, RegistryError> {
        let claim = pinned_in(&self.registry.dir, &pins_of(self.namespace()));
        if matches!(claim, Ok(None)) {
            remove(&self.registry.dir.join(CLAIM))?;
        }
        claim
    }

    /// Claims `prefixes` for what is pinned, in place of what was claimed for that. A prefix that equals, contains or lies within one of
    /// a live instance is refused.
    ///
    /// # Errors
    /// [`RegistryError`]: one is taken, or the claim cannot be written.
    pub fn claim_pinned(&self, prefixes: &[Prefix]) -> Result<(), RegistryError> {
        refuse_overlaps(prefixes, &self.live_processes()?)?;
        let path = self.registry.dir.join(CLAIM);
        let instance = Instance {
            pid: 0,
            keeper: Keeper::Pins,
            started: 0,
            mode: None,
            prefixes: prefixes.to_vec(),
            chain: Chain::of("pinned"),
        };
        write(&path, &instance).map(drop)
    }

    /// Nothing is claimed for what is pinned any more.
    ///
    /// # Errors
    /// The claim cannot be removed.
    pub fn release_pinned(&self) -> Result<(), RegistryError> {
        remove(&self.registry.dir.join(CLAIM))
    }
}

fn remove(path: &Path) -> Result<(), RegistryError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove state file", path, error))
        }
        _ => Ok(()),
    }
}

/// The claim in the directory `registry` of what is pinned in `pins`.
pub(super) fn pinned_in(registry: &Path, pins: &Path) -> Result<Option<Instance>, RegistryError> {
    // Who may not look there has nothing pinned there.
    if !pins.is_dir() {
        return Ok(None);
    }
    let path = registry.join(CLAIM);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RegistryError::Unclaimed { pins: pins.to_owned(), path });
        }
        Err(source) => return Err(failed("open state file", &path, source)),
    };
    let corrupt = |error: serde_json::Error| RegistryError::Corrupt { path, cause: error.to_string() };
    serde_json::from_str(&text).map(Some).map_err(corrupt)
}
