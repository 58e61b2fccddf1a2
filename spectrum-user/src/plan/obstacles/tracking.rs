//! Whether conntrack follows connections to what is bound, and which rule has it do so. A connection takes an entry that
//! nobody of ours needs, and when no entry is left packets are dropped.

use std::fmt;

use super::{ChainName, Chains, Listing, Verdict};
use crate::model::Binding;
use crate::plan::Plan;

/// A rule that needs conntrack, and a binding whose connections it follows for that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tracked {
    /// The table and chain of the rule, and what lists them.
    pub chain: String,
    /// The rule as it is listed.
    pub rule: String,
    /// The first binding that no rule exempts.
    pub binding: Binding,
}

impl fmt::Display for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` has it track {}", self.chain, self.rule, self.binding)
    }
}

impl Plan {
    /// What has conntrack follow connections to a binding, unless a rule in `listings` takes them out before. Once any
    /// rule of a family needs it, it follows all connections of that family in the namespace.
    #[must_use]
    pub fn tracked(&self, listings: &[Listing]) -> Option<Tracked> {
        let has_iptables = listings.iter().any(|listing| matches!(listing, Listing::Iptables(..)));
        let listed: Vec<Chains> = listings.iter().map(|listing| listing.chains(has_iptables)).collect();
        let tracking: Vec<(&ChainName, &str)> = listed
            .iter()
            .flatten()
            .flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)))
            .filter(|(_, rule)| rule.tracks)
            .map(|(name, rule)| (name, rule.text.as_str()))
            .collect();
        self.bindings.iter().map(|planned| &planned.binding).find_map(|binding| {
            let (name, rule) = tracking.iter().find(|(name, _)| name.concerns(binding.family()))?;
            if listed.iter().any(|chains| is_exempt(chains, binding)) {
                return None;
            }
            Some(Tracked { chain: name.to_string(), rule: (*rule).to_owned(), binding: *binding })
        })
    }
}

/// Whether all packets to `binding` leave conntrack's sight before it looks.
fn is_exempt(chains: &Chains, binding: &Binding) -> bool {
    let mut entries = chains.iter().filter(|(_, chain)| chain.is_before_conntrack).map(|(name, _)| name);
    entries.any(|name| exempts(chains, name, binding, 0))
}

fn exempts(chains: &Chains, name: &ChainName, binding: &Binding, depth: usize) -> bool {
    /// Deeper than anybody's jumps; the kernel refuses loops.
    const DEEPEST: usize = 16;
    let Some(chain) = chains.get(name).filter(|_| depth < DEEPEST && name.concerns(binding.family())) else {
        return false;
    };
    for rule in chain.rules.iter().filter(|rule| rule.may_match(binding)) {
        match &rule.verdict {
            Some(Verdict::NoTrack) if rule.must_match(binding) => return true,
            Some(Verdict::Jump(target)) if rule.must_match(binding) => {
                let target = ChainName { chain: target.clone(), ..name.clone() };
                if exempts(chains, &target, binding, depth + 1) {
                    return true;
                }
            }
            // Some of the packets may get no further.
            Some(Verdict::Accept | Verdict::Return) => return false,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::plan::tests::plan;

    fn tracked(bindings: &[&str], listing: Listing) -> Option<String> {
        plan(bindings).tracked(&[listing]).map(|tracked| tracked.to_string())
    }

    fn iptables(raw: &str) -> Option<String> {
        let text = format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:ours - [0:0]\n{raw}\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n\
             -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n"
        );
        tracked(&["tcp 192.0.2.0/24 80,443", "udp 192.0.2.0/24 53"], Listing::Iptables(Family::Ipv4, text))
    }

    #[test]
    fn a_rule_that_asks_for_a_state_has_everything_tracked() {
        assert_eq!(
            iptables("").unwrap(),
            "iptables filter INPUT: `-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT` has it track \
             tcp 192.0.2.0/24 80"
        );
        let nat = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n";
        let listing = |family| Listing::Iptables(family, nat.to_owned());
        assert!(tracked(&["tcp 192.0.2.0/24 80"], listing(Family::Ipv4)).is_some());
        assert_eq!(tracked(&["tcp 2001:db8::/64 80"], listing(Family::Ipv4)), None);
    }

    #[test]
    fn what_is_taken_out_before_is_not_tracked() {
        for raw in [
            "-A PREROUTING -j NOTRACK",
            "-A PREROUTING -d 192.0.0.0/16 -j CT --notrack",
            "-A PREROUTING -p tcp -m tcp --dport 80:443 -j CT --notrack\n-A PREROUTING -p udp -j CT --notrack",
            "-A PREROUTING -d 192.0.2.0/24 -j ours\n-A ours -j CT --notrack",
        ] {
            assert_eq!(iptables(raw), None, "{raw}");
        }
        for raw in [
            "-A PREROUTING -d 192.0.2.7/32 -j CT --notrack",
            "-A PREROUTING -i eth0 -j CT --notrack",
            "-A PREROUTING -p tcp -j CT --notrack",
            "-A PREROUTING -s 198.51.100.0/24 -j ACCEPT\n-A PREROUTING -j CT --notrack",
            "-A PREROUTING -j CT --zone 7",
        ] {
            assert!(iptables(raw).is_some(), "{raw}");
        }
    }

    #[test]
    fn rules_of_nftables_are_understood_too() {
        let ruleset = |priority: i64, rules: &str| {
            Listing::Nftables(format!(
                r#"{{"nftables": [{{"table": {{"family": "inet", "name": "t"}}}},
                {{"chain": {{"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "prerouting", "prio": {priority}, "policy": "accept"}}}},
                {{"chain": {{"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}}},
                {{"rule": {{"family": "inet", "table": "t", "chain": "in", "handle": 7, "expr": [{{"match": {{"op": "in", "left": {{"ct": {{"key": "state"}}}}, "right": ["established"]}}}}, {{"accept": null}}]}}}}{rules}]}}"#
            ))
        };
        let untracked = r#",{"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 8, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "192.0.2.0", "len": 24}}}}, {"notrack": null}]}}"#;
        let bindings = ["tcp 192.0.2.0/24 80"];
        assert_eq!(
            tracked(&bindings, ruleset(-300, "")).unwrap(),
            "nft inet t in: `rule handle 7` has it track tcp 192.0.2.0/24 80"
        );
        assert_eq!(tracked(&bindings, ruleset(-300, untracked)), None);
        assert!(tracked(&bindings, ruleset(0, untracked)).is_some(), "that is too late");
        assert!(tracked(&["tcp 192.0.0.0/16 80"], ruleset(-300, untracked)).is_some());
    }

    #[test]
    fn without_a_rule_that_needs_it_nothing_is_tracked() {
        let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n".to_owned();
        assert_eq!(tracked(&["tcp 192.0.2.0/24 80"], Listing::Iptables(Family::Ipv4, text)), None);
    }
}
