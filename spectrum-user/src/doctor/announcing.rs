//! What announcing needs of the host, where anything is to be announced: the tun device, daemons that pass it on, and what keeps clients
//! whole behind routers that spread them. Asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::SystemRefusal;
use super::findings::Findings;
use super::host_facts::HostFacts;
use crate::model::{BgpDaemon, Family};

/// What was found out about announcing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnnouncingFacts {
    /// The prefixes that are to be announced, each with whether it is by a running instance; `None` where nothing says so.
    pub prefixes: BTreeMap<String, Option<bool>>,
    /// The outcome of opening the tun device.
    pub tun: Result<(), SystemRefusal>,
    /// `net.ipv4.tcp_mtu_probing`.
    pub mtu_probing: Option<u64>,
    /// The families of the prefixes for which the host has no default route.
    pub wayless: BTreeSet<Family>,
    /// The daemons that are there, and what they do with the prefixes.
    pub daemons: Vec<BgpDaemon>,
}

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    let Some(AnnouncingFacts { prefixes, tun, mtu_probing, wayless, daemons }) = &facts.announcing else {
        return;
    };
    match tun {
        Ok(()) => findings.ok("tun device", "/dev/net/tun", "prefixes can be announced by it"),
        Err(error) => findings.miss(
            "tun device",
            error.to_string(),
            "nothing can be announced, and a start that is to announce fails",
            "modprobe tun # in a container: --device /dev/net/tun; in a unit: DeviceAllow=/dev/net/tun rw and no PrivateDevices=",
        ),
    }
    match mtu_probing {
        Some(0) => findings.warn(
            "path MTU",
            "tcp_mtu_probing 0",
            "where routers spread by address and port, the word that a packet is too long may reach another host of the prefix, and \
             the connection stalls",
            "sysctl -w net.ipv4.tcp_mtu_probing=1",
        ),
        Some(value) => findings.ok(
            "path MTU",
            format!("tcp_mtu_probing {value}"),
            "connections find it without the word of routers",
        ),
        None => {}
    }
    for family in wayless {
        findings.warn(
            "way back",
            format!("no default route of {family}"),
            "clients whose networks have no route here get no answers",
            "# add a default route to the router, or have the BGP daemon import one",
        );
    }
    if daemons.is_empty() {
        findings.warn(
            "BGP daemon",
            "none",
            "nobody that could be asked passes on what is announced (BIRD by /run/bird/bird.ctl, FRR by vtysh)",
            "apt-get install bird2 # then: spectrum-user announce --bird --config FILE",
        );
    }
    for daemon in daemons {
        passed_on(daemon, prefixes, findings);
    }
}

fn passed_on(daemon: &BgpDaemon, prefixes: &BTreeMap<String, Option<bool>>, findings: &mut Findings) {
    let check = format!("BGP daemon {}", daemon.name);
    if let Some(unknown) = &daemon.unknown {
        findings.warn(check, unknown, "what it does with what is announced is not known", "# see its log");
        return;
    }
    let sessions = format!("{} of {} sessions", daemon.established, daemon.sessions);
    if daemon.established == daemon.sessions && daemon.sessions > 0 {
        findings.ok(&check, sessions, "established with routers");
    } else {
        findings.warn(
            &check,
            sessions,
            "established with routers: the others hear nothing",
            "# see its log, and the router's",
        );
    }
    missed(daemon, &check, findings);
    for prefix in &daemon.prefixes {
        // What no instance announces, no daemon can have.
        let Some(Some(is_announced)) = prefixes.get(&prefix.prefix) else { continue };
        let (said, cure) = daemon.judged(prefix, *is_announced);
        match cure {
            None => findings.ok(&check, &prefix.prefix, &said),
            Some(cure) => findings.warn(&check, &prefix.prefix, &said, &format!("# {cure}")),
        }
    }
}

/// Withdrawing takes a host that lives. Who misses a dead one is the router, by BFD or when the hold time is over.
fn missed(daemon: &BgpDaemon, check: &str, findings: &mut Findings) {
    if daemon.established == 0 {
        return;
    }
    let watched = format!("BFD on {} of {} established", daemon.watched, daemon.established);
    let Some(hold) = daemon.hold else {
        if daemon.watched > 0 {
            findings.ok(check, watched, "routers miss a host that has died at once");
        }
        return;
    };
    let cure = match daemon.name.as_str() {
        "frr" => "# bfdd=yes in /etc/frr/daemons and `neighbor ADDRESS bfd`, here and at the router",
        _ => "# `protocol bfd {}` and, in each protocol bgp, `bfd graceful;`, here and at the router",
    };
    let meaning =
        format!("routers go on sending to a host that has died until the hold time is over, {hold} s");
    findings.warn(check, watched, &meaning, cure);
}
