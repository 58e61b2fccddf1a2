//! The rules that iptables-save lists, as far as they are understood. Does not judge them.

use std::str::SplitWhitespace;

use super::{Chain, ChainName, Chains, Rule, Verdict};
use crate::model::{Family, PortRange, Protocol};

/// Where packets for the host come by, and may be dropped.
const BASES: &[(&str, &str)] = &[
    ("filter", "INPUT"),
    ("mangle", "INPUT"),
    ("mangle", "PREROUTING"),
    ("raw", "PREROUTING"),
    ("security", "INPUT"),
];

/// What has conntrack look at every packet, as the modules of these names say when they are loaded.
const TRACKING_MATCHES: &[&str] =
    &["cluster", "connbytes", "connlabel", "connlimit", "connmark", "conntrack", "helper", "state"];
const TRACKING_TARGETS: &[&str] =
    &["CONNMARK", "CONNSECMARK", "CT", "DNAT", "MASQUERADE", "NETMAP", "REDIRECT", "SNAT", "SYNPROXY"];

pub(super) fn chains(family: Family, text: &str) -> Chains {
    let program = match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    };
    let mut chains = Chains::new();
    let mut table = "";
    for line in text.lines() {
        let name = |chain: &str| ChainName {
            program,
            table: table.to_owned(),
            chain: chain.to_owned(),
            family: Some(family),
        };
        if let Some(begun) = line.strip_prefix('*') {
            table = begun.trim();
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let (chain, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let chain = chains.entry(name(chain)).or_insert_with(|| Chain {
                is_base: BASES.contains(&(table, chain)),
                is_before_conntrack: (table, chain) == ("raw", "PREROUTING"),
                ..Chain::default()
            });
            chain.policy = (policy == "DROP").then(|| policy.to_owned());
        } else if let Some(added) = line.strip_prefix("-A ")
            && let Some((chain, conditions)) = added.split_once(' ')
        {
            chains.entry(name(chain)).or_default().rules.push(rule(line, conditions));
        }
    }
    chains
}

fn rule(text: &str, conditions: &str) -> Rule {
    let unquoted = without_quotes(conditions);
    let mut rule = Rule { text: text.to_owned(), ..Rule::default() };
    let mut words = unquoted.split_whitespace();
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        if word == "-j" || word == "-g" {
            let target = words.next().unwrap_or_default();
            rule.verdict = Some(verdict(target, words.clone()));
            rule.tracks |= TRACKING_TARGETS.contains(&target) && rule.verdict != Some(Verdict::NoTrack);
            break;
        }
        condition(&mut rule, word, negated, &mut words);
        negated = false;
    }
    rule
}

fn condition(rule: &mut Rule, word: &str, negated: bool, words: &mut SplitWhitespace<'_>) {
    let understood = match word {
        "-p" => match (words.next(), negated) {
            (Some("all"), false) => true,
            (Some(protocol), false) => {
                rule.protocol = protocol.parse::<Protocol>().ok();
                rule.never |= rule.protocol.is_none();
                true
            }
            _ => false,
        },
        "-d" => match words.next().and_then(|prefix| prefix.parse().ok()) {
            Some(prefix) if !negated => {
                rule.prefixes.push(prefix);
                true
            }
            _ => false,
        },
        "--dport" | "--dports" => match words.next().and_then(ports) {
            Some(ports) if !negated => {
                rule.ports = ports;
                true
            }
            _ => false,
        },
        "--ctstate" | "--state" => {
            let begins = words.next().unwrap_or_default().split(',').any(|state| state == "NEW");
            rule.never |= begins == negated;
            true
        }
        "--syn" => {
            rule.never |= negated;
            true
        }
        "-m" => {
            let of = words.next().unwrap_or_default();
            rule.tracks |= TRACKING_MATCHES.contains(&of);
            ["comment", "conntrack", "multiport", "state", "tcp", "udp"].contains(&of)
        }
        "--comment" => words.next().is_some(),
        // A value of something that was not understood.
        _ => false,
    };
    rule.more |= !understood;
}

fn verdict(target: &str, mut options: SplitWhitespace<'_>) -> Verdict {
    match target {
        "ACCEPT" => Verdict::Accept,
        "CT" if options.any(|option| option == "--notrack") => Verdict::NoTrack,
        "DROP" | "REJECT" => Verdict::Drop,
        "NOTRACK" => Verdict::NoTrack,
        "RETURN" => Verdict::Return,
        chain => Verdict::Jump(chain.to_owned()),
    }
}

/// `80,443,8000:8100`; port 0 is nobody's.
fn ports(text: &str) -> Option<Vec<PortRange>> {
    text.split(',')
        .map(|range| match range.split_once(':') {
            Some((first, last)) => format!("{}-{last}", if first == "0" { "1" } else { first }).parse().ok(),
            None => range.parse().ok(),
        })
        .collect()
}

/// The text with one word in place of each quoted one: what people write in comments is no condition.
fn without_quotes(text: &str) -> String {
    text.replace("\\\"", "")
        .split('"')
        .enumerate()
        .map(|(at, part)| if at % 2 == 0 { part } else { "quoted" })
        .collect()
}
