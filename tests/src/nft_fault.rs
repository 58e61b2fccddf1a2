//! nft of a namespace that is missing, or fails, for a while. Makes no other program fail.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::netns::Netns;
use crate::path::TOOLS;

/// The program that stands in the place of nft.
const STAND_IN: &str = "/run/nft";

/// The real one.
const REAL: &str = "/run/nft.real";

/// Every nft of a namespace, with something in its place until this is dropped.
#[derive(Debug)]
pub struct NftFault<'netns> {
    netns: &'netns Netns,
    places: BTreeSet<PathBuf>,
}

impl<'netns> NftFault<'netns> {
    /// As where it is not installed.
    pub fn absent(netns: &'netns Netns) -> Self {
        Self::put(netns, "", 0o644)
    }

    /// The first change is made, and then nft fails, as for want of memory for the kernel's answer.
    pub fn late(netns: &'netns Netns) -> Self {
        // With builtins alone, since the search path leads to no others.
        let script = format!(
            "#!/bin/sh\n{REAL} \"$@\" || exit\n[ \"$1\" = -f ] && ! [ -e /run/nft.failed ] || exit 0\n: >/run/nft.failed\n\
             echo 'netlink: Error: No buffer space available' >&2\nexit 1\n"
        );
        Self::put(netns, &script, 0o755)
    }

    /// Every change waits for ever.
    pub fn hanging(netns: &'netns Netns) -> Self {
        Self::put(
            netns,
            &format!("#!/bin/sh\n[ \"$1\" = -f ] || exec {REAL} \"$@\"\nexec /bin/sleep 600\n"),
            0o755,
        )
    }

    /// Every change waits for so many seconds.
    pub fn slow(netns: &'netns Netns, seconds: u32) -> Self {
        Self::put(
            netns,
            &format!("#!/bin/sh\n[ \"$1\" = -f ] && /bin/sleep {seconds}\nexec {REAL} \"$@\"\n"),
            0o755,
        )
    }

    /// Every look waits for ever.
    pub fn mute(netns: &'netns Netns) -> Self {
        Self::put(
            netns,
            &format!("#!/bin/sh\n[ \"$1\" = -f ] && exec {REAL} \"$@\"\nexec /bin/sleep 600\n"),
            0o755,
        )
    }

    /// The real program, while another stands in its place.
    pub fn real(&self) -> &'static str {
        REAL
    }

    /// As where the kernel lacks what the rules need.
    pub fn refusing(netns: &'netns Netns) -> Self {
        let script = "#!/bin/sh\n[ \"$1\" = -f ] || exit 0\n\
                      echo 'Error: Could not process rule: No such file or directory' >&2\nexit 1\n";
        Self::put(netns, script, 0o755)
    }

    /// As where the kernel does not say of an address what kind of route leads to it.
    pub fn without_fib(netns: &'netns Netns) -> Self {
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = -f ] || exec {REAL} \"$@\"\n\
             text=$(while IFS= read -r line; do printf '%s\\n' \"$line\"; done)\n\
             case $text in *\"fib daddr\"*) echo 'Error: Could not process rule: No such file or directory' >&2; exit 1;; esac\n\
             printf '%s\\n' \"$text\" | {REAL} \"$@\"\n"
        );
        Self::put(netns, &script, 0o755)
    }

    fn put(netns: &'netns Netns, text: &str, mode: u32) -> Self {
        let places: BTreeSet<PathBuf> = ["/usr/local/sbin", "/usr/sbin", "/sbin", TOOLS]
            .iter()
            .filter_map(|directory| netns.run(|| fs::canonicalize(format!("{directory}/nft"))).ok())
            .collect();
        let real = places.first().expect("nft").clone();
        netns.run(|| {
            fs::copy(&real, REAL).expect("copy nft");
            fs::write(STAND_IN, text).expect("write the stand-in for nft");
            fs::set_permissions(STAND_IN, Permissions::from_mode(mode)).expect("let it be run, or not");
        });
        for place in &places {
            netns.command(&format!("mount --bind {STAND_IN} {}", place.display()));
        }
        Self { netns, places }
    }
}

impl Drop for NftFault<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            // Whoever runs the stand-in keeps it busy until it has ended; nobody finds it any more.
            self.netns.command(&format!("umount -l {}", place.display()));
        }
    }
}
