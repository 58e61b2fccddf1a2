//! The settings of the network namespace that packets meet before and after they are steered. Sets none.

use super::findings::Findings;
use super::host_facts::{Conntrack, HostFacts, Subject};
use super::path::Choice;
use crate::model::{Family, Protocol};
use crate::plan::{Plan, Untracking, word};

/// The bytes that listeners of UDP, and what answers their clients, have for what waits.
const LONG_BUFFER: u64 = 4 << 20;

/// Fewer may wait to be accepted than a burst of clients brings.
const SHORT_QUEUE: u64 = 1_024;

/// The kernel's own choice.
const SHORT_DEVICE_QUEUE: u64 = 1_000;

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    if let Some(up) = findings.known("lo", &facts.loopback) {
        let lacking: Vec<Family> = facts.families().set().difference(up).copied().collect();
        match lacking[..] {
            [] => findings.ok("lo", "up", "listeners and local routes are there"),
            [Family::Ipv6] => findings.miss(
                "lo",
                "without ::1",
                "IPv6 prefixes cannot be served",
                "sysctl -w net.ipv6.conf.lo.disable_ipv6=0; ip link set lo up; ip addr replace ::1/128 dev lo",
            ),
            _ => findings.miss(
                "lo",
                "down, or without 127.0.0.1",
                "nothing can be served",
                "ip link set lo up; ip addr replace 127.0.0.1/8 dev lo",
            ),
        }
    }
    match (facts.ipv6, facts.families().set().contains(&Family::Ipv6)) {
        (true, _) => findings.ok("IPv6", "there", "IPv6 prefixes can be served"),
        (false, true) => findings.miss(
            "IPv6",
            "not in this kernel",
            "the IPv6 prefixes of the configuration cannot be served",
            "a kernel with CONFIG_IPV6 and without ipv6.disable=1, or a configuration without them",
        ),
        (false, false) => findings.ok("IPv6", "not in this kernel", "IPv4 prefixes only"),
    }
    settings(facts, findings);
    datagrams(facts, findings);
    conntrack(facts, findings);
}

/// What UDP needs, where any is to be served.
fn datagrams(facts: &HostFacts, findings: &mut Findings) {
    let binds_udp =
        |plan: &Plan| plan.bindings.iter().any(|planned| planned.binding.protocol == Protocol::Udp);
    if !facts.subject.as_ref().is_some_and(|Subject { plan, .. }| binds_udp(plan)) {
        return;
    }
    // Who has the capability has as much as it wants.
    let is_free = facts.rights.as_ref().is_ok_and(|rights| rights.allow("CAP_NET_ADMIN"));
    for (check, buffer, what) in [
        ("rmem_max", facts.rmem_max, "for a UDP listener or session: a burst"),
        ("wmem_max", facts.wmem_max, "to send from an address of UDP: a burst"),
    ] {
        let Some(buffer) = buffer else { continue };
        if is_free {
            findings.ok(check, buffer.to_string(), "no matter: with CAP_NET_ADMIN queues of UDP are longer");
        } else if buffer >= LONG_BUFFER {
            findings.ok(check, buffer.to_string(), "queues of UDP are as long as they are to be");
        } else {
            findings.warn(
                check,
                buffer.to_string(),
                &format!("so many bytes wait {what} that is longer is lost"),
                &format!("sysctl -w net.core.{check}={LONG_BUFFER}"),
            );
        }
    }
    let Some(without) = findings.known("GRO", &facts.without_gro) else { return };
    if without.is_empty() {
        findings.ok("GRO", "on", "datagrams of a client that come together are steered and read together");
    } else {
        let commands: Vec<String> =
            without.iter().map(|name| format!("ethtool -K {} gro on", word(name))).collect();
        findings.warn(
            "GRO",
            format!("off on {}", without.join(", ")),
            "each UDP datagram that comes there is steered and read by itself, at many times the CPU time of a train's",
            &commands.join("; "),
        );
    }
}

/// The command that makes the reverse-path filter of these interfaces loose.
#[must_use]
pub fn loosening(interfaces: &[String]) -> String {
    // With slashes, since names may have dots in them; the program is sysctl(8) of procps as of busybox.
    let settings: Vec<String> =
        interfaces.iter().map(|interface| word(&format!("net/ipv4/conf/{interface}/rp_filter=2"))).collect();
    format!("sysctl -w {}", settings.join(" "))
}

/// The consequence of `setting`, where TPROXY steers `family`: packets on bridges meet the rules of IP.
#[must_use]
pub fn bridged(family: Family) -> String {
    format!(
        "{family} packets that come in by a bridge, as from containers of this host, are not steered by tproxy"
    )
}

/// The command that has packets on bridges meet no rules of IP any more.
#[must_use]
pub fn unbridging(settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|setting| format!("{setting}=0")).collect();
    format!("sysctl -w {} # or --mode sk-lookup, where rules have to see bridged packets", settings.join(" "))
}

fn bridges(facts: &HostFacts, findings: &mut Findings) {
    let check = "bridges";
    let families = facts.families();
    let met: Vec<(Family, &str)> = facts
        .bridged_to_rules
        .iter()
        .filter(|(family, _)| families.set().contains(family))
        .map(|(family, setting)| (*family, *setting))
        .collect();
    let settings: Vec<&str> = met.iter().map(|(_, setting)| *setting).collect();
    let value = || {
        let names = settings.iter().filter_map(|setting| setting.rsplit('/').next());
        names.map(|name| format!("{name} 1")).collect::<Vec<_>>().join(", ")
    };
    if met.is_empty() {
        findings.ok(check, "meet no rules", "packets of containers of this host are steered on either path");
    } else if Choice::of(facts).mode == Some("tproxy") {
        let meaning: Vec<String> = met.iter().map(|(family, _)| bridged(*family)).collect();
        findings.warn(check, value(), &meaning.join("; "), &unbridging(&settings));
    } else {
        findings.ok(
            check,
            value(),
            "of no matter to sk_lookup; with TPROXY containers of this host would not be served",
        );
    }
}

fn settings(facts: &HostFacts, findings: &mut Findings) {
    if facts.strict_rp_filter.is_empty() {
        findings.ok("rp_filter", "not strict", "no packet is dropped for where it came in");
    } else {
        findings.warn(
            "rp_filter",
            format!("strict on {}", facts.strict_rp_filter.join(", ")),
            "IPv4 packets are dropped whose sender is reached through another interface",
            &loosening(&facts.strict_rp_filter),
        );
    }
    bridges(facts, findings);
    match facts.syncookies {
        Some(0) => findings.warn(
            "tcp_syncookies",
            "0",
            "a flood of SYNs keeps clients out",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        ),
        Some(2) => findings.warn(
            "tcp_syncookies",
            "2",
            "every connection is made by a cookie, and loses TCP options for it",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        ),
        Some(level) => {
            findings.ok("tcp_syncookies", level.to_string(), "a flood of SYNs does not fill queues");
        }
        None => {}
    }
    backlogs(facts, findings);
    if let Some(length) = facts.somaxconn {
        if length < SHORT_QUEUE {
            findings.warn(
                "somaxconn",
                length.to_string(),
                "so few connections may wait for each worker: a burst is not answered",
                "sysctl -w net.core.somaxconn=4096",
            );
        } else {
            findings.ok("somaxconn", length.to_string(), "so many connections may wait for each worker");
        }
    }
}

/// The queues that a flood fills before anything is accepted.
fn backlogs(facts: &HostFacts, findings: &mut Findings) {
    // With cookies a listener that has as many goes on with these.
    let has_cookies = facts.syncookies.is_some_and(|level| level > 0);
    if let Some(length) = facts.syn_backlog {
        let check = "tcp_max_syn_backlog";
        if length >= SHORT_QUEUE || has_cookies {
            findings.ok(check, length.to_string(), "handshakes are begun under a burst, too");
        } else {
            findings.warn(
                check,
                length.to_string(),
                "a listener begins no more handshakes at once, since there are no SYN cookies",
                "sysctl -w net.ipv4.tcp_max_syn_backlog=4096 net.ipv4.tcp_syncookies=1",
            );
        }
    }
    if let Some(length) = facts.device_backlog {
        let check = "netdev_max_backlog";
        if length >= SHORT_DEVICE_QUEUE {
            findings.ok(check, length.to_string(), "so many packets may wait for each CPU");
        } else {
            findings.warn(
                check,
                length.to_string(),
                "so few packets may wait for each CPU where RPS, a tunnel or a virtual device hands them on: a flood drops those of clients",
                "sysctl -w net.core.netdev_max_backlog=1000",
            );
        }
    }
}

fn conntrack(facts: &HostFacts, findings: &mut Findings) {
    let check = "conntrack";
    let Some(Conntrack { count, limit }) = facts.conntrack else {
        findings.ok(check, "not loaded", "no connection is tracked");
        return;
    };
    let value = match limit {
        Some(limit) => format!("{count} of {limit} entries"),
        None => format!("{count} entries"),
    };
    let Some(listings) = findings.known(check, &facts.listings) else { return };
    let Some(Subject { plan, .. }) = &facts.subject else {
        findings.ok(check, value, "whether it would track what is served: --config FILE tells");
        return;
    };
    match plan.tracked(listings) {
        Some(tracked) => {
            let meaning = format!(
                "{tracked}: each connection or session takes an entry, and without a free one packets are dropped"
            );
            match &tracked.untracking {
                Untracking::Command(command) => findings.warn(check, value, &meaning, command),
                Untracking::Dropped(by) => findings.warn(
                    check,
                    value,
                    &(meaning + "; we need none of them"),
                    &format!(
                        "first a rule by which untracked packets to what is served get past {by}, which would drop them; \
                         then doctor names the rules that leave it untracked"
                    ),
                ),
            }
        }
        None => findings.ok(check, value, "no rule has it track what is served"),
    }
}
