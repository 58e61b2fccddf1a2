//! The rules that `nft -j list ruleset` lists, as far as they are understood. Does not judge them.

mod text;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::chains::{Base, ChainName, Chains, Hook, HostChain, HostRule, HostVerdict, State};
use crate::model::{Family, PortRange, Prefix, Protocol};
use crate::plan::firewall::Chain as Own;

/// So many elements of a map to verdicts are rules of their own; of a larger one, any may match.
const MOST_ELEMENTS: usize = 20_000;

/// The expressions that have conntrack look at every packet.
const TRACKING: [&str; 7] = [
    "\"ct\":",
    "\"ct count\":",
    "\"dnat\":",
    "\"masquerade\":",
    "\"redirect\":",
    "\"snat\":",
    "\"synproxy\":",
];

/// The elements of named maps, by family, table and name.
type Maps<'a> = HashMap<(&'a str, &'a str, &'a str), &'a [Value]>;

/// The chains in `json`; without those of the tables `besides`, which iptables lists too, and better.
pub(super) fn chains(json: &str, besides: &HashSet<(Family, &str)>) -> Chains {
    let mut chains = Chains::new();
    let listing: Value = serde_json::from_str(json).unwrap_or_default();
    let objects = || listing["nftables"].as_array().into_iter().flatten();
    let maps: Maps<'_> = objects()
        .filter_map(|object| {
            let map = object.get("map")?;
            let key = (map["family"].as_str()?, map["table"].as_str()?, map["name"].as_str()?);
            Some((key, map["elem"].as_array()?.as_slice()))
        })
        .collect();
    for object in objects() {
        if let Some(chain) = object.get("chain")
            && let Some(name) = name(chain, &chain["name"], besides)
        {
            let base = base(chain);
            let policy = chain["policy"].as_str().filter(|policy| *policy == "drop").map(str::to_owned);
            *chains.entry(name).or_default() =
                HostChain { base, policy: policy.filter(|_| base.is_some()), rules: Vec::new() };
        } else if let Some(rule) = object.get("rule")
            && let Some(name) = name(rule, &rule["chain"], besides)
        {
            chains.entry(name).or_default().rules.extend(understood(rule, &maps));
        }
    }
    chains
}

fn base(chain: &Value) -> Option<Base> {
    let hook = match chain["hook"].as_str()? {
        "ingress" => Hook::Ingress,
        "input" => Hook::Input,
        "output" => Hook::Output,
        "prerouting" => Hook::Prerouting,
        _ => return None,
    };
    let priority = chain["prio"].as_i64().unwrap_or_default();
    Some(Base { hook, priority, translates: chain["type"] == "nat" })
}

fn name(of: &Value, chain: &Value, besides: &HashSet<(Family, &str)>) -> Option<ChainName> {
    let (program, family) = match of["family"].as_str()? {
        "ip" => ("nft ip", Some(Family::Ipv4)),
        "ip6" => ("nft ip6", Some(Family::Ipv6)),
        "inet" => ("nft inet", None),
        "netdev" => ("nft netdev", None),
        _ => return None,
    };
    let table = of["table"].as_str()?;
    if family.is_some_and(|family| besides.contains(&(family, table))) {
        return None;
    }
    // What a table that steers refuses is meant to be, and told elsewhere.
    if Own::of_table(table).is_ok() {
        return None;
    }
    Some(ChainName {
        program: program.to_owned(),
        table: table.to_owned(),
        chain: chain.as_str()?.to_owned(),
        family,
    })
}

/// The rule; as many as elements where it is a map to verdicts.
fn understood(json: &Value, maps: &Maps<'_>) -> Vec<HostRule> {
    let mut rule = HostRule { text: text::of(json), ..HostRule::default() };
    // What it asks and does is far in; none of these words is anything else there.
    let shown = json["expr"].to_string();
    rule.tracks = TRACKING.iter().any(|word| shown.contains(word));
    let mut rules = Vec::new();
    for statement in json["expr"].as_array().into_iter().flatten() {
        let Some((kind, value)) = statement.as_object().and_then(|fields| fields.iter().next()) else {
            rule.more = true;
            continue;
        };
        match kind.as_str() {
            "match" => rule.more |= !matched(&mut rule, value),
            "vmap" => {
                let elements = match value["data"].as_str().and_then(|name| name.strip_prefix('@')) {
                    Some(name) => {
                        let [family, table] = ["family", "table"].map(|of| json[of].as_str().unwrap_or(""));
                        maps.get(&(family, table, name)).copied().unwrap_or_default()
                    }
                    None => value["data"]["set"].as_array().map(Vec::as_slice).unwrap_or_default(),
                };
                rules.extend(mapped(&rule, &value["key"], elements));
            }
            "counter" | "log" => {}
            "xt" => rule.more |= !foreign(&mut rule, value),
            kind => match verdict(kind, value) {
                Some(verdict) => {
                    if let Some(family) = value["family"].as_str() {
                        rule.family = of_family(family);
                    }
                    rule.verdict = Some(verdict);
                }
                None => rule.more = true,
            },
        }
    }
    if rules.is_empty() || rule.verdict.is_some() {
        rules.push(rule);
    }
    rules
}

/// A rule for each of the elements of a map to verdicts.
fn mapped(rule: &HostRule, key: &Value, elements: &[Value]) -> Vec<HostRule> {
    let is_large = elements.len() > MOST_ELEMENTS;
    let mut seen = HashSet::new();
    let rules = elements.iter().filter_map(|element| {
        let (of, to) = (element.get(0)?, element.get(1)?);
        let (kind, value) = to.as_object()?.iter().next()?;
        let mut rule = HostRule { verdict: Some(verdict(kind, value)?), ..rule.clone() };
        if is_large {
            rule.more = true;
            return seen.insert(to.to_string()).then_some(rule);
        }
        let of = of.get("elem").map_or(of, |element| &element["val"]);
        let components = |value: &Value| match value.get("concat").and_then(Value::as_array) {
            Some(components) => components.clone(),
            None => vec![value.clone()],
        };
        let (lefts, rights) = (components(key), components(of));
        rule.more |= lefts.len() != rights.len();
        for (left, right) in lefts.iter().zip(&rights) {
            rule.more |= !equals(&mut rule, left, right);
        }
        Some(rule)
    });
    rules.collect()
}

fn verdict(kind: &str, value: &Value) -> Option<HostVerdict> {
    let target = || value["target"].as_str().map(str::to_owned);
    Some(match kind {
        "accept" => HostVerdict::Accept,
        "dnat" if keeps(value) => HostVerdict::Keep,
        "dnat" | "redirect" => HostVerdict::Take,
        "drop" | "reject" => HostVerdict::Drop,
        "goto" => HostVerdict::Goto(target()?),
        "jump" => HostVerdict::Jump(target()?),
        "notrack" => HostVerdict::NoTrack,
        "return" => HostVerdict::Return,
        _ => return None,
    })
}

/// True if the new destination is the old one: `dnat ip to ip daddr`.
fn keeps(dnat: &Value) -> bool {
    let is = |value: &Value, field: &str| value["payload"]["field"] == field;
    is(&dnat["addr"], "daddr") && (dnat.get("port").is_none() || is(&dnat["port"], "dport"))
}

/// Takes in a part of a rule that iptables made, of which nft tells the name at most; false when it may be a condition.
fn foreign(rule: &mut HostRule, value: &Value) -> bool {
    if value["type"] == "target" && ["DNAT", "REDIRECT"].iter().any(|name| value["name"] == *name) {
        rule.tracks = true;
        rule.verdict = Some(HostVerdict::Take);
        return true;
    }
    false
}

/// Takes in a condition; false when it is not understood.
fn matched(rule: &mut HostRule, condition: &Value) -> bool {
    let (left, right) = (&condition["left"], &condition["right"]);
    match condition["op"].as_str() {
        Some("==" | "in") => equals(rule, left, right),
        Some("!=") => differs(rule, left, right),
        _ => false,
    }
}

fn equals(rule: &mut HostRule, left: &Value, right: &Value) -> bool {
    let field = (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str());
    match field {
        (Some("ip" | "ip6"), Some(of @ ("daddr" | "saddr"))) => {
            let prefixes: Option<Vec<Prefix>> = elements(right).into_iter().map(prefix).collect();
            return prefixes.is_some_and(|prefixes| {
                *if of == "daddr" { &mut rule.prefixes } else { &mut rule.sources } = prefixes;
                true
            });
        }
        (Some(over @ ("tcp" | "udp" | "th")), Some(of @ ("dport" | "sport"))) => {
            rule.protocol = over.parse::<Protocol>().ok().or(rule.protocol);
            let ports: Option<Vec<PortRange>> = elements(right).into_iter().map(ports).collect();
            return ports.is_some_and(|ports| {
                *if of == "dport" { &mut rule.ports } else { &mut rule.source_ports } = ports;
                true
            });
        }
        _ => {}
    }
    let meta = left["meta"]["key"].as_str();
    if let (Some("nfproto" | "protocol"), Some(family)) = (meta, right.as_str()) {
        rule.family = of_family(family);
        rule.never |= rule.family.is_none();
        return true;
    }
    let protocols = meta == Some("l4proto") || field.1 == Some("protocol") || field.1 == Some("nexthdr");
    if protocols {
        let named = elements(right);
        let ours: Vec<Protocol> = named.iter().filter_map(|name| name.as_str()?.parse().ok()).collect();
        rule.never |= ours.is_empty();
        rule.protocol = if let [only] = ours[..] { Some(only) } else { rule.protocol };
        return true;
    }
    if left["ct"]["key"] == "state" {
        let listed = elements(right);
        rule.not_in.extend(
            [(State::New, "new"), (State::Untracked, "untracked")]
                .into_iter()
                .filter(|(_, name)| !listed.iter().any(|state| state == name))
                .map(|(state, _)| state),
        );
        return true;
    }
    // What is served is the host's own: a local route says so, or it is bound on the host's addresses only.
    if is_type_of_dialled(left) {
        rule.never |= !elements(right).iter().any(|of| *of == "local");
        return true;
    }
    false
}

fn differs(rule: &mut HostRule, left: &Value, right: &Value) -> bool {
    if left["payload"]["field"] == "daddr" {
        let prefixes: Option<Vec<Prefix>> = elements(right).into_iter().map(prefix).collect();
        return prefixes.is_some_and(|prefixes| {
            rule.excluded.extend(prefixes);
            true
        });
    }
    if is_type_of_dialled(left) {
        rule.never |= elements(right).iter().any(|of| *of == "local");
        return true;
    }
    false
}

fn of_family(word: &str) -> Option<Family> {
    match word {
        "ip" | "ipv4" => Some(Family::Ipv4),
        "ip6" | "ipv6" => Some(Family::Ipv6),
        _ => None,
    }
}

/// `fib daddr type`.
fn is_type_of_dialled(left: &Value) -> bool {
    let flags = &left["fib"]["flags"];
    left["fib"]["result"] == "type" && (*flags == "daddr" || *flags == serde_json::json!(["daddr"]))
}

/// The elements of a set, or the value itself.
fn elements(value: &Value) -> Vec<&Value> {
    match value.get("set").unwrap_or(value).as_array() {
        Some(elements) => elements.iter().collect(),
        None => vec![value],
    }
}

fn prefix(value: &Value) -> Option<Prefix> {
    match value.get("prefix") {
        Some(prefix) => format!("{}/{}", prefix["addr"].as_str()?, prefix["len"].as_u64()?).parse().ok(),
        None => value.as_str()?.parse().ok(),
    }
}

fn ports(value: &Value) -> Option<PortRange> {
    match value.get("range") {
        Some(range) => format!("{}-{}", range[0].as_u64()?.max(1), range[1].as_u64()?).parse().ok(),
        None => value.as_u64()?.to_string().parse().ok(),
    }
}
