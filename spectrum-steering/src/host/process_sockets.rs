//! The sockets that a process has, taken out of it one by one as descriptors of ours, and the processes of a unit. Judges no socket: `foreign_socket`
//! does.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{ForeignSocket, NamespaceId, NetError, UnfitSocket};
use crate::host::sockets::command;

/// The operation, in errors.
const OP: &str = "take the sockets of";

/// The places where the kernel shows control groups: of version 2, and of either version beside it.
const CONTROL_GROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// Slices lie in slices, and no deeper.
const DEPTH: usize = 8;

/// Nobody has more.
const MOST_DESCENDANTS: usize = 4_096;

/// A process and its descriptors.
#[derive(Debug)]
pub struct ProcessSockets {
    /// Its id.
    pub pid: u32,
    /// The name that it chose itself, as it can be shown.
    pub command: String,
    /// The sockets that packets can be given to, each once, with the first of its descriptors.
    pub fit: Vec<(i32, ForeignSocket)>,
    /// The other descriptors.
    pub unfit: Vec<(i32, UnfitSocket)>,
}

/// Takes copies of all sockets that process `pid` has and that packets of `namespace` can be given to. It does not notice. Needs to be root, or
/// `CAP_SYS_PTRACE`.
///
/// # Errors
/// There is no such process, or no permission.
pub fn sockets_of_process(pid: u32, namespace: NamespaceId) -> Result<ProcessSockets, NetError> {
    let process = format!("process {pid}");
    let missing = || NetError::ProcessMissing { pid };
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => missing(),
        Some(libc::EINVAL) => NetError::NotAProcess { pid },
        Some(libc::EPERM) if is_tracing_forbidden() => NetError::TracingForbidden { pid },
        _ => NetError::os(OP, &process, source, "CAP_SYS_PTRACE"),
    };
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(missing)?;
    let file = pidfd_open(id, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let mut found = ProcessSockets { pid, command: command(&directory), fit: Vec::new(), unfit: Vec::new() };
    let mut numbers: Vec<i32> = fs::read_dir(directory.join("fd"))
        .map_err(failed)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut known = BTreeSet::new();
    for number in numbers {
        if !is_socket(&directory, number) {
            found.unfit.push((number, UnfitSocket::NotASocket));
            continue;
        }
        let taken = match pidfd_getfd(&file, ForeignRawFd::from(number), PidfdGetfdFlags::empty()) {
            Ok(taken) => taken,
            // It has closed it meanwhile.
            Err(rustix::io::Errno::BADF) => continue,
            Err(errno) => return Err(failed(errno.into())),
        };
        match ForeignSocket::of(taken, namespace) {
            Ok(socket) if known.insert(socket.cookie()) => found.fit.push((number, socket)),
            Ok(_) => {}
            Err(why) => found.unfit.push((number, why)),
        }
    }
    Ok(found)
}

/// True if nobody at all may, whatever the capabilities (Yama).
fn is_tracing_forbidden() -> bool {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() == "3")
}

fn is_socket(directory: &Path, number: i32) -> bool {
    let target = fs::read_link(directory.join(format!("fd/{number}")));
    // One that cannot be looked at is tried.
    target.map_or(true, |target| target.to_string_lossy().starts_with("socket:["))
}

/// The processes of the systemd unit `unit`, as the kernel's control groups have them, in ascending order. Asks no systemd.
///
/// # Errors
/// No control group has its name, or it has no processes.
pub fn processes_of_unit(unit: &str) -> Result<Vec<u32>, NetError> {
    let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    let missing = |why| NetError::UnitMissing { unit: unit.clone(), why };
    if unit.contains('/') {
        return Err(missing("a name of a unit has no slash"));
    }
    let group = CONTROL_GROUPS.iter().find_map(|top| group_named(Path::new(top), &unit, DEPTH));
    let group = group.ok_or_else(|| missing("no control group has its name: it does not run"))?;
    let mut processes = BTreeSet::new();
    collect_processes(&group, DEPTH, &mut processes);
    if processes.is_empty() {
        return Err(missing("it has no processes"));
    }
    Ok(processes.into_iter().collect())
}

/// The units of systemd that have processes, as the kernel's control groups have them, in alphabetical order.
#[must_use]
pub fn running_units() -> Vec<String> {
    let mut units = BTreeSet::new();
    for top in CONTROL_GROUPS {
        collect_units(Path::new(top), DEPTH, &mut units);
    }
    units.into_iter().collect()
}

fn collect_units(directory: &Path, depth: usize, units: &mut BTreeSet<String>) {
    for group in groups_in(directory) {
        let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if matches!(name.rsplit_once('.'), Some((_, "service" | "scope")))
            && group.join("cgroup.procs").is_file()
        {
            units.insert(name.to_owned());
        } else if let Some(below) = depth.checked_sub(1) {
            collect_units(&group, below, units);
        }
    }
}

/// The processes whose program calls itself `name`, of which the kernel keeps fifteen bytes, in ascending order.
#[must_use]
pub fn processes_called(name: &str) -> Vec<u32> {
    let kept = name.as_bytes().get(..15).unwrap_or(name.as_bytes());
    let is_called = |pid: &u32| {
        let called = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        called.strip_suffix(b"\n").unwrap_or(&called) == kept
    };
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut processes: Vec<u32> = ids.filter(is_called).collect();
    processes.sort_unstable();
    processes
}

/// The processes that process `pid` has started, and those that these have, the nearest first. None where the kernel does not tell.
#[must_use]
pub fn descendants_of(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied().filter(|_| all.len() < MOST_DESCENDANTS) {
        for child in children_of(parent) {
            if !all.contains(&child) {
                all.push(child);
            }
        }
        at += 1;
    }
    all.split_off(1)
}

fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids =
        |children: String| children.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>();
    children.flat_map(ids).collect()
}

fn group_named(directory: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let own = directory.join(name);
    if own.join("cgroup.procs").is_file() {
        return Some(own);
    }
    let below = depth.checked_sub(1)?;
    let mut groups = groups_in(directory);
    groups.find_map(|group| group_named(&group, name, below))
}

fn groups_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn collect_processes(group: &Path, depth: usize, processes: &mut BTreeSet<u32>) {
    let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    processes.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
    if let Some(below) = depth.checked_sub(1) {
        groups_in(group).for_each(|group| collect_processes(&group, below, processes));
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn all_that_a_process_has_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let again = listener.try_clone().unwrap();
        let own = std::process::id();
        let found = match sockets_of_process(own, NamespaceId::current().unwrap()) {
            Ok(found) => found,
            Err(error) => {
                println!("SKIP all_that_a_process_has_is_told_apart: needs pidfd_getfd(2): {error}");
                return;
            }
        };
        let is_unseen = |(_, why): &(i32, UnfitSocket)| matches!(why, UnfitSocket::Unseen(_));
        if found.unfit.iter().any(is_unseen) {
            println!("SKIP all_that_a_process_has_is_told_apart: needs CAP_NET_ADMIN");
            return;
        }
        let address = listener.local_addr().unwrap();
        let of_it: Vec<_> = found.fit.iter().filter(|(_, socket)| socket.address() == address).collect();
        let [(number, _)] = of_it.as_slice() else { panic!("{of_it:?}") };
        assert_eq!(*number, listener.as_raw_fd().min(again.as_raw_fd()));
        assert!(found.unfit.iter().any(|(_, why)| *why == UnfitSocket::NotASocket), "{found:?}");
        assert_eq!(found.pid, own);
        assert!(!found.command.is_empty());
    }

    #[test]
    fn a_process_is_known_by_what_it_calls_itself() {
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(processes_called(own.trim_end()).contains(&std::process::id()));
        assert_eq!(processes_called("there-is-none-"), [0; 0]);
    }

    #[test]
    fn who_was_started_is_a_descendant() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants_of(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        if !Path::new("/proc/self/task").join(std::process::id().to_string()).join("children").exists() {
            println!("SKIP who_was_started_is_a_descendant: needs CONFIG_PROC_CHILDREN");
            return;
        }
        assert!(found.contains(&child.id()), "{found:?}");
        assert_eq!(descendants_of(child.id()), [0; 0]);
    }

    #[test]
    fn a_process_or_unit_that_there_is_not_is_said_so() {
        let namespace = NamespaceId::current().unwrap();
        let told = |error: NetError| error.to_string();
        for pid in [0, 0x7fff_fff0, u32::MAX] {
            assert_eq!(
                told(sockets_of_process(pid, namespace).unwrap_err()),
                format!("take the sockets of process {pid}: there is no such process")
            );
        }
        assert_eq!(
            told(processes_of_unit("there-is-none").unwrap_err()),
            "find the processes of unit there-is-none.service: no control group has its name: it does not run"
        );
        processes_of_unit("../x.service").unwrap_err();
    }
}
