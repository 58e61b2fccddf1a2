//! What this process may do, and how many files it may open. Knows no path but by the capabilities that each needs.

use super::findings::Findings;
use super::host_facts::{HostFacts, Rights};

/// Without so many, a few thousand connections with origins are the most there can be.
const FEW_FILES: u64 = 16_384;

/// With fewer a start ends at once.
const FEWEST_FILES: u64 = 24;

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    if let Some(rights) = findings.known("capabilities", &facts.rights) {
        capabilities(rights, findings);
    }
    if let Some(limit) = findings.known("open files", &facts.open_files) {
        open_files(*limit, findings);
    }
}

fn capabilities(rights: &Rights, findings: &mut Findings) {
    let check = "capabilities";
    let held: Vec<&str> = rights.held.iter().map(|name| name.trim_start_matches("CAP_")).collect();
    let value = if held.is_empty() { "none of ours".to_owned() } else { held.join(" ") };
    let lacking = |names: &[&'static str]| {
        names.iter().copied().filter(|name| !rights.allow(name)).collect::<Vec<_>>().join(" and ")
    };
    let (always, sk_lookup, useful) =
        (lacking(&["CAP_NET_ADMIN"]), lacking(&["CAP_BPF", "CAP_PERFMON"]), lacking(&["CAP_NET_RAW"]));
    if !always.is_empty() {
        findings.miss(
            check,
            value,
            "no path works without CAP_NET_ADMIN",
            "run it as root, or give the service its capabilities (AmbientCapabilities)",
        );
    } else if !sk_lookup.is_empty() {
        findings.warn(
            check,
            value,
            &format!("without {sk_lookup} there is no sk_lookup: TPROXY remains"),
            "add them to the service's capabilities",
        );
    } else if !useful.is_empty() {
        findings.warn(
            check,
            value,
            "without CAP_NET_RAW iptables-legacy does not work, nor UDP answers from ports that others have bound",
            "add it to the service's capabilities",
        );
    } else {
        findings.ok(check, value, "every path may be taken");
    }
}

fn open_files(limit: u64, findings: &mut Findings) {
    let check = "open files";
    let cure = "LimitNOFILE in the unit, or ulimit -Hn";
    if limit < FEWEST_FILES {
        findings.miss(check, limit.to_string(), "a start ends at once", cure);
    } else if limit < FEW_FILES {
        let most = limit / 2;
        findings.warn(
            check,
            limit.to_string(),
            &format!("at most {most} connections with origins at once"),
            cure,
        );
    } else {
        findings.ok(check, limit.to_string(), "a connection takes one, or two with an origin");
    }
}
