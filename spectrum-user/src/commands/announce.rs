//! `announce`: has a prefix announced, or prints what a BGP daemon is to be told. Speaks with no daemon.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context as _;

use super::ask;
use crate::cli::AnnounceArgs;
use crate::config::Config;
use crate::model::{Family, Prefix};

/// What stands in for prefixes where no file says which: those of documentation (RFC 5737, RFC 3849).
const EXAMPLES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/48"];

/// Does what was typed.
pub(super) fn announce(args: &AnnounceArgs) -> anyhow::Result<()> {
    if !args.bird && !args.frr {
        return ask::announce(args);
    }
    let prefixes: BTreeSet<Prefix> = match &args.config {
        Some(path) => Config::load(path)?.config.announcing.prefixes.keys().copied().collect(),
        None => EXAMPLES.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    let text = if args.bird { bird(&prefixes) } else { frr(&prefixes) };
    std::io::stdout().lock().write_all(text.as_bytes()).context("write the configuration")
}

fn of(prefixes: &BTreeSet<Prefix>, family: Family) -> Vec<&Prefix> {
    prefixes.iter().filter(|prefix| prefix.family() == family).collect()
}

/// Configuration of BIRD 2.
fn bird(prefixes: &BTreeSet<Prefix>) -> String {
    let mut text = String::from(
        "# /etc/bird/bird.conf: pass on what spectrum announces, and nothing else.\n\
         # Replace the addresses, the AS numbers (RFC 5398: 64496 and 64511 are for documentation) and the router id.\n\
         # With BIRD_ARGS=\"-R\" in /etc/bird/envvars routers keep what was announced while BIRD is restarted.\n\
         router id 198.51.100.1;\n\
         protocol device { scan time 1; }\n",
    );
    for (family, word, neighbor) in
        [(Family::Ipv4, "ipv4", "198.51.100.254"), (Family::Ipv6, "ipv6", "2001:db8:ffff::254")]
    {
        let own = of(prefixes, family);
        if own.is_empty() {
            continue;
        }
        let set: Vec<String> = own.iter().map(ToString::to_string).collect();
        let set = set.join(", ");
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n# Routes of protocol 83 are spectrum's: they go with its process.\n\
             protocol kernel spectrum_{word} {{\n  \
               learn;\n  \
               scan time 10;\n  \
               {word} {{\n    \
                 import filter {{ if krt_source = 83 && net ~ [ {set} ] then accept; reject; }};\n    \
                 export none;\n  \
               }};\n\
             }}\n\
             protocol bgp router_{word} {{\n  \
               local as 64511;\n  \
               neighbor {neighbor} as 64496;\n  \
               graceful restart on;\n  \
               {word} {{\n    \
                 import none;\n    \
                 export where proto = \"spectrum_{word}\";\n    \
                 next hop self;\n  \
               }};\n\
             }}\n"
        );
    }
    text
}

/// Configuration of FRR.
fn frr(prefixes: &BTreeSet<Prefix>) -> String {
    let mut text = String::from(
        "! /etc/frr/frr.conf: pass on what spectrum announces, and nothing else. /etc/frr/daemons needs bgpd=yes.\n\
         ! Replace the addresses, the AS numbers (RFC 5398: 64496 and 64511 are for documentation) and the router id.\n",
    );
    let families = [
        (Family::Ipv4, "ip", "ipv4", "198.51.100.254"),
        (Family::Ipv6, "ipv6", "ipv6", "2001:db8:ffff::254"),
    ];
    for (family, word, _, _) in families {
        for (index, prefix) in of(prefixes, family).into_iter().enumerate() {
            let _ =
                writeln!(text, "{word} prefix-list spectrum-{word} seq {} permit {prefix}", (index + 1) * 5);
        }
    }
    text.push_str("!\n");
    for (family, word, _, _) in families {
        if !of(prefixes, family).is_empty() {
            // Without the origin the routes of FRR and of BIRD do not share an ECMP group.
            let _ = write!(
                text,
                "route-map spectrum-{word} permit 10\n match {word} address prefix-list spectrum-{word}\n set origin igp\nexit\n!\n"
            );
        }
    }
    text.push_str("route-map spectrum-none deny 10\nexit\n!\nrouter bgp 64511\n bgp router-id 198.51.100.1\n no bgp default ipv4-unicast\n bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n");
    for (family, _, _, neighbor) in families {
        if !of(prefixes, family).is_empty() {
            let _ = writeln!(text, " neighbor {neighbor} remote-as 64496");
        }
    }
    for (family, word, address, neighbor) in families {
        if !of(prefixes, family).is_empty() {
            let _ = write!(
                text,
                " address-family {address} unicast\n  redistribute kernel route-map spectrum-{word}\n  neighbor {neighbor} activate\n  \
                 neighbor {neighbor} route-map spectrum-{word} out\n  neighbor {neighbor} route-map spectrum-none in\n exit-address-family\n"
            );
        }
    }
    text.push_str("exit\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_and_documented_is_what_is_printed() {
        let prefixes: BTreeSet<Prefix> = EXAMPLES.iter().map(|text| text.parse().unwrap()).collect();
        let fleet = include_str!("../../../docs/fleet.md");
        for (printed, shipped) in [
            (bird(&prefixes), include_str!("../../../packaging/examples/bird.conf")),
            (frr(&prefixes), include_str!("../../../packaging/examples/frr.conf")),
        ] {
            assert_eq!(printed, shipped);
            assert!(fleet.contains(&printed), "docs/fleet.md has not:\n{printed}");
        }
    }

    #[test]
    fn daemons_are_told_of_what_is_announced_and_of_nothing_else() {
        let prefixes: BTreeSet<Prefix> = EXAMPLES.iter().map(|text| text.parse().unwrap()).collect();
        let bird = bird(&prefixes);
        for part in ["krt_source = 83 && net ~ [ 192.0.2.0/24 ]", "net ~ [ 2001:db8::/48 ]", "import none;"] {
            assert!(bird.contains(part), "{part}: {bird}");
        }
        let frr = frr(&prefixes);
        for part in [
            "ip prefix-list spectrum-ip seq 5 permit 192.0.2.0/24\n",
            "ipv6 prefix-list spectrum-ipv6 seq 5 permit 2001:db8::/48\n",
            " redistribute kernel route-map spectrum-ip\n",
            " set origin igp\n",
        ] {
            assert!(frr.contains(part), "{part}: {frr}");
        }
        let one: BTreeSet<Prefix> = prefixes.iter().take(1).copied().collect();
        assert!(!super::bird(&one).contains("ipv6") && !super::frr(&one).contains("ipv6"));
    }
}
