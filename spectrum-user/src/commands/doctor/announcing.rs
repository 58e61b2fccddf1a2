//! Reads what the doctor judges of announcing. Judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};

use crate::bgp;
use crate::doctor::{AnnouncingFacts, SystemRefusal};
use crate::model::{Family, Prefix};
use crate::view::View;
use spectrum_steering::host;

/// What there is to know, if anything is to be announced: `wanted` by a configuration, or by an instance that runs.
pub(super) fn read(
    wanted: Option<BTreeSet<Prefix>>,
    instances: &[(String, View)],
) -> Option<AnnouncingFacts> {
    let running = instances.iter().flat_map(|(_, view)| &view.announcements);
    let running: BTreeMap<&str, bool> = running.map(|one| (one.prefix.as_str(), one.announced)).collect();
    let wanted = wanted.unwrap_or_else(|| running.keys().filter_map(|prefix| prefix.parse().ok()).collect());
    if wanted.is_empty() {
        return None;
    }
    let state = |prefix: &Prefix| {
        let prefix = prefix.to_string();
        let state = running.get(prefix.as_str()).copied();
        (prefix, state)
    };
    let families: BTreeSet<Family> = wanted.iter().map(Prefix::family).collect();
    Some(AnnouncingFacts {
        prefixes: wanted.iter().map(state).collect(),
        // Opening it makes nothing: that takes another call.
        tun: OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map(drop)
            .map_err(|error| SystemRefusal::from(&error)),
        mtu_probing: host::setting("net/ipv4/tcp_mtu_probing"),
        wayless: families.into_iter().filter(|family| has_default_route(*family) == Some(false)).collect(),
        daemons: bgp::ask_daemons(&wanted),
    })
}

/// True if the main table has a default route that leaves by an interface, by the kernel's list of routes.
fn has_default_route(family: Family) -> Option<bool> {
    let file = match family {
        Family::Ipv4 => "/proc/thread-self/net/route",
        Family::Ipv6 => "/proc/thread-self/net/ipv6_route",
    };
    Some(fs::read_to_string(file).ok()?.lines().any(|line| is_default(family, line)))
}

fn is_default(family: Family, line: &str) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match (family, words.as_slice()) {
        (Family::Ipv4, [_, destination, _, _, _, _, _, mask, ..]) => {
            *destination == "00000000" && *mask == "00000000"
        }
        // The kernel's own route to nowhere is one of the loopback interface.
        (Family::Ipv6, [destination, length, .., interface]) => {
            *length == "00" && *interface != "lo" && destination.bytes().all(|digit| digit == b'0')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_one_of_length_zero_by_an_interface() {
        let v4 = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
        assert!(is_default(Family::Ipv4, v4));
        assert!(!is_default(Family::Ipv4, &v4.replacen("00000000", "0002A8C0", 1)));
        assert!(!is_default(
            Family::Ipv4,
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU"
        ));
        let zero = "00000000000000000000000000000000";
        let v6 = format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0");
        assert!(is_default(Family::Ipv6, &v6));
        assert!(!is_default(Family::Ipv6, &v6.replace("eth0", "lo")));
        assert!(!is_default(Family::Ipv6, &v6.replacen(" 00 ", " 40 ", 1)));
        assert!(!is_default(Family::Ipv6, ""));
    }
}
