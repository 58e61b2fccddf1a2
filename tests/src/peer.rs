//! Servers and clients that others wrote, as processes in a namespace: configured by a file in its private /run, waited
//! for, and never left behind. Installs none of them.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::deadline::{PATIENCE, eventually};
use crate::netns::Netns;

/// A process of somebody else's program; killed when dropped.
#[derive(Debug)]
pub struct Peer<'netns> {
    netns: &'netns Netns,
    child: Child,
    said: String,
}

impl<'netns> Peer<'netns> {
    /// Starts a command line (split at spaces, no shell) and waits until something listens at `address`.
    pub fn listening(netns: &'netns Netns, line: &str, address: SocketAddr) -> Self {
        Self::at(netns, line, address, "-Hltn")
    }

    /// The same, until something hears datagrams there.
    pub fn hearing(netns: &'netns Netns, line: &str, address: SocketAddr) -> Self {
        Self::at(netns, line, address, "-Hlun")
    }

    /// The same, until `ss` with these `flags` knows a socket there.
    fn at(netns: &'netns Netns, line: &str, address: SocketAddr, flags: &str) -> Self {
        Self::ready(netns, line, &address.port().to_string(), || {
            !netns.command(&format!("ss {flags} src {address}")).is_empty()
        })
    }

    /// Starts a command line (split at spaces, no shell), its output in a file of that `name`, and waits until it `is_ready`.
    pub fn ready(netns: &'netns Netns, line: &str, name: &str, mut is_ready: impl FnMut() -> bool) -> Self {
        let mut words = line.split(' ');
        let program = words.next().expect("a command");
        let said = format!("/run/{}-{name}.said", program.rsplit('/').next().unwrap_or(program));
        let child = netns.run(|| {
            let output = File::create(&said).expect("make the file for its output");
            Command::new(program)
                .args(words)
                .stdin(Stdio::null())
                .stdout(output.try_clone().expect("share the file"))
                .stderr(output)
                .spawn()
                .unwrap_or_else(|error| panic!("start {line}: {error}"))
        });
        let mut peer = Self { netns, child, said };
        eventually(&format!("{line} to be ready"), PATIENCE, || {
            let ended = peer.child.try_wait().expect("ask for the exit status");
            assert!(ended.is_none(), "{line}: {ended:?}\n{}", peer.said());
            is_ready().then_some(())
        });
        peer
    }

    /// Everything it has written so far.
    pub fn said(&self) -> String {
        read(self.netns, &self.said)
    }

    /// Waits until it has written `text`.
    pub fn await_said(&self, text: &str) {
        eventually(&format!("{text:?} of {}", self.said), PATIENCE, || {
            self.said().contains(text).then_some(())
        });
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a file in the namespace's private /run and returns its path.
pub fn file(netns: &Netns, name: &str, content: impl AsRef<[u8]> + Sync) -> PathBuf {
    let path = PathBuf::from(format!("/run/{name}"));
    netns
        .run(|| fs::write(&path, content.as_ref()))
        .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    path
}

/// Reads a file of the namespace, which may be missing.
pub fn read(netns: &Netns, path: &str) -> String {
    netns.run(|| fs::read(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Runs a command line (split at spaces, no shell) to its end with `input`, and returns what it printed; panics when it
/// fails.
pub fn converse(netns: &Netns, line: &str, input: &[u8]) -> Vec<u8> {
    let mut words = line.split(' ');
    let program = words.next().expect("a command");
    let mut child = netns
        .run(|| {
            Command::new("timeout")
                .arg(PATIENCE.as_secs().to_string())
                .arg(program)
                .args(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        })
        .unwrap_or_else(|error| panic!("run {line}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let Output { status, stdout, stderr } = std::thread::scope(|scope| {
        scope.spawn(move || {
            // It need not want all of it.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("wait for it")
    });
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{line}: {status}\n{}\n{said}", String::from_utf8_lossy(&stdout));
    stdout
}
