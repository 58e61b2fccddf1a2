//! A running instance's configuration file and control socket, in the private /run of a namespace. Does not judge what
//! comes back.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::deadline::{PATIENCE, eventually};
use crate::instance::Instance;
use crate::netns::Netns;

/// The configuration file, as an argument.
pub const CONFIG: &str = "--config /run/spectrum.toml";

const FILE: &str = "/run/spectrum.toml";

/// Puts `text` in the place of the configuration file; a reader sees the one before or this one.
pub fn configure(netns: &Netns, text: &str) {
    netns.run(|| {
        fs::write("/run/spectrum.toml.new", text).expect("write the configuration");
        fs::rename("/run/spectrum.toml.new", FILE).expect("put the configuration in its place");
    });
}

/// Asks for a reload: what the instance did, or why not.
pub fn reload(netns: &Netns, instance: &Instance) -> Result<Value, Refused> {
    connect(netns, instance).ask("reload")
}

/// The refusal of an instance to do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Its words.
    pub message: String,
    /// The exit code that fits.
    pub code: u64,
}

/// A connection to the control socket of `instance`.
pub fn connect(netns: &Netns, instance: &Instance) -> Control {
    let path = format!("/run/spectrum/{}/{}.sock", netns.inode(), instance.id(netns));
    let stream = netns.run(|| UnixStream::connect(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    // A table of a million bindings takes its time.
    stream.set_read_timeout(Some(Duration::from_mins(1))).expect("limit reading");
    Control(stream)
}

/// One conversation with an instance.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Sends the request and returns without waiting for the answer.
    pub fn send(&mut self, request: &str) {
        writeln!(self.0, "{{\"request\":\"{request}\"}}").expect("ask the instance");
    }

    /// True if the answer has begun to come, or the instance has hung up.
    pub fn has_answered(&self) -> bool {
        let mut readable = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut readable, PollTimeout::ZERO).expect("look for the answer") > 0
    }

    /// Waits for the answer.
    pub fn answer(self) -> Result<Value, Refused> {
        let mut line = String::new();
        BufReader::new(self.0).read_line(&mut line).expect("hear the instance");
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        match (answer.get("done"), answer.get("refused")) {
            (Some(done), None) => Ok(done.clone()),
            (None, Some(refused)) => Err(Refused {
                message: refused["message"].as_str().expect("a message").to_owned(),
                code: refused["code"].as_u64().expect("a code"),
            }),
            _ => panic!("neither done nor refused: {answer}"),
        }
    }

    /// Asks where a TCP packet to `dialled` goes, and waits for the answer.
    pub fn explain(mut self, dialled: &str) -> Result<Value, Refused> {
        writeln!(
            self.0,
            "{{\"request\":\"explain\",\"protocol\":\"tcp\",\"dialled\":\"{dialled}\",\"from\":null}}"
        )
        .expect("ask the instance");
        self.answer()
    }

    /// Sends the request and waits for the answer.
    pub fn ask(mut self, request: &str) -> Result<Value, Refused> {
        self.send(request);
        self.answer()
    }
}

/// The number of lines of its log that contain `text`.
pub fn count_logged(instance: &Instance, text: &str) -> usize {
    instance.stderr().lines().filter(|line| line.contains(text)).count()
}

/// Asserts that `count` lines of its log contain `text`, once they are written: the log is written by a thread of its own, and
/// what has been answered may be told a moment later.
#[track_caller]
pub fn assert_logged(instance: &Instance, text: &str, count: usize) {
    await_logged(instance, text, count);
    assert_eq!(count_logged(instance, text), count, "{}", instance.stderr());
}

/// Waits until `count` lines of its log contain `text`.
pub fn await_logged(instance: &Instance, text: &str, count: usize) {
    eventually(&format!("{count} lines with {text:?}"), PATIENCE, || {
        (count_logged(instance, text) >= count).then_some(())
    });
}
