//! A limit on the memory of a process and of its sockets: a memory cgroup of a test's own, of either version. Does not say
//! how much is enough.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::deadline::perhaps;
use crate::netns::Netns;

/// Where the hierarchy is mounted, in the private mount namespace of the test.
const MOUNT: &str = "/run/cgroup";

/// How long the kernel may take to see that nobody is in a group any more.
const GRACE: Duration = Duration::from_secs(5);

/// A memory cgroup. It goes when dropped, which must be after the processes in it.
#[derive(Debug)]
pub struct MemoryGroup<'netns> {
    netns: &'netns Netns,
    place: PathBuf,
    version: Version,
    sockets: u64,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    /// Sockets have a limit of their own.
    One,
    /// One limit is for all.
    Two,
}

impl<'netns> MemoryGroup<'netns> {
    /// Makes a group that may have so many bytes for its processes, and so many more for what their sockets hold.
    ///
    /// # Errors
    /// Whatever the kernel says: that it has no such groups, or that we may not make one.
    pub fn create(netns: &'netns Netns, processes: usize, sockets: usize) -> io::Result<Self> {
        let (parent, version) = netns.run(mount_hierarchy)?;
        let name = format!("spectrum-test-{}-{}", std::process::id(), netns.inode());
        let group = Self { netns, place: parent.join(name), version, sockets: sockets as u64 };
        netns.run(|| fs::create_dir(&group.place))?;
        // From here on dropping it removes what was made.
        match version {
            Version::One => {
                group.write("memory.limit_in_bytes", &processes)?;
                group.write("memory.kmem.tcp.limit_in_bytes", &sockets)?;
            }
            Version::Two => {
                group.write("memory.max", &(processes + sockets))?;
                // Where nothing can be swapped there is no such file.
                let _ = group.write("memory.swap.max", &0);
            }
        }
        Ok(group)
    }

    /// Puts a running process into it: what it allocates and accepts from now on counts.
    pub fn add(&self, pid: u32) {
        self.write("cgroup.procs", &pid).expect("put a process into the memory cgroup");
    }

    /// Whether there is, or was, not as much memory for sockets as was asked for.
    pub fn is_short(&self) -> bool {
        match self.version {
            // What a socket cannot do without is granted beyond the limit.
            Version::One => self.of_sockets() >= self.sockets,
            Version::Two => value(&self.read("memory.events"), "max") > 0,
        }
    }

    /// How many bytes its sockets hold.
    pub fn of_sockets(&self) -> u64 {
        match self.version {
            Version::One => {
                self.read("memory.kmem.tcp.usage_in_bytes").trim().parse().expect("a number of bytes")
            }
            Version::Two => value(&self.read("memory.stat"), "sock"),
        }
    }

    /// Lifts every limit.
    pub fn relieve(&self) {
        let files: &[&str] = match self.version {
            Version::One => &["memory.kmem.tcp.limit_in_bytes", "memory.limit_in_bytes"],
            Version::Two => &["memory.max"],
        };
        let nothing = match self.version {
            Version::One => "-1",
            Version::Two => "max",
        };
        for file in files {
            self.write(file, &nothing).expect("lift the limit of a memory cgroup");
        }
    }

    fn read(&self, file: &str) -> String {
        let path = self.place.join(file);
        self.netns
            .run(|| fs::read_to_string(&path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn write(&self, file: &str, value: &impl ToString) -> io::Result<()> {
        let (path, value) = (self.place.join(file), value.to_string());
        self.netns.run(|| fs::write(path, value))
    }
}

impl Drop for MemoryGroup<'_> {
    fn drop(&mut self) {
        let removed = perhaps(GRACE, || self.netns.run(|| fs::remove_dir(&self.place)).ok());
        assert!(removed.is_some() || std::thread::panicking(), "{} is in use", self.place.display());
    }
}

/// Mounts the hierarchy that memory belongs to on this host: where to make a group in it.
fn mount_hierarchy() -> io::Result<(PathBuf, Version)> {
    let place = Path::new(MOUNT);
    fs::create_dir_all(place)?;
    let ours = fs::read_to_string("/proc/self/cgroup")?;
    let of_memory = ours.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == "memory").then_some(group)
    });
    if let Some(group) = of_memory {
        mount(Some("cgroup"), place, Some("cgroup"), MsFlags::empty(), Some("memory"))?;
        // Below our own: whatever limits that has hold for this one, too.
        return Ok((place.join(group.trim_start_matches('/')), Version::One));
    }
    mount(Some("cgroup2"), place, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    // Of version 2 only the root may have both processes and groups with a controller.
    fs::write(place.join("cgroup.subtree_control"), "+memory")?;
    Ok((place.to_path_buf(), Version::Two))
}

/// The value of `key` in a file of keys and values.
fn value(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{key} is missing: {text}"))
}
