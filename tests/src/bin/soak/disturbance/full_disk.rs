//! A small disk with the log on it, which somebody fills and clears again. A tmpfs of the siege's own namespace.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;

use super::Siegeworks;

const DISK: &str = "/run/disk";
const LOG: &str = "/run/disk/log";
const FILLER: &str = "/run/disk/filler";

#[derive(Debug)]
pub(crate) struct FullDisk(File);

impl FullDisk {
    /// The disk, and the log to write to.
    pub(super) fn mount(netns: &Netns) -> (Self, File) {
        netns.run(|| {
            fs::create_dir(DISK).expect("make a directory");
            mount(Some("tmpfs"), DISK, Some("tmpfs"), MsFlags::empty(), Some("size=256k"))
                .expect("mount a disk");
            let log = OpenOptions::new().append(true).create(true).open(LOG).expect("open the log");
            (Self(log.try_clone().expect("keep the log")), log)
        })
    }

    /// At the end it is full.
    pub(super) fn fill(self, until: &Siegeworks, mut random: Random) -> Self {
        while until.go_on() {
            let mut filler = File::create(FILLER).expect("make a file");
            while filler.write_all(&[0; 4096]).is_ok() {}
            until.pass_some(Duration::from_secs(6), &mut random);
            if until.go_on() {
                fs::remove_file(FILLER).expect("remove a file");
                self.0.set_len(0).expect("clear the log");
                until.pass_some(Duration::from_secs(4), &mut random);
            }
        }
        self
    }
}
