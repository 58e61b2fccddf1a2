//! The directory of what outlives the process. Keeps nothing there itself.

use std::path::{Path, PathBuf};

use crate::registry::run_dir;

/// The directory of what outlives the process: systemd's `StateDirectory=`, or else beside the claims.
pub(super) fn state_dir() -> anyhow::Result<PathBuf> {
    if let Some(dirs) = std::env::var_os("STATE_DIRECTORY")
        && let Some(first) = std::env::split_paths(&dirs).next().filter(|dir| dir.is_absolute())
    {
        return Ok(first);
    }
    let namespace = spectrum_steering::host::NamespaceId::current()?;
    Ok(Path::new(&run_dir()).join(namespace.inode().to_string()))
}
