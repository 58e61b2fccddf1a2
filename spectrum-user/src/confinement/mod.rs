//! What the two processes of an instance may do: each gives up, before its first thread, all that its configuration does not take.
//! Starts neither of them.

mod capabilities;
mod capability_sets;
mod error;
mod files;
mod report;
mod sys;
mod system_calls;
mod trespass;
mod user;

pub use capabilities::{Circumstances, Needs, names};
pub use error::ConfinementError;
pub use report::{Measure, MissingCapability, SteererReport, WorkerReport};
pub use trespass::{Trespass, trespasses};
pub use user::{SameUser, User, UserError, WorkerUser};

use std::fs;

use nix::unistd::Group;
use rustix::thread::{CapabilitySet, set_no_new_privs};

use capability_sets::Heirs;

impl Circumstances {
    /// Those of this host, for a steerer whose worker process is `user`, and whose control socket is for the group `control`.
    #[must_use]
    pub fn of_host(user: &WorkerUser, control: &str) -> Self {
        Self {
            control_group: Group::from_name(control).is_ok_and(|group| group.is_some()),
            maps_are_locked_memory: charges_maps_as_locked_memory(),
            another_user: matches!(user, WorkerUser::Another(_)),
        }
    }
}

/// Has the calling thread use all capabilities that it may have: those of the program's file may be permitted only.
///
/// # Errors
/// [`ConfinementError`]: the kernel refused what it must allow.
pub fn take_up_capabilities() -> Result<(), ConfinementError> {
    capability_sets::take_up().map(drop)
}

/// Has the calling process keep, of the capabilities that it has, those that `needs` names, and hand them on to what it executes: its
/// worker process, nft and iptables. They may come from being root, from the file, or from whoever started it.
///
/// To be called before any thread is started, the log's too: each thread has capabilities of its own. It is to be in its network
/// namespace by then, which takes CAP_SYS_ADMIN, and that is given up. What it lacks is no error here: the operation that
/// needs it will say so.
///
/// # Errors
/// [`ConfinementError`]: threads run, or the kernel refused what it must allow.
pub fn confine_steerer(needs: &Needs) -> Result<SteererReport, ConfinementError> {
    refuse_threads()?;
    let kept = needs.of(capability_sets::take_up()?);
    let left = capability_sets::bound(kept)?;
    capability_sets::keep(kept, Heirs::Equal)?;
    Ok(SteererReport { capabilities: names(kept), bounded: kept.contains(left) })
}

/// Has the calling process become `user` and keep, of the capabilities that it has, those that `needs` names; it hands none on and
/// can gain none. From then on it opens no files but those of name resolution, makes no system calls but those on a list, and sends no
/// signals.
///
/// Whatever else it needs to open, it is to have open by then: listeners, the log, shared memory, limits of its own raised.
///
/// To be called before any thread is started: each thread has capabilities of its own. The kernel forgets meanwhile that it is to die with
/// its parent (PR_SET_PDEATHSIG), which is to be asked for afterwards, and keeps others of the same user from tracing it.
///
/// # Errors
/// [`ConfinementError`]: threads run, or something failed that this kernel has; the process must not serve then.
pub fn confine_worker(user: &WorkerUser, needs: &Needs) -> Result<WorkerReport, ConfinementError> {
    refuse_threads()?;
    let kept = needs.of(capability_sets::take_up()?);
    let left = capability_sets::bound(CapabilitySet::empty())?;
    if let WorkerUser::Another(user) = user {
        user::become_user(user)?;
    }
    capability_sets::keep(kept, Heirs::Poor)?;
    set_no_new_privs(true).map_err(|errno| ConfinementError::NoNewPrivs(errno.into()))?;
    let files = files::restrict()?;
    let system_calls = system_calls::restrict()?;
    let kept_names = names(kept);
    let missing = needs.told().filter(|(name, _)| !kept_names.contains(name));
    let missing = missing.map(|(name, reasons)| MissingCapability { name, reasons });
    Ok(WorkerReport {
        user: user.clone(),
        missing: missing.collect(),
        capabilities: kept_names,
        bounded: left.is_empty(),
        system_calls,
        files,
    })
}

/// Without /proc nobody can tell how many there are.
fn refuse_threads() -> Result<(), ConfinementError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 { Err(ConfinementError::Threads(threads)) } else { Ok(()) }
}

/// By its release: Linux 5.11 counts them by the memory control group.
fn charges_maps_as_locked_memory() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    is_before(&release, (5, 11))
}

fn is_before(release: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(second)) => (first, second) < (major, minor),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(is_before("5.10.0-33-amd64\n", (5, 11)));
        for release in ["5.11.0", "6.1.0", "6.18.44-fc-v669\n", "", "what"] {
            assert!(!is_before(release, (5, 11)), "{release}");
        }
    }

    #[test]
    fn a_process_with_threads_is_not_confined() {
        // The test runner has at least two.
        let refused = confine_worker(&WorkerUser::Same(SameUser::Asked), &Needs::default()).unwrap_err();
        assert!(refused.to_string().contains("threads run"), "{refused}");
        assert!(confine_steerer(&Needs::default()).is_err());
    }
}
