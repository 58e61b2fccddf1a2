//! Kernel parameters of the network namespace, as sysctl(8) prints them. Sets none.

use std::fs;
use std::path::Path;

/// The number that the parameter `name` has, such as `net/ipv4/tcp_syncookies`; nothing where the kernel does not show it.
#[must_use]
pub fn setting(name: &str) -> Option<u64> {
    // /proc/sys/net shows the namespace of the thread that reads.
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// True if the kernel has IPv6 at all, on whatever interface.
#[must_use]
pub fn has_ipv6() -> bool {
    // With ipv6.disable=1 the module is there and the directory is not.
    Path::new("/proc/sys/net/ipv6/conf").is_dir()
}
