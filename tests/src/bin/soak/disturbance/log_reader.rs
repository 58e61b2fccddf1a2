//! A reader of the log that reads, stalls, dies and comes back, as `| jq` and a collector do. A named pipe, since only such a
//! one can be read again after its reader died.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;

use super::Siegeworks;

const PIPE: &str = "/run/log.pipe";

#[derive(Debug)]
pub(crate) struct LogReader {
    /// The pipe's end; `None` while it is dead.
    pipe: Option<File>,
    lines: Vec<u8>,
}

impl LogReader {
    /// The reader, and the end to write to.
    pub(super) fn open(netns: &Netns) -> (Self, File) {
        netns.run(|| {
            mkfifo(PIPE, Mode::S_IRUSR | Mode::S_IWUSR).expect("make a named pipe");
            // First the reader: without one nobody can begin to write.
            let reader = Self { pipe: Some(opened()), lines: Vec::new() };
            (reader, OpenOptions::new().write(true).open(PIPE).expect("open the pipe for writing"))
        })
    }

    /// At the end it has stalled.
    pub(super) fn read_badly(mut self, until: &Siegeworks, mut random: Random) -> Self {
        while until.go_on() {
            match random.below::<u8>(4) {
                0 => {
                    self.pipe = None;
                    until.pass_some(Duration::from_secs(3), &mut random);
                }
                1 => until.pass_some(Duration::from_secs(6), &mut random),
                _ => {
                    let end = Instant::now() + Duration::from_secs(2);
                    while until.go_on() && Instant::now() < end {
                        self.read();
                        until.pass(Duration::from_millis(20));
                    }
                }
            }
            self.pipe.get_or_insert_with(opened);
        }
        self
    }

    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut some = vec![0; 64 << 10];
        // Nothing there is no error.
        if let Ok(length) = pipe.read(&mut some) {
            self.lines.extend_from_slice(&some[..length]);
        }
    }

    pub(super) fn complaint(&self) -> Option<String> {
        let lines = String::from_utf8_lossy(&self.lines);
        lines.lines().find(|line| line.contains("panicked")).map(ToOwned::to_owned)
    }
}

fn opened() -> File {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(PIPE)
        .expect("open the pipe for reading")
}
