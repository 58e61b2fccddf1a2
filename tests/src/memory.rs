//! A limit on the memory of a process, and another one on that of its sockets: a memory cgroup of a test's own, of version
//! 1, as version 2 has but one limit for both. Does not say how much is enough.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::deadline::perhaps;
use crate::netns::Netns;

/// The mount point of the hierarchy, in the private mount namespace of the test.
const MOUNT: &str = "/run/cgroup";

/// The time that the kernel may take to see that nobody is in a group any more.
const GRACE: Duration = Duration::from_secs(5);

/// A memory cgroup. It goes when dropped, which must be after the processes in it.
#[derive(Debug)]
pub struct MemoryGroup<'netns> {
    netns: &'netns Netns,
    place: PathBuf,
    sockets: u64,
}

impl<'netns> MemoryGroup<'netns> {
    /// Makes a group that may have so many bytes for its processes, and so many more for what their sockets hold.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the host has no such groups; whatever the kernel says otherwise.
    pub fn create(netns: &'netns Netns, processes: usize, sockets: usize) -> io::Result<Self> {
        let parent = netns.run(mount_hierarchy)?;
        let name = format!("spectrum-test-{}-{}", std::process::id(), netns.inode());
        let group = Self { netns, place: parent.join(name), sockets: sockets as u64 };
        netns.run(|| fs::create_dir(&group.place))?;
        // From here on dropping it removes what was made.
        group.write("memory.limit_in_bytes", &processes)?;
        group.write("memory.kmem.tcp.limit_in_bytes", &sockets)?;
        Ok(group)
    }

    /// Puts a running process into it: what it allocates and accepts from now on counts.
    pub fn add(&self, pid: u32) {
        self.write("cgroup.procs", &pid).expect("put a process into the memory cgroup");
    }

    /// True if its sockets hold as much as they may.
    pub fn is_short(&self) -> bool {
        // What a socket cannot do without is granted beyond the limit.
        self.of_sockets() >= self.sockets
    }

    /// The bytes that its sockets hold.
    pub fn of_sockets(&self) -> u64 {
        self.read("memory.kmem.tcp.usage_in_bytes").trim().parse().expect("a number of bytes")
    }

    /// Lifts every limit.
    pub fn relieve(&self) {
        for file in ["memory.kmem.tcp.limit_in_bytes", "memory.limit_in_bytes"] {
            self.write(file, &"-1").expect("lift the limit of a memory cgroup");
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
fn mount_hierarchy() -> io::Result<PathBuf> {
    let ours = fs::read_to_string("/proc/self/cgroup")?;
    let of_memory = ours.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == "memory").then_some(group)
    });
    // The kernel kills whoever sends beyond the `memory.max` of version 2, and hardly lets it run beyond `memory.high`.
    let Some(group) = of_memory else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "no memory cgroups of version 1"));
    };
    let place = Path::new(MOUNT);
    fs::create_dir_all(place)?;
    mount(Some("cgroup"), place, Some("cgroup"), MsFlags::empty(), Some("memory"))?;
    // Below our own: whatever limits that has hold for this one, too.
    Ok(place.join(group.trim_start_matches('/')))
}
