//! A network namespace for one test, where nobody else has its ports, and what becomes of the ports there. Steers nothing.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::SocketAddr;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a namespace of its own, whose loopback interface has this MTU. Says `SKIP` where there can be none, which takes
/// CAP_SYS_ADMIN.
pub(crate) fn alone(mtu: u32, test: impl FnOnce() + Send + 'static) {
    let test = move || match unshare(CloneFlags::CLONE_NEWNET) {
        Err(error) => println!("SKIP: no namespace of its own: {error}"),
        Ok(()) => with_loopback(mtu, test),
    };
    std::thread::spawn(test).join().unwrap();
}

/// The same where others are only a nuisance: without a namespace of its own it runs among them.
pub(crate) fn alone_if_possible(test: impl FnOnce() + Send + 'static) {
    let test =
        move || if unshare(CloneFlags::CLONE_NEWNET).is_ok() { with_loopback(65_536, test) } else { test() };
    std::thread::spawn(test).join().unwrap();
}

fn with_loopback(mtu: u32, test: impl FnOnce()) {
    let up = Command::new("ip").args(["link", "set", "lo", "up", "mtu", &mtu.to_string()]).status();
    if !up.is_ok_and(|status| status.success()) {
        println!("SKIP: ip(8) cannot set up lo");
        return;
    }
    test();
}

/// The ports that an origin has heard from, and whose sessions had them. The kernel may give the port of a session that is over to the
/// next at once, and so what the origin was about to answer: any network address translator has that.
pub(crate) struct Ports<Session> {
    of: HashMap<u32, SocketAddr>,
    had: HashMap<SocketAddr, HashSet<Session>>,
}

impl<Session> Default for Ports<Session> {
    fn default() -> Self {
        Self { of: HashMap::new(), had: HashMap::new() }
    }
}

impl<Session: Eq + Hash> Ports<Session> {
    /// The datagram of this number has come from `port`, of `session`.
    pub(crate) fn heard(&mut self, number: u32, session: Session, port: SocketAddr) {
        self.of.insert(number, port);
        self.had.entry(port).or_default().insert(session);
    }

    /// True if a session that fits has had the port, too, from which the datagram of this number came.
    pub(crate) fn was_also(&self, number: u32, fits: impl Fn(&Session) -> bool) -> bool {
        self.of.get(&number).is_some_and(|port| self.had[port].iter().any(fits))
    }
}
