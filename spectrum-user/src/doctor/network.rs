//! The settings of the network namespace that packets meet before and after they are steered. Sets none.

use super::facts::{Conntrack, Facts, Subject};
use super::findings::Findings;
use crate::model::Family;

/// Fewer may wait to be accepted than a burst of clients brings.
const SHORT_QUEUE: u64 = 1_024;

pub(super) fn judge(facts: &Facts, findings: &mut Findings) {
    if let Some(up) = findings.known("lo", &facts.loopback) {
        let lacking: Vec<Family> = facts.families().set().difference(up).copied().collect();
        match lacking[..] {
            [] => findings.ok("lo", "up", "listeners and local routes are there"),
            [Family::Ipv6] => findings.miss(
                "lo",
                "without ::1",
                "IPv6 prefixes cannot be served",
                "sysctl -w net.ipv6.conf.lo.disable_ipv6=0; ip link set lo up",
            ),
            _ => findings.miss(
                "lo",
                "down, or without 127.0.0.1",
                "nothing can be served",
                "ip link set lo up",
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
    conntrack(facts, findings);
}

fn settings(facts: &Facts, findings: &mut Findings) {
    if facts.strict_rp_filter.is_empty() {
        findings.ok("rp_filter", "not strict", "no packet is dropped for where it came in");
    } else {
        findings.warn(
            "rp_filter",
            format!("strict on {}", facts.strict_rp_filter.join(", ")),
            "IPv4 packets are dropped whose sender is reached through another interface",
            "sysctl -w net.ipv4.conf.INTERFACE.rp_filter=2, where several interfaces lead out",
        );
    }
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

fn conntrack(facts: &Facts, findings: &mut Findings) {
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
            let binding = tracked.binding;
            let prefix = plan.routes.iter().find(|route| route.contains(binding.prefix.address()));
            let prefix = prefix.unwrap_or(&binding.prefix);
            let program = match binding.family() {
                Family::Ipv4 => "iptables",
                Family::Ipv6 => "ip6tables",
            };
            findings.warn(
                check,
                value,
                &format!(
                    "{tracked}: each connection takes an entry, and without a free one packets are dropped"
                ),
                &format!("we need none of them: {program} -t raw -A PREROUTING -d {prefix} -j CT --notrack"),
            );
        }
        None => findings.ok(check, value, "no rule has it track what is served"),
    }
}
