//! BGP daemons of Debian as processes in a namespace: configured, asked, killed and started again. Writes no configuration of a server
//! but puts a fleet's addresses into what the program under test prints.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::process::{Child, Command, Stdio};

use crate::deadline::{PATIENCE, eventually};
use crate::netns::Netns;
use crate::require::{FRR, Need};

/// The two daemons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Speaker {
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
}

impl Speaker {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bird, Self::Frr];

    /// Its need of the machine.
    pub fn need(self) -> Need {
        match self {
            Self::Bird => Need::Bird,
            Self::Frr => Need::Frr,
        }
    }

    /// Its configuration, with BFD for every session.
    pub fn with_bfd(self, config: &str) -> String {
        match self {
            Self::Bird => {
                let sessions = config.replace("graceful restart on;", "graceful restart on; bfd graceful;");
                format!("{sessions}\nprotocol bfd {{ }}\n")
            }
            Self::Frr => {
                let lines = config.lines().map(|line| match line.split_once(" remote-as ") {
                    Some((neighbour, _)) => format!("{line}\n{neighbour} bfd\n"),
                    None => format!("{line}\n"),
                });
                lines.collect()
            }
        }
    }
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
        })
    }
}

const BIRD_CONFIG: &str = "/run/bird/bird.conf";
const FRR_CONFIG: &str = "/run/frr/frr.conf";

/// A daemon that runs; killed when dropped. Its files and its socket are in the private /run of the namespace, at their usual places.
#[derive(Debug)]
pub struct Daemon {
    speaker: Speaker,
    processes: Vec<Process>,
}

impl Daemon {
    /// One that is still to be started.
    pub fn none(speaker: Speaker) -> Self {
        Self { speaker, processes: Vec::new() }
    }

    /// Starts it with this configuration.
    pub fn start(netns: &Netns, speaker: Speaker, config: &str) -> Self {
        netns.run(|| match speaker {
            Speaker::Bird => {
                fs::create_dir_all("/run/bird").expect("make BIRD's directory");
                fs::write(BIRD_CONFIG, config).expect("write BIRD's configuration");
            }
            Speaker::Frr => {
                fs::create_dir_all("/run/frr").expect("make FRR's directory");
                let user = nix::unistd::User::from_name("frr").expect("ask for users").expect("FRR's user");
                chown("/run/frr", Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("give it to FRR");
                fs::write(FRR_CONFIG, config).expect("write FRR's configuration");
            }
        });
        let processes = match speaker {
            Speaker::Bird => vec![bird(netns, "")],
            Speaker::Frr => {
                let zebra = frr(netns, "zebra", "-f /dev/null");
                let bfdd = config.contains(" bfd\n").then(|| frr(netns, "bfdd", "-f /dev/null"));
                // The one that is killed is the last.
                [Some(zebra), bfdd, Some(bgpd(netns))].into_iter().flatten().collect()
            }
        };
        Self { speaker, processes }
    }

    /// Kills what speaks BGP, as nobody would. What BIRD or zebra has put into the kernel stays.
    pub fn kill(&mut self) {
        self.processes.pop();
    }

    /// Starts again what was killed, as one that comes back and not as a new one.
    pub fn start_again(&mut self, netns: &Netns) {
        self.processes.push(match self.speaker {
            Speaker::Bird => bird(netns, " -R"),
            Speaker::Frr => bgpd(netns),
        });
    }
}

fn bird(netns: &Netns, more: &str) -> Process {
    // What one leaves behind that was killed is no sign of the next.
    netns.run(|| fs::remove_file("/run/bird/bird.ctl")).ok();
    let process =
        Process::start(netns, &format!("bird -f -c {BIRD_CONFIG} -s /run/bird/bird.ctl{more}"), "bird");
    eventually("BIRD", PATIENCE, || netns.output("birdc show status").status.success().then_some(()));
    process
}

fn frr(netns: &Netns, name: &str, more: &str) -> Process {
    netns.run(|| fs::remove_file(format!("/run/frr/{name}.vty"))).ok();
    let line = format!(
        "{FRR}/{name} -u frr -g frr --vty_socket /run/frr -z /run/frr/zserv.api -i /run/frr/{name}.pid {more}"
    );
    let process = Process::start(netns, &line, name);
    let asked = ["vtysh", "-d", name, "-c", "show version"];
    let is_there = || netns.run(|| Command::new(asked[0]).args(&asked[1..]).output()).ok();
    eventually(name, PATIENCE, || is_there()?.status.success().then_some(()));
    process
}

/// It reads its configuration before it speaks: told line by line, it would begin sessions that the next line resets.
fn bgpd(netns: &Netns) -> Process {
    frr(netns, "bgpd", &format!("-p 179 -f {FRR_CONFIG}"))
}

/// A process of a daemon's; killed when dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    /// Starts a command line (split at spaces, no shell), its output in a file of that `name`.
    fn start(netns: &Netns, line: &str, name: &str) -> Self {
        let mut words = line.split(' ');
        let program = words.next().expect("a command");
        Self(netns.run(|| {
            let said = File::create(format!("/run/{name}.said")).expect("make the file for its output");
            Command::new(program)
                .args(words)
                .stdin(Stdio::null())
                .stdout(said.try_clone().expect("share the file"))
                .stderr(said)
                .spawn()
                .unwrap_or_else(|error| panic!("start {line}: {error}"))
        }))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what we want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
