//! What a namespace holds that the program may have put there, to be compared before and after. Changes nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aya::programs::links::{LinkError, LinkInfo, LinkType};
use aya::programs::loaded_links;
use nix::errno::Errno;
use serde_json::Value;

use crate::deadline::{PATIENCE, eventually};
use crate::netlink::Subsystem;
use crate::netns::Netns;
use crate::path::Family;
use crate::require::{Need, find_in_path};

/// Routes, firewall rules, eBPF links and pins, and sockets of a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State(Vec<(&'static str, Vec<String>)>);

impl State {
    /// Takes the state of `netns` as it is now. What cannot be there is not looked for: most of the time goes into starting
    /// programs, and the tests look thousands of times.
    pub fn of(netns: &Netns) -> Self {
        let ruleset = Ruleset::of(netns);
        Self(vec![
            ("ip route show table all, ip address, ip rule", ip(netns)),
            ("ip -6 rule", lines(&netns.ip("-6 rule"))),
            ("iptables-save, nft variant", ruleset.saved(netns, "ip", "iptables-save")),
            ("ip6tables-save, nft variant", ruleset.saved(netns, "ip6", "ip6tables-save")),
            ("iptables-save, legacy variant", saved_legacy(netns, "ip_tables_names", "iptables-save")),
            ("ip6tables-save, legacy variant", saved_legacy(netns, "ip6_tables_names", "ip6tables-save")),
            ("nft list ruleset", ruleset.rules()),
            ("bpftool link", links(netns)),
            ("files in /sys/fs/bpf", netns.run(|| files(Path::new("/sys/fs/bpf")))),
            ("registry", registry(netns)),
            ("listening sockets", listening(netns)),
        ])
    }

    /// Panics with the differences unless `netns` gets back to this state. The kernel frees programs, links and
    /// sockets a moment after the process has gone, so it is given that moment.
    pub fn assert_restored(&self, netns: &Netns, after: &str) {
        let deadline = Instant::now() + PATIENCE;
        eventually("the state as before", PATIENCE * 2, || {
            let now = Self::of(netns);
            if now == *self {
                return Some(());
            }
            assert!(
                Instant::now() < deadline,
                "after {after} there are differences:\n{}",
                self.difference(&now)
            );
            None
        });
    }

    /// The lines that only one of the two has, by section.
    pub fn difference(&self, now: &Self) -> String {
        let mut text = String::new();
        for ((section, before), (_, now)) in self.0.iter().zip(&now.0) {
            if before != now {
                let _ = writeln!(text, "{section}");
                for gone in before.iter().filter(|line| !now.contains(line)) {
                    let _ = writeln!(text, "  - {gone}");
                }
                for new in now.iter().filter(|line| !before.contains(line)) {
                    let _ = writeln!(text, "  + {new}");
                }
            }
        }
        text
    }

    /// The amount of everything: what stays the same when a thing gives way to another of its kind.
    pub fn amounts(&self) -> Vec<(&'static str, usize)> {
        self.0.iter().map(|(section, lines)| (*section, lines.len())).collect()
    }

    /// Waits until `netns` holds as much of everything as in this state, and returns what it holds then.
    #[must_use]
    pub fn await_amounts(&self, netns: &Netns, after: &str) -> Self {
        eventually(&format!("as much as before, after {after}"), PATIENCE, || {
            Some(Self::of(netns)).filter(|now| now.amounts() == self.amounts())
        })
    }

    /// The lines of the section whose title contains `title`.
    pub fn section(&self, title: &str) -> &[String] {
        let found = self.0.iter().find(|(section, _)| section.contains(title));
        &found.unwrap_or_else(|| panic!("no section {title}")).1
    }
}

/// The ids of programs, maps and links that a process holds.
#[derive(Clone, Debug, Default)]
pub struct BpfObjects(Vec<(&'static str, u32)>);

impl BpfObjects {
    /// The kernel's objects that `pid` has descriptors of.
    pub fn of_process(pid: u32) -> Self {
        let mut held = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("list the descriptors").flatten() {
            let about = fs::read_to_string(entry.path()).unwrap_or_default();
            // A link's entry also names its program.
            for line in about.lines() {
                for (kind, key) in [("prog", "prog_id:"), ("map", "map_id:"), ("link", "link_id:")] {
                    if let Some(id) = line.strip_prefix(key).and_then(|id| id.trim().parse().ok()) {
                        held.push((kind, id));
                    }
                }
            }
        }
        held.sort_unstable();
        held.dedup();
        Self(held)
    }

    /// True if there are programs, maps and links among them.
    pub fn is_complete(&self) -> bool {
        ["prog", "map", "link"].iter().all(|kind| self.0.iter().any(|(held, _)| held == kind))
    }

    /// The ids of one kind: `prog`, `map` or `link`.
    pub fn ids(&self, kind: &str) -> impl Iterator<Item = u32> {
        self.0.iter().filter(move |(held, _)| *held == kind).map(|(_, id)| *id)
    }

    /// Panics unless the kernel frees all of them. (Ids are not used again before 2³¹ others were.)
    pub fn assert_freed(&self) {
        for (kind, id) in &self.0 {
            eventually(&format!("end of bpf {kind} {id}"), PATIENCE, || {
                let output = std::process::Command::new(find_in_path("bpftool").expect("bpftool"))
                    .args([kind, "show", "id", &id.to_string()])
                    .output()
                    .expect("run bpftool");
                (!output.status.success()).then_some(())
            });
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

/// Routes of both families, addresses, and rules of IPv4.
fn ip(netns: &Netns) -> Vec<String> {
    let (batch, mut written) = io::pipe().expect("make a pipe");
    written.write_all(b"route show table all\naddress\nrule\n").expect("fit into a pipe");
    drop(written);
    let mut ip = Command::new(find_in_path("ip").expect("ip"));
    ip.args(["-o", "-batch", "-"]).stdin(batch);
    let output = netns.run(|| ip.output()).expect("run ip");
    assert!(output.status.success(), "ip -batch: {output:?}");
    lines(&String::from_utf8_lossy(&output.stdout))
}

/// The tables of nftables and what is in them, with those that iptables makes.
struct Ruleset(Value);

impl Ruleset {
    fn of(netns: &Netns) -> Self {
        // A kernel without nftables says so with an error.
        let has_tables =
            netns.run(|| Subsystem::NftTables.list(&[0; 4])).is_ok_and(|tables| !tables.is_empty());
        if !has_tables || find_in_path("nft").is_none() {
            return Self(Value::Null);
        }
        Self(serde_json::from_str(&netns.command("nft -j list ruleset")).expect("JSON of nft"))
    }

    fn objects(&self) -> impl Iterator<Item = &Value> {
        self.0["nftables"].as_array().into_iter().flatten()
    }

    /// The part that iptables made, in its own words, of one family.
    fn saved(&self, netns: &Netns, family: &str, verb: &str) -> Vec<String> {
        let is_of_iptables = |object: &Value| {
            let name = object["table"]["name"].as_str();
            object["table"]["family"] == family && name.is_some_and(|name| IPTABLES.contains(&name))
        };
        let is_there = self.objects().any(is_of_iptables);
        if is_there { saved(netns, "xtables-nft-multi", verb) } else { Vec::new() }
    }

    /// All but tables and base chains, for the reason given at [`saved`].
    fn rules(&self) -> Vec<String> {
        let is_scaffolding = |object: &&Value| {
            object.get("metainfo").is_some()
                || object.get("table").is_some()
                || object.get("chain").is_some_and(|chain| chain.get("hook").is_some())
        };
        let kept = self.objects().filter(|object| !is_scaffolding(object));
        kept.map(|object| without_counts(object).to_string()).collect()
    }
}

/// The tables that iptables may have.
const IPTABLES: [&str; 5] = ["filter", "mangle", "nat", "raw", "security"];

/// The chains and rules of the legacy interface, which lists the tables that were ever looked at.
fn saved_legacy(netns: &Netns, names: &str, verb: &str) -> Vec<String> {
    let names = format!("/proc/thread-self/net/{names}");
    let names = netns.run(|| fs::read_to_string(names)).unwrap_or_default();
    if names.is_empty() { Vec::new() } else { saved(netns, "xtables-legacy-multi", verb) }
}

/// The chains and rules of one variant. Built-in chains without rules are left out: whoever looks at a table first
/// makes the kernel create them, and the legacy interface has no way to remove them again.
fn saved(netns: &Netns, multi: &str, verb: &str) -> Vec<String> {
    let Some(multi) = find_in_path(multi) else { return Vec::new() };
    let output = netns.output(&format!("{} {verb}", multi.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut table = "";
    let mut kept = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let chain = chain.split(" [").next().unwrap_or_default();
            if !chain.ends_with(" ACCEPT") {
                kept.push(format!("-t {table} -N {chain}"));
            }
        } else if line.starts_with('-') {
            kept.push(format!("-t {table} {line}"));
        }
    }
    kept
}

/// The same but for what traffic changes, and for handles, which are never used again.
fn without_counts(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(without_counts).collect(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !["bytes", "handle", "packets"].contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), without_counts(value)))
            .collect(),
        other => other.clone(),
    }
}

/// The eBPF links that are attached to the network namespace, whoever holds them.
fn links(netns: &Netns) -> Vec<String> {
    if find_in_path("bpftool").is_none() {
        return Vec::new();
    }
    // Without bpf(2) there are no links, and bpftool would say so with a failure.
    let is_without_bpf = |link: &Result<LinkInfo, LinkError>| match link {
        Err(LinkError::SyscallError(error)) => error.io_error.raw_os_error() == Some(Errno::ENOSYS as i32),
        _ => false,
    };
    // Which namespace a link belongs to aya does not say; but there may be none at all. One may also go meanwhile.
    let may_be_ours = |link: Result<LinkInfo, LinkError>| {
        link.is_err() || link.is_ok_and(|link| link.link_type().is_ok_and(|kind| kind == LinkType::Netns))
    };
    if !loaded_links().take_while(|link| !is_without_bpf(link)).any(may_be_ours) {
        return Vec::new();
    }
    let inode = netns.inode();
    let links: Value = serde_json::from_str(&netns.command("bpftool -j link show")).unwrap_or_default();
    let ours =
        links.as_array().into_iter().flatten().filter(|link| link["netns_ino"].as_u64() == Some(inode));
    ours.map(|link| format!("link {} of program {} ({})", link["id"], link["prog_id"], link["attach_type"]))
        .collect()
}

/// TCP sockets that listen and UDP sockets that hear everybody. Not by /proc/net/tcp, for which the kernel looks through all
/// connections of all namespaces.
fn listening(netns: &Netns) -> Vec<String> {
    const KINDS: [(&str, u8, u32); 2] = [("tcp", 6, 1 << 10), ("udp", 17, 1 << 7)];
    let mut found = Vec::new();
    for (name, protocol, states) in KINDS {
        for family in [Family::V4, Family::V6] {
            // struct inet_diag_req_v2, which asks for no socket in particular.
            let mut question = vec![family.pick(2, 10), protocol, 0, 0];
            question.extend(states.to_ne_bytes());
            question.extend([0; 48]);
            let sockets = match netns.run(|| Subsystem::Sockets.list(&question)) {
                Ok(sockets) => sockets,
                Err(_) if family == Family::V6 && !Need::Ipv6.is_met() => continue,
                Err(error) => panic!("list the {name} sockets: {error}"),
            };
            for socket in sockets {
                // struct inet_diag_msg: four bytes, then the port and that of the peer, then the address.
                let port = u16::from_be_bytes([socket[4], socket[5]]);
                let address: [u8; 16] = socket[8..24].try_into().expect("an address");
                let address = match family {
                    Family::V4 => IpAddr::from(*address.first_chunk::<4>().expect("an address of IPv4")),
                    Family::V6 => IpAddr::from(address),
                };
                found.push(format!("{name} {}", SocketAddr::new(address, port)));
            }
        }
    }
    found.sort();
    found
}

/// The directory of the namespace in the registry, and what is in it.
fn registry(netns: &Netns) -> Vec<String> {
    let directory = format!("/run/spectrum/{}", netns.inode());
    netns.run(move || {
        let mut found = files(Path::new(&directory));
        found.extend(Path::new(&directory).exists().then_some(directory));
        found
    })
}

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        }
    }
    found.sort();
    found
}
