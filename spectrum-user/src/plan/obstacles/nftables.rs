//! The rules that `nft -j list ruleset` lists, as far as they are understood. Does not judge them.

use serde_json::Value;

use super::{Chain, ChainName, Chains, Rule, Verdict};
use crate::model::{Family, PortRange, Prefix, Protocol};

/// Where conntrack looks at packets that come in (NF_IP_PRI_CONNTRACK).
const CONNTRACK_PRIORITY: i64 = -200;

/// What has conntrack look at every packet.
const TRACKING: [&str; 7] = [
    "\"ct\":",
    "\"ct count\":",
    "\"dnat\":",
    "\"masquerade\":",
    "\"redirect\":",
    "\"snat\":",
    "\"synproxy\":",
];

/// The chains in `json`; without those of the tables that iptables makes, if it lists them `besides`: it does so better.
pub(super) fn chains(json: &str, besides: bool) -> Chains {
    let mut chains = Chains::new();
    let listing: Value = serde_json::from_str(json).unwrap_or_default();
    for object in listing["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = object.get("chain")
            && let Some(name) = name(chain, &chain["name"], besides)
        {
            let hook = chain["hook"].as_str().unwrap_or_default();
            let is_base = ["ingress", "prerouting", "input"].contains(&hook);
            let policy = chain["policy"].as_str().filter(|policy| *policy == "drop").map(str::to_owned);
            let priority = chain["prio"].as_i64().unwrap_or_default();
            *chains.entry(name).or_default() = Chain {
                is_base,
                is_before_conntrack: hook == "prerouting" && priority < CONNTRACK_PRIORITY,
                policy: policy.filter(|_| is_base),
                rules: Vec::new(),
            };
        } else if let Some(rule) = object.get("rule")
            && let Some(name) = name(rule, &rule["chain"], besides)
        {
            chains.entry(name).or_default().rules.push(understood(rule));
        }
    }
    chains
}

fn name(of: &Value, chain: &Value, besides: bool) -> Option<ChainName> {
    let (program, family) = match of["family"].as_str()? {
        "ip" => ("nft ip", Some(Family::Ipv4)),
        "ip6" => ("nft ip6", Some(Family::Ipv6)),
        "inet" => ("nft inet", None),
        "netdev" => ("nft netdev", None),
        _ => return None,
    };
    let table = of["table"].as_str()?;
    if besides && family.is_some() && ["filter", "mangle", "nat", "raw", "security"].contains(&table) {
        return None;
    }
    Some(ChainName { program, table: table.to_owned(), chain: chain.as_str()?.to_owned(), family })
}

fn understood(json: &Value) -> Rule {
    let mut rule = Rule { text: text(json), ..Rule::default() };
    // What it asks and does is far in; none of these words is anything else there.
    let shown = json["expr"].to_string();
    rule.tracks = TRACKING.iter().any(|word| shown.contains(word));
    for statement in json["expr"].as_array().into_iter().flatten() {
        let Some((kind, value)) = statement.as_object().and_then(|fields| fields.iter().next()) else {
            rule.more = true;
            continue;
        };
        match kind.as_str() {
            "accept" => rule.verdict = Some(Verdict::Accept),
            "drop" | "reject" => rule.verdict = Some(Verdict::Drop),
            "return" => rule.verdict = Some(Verdict::Return),
            "jump" | "goto" => {
                rule.verdict = value["target"].as_str().map(|target| Verdict::Jump(target.to_owned()));
            }
            "counter" | "log" => {}
            "notrack" => rule.verdict = Some(Verdict::NoTrack),
            "match" => rule.more |= !matched(&mut rule, value),
            // A map to verdicts, among which one may be to drop.
            "vmap" if value.to_string().contains("\"drop\"") => {
                rule.more = true;
                rule.verdict = Some(Verdict::Drop);
            }
            _ => rule.more = true,
        }
    }
    rule
}

/// Takes in a condition; false when it is not understood.
fn matched(rule: &mut Rule, condition: &Value) -> bool {
    let equal = ["==", "in"].contains(&condition["op"].as_str().unwrap_or_default());
    let (left, right) = (&condition["left"], &condition["right"]);
    if !equal {
        return false;
    }
    let field = (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str());
    match field {
        (Some("ip" | "ip6"), Some("daddr")) => {
            let prefixes: Option<Vec<Prefix>> = elements(right).into_iter().map(prefix).collect();
            return prefixes.is_some_and(|prefixes| {
                rule.prefixes = prefixes;
                true
            });
        }
        (Some(over @ ("tcp" | "udp" | "th")), Some("dport")) => {
            rule.protocol = over.parse::<Protocol>().ok().or(rule.protocol);
            let ports: Option<Vec<PortRange>> = elements(right).into_iter().map(ports).collect();
            return ports.is_some_and(|ports| {
                rule.ports = ports;
                true
            });
        }
        _ => {}
    }
    let protocols = left["meta"]["key"] == "l4proto" || field.1 == Some("protocol");
    if protocols && let Some(protocol) = right.as_str() {
        rule.protocol = protocol.parse::<Protocol>().ok();
        rule.never |= rule.protocol.is_none();
        return true;
    }
    if left["ct"]["key"] == "state" {
        rule.never |= !elements(right).iter().any(|state| *state == "new");
        return true;
    }
    false
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

/// nft does not say in JSON what it says in text, so a rule is named by its handle, and its comment.
fn text(rule: &Value) -> String {
    let handle = &rule["handle"];
    match rule["comment"].as_str() {
        Some(comment) => format!("rule handle {handle} ({comment})"),
        None => format!("rule handle {handle}"),
    }
}
