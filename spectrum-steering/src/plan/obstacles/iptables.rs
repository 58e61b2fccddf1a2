//! The rules that iptables-save lists, as far as they are understood. Does not judge them.

use std::str::SplitWhitespace;

use super::chains::{Base, ChainName, Chains, Hook, HostChain, HostRule, HostVerdict, State};
use crate::model::{Family, PortRange, Prefix, Protocol};

/// The chains and hooks that packets for the host, those of its own clients and answers come by, and when.
const BASES: &[(&str, &str, Hook, i64)] = &[
    ("filter", "INPUT", Hook::Input, 0),
    ("mangle", "INPUT", Hook::Input, -150),
    ("mangle", "PREROUTING", Hook::Prerouting, -150),
    ("nat", "OUTPUT", Hook::Output, -100),
    ("nat", "PREROUTING", Hook::Prerouting, -100),
    ("raw", "OUTPUT", Hook::Output, -300),
    ("raw", "PREROUTING", Hook::Prerouting, -300),
    ("security", "INPUT", Hook::Input, 50),
];

/// The matches that have conntrack look at every packet, as the modules of these names say when they are loaded.
const TRACKING_MATCHES: &[&str] =
    &["cluster", "connbytes", "connlabel", "connlimit", "connmark", "conntrack", "helper", "state"];
const TRACKING_TARGETS: &[&str] =
    &["CONNMARK", "CONNSECMARK", "CT", "DNAT", "MASQUERADE", "NETMAP", "REDIRECT", "SNAT", "SYNPROXY"];

/// The tables that `text` lists.
pub(super) fn tables(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix('*').map(str::trim))
}

/// The chains of `text`, as `program` lists them.
pub(super) fn chains(program: &str, family: Family, text: &str) -> Chains {
    let mut chains = Chains::new();
    let mut table = "";
    for line in text.lines() {
        let name = |chain: &str| ChainName {
            program: program.to_owned(),
            table: table.to_owned(),
            chain: chain.to_owned(),
            family: Some(family),
        };
        if let Some(begun) = line.strip_prefix('*') {
            table = begun.trim();
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let (chain, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let chain = chains.entry(name(chain)).or_insert_with(|| HostChain {
                base: BASES.iter().find(|(of, name, ..)| (*of, *name) == (table, chain)).map(
                    |(of, _, hook, priority)| Base {
                        hook: *hook,
                        priority: *priority,
                        translates: *of == "nat",
                    },
                ),
                ..HostChain::default()
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

fn rule(text: &str, conditions: &str) -> HostRule {
    let unquoted = without_quotes(conditions);
    let mut rule = HostRule { text: text.to_owned(), ..HostRule::default() };
    let mut words = unquoted.split_whitespace();
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        if word == "-j" || word == "-g" {
            let target = words.next().unwrap_or_default();
            rule.verdict = Some(verdict(target, word == "-g", &rule, words.clone()));
            rule.tracks |= TRACKING_TARGETS.contains(&target) && rule.verdict != Some(HostVerdict::NoTrack);
            break;
        }
        condition(&mut rule, word, negated, &mut words);
        negated = false;
    }
    rule
}

fn condition(rule: &mut HostRule, word: &str, negated: bool, words: &mut SplitWhitespace<'_>) {
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
        "-d" => match (words.next().and_then(|prefix| prefix.parse().ok()), negated) {
            (Some(prefix), false) => {
                rule.prefixes.push(prefix);
                true
            }
            (Some(prefix), true) => {
                rule.excluded.push(prefix);
                true
            }
            (None, _) => false,
        },
        "-s" => match words.next().and_then(|prefix| prefix.parse().ok()) {
            Some(prefix) if !negated => {
                rule.sources.push(prefix);
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
        "--sport" | "--sports" => match words.next().and_then(ports) {
            Some(ports) if !negated => {
                rule.source_ports = ports;
                true
            }
            _ => false,
        },
        // What is served is the host's own: a local route says so, or it is bound on the host's addresses only.
        "--dst-type" => {
            let is_own = words.next().unwrap_or_default().split(',').any(|of| of == "LOCAL");
            rule.never |= is_own == negated;
            true
        }
        "--ctstate" | "--state" => {
            let listed: Vec<&str> = words.next().unwrap_or_default().split(',').collect();
            let states = [(State::New, "NEW"), (State::Untracked, "UNTRACKED")].into_iter();
            rule.not_in
                .extend(states.filter(|(_, name)| listed.contains(name) == negated).map(|(state, _)| state));
            true
        }
        "--syn" => {
            rule.never |= negated;
            true
        }
        "-m" => {
            let of = words.next().unwrap_or_default();
            rule.tracks |= TRACKING_MATCHES.contains(&of);
            ["addrtype", "comment", "conntrack", "multiport", "state", "tcp", "udp"].contains(&of)
        }
        "--comment" => words.next().is_some(),
        // A value of something that was not understood.
        _ => false,
    };
    rule.more |= !understood;
}

fn verdict(target: &str, is_goto: bool, rule: &HostRule, mut options: SplitWhitespace<'_>) -> HostVerdict {
    match target {
        "ACCEPT" => HostVerdict::Accept,
        "CT" if options.any(|option| option == "--notrack") => HostVerdict::NoTrack,
        "DNAT" | "REDIRECT" => HostVerdict::Take,
        "DROP" | "REJECT" => HostVerdict::Drop,
        "NETMAP" => {
            let onto = options.nth(1).and_then(|prefix| prefix.parse::<Prefix>().ok());
            let is_same = onto.is_some_and(|onto| rule.prefixes == [onto]);
            if is_same { HostVerdict::Keep } else { HostVerdict::Take }
        }
        "NOTRACK" => HostVerdict::NoTrack,
        "RETURN" => HostVerdict::Return,
        chain if is_goto => HostVerdict::Goto(chain.to_owned()),
        chain => HostVerdict::Jump(chain.to_owned()),
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
