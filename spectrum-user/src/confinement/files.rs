//! The files that a worker process may open: those that name resolution reads, and its own program, by landlock(7). Says nothing of
//! what is open already, nor of whom it may connect to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::{ConfinementError, Measure};

/// The newest of what landlock can that was tried with this program (Linux 6.15). An elder kernel has less of it, and none before
/// Linux 5.13.
const KNOWN: ABI = ABI::V7;

/// The files that name resolution reads, and the one that says how large pipes may be.
const READ: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/proc/sys/fs/pipe-user-pages-soft"];

/// Directories full of other things, of which only those files may be opened; and so are those at the root.
const OF_THE_HOST: [&str; 2] = ["/etc", "/proc"];

/// The root, a directory there, and one in that.
const DEEP: usize = 3;

/// Has the kernel refuse to open any other file, for whatever, and to make and remove any; and to connect to abstract sockets and
/// signal processes. The calling thread must have promised to gain no privileges.
pub(super) fn restrict() -> Result<Measure, ConfinementError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .no_new_privs(false);
    // A panic tells where it was by what the program says of itself.
    let program = std::env::current_exe().into_iter();
    for path in READ.iter().flat_map(|path| places(Path::new(path))).chain(program).collect::<BTreeSet<_>>() {
        // What is not there cannot be read, and is no reason not to serve.
        let Ok(opened) = PathFd::new(&path) else { continue };
        rules = rules.add_rule(PathBeneath::new(opened, BitFlags::from(AccessFs::ReadFile)))?;
    }
    let status = rules.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Measure::Whole,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Measure::Partial(format!(
                "the kernel has version {} of landlock, of which {} is known here",
                effective_abi as i32, KNOWN as i32
            ))
        }
        (RulesetStatus::PartiallyEnforced, _) => {
            Measure::Partial("the kernel has landlock in part".to_owned())
        }
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Measure::Lacking(
            "landlock is in the kernel, and not switched on (lsm= on the kernel's command line)".to_owned(),
        ),
        (RulesetStatus::NotEnforced, _) => {
            Measure::Lacking("the kernel has no landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK)".to_owned())
        }
    })
}

/// The places that are to be readable so that the file at `path` is: the file, and the directory of what a link leads to. Whoever
/// writes resolv.conf by itself, as systemd-resolved and NetworkManager do, exchanges the file there for another; a rule for a file
/// goes with the file.
fn places(path: &Path) -> Vec<PathBuf> {
    let Ok(place) = fs::canonicalize(path) else { return Vec::new() };
    match place.parent() {
        Some(directory)
            if place != path
                && directory.components().count() >= DEEP
                && !OF_THE_HOST.iter().any(|host| directory.starts_with(host)) =>
        {
            vec![directory.to_owned()]
        }
        _ => vec![place],
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_written_by_itself_may_be_exchanged_and_others_of_the_host_stay_closed() {
        let top = fs::canonicalize(std::env::temp_dir()).unwrap();
        let top = top.join(format!("spectrum-confinement-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("run")).unwrap();
        fs::write(top.join("run/stub-resolv.conf"), "").unwrap();
        symlink("run/stub-resolv.conf", top.join("resolv.conf")).unwrap();
        assert_eq!(places(&top.join("resolv.conf")), [top.join("run")]);
        fs::write(top.join("plain"), "").unwrap();
        assert_eq!(places(&top.join("plain")), [top.join("plain")]);
        symlink("/etc/passwd", top.join("into-etc")).unwrap();
        assert_eq!(places(&top.join("into-etc")), [Path::new("/etc/passwd")]);
        assert!(places(&top.join("nowhere")).is_empty());
        fs::remove_dir_all(&top).unwrap();
    }
}
