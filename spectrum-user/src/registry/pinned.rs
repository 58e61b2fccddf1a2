//! The claim of what is pinned in a network namespace: no process holds it. It holds for as long as there is something pinned, and is
//! as old as that, or newer. It names the instance that has pinned it: while that lives, what is pinned is its own. Pins nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::instance::{Keeper, Mode};
use super::{Instance, RegistryError, StartupLock, failed, refuse_overlaps, write};
use crate::model::Prefix;
use crate::plan::firewall::Chain;

/// The directory that has, for each network namespace, a directory with what is pinned.
pub const PINS: &str = "/sys/fs/bpf/spectrum";

/// The state file, beside those of instances: with a lock on it or without.
const CLAIM: &str = "pinned.claim";

/// What is in it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct PinnedClaim {
    /// What is claimed.
    #[serde(flatten)]
    instance: Instance,
    /// The chain of the instance that has pinned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<Chain>,
}

impl PinnedClaim {
    /// What is claimed, unless one of `live` has it.
    pub(super) fn unless_held(self, live: &[Instance]) -> Option<Instance> {
        self.holder_among(live).is_none().then_some(self.instance)
    }

    /// The one of `live` that has it.
    fn holder_among<'a>(&self, live: &'a [Instance]) -> Option<&'a Instance> {
        let holder = self.holder.as_ref()?;
        live.iter().find(|one| one.chain == *holder)
    }
}

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

    /// The claim of what is pinned. One of what is pinned no more is removed.
    ///
    /// # Errors
    /// The claim cannot be read, or is missing.
    pub(super) fn pinned(&self) -> Result<Option<PinnedClaim>, RegistryError> {
        let claim = pinned_in(&self.registry.dir, &pins_of(self.namespace()));
        if matches!(claim, Ok(None)) {
            remove(&self.registry.dir.join(CLAIM))?;
        }
        claim
    }

    /// The live instance whose what is pinned is.
    ///
    /// # Errors
    /// A claim cannot be read.
    pub fn holder_of_pins(&self) -> Result<Option<Instance>, RegistryError> {
        match self.pinned() {
            Ok(Some(claim)) => Ok(claim.holder_among(&self.live_processes()?).cloned()),
            // Whoever asks writes it anew.
            Ok(None) | Err(RegistryError::Unclaimed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The prefixes that are claimed for what is pinned, unless a live instance has it.
    ///
    /// # Errors
    /// A claim cannot be read, or that of what is pinned is missing.
    pub fn pinned_prefixes(&self) -> Result<Vec<Prefix>, RegistryError> {
        let claim = self.pinned()?;
        let live = if claim.is_some() { self.live_processes()? } else { Vec::new() };
        Ok(claim
            .and_then(|claim| claim.unless_held(&live))
            .map(|claimed| claimed.prefixes)
            .unwrap_or_default())
    }

    /// Claims `prefixes` for what is pinned, in place of what was claimed for that, and for the instance with the chain `holder` while it
    /// lives. A prefix that equals, contains or lies within one of another live instance is refused.
    ///
    /// # Errors
    /// [`RegistryError`]: one is taken, or the claim cannot be written.
    pub fn claim_pinned(&self, prefixes: &[Prefix], holder: Option<&Chain>) -> Result<(), RegistryError> {
        let mut others = self.live_processes()?;
        others.retain(|one| holder != Some(&one.chain));
        refuse_overlaps(prefixes, &others)?;
        let path = self.registry.dir.join(CLAIM);
        let instance = Instance {
            pid: 0,
            keeper: Keeper::Pins,
            started: 0,
            mode: Some(Mode::SkLookup),
            prefixes: prefixes.to_vec(),
            chain: Chain::of("pinned"),
        };
        write(&path, &PinnedClaim { instance, holder: holder.cloned() }).map(drop)
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
pub(super) fn pinned_in(registry: &Path, pins: &Path) -> Result<Option<PinnedClaim>, RegistryError> {
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

/// True while there is a claim, below `run_dir`, of what is pinned in the namespace with inode `namespace`, that names the instance with the
/// chain `holder`.
#[must_use]
pub fn is_pinned_for(run_dir: &Path, namespace: u64, holder: &Chain) -> bool {
    let claim = pinned_in(&run_dir.join(namespace.to_string()), &pins_of(namespace));
    matches!(claim, Ok(Some(PinnedClaim { holder: Some(named), .. })) if named == *holder)
}
