//! What a set-up is about to bring, written down before it does: who comes after one that was killed knows which
//! services were not on this host before. Also the lock that lets one set-up at a time change this host.

use std::fs::{self, File, TryLockError};

use anyhow::{Context as _, Result};

use crate::shell;

use super::host::as_root;

/// Root's directory; there while a set-up runs, and after one that was killed.
const DIRECTORY: &str = "/var/lib/spectrum-setup";
const LOCK: &str = "/run/spectrum-setup.lock";
const RECORD: &str = "/var/lib/spectrum-setup/brought";

/// Held by the one set-up that changes services.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for it.
    pub(super) fn take() -> Result<Self> {
        let make = format!("umask 022; : >> {LOCK}");
        shell::run(&mut as_root(&["sh", "-c", &make])?).context("make the lock of set-ups")?;
        let lock = File::open(LOCK).with_context(|| format!("open {LOCK}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                println!("waiting for another set-up on this host");
                lock.lock().with_context(|| format!("lock {LOCK}"))?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {LOCK}")),
        }
        Ok(Self { _lock: lock })
    }
}

/// The services that a set-up has written down and not crossed out.
pub(super) fn read() -> Vec<String> {
    fs::read_to_string(RECORD)
        .map(|text| text.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Writes `services` down, or nothing any more.
pub(super) fn write(services: &[&str]) -> Result<()> {
    let write = if services.is_empty() {
        format!("rm -rf {DIRECTORY}")
    } else {
        format!(
            "umask 022; mkdir -p {DIRECTORY} && printf '%s\\n' \"$@\" > {RECORD}.new && mv {RECORD}.new {RECORD}"
        )
    };
    let mut words = vec!["sh", "-c", &write, "sh"];
    words.extend(services);
    shell::run(&mut as_root(&words)?).context("write down which services are being installed")
}
