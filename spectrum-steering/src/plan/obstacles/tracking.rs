//! Whether conntrack follows connections to what is bound, and which rule has it do so. A connection takes an entry that
//! nobody of ours needs, and when no entry is left packets are dropped.

use std::fmt;

use super::chains::{ChainName, Chains, Hook, HostChain, HostRule, HostVerdict, State};
use super::{Listing, TO_THE_HOST, dropped};
use crate::model::{Binding, Family, Prefix};
use crate::plan::Plan;

/// So many prefixes are named in a cure.
const CURED: usize = 16;

/// A rule that needs conntrack, and a binding whose connections it follows for that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tracked {
    /// The table and chain of the rule, and what lists them.
    pub chain: String,
    /// The rule as it is listed.
    pub rule: String,
    /// The first binding that no rule exempts.
    pub binding: Binding,
    /// The means of having nothing followed.
    pub untracking: Untracking,
}

/// A means of having nothing followed of what is bound.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Untracking {
    /// A command that does it.
    Command(String),
    /// This rule, or the policy of this chain, would drop what conntrack has not seen.
    Dropped(String),
}

impl fmt::Display for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` has it track {}", self.chain, self.rule, self.binding)
    }
}

#[doc(hidden)]
impl Plan {
    /// The rules that have conntrack follow connections to a binding, unless rules in `listings` take both of their
    /// directions out before. Once any rule of a family needs it, it follows all connections of that family in the
    /// namespace.
    #[must_use]
    pub fn tracked(&self, listings: &[Listing]) -> Option<Tracked> {
        let chains = Listing::all_chains(listings);
        let tracking: Vec<(&ChainName, &HostRule)> = chains
            .iter()
            .filter(|(name, _)| !name.exempts())
            .flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)))
            .filter(|(_, rule)| rule.tracks)
            .collect();
        let of = |binding: &Binding| {
            tracking.iter().find(|(name, _)| name.concerns(binding.family())).filter(|_| {
                let requests = is_exempt(&chains, Hook::Prerouting, BindingPackets::Requests, binding);
                !(requests && is_exempt(&chains, Hook::Output, BindingPackets::Answers, binding))
            })
        };
        let bindings = self.looked_at(&chains);
        let (name, rule, binding) =
            bindings.iter().find_map(|binding| of(binding).map(|(name, rule)| (name, rule, binding)))?;
        let followed: Vec<Binding> =
            bindings.iter().filter(|binding| of(binding).is_some()).copied().collect();
        Some(Tracked {
            chain: name.to_string(),
            rule: rule.text.clone(),
            binding: *binding,
            untracking: self.untracking(&chains, &followed),
        })
    }

    fn untracking(&self, chains: &Chains, followed: &[Binding]) -> Untracking {
        for (name, chain) in super::bases(chains, |chain| chain.is_entered_at(TO_THE_HOST)) {
            let lost = |state| {
                let (hits, open) = dropped(chains, name, followed, state);
                let rules = hits.iter().map(|hit| format!("{}: `{}`", hit.chain, hit.rule.text));
                let policy = chain.policy.as_ref().filter(|_| !open.is_empty());
                rules.chain(policy.map(|policy| format!("{name}: policy {policy}"))).collect::<Vec<_>>()
            };
            let before = lost(State::New);
            if let Some(dropping) = lost(State::Untracked).into_iter().find(|what| !before.contains(what)) {
                return Untracking::Dropped(dropping);
            }
        }
        let mut prefixes: Vec<Prefix> = Vec::new();
        for binding in followed {
            let route = self.routes.iter().find(|route| route.overlaps(&binding.prefix)).copied();
            let prefix = route.unwrap_or(binding.prefix);
            if !prefixes.contains(&prefix) && prefixes.len() < CURED {
                prefixes.push(prefix);
            }
        }
        let commands = prefixes.iter().flat_map(|prefix| {
            let program = match prefix.family() {
                Family::Ipv4 => "iptables",
                Family::Ipv6 => "ip6tables",
            };
            // Answers would have it follow their connections as well, the other way round.
            [("PREROUTING", "-d"), ("OUTPUT", "-s")]
                .map(|(chain, of)| format!("{program} -t raw -A {chain} {of} {prefix} -j CT --notrack"))
        });
        Untracking::Command(commands.collect::<Vec<_>>().join("; "))
    }
}

/// Which packets of a binding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BindingPackets {
    /// The answers from there.
    Answers,
    /// The requests that come to it.
    Requests,
}

/// True if all packets of `binding` in that direction that pass `hook` leave conntrack's sight before it looks.
pub(super) fn is_exempt(chains: &Chains, hook: Hook, direction: BindingPackets, binding: &Binding) -> bool {
    let mut entries = chains.iter().filter(|(_, chain)| chain.is_before_conntrack(hook));
    entries.any(|(name, chain)| exempts(chains, (name, chain), direction, binding, 0))
}

fn exempts(
    chains: &Chains,
    (name, chain): (&ChainName, &HostChain),
    direction: BindingPackets,
    binding: &Binding,
    depth: usize,
) -> bool {
    /// Deeper than anybody's jumps; the kernel refuses loops.
    const DEEPEST: usize = 16;
    if depth >= DEEPEST || !name.concerns(binding.family()) {
        return false;
    }
    for rule in &chain.rules {
        let met = if direction == BindingPackets::Answers { &rule.reversed() } else { rule };
        if !met.may_match(binding, State::New) {
            continue;
        }
        let all = met.must_match(binding, State::New);
        match &rule.verdict {
            Some(HostVerdict::NoTrack) if all => return true,
            Some(HostVerdict::Jump(target) | HostVerdict::Goto(target)) if all => {
                if let Some(target) = chains.get_key_value(&name.beside(target))
                    && exempts(chains, target, direction, binding, depth + 1)
                {
                    return true;
                }
            }
            // Some of the packets may get no further.
            Some(HostVerdict::Accept | HostVerdict::Return) => return false,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::iptables_listing;
    use crate::plan::tests::plan;

    fn tracked(bindings: &[&str], listing: Listing) -> Option<String> {
        plan(bindings).tracked(&[listing]).map(|tracked| tracked.to_string())
    }

    fn iptables(raw: &str) -> Option<String> {
        let text = format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:ours - [0:0]\n:theirs - [0:0]\n{raw}\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n\
             -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n"
        );
        tracked(&["tcp 192.0.2.0/24 80,443", "udp 192.0.2.0/24 53"], iptables_listing(Family::Ipv4, text))
    }

    #[test]
    fn a_rule_that_asks_for_a_state_has_everything_tracked() {
        assert_eq!(
            iptables("").unwrap(),
            "iptables filter INPUT: `-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT` has it track \
             tcp 192.0.2.0/24 80"
        );
        let nat = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n";
        let listing = |family| iptables_listing(family, nat.to_owned());
        assert!(tracked(&["tcp 192.0.2.0/24 80"], listing(Family::Ipv4)).is_some());
        assert_eq!(tracked(&["tcp 2001:db8::/64 80"], listing(Family::Ipv4)), None);
    }

    #[test]
    fn what_is_taken_out_before_is_not_tracked() {
        for (requests, answers) in [
            ("-A PREROUTING -j NOTRACK", "-A OUTPUT -j NOTRACK"),
            (
                "-A PREROUTING -d 192.0.0.0/16 -j CT --notrack",
                "-A OUTPUT -s 192.0.2.0/24 -p tcp -j CT --notrack\n-A OUTPUT -p udp -m udp --sport 53 -j CT --notrack",
            ),
            (
                "-A PREROUTING -p tcp -m tcp --dport 80:443 -j CT --notrack\n-A PREROUTING -p udp -j CT --notrack",
                "-A OUTPUT -m comment --comment \"-d 10.0.0.0/8\" -j CT --notrack",
            ),
            (
                "-A PREROUTING -d 192.0.2.0/24 -j ours\n-A ours -j CT --notrack",
                "-A OUTPUT -s 192.0.2.0/24 -j theirs\n-A theirs -j CT --notrack",
            ),
        ] {
            assert_eq!(iptables(&format!("{requests}\n{answers}")), None, "{requests} {answers}");
            assert!(iptables(requests).is_some(), "entries for answers: {requests}");
            assert!(iptables(answers).is_some(), "{answers}");
        }
        for raw in [
            "-A PREROUTING -d 192.0.2.7/32 -j CT --notrack",
            "-A PREROUTING -i eth0 -j CT --notrack",
            "-A PREROUTING -p tcp -j CT --notrack",
            "-A PREROUTING -s 198.51.100.0/24 -j ACCEPT\n-A PREROUTING -j CT --notrack",
            "-A PREROUTING -j CT --zone 7",
        ] {
            assert!(iptables(&format!("{raw}\n-A OUTPUT -j CT --notrack")).is_some(), "{raw}");
        }
        for raw in [
            "-A OUTPUT -s 192.0.2.7/32 -j CT --notrack",
            "-A OUTPUT -d 192.0.2.0/24 -j CT --notrack",
            "-A OUTPUT -p tcp -m tcp --dport 80:443 -j CT --notrack",
        ] {
            assert!(iptables(&format!("-A PREROUTING -j CT --notrack\n{raw}")).is_some(), "{raw}");
        }
    }

    #[test]
    fn the_cure_takes_out_both_directions_of_every_prefix() {
        let established =
            "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n";
        let untracking = |rest: &str| {
            let text = format!("{established}{rest}COMMIT\n");
            let bindings = ["tcp 192.0.2.0/24 80,443", "tcp 198.51.100.7 80"];
            plan(&bindings).tracked(&[iptables_listing(Family::Ipv4, text)]).unwrap().untracking
        };
        assert_eq!(
            untracking(""),
            Untracking::Command(
                "iptables -t raw -A PREROUTING -d 198.51.100.7/32 -j CT --notrack; \
                 iptables -t raw -A OUTPUT -s 198.51.100.7/32 -j CT --notrack; \
                 iptables -t raw -A PREROUTING -d 192.0.2.0/24 -j CT --notrack; \
                 iptables -t raw -A OUTPUT -s 192.0.2.0/24 -j CT --notrack"
                    .to_owned()
            )
        );
        // A firewall that asks for the state would drop what has none.
        let lets_in_new =
            "-A INPUT -p tcp -m conntrack --ctstate NEW -m tcp --dport 80:443 -j ACCEPT\n-A INPUT -j DROP\n";
        assert_eq!(
            untracking(lets_in_new),
            Untracking::Dropped("iptables filter INPUT: `-A INPUT -j DROP`".to_owned())
        );
        let lets_in_all = "-A INPUT -p tcp -m tcp --dport 80:443 -j ACCEPT\n-A INPUT -j DROP\n";
        assert!(matches!(untracking(lets_in_all), Untracking::Command(_)));
    }

    #[test]
    fn rules_of_nftables_are_understood_too() {
        let ruleset = |priority: i64, rules: &str| {
            Listing::Nftables(format!(
                r#"{{"nftables": [{{"table": {{"family": "inet", "name": "t"}}}},
                {{"chain": {{"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "prerouting", "prio": {priority}, "policy": "accept"}}}},
                {{"chain": {{"family": "inet", "table": "t", "name": "o", "type": "filter", "hook": "output", "prio": -300, "policy": "accept"}}}},
                {{"rule": {{"family": "inet", "table": "t", "chain": "o", "handle": 9, "expr": [{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "right": {{"prefix": {{"addr": "192.0.2.0", "len": 24}}}}}}}}, {{"notrack": null}}]}}}},
                {{"chain": {{"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}}},
                {{"rule": {{"family": "inet", "table": "t", "chain": "in", "handle": 7, "expr": [{{"match": {{"op": "in", "left": {{"ct": {{"key": "state"}}}}, "right": ["established"]}}}}, {{"accept": null}}]}}}}{rules}]}}"#
            ))
        };
        let untracked = r#",{"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 8, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "192.0.2.0", "len": 24}}}}, {"notrack": null}]}}"#;
        let bindings = ["tcp 192.0.2.0/24 80"];
        assert_eq!(
            tracked(&bindings, ruleset(-300, "")).unwrap(),
            "nft inet t in: `ct state established accept # handle 7` has it track tcp 192.0.2.0/24 80"
        );
        assert_eq!(tracked(&bindings, ruleset(-300, untracked)), None);
        assert!(tracked(&bindings, ruleset(0, untracked)).is_some(), "that is too late");
        assert!(tracked(&["tcp 192.0.0.0/16 80"], ruleset(-300, untracked)).is_some());
    }

    #[test]
    fn without_a_rule_that_needs_it_nothing_is_tracked() {
        let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n".to_owned();
        assert_eq!(tracked(&["tcp 192.0.2.0/24 80"], iptables_listing(Family::Ipv4, text)), None);
    }
}
