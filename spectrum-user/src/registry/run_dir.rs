//! The directory below which instances are registered, and whether it can be relied upon: what others can write, they can
//! put links and false instances into. Makes it where it is missing, and looks into nothing that is in it.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::RegistryError;

const DEFAULT: &str = "/run/spectrum";

/// The id that the kernel gives for owners that a user namespace has no name for (/proc/sys/kernel/overflowuid).
const UNMAPPED: u32 = 65_534;

const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The directory below which instances are registered: `SPECTRUM_RUN_DIR`, or `/run/spectrum`.
#[must_use]
pub fn run_dir() -> PathBuf {
    std::env::var_os("SPECTRUM_RUN_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
}

/// Opens `dir`, which is made if missing, and says where it really is: a path without links, none of whose parts
/// anybody but root and who runs this could exchange.
pub(super) fn open(dir: &Path) -> Result<PathBuf, RegistryError> {
    let failed =
        |op, source: io::Error| RegistryError::RunDir { op, path: dir.to_owned(), source: source.into() };
    let distrusted =
        |cause: String| RegistryError::Distrusted { path: dir.to_owned(), cause, default: DEFAULT };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|source| failed("create directory", source))?;
    // Its last part is no link, or it is not the directory that was named. What leads there is judged below, where it
    // really is: /var/run is a link on most hosts.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir);
    let opened: File = match opened {
        Ok(opened) => opened,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            let is_link = fs::symlink_metadata(dir).is_ok_and(|metadata| metadata.is_symlink());
            if is_link {
                return Err(distrusted(
                    "it is a link, and whoever made it could let it point elsewhere".to_owned(),
                ));
            }
            return Err(failed("open directory", error));
        }
        Err(source) => return Err(failed("open directory", source)),
    };
    let metadata = opened.metadata().map_err(|source| failed("look at directory", source))?;
    let owner = Uid::effective().as_raw();
    if let Some(cause) = distrust(&metadata, owner) {
        return Err(distrusted(cause));
    }
    let place = fs::canonicalize(dir).map_err(|source| failed("find directory", source))?;
    // Still the same: it was not exchanged before what is above it was known to be safe.
    let found = fs::symlink_metadata(&place).map_err(|source| failed("look at directory", source))?;
    if (found.dev(), found.ino()) != (metadata.dev(), metadata.ino()) {
        return Err(distrusted("it was exchanged just now".to_owned()));
    }
    for above in place.ancestors().skip(1) {
        let metadata =
            fs::symlink_metadata(above).map_err(|source| failed("look at what is above", source))?;
        if let Some(cause) = distrust_above(&metadata, owner) {
            return Err(distrusted(format!("{} above it {cause}", above.display())));
        }
    }
    Ok(place)
}

/// Why a directory could have anything in it, if so.
fn distrust(metadata: &Metadata, owner: u32) -> Option<String> {
    if metadata.uid() != 0 && metadata.uid() != owner {
        return Some(format!("it belongs to user {}, who is neither root nor who runs this", metadata.uid()));
    }
    (metadata.mode() & GROUP_OR_OTHERS_WRITE != 0)
        .then(|| format!("others may write it (mode {:04o})", metadata.mode() & 0o7777))
}

/// Why what is in a directory could be exchanged for something else, if so. With the sticky bit, as /tmp has it, only the
/// owners of what is in it can.
fn distrust_above(metadata: &Metadata, owner: u32) -> Option<String> {
    if ![0, owner, UNMAPPED].contains(&metadata.uid()) {
        return Some(format!("belongs to user {}, who is neither root nor who runs this", metadata.uid()));
    }
    (metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0)
        .then(|| format!("may be written by others (mode {:04o})", metadata.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn refusal(dir: &Path) -> String {
        open(dir).unwrap_err().to_string()
    }

    #[test]
    fn only_a_directory_that_nobody_else_can_write_or_exchange_is_used() {
        let top = std::env::temp_dir().join(format!("spectrum-run-dir-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        let made = top.join("deep/below");
        assert_eq!(open(&made).unwrap(), fs::canonicalize(&made).unwrap());
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o022, 0);

        let allow = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (bits, shown) in [(0o777, "0777"), (0o1777, "1777"), (0o775, "0775"), (0o757, "0757")] {
            allow(&made, bits);
            let message = refusal(&made);
            assert!(message.contains(&format!("others may write it (mode {shown})")), "{message}");
            assert!(message.contains("SPECTRUM_RUN_DIR"), "{message}");
        }
        allow(&made, 0o755);
        allow(&top.join("deep"), 0o777);
        let message = refusal(&made);
        assert!(message.contains("deep above it may be written by others (mode 0777)"), "{message}");
        allow(&top.join("deep"), 0o1777);
        open(&made).unwrap();

        symlink(&made, top.join("link")).unwrap();
        assert!(refusal(&top.join("link")).contains("it is a link"));
        // What leads there may be one.
        symlink(top.join("deep"), top.join("way")).unwrap();
        assert_eq!(open(&top.join("way/below")).unwrap(), fs::canonicalize(&made).unwrap());
        if Uid::effective().is_root() {
            chown(&made, Some(12_345), None).unwrap();
            assert!(refusal(&made).contains("belongs to user 12345"));
        }
        fs::remove_dir_all(&top).unwrap();
    }
}
