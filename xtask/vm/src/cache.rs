//! Where what is slow to get stays between runs: kernels, and what apt knows of them. Deletes nothing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};

/// The file of an entry that says how it was made; written before the entry gets its name.
const RECIPE: &str = "recipe";

/// The directory of everything that is kept: `SPECTRUM_CACHE_DIR`, else `spectrum/vmtest` in the user's cache.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// Opens it, which may make it.
    pub(super) fn open() -> Result<Self> {
        let of_home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let of_user = || env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = env::var_os("SPECTRUM_CACHE_DIR")
            .map(PathBuf::from)
            .or_else(|| of_user().or_else(of_home).map(|cache| cache.join("spectrum/vmtest")))
            .context("find the cache: neither SPECTRUM_CACHE_DIR nor XDG_CACHE_HOME nor HOME is set")?;
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        Ok(Self(cache))
    }

    /// The directory `name` of the cache, which may not exist.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The entry `name` if it was made by `recipe`.
    pub(super) fn find(&self, name: &str, recipe: &str) -> Option<PathBuf> {
        let entry = self.join(name);
        fs::read_to_string(entry.join(RECIPE)).is_ok_and(|text| text == recipe).then_some(entry)
    }

    /// A fresh directory, for work and for entries that are not complete.
    pub(super) fn scratch(&self, name: &str) -> Result<Scratch> {
        let path = self.join(&format!("{name}.{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Scratch(path))
    }

    /// Makes what is in `scratch` the entry `name`, in one step: another run sees a whole entry or none.
    pub(super) fn keep(&self, scratch: &Scratch, name: &str, recipe: &str) -> Result<PathBuf> {
        let (made, entry) = (scratch.path(), self.join(name));
        fs::write(made.join(RECIPE), recipe).context("write a recipe")?;
        let old = self.scratch("old")?;
        // Neither succeeds when there was none.
        let _ = fs::rename(&entry, old.path().join("entry"));
        fs::rename(made, &entry).with_context(|| format!("keep {}", entry.display()))?;
        Ok(entry)
    }
}

/// A directory that goes away with this value, unless it was kept.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Its place.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It has another name by now if it was kept.
        let _ = fs::remove_dir_all(&self.0);
    }
}
