//! The rules as texts for `iptables-restore --noflush`. Runs nothing.
//!
//! One chain in the mangle table, jumped to from `PREROUTING`, first match wins:
//!
//! ```text
//! -A PREROUTING -d 192.0.2.0/24 -p tcp -j SPECTRUM-4711
//! -A SPECTRUM-4711 -p tcp -m tcp ! --syn -m socket -j RETURN
//! -A SPECTRUM-4711 -d 192.0.2.0/24 -p tcp -m tcp --dport 80:443 -j TPROXY --on-ip 127.0.0.1 --on-port 40001
//! ```
//!
//! The guard in the second line makes TPROXY see what `sk_lookup` would see: packets that no established connection
//! takes. The target drops a packet whose connection belongs to a socket that is not transparent, and those are the
//! replies to a client of this host whose source address lies in a binding, and connections that are older than the
//! binding. It is also what makes rules cheap, since the packets of an established connection leave after it. What
//! reaches the rules is then
//!
//! - a SYN, whichever socket it finds: a listener of somebody else loses to the binding, and TPROXY itself lets a SYN
//!   reopen a connection in TIME-WAIT;
//! - the last ACK of a handshake answered with a SYN cookie, for which the kernel keeps no socket;
//! - strays, which the listener answers with RST as the kernel would.
//!
//! Two differences remain. While the kernel sends SYN cookies, a listener of somebody else bound to the very address
//! and port (not to a wildcard address) takes the last ACK and resets the connection. And a UDP socket of somebody else
//! that is connected from an address and port of a binding loses its datagrams: `-m socket` cannot tell it from a bound
//! one, which has to lose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Chain, Firewall, Rule, TooManyBindings};
use crate::model::{Binding, Family, InterfaceName, PortRange, Prefix, Protocol};

/// With so many outermost prefixes, packets are compared with each before they enter the chain; with more, all of a
/// protocol enter it.
const MAX_JUMPS: usize = 8;

/// More rules than this are refused for one family: every new connection is compared with each in turn, at 10 to 20
/// ns a rule, so that with as many it costs about three times what it costs without.
pub(crate) const MAX_RULES: usize = 5_000;

/// One text per family that has rules, each for its `iptables-restore --noflush`. A chain that is there is emptied first.
pub(crate) fn texts(chain: &Chain, firewall: &Firewall) -> Result<BTreeMap<Family, String>, TooManyBindings> {
    if !firewall.shares().is_empty() {
        return Err(TooManyBindings::IptablesRegistered);
    }
    // The rest of whom a policy turns away is judged after accept.
    let interfaces: HashMap<(Protocol, SocketAddr), &BTreeSet<InterfaceName>> = firewall
        .denials()
        .iter()
        .flat_map(|denial| denial.listeners.iter().map(|listener| (*listener, &denial.interfaces)))
        .collect();
    let mut by_family: BTreeMap<Family, Vec<SteeredRule<'_>>> = BTreeMap::new();
    for rule in firewall.rules() {
        let interfaces = interfaces.get(&(rule.binding.protocol, rule.listener)).copied();
        by_family.entry(rule.binding.family()).or_default().push(SteeredRule { rule, interfaces });
    }
    let count = |rules: &Vec<SteeredRule<'_>>| rules.iter().map(SteeredRule::lines).sum();
    if let Some(count) = by_family.values().map(count).find(|count| *count > MAX_RULES) {
        return Err(TooManyBindings::Iptables { count, limit: MAX_RULES });
    }
    Ok(by_family.into_iter().map(|(family, rules)| (family, text(chain, &rules))).collect())
}

/// A rule, and the interfaces by which its packets may come.
struct SteeredRule<'a> {
    rule: &'a Rule,
    /// None, or empty: any.
    interfaces: Option<&'a BTreeSet<InterfaceName>>,
}

impl SteeredRule<'_> {
    /// The number of lines that it takes.
    fn lines(&self) -> usize {
        self.interfaces.filter(|names| !names.is_empty()).map_or(1, |names| names.len() + 1)
    }

    fn add_to(&self, lines: &mut Vec<String>, chain: &Chain) {
        let names = self.interfaces.into_iter().flatten();
        let before = lines.len();
        lines.extend(names.map(|name| target(chain, self.rule, Some(name))));
        if lines.len() == before {
            lines.push(target(chain, self.rule, None));
        } else {
            // To refuse it no target of this table is able.
            lines.push(format!("{} -j DROP", matching(chain, self.rule, None)));
        }
    }
}

/// The text that puts `text`, made by [`texts`], in place of what `saved`, which `iptables-save -t mangle` printed, has
/// of `chain`: in one commit, so that every packet meets the rules of before or those of after.
#[must_use]
pub(crate) fn replacement(saved: &str, chain: &Chain, text: &str) -> String {
    let doomed = BTreeSet::from([chain.clone()]);
    let old = jumps(saved, &doomed).fold(String::new(), |lines, jump| lines + &jump + "\n");
    let declaration = format!(":{chain} - [0:0]\n");
    text.replacen(&declaration, &(declaration.clone() + &old), 1)
}

/// `rules` are of one family and in order of precedence.
fn text(chain: &Chain, rules: &[SteeredRule<'_>]) -> String {
    let mut lines = vec!["*mangle".to_owned(), format!(":{chain} - [0:0]")];
    let bindings = || rules.iter().map(|one| one.rule.binding);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let prefixes: BTreeSet<Prefix> =
            bindings().filter(|binding| binding.protocol == protocol).map(|binding| binding.prefix).collect();
        let outermost = outermost(&prefixes);
        if outermost.len() > MAX_JUMPS {
            lines.push(format!("-A PREROUTING -p {protocol} -j {chain}"));
        } else {
            // Appended, so that the marks others set there are set before TPROXY ends the table for the packet.
            lines.extend(
                outermost
                    .iter()
                    .map(|prefix| format!("-A PREROUTING{} -p {protocol} -j {chain}", destination(*prefix))),
            );
        }
    }
    if bindings().any(|binding| binding.protocol == Protocol::Tcp) {
        lines.push(format!("-A {chain} -p tcp -m tcp ! --syn -m socket -j RETURN"));
    }
    for rule in rules {
        rule.add_to(&mut lines, chain);
    }
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

/// The prefixes that no other contains.
fn outermost(prefixes: &BTreeSet<Prefix>) -> Vec<Prefix> {
    let mut outermost: Vec<Prefix> = Vec::new();
    // A prefix sorts before those it contains, and they follow it without a gap.
    for prefix in prefixes {
        if outermost.last().is_none_or(|last| !last.overlaps(prefix)) {
            outermost.push(*prefix);
        }
    }
    outermost
}

/// The line that steers what comes by `interface`, or by any.
fn target(chain: &Chain, rule: &Rule, interface: Option<&InterfaceName>) -> String {
    let (matching, listener) = (matching(chain, rule, interface), rule.listener);
    // Without --on-ip the target takes the address of the interface that the packet came in by.
    format!("{matching} -j TPROXY --on-ip {} --on-port {}", listener.ip(), listener.port())
}

/// Its beginning, which says for which packets it is.
fn matching(chain: &Chain, rule: &Rule, interface: Option<&InterfaceName>) -> String {
    let Binding { protocol, prefix, ports } = rule.binding;
    let mut line = format!("-A {chain}{}", destination(prefix));
    if let Some(name) = interface {
        // Writing to a string cannot fail.
        let _ = write!(line, " -i {}", name.as_str());
    }
    let _ = write!(line, " -p {protocol}");
    if prefix.length() == 0 {
        // It has no local route. A packet that is forwarded must not get a socket: the kernel would drop it.
        line.push_str(" -m addrtype --dst-type LOCAL");
    }
    if ports != PortRange::ALL {
        let _ = write!(line, " -m {protocol} --dport {}", ports.first());
        if ports.last() != ports.first() {
            let _ = write!(line, ":{}", ports.last());
        }
    }
    line
}

fn destination(prefix: Prefix) -> String {
    if prefix.length() == 0 { String::new() } else { format!(" -d {prefix}") }
}

/// Our chains in what `iptables-save -t mangle` printed.
#[must_use]
pub(crate) fn chains(saved: &str) -> BTreeSet<Chain> {
    saved.lines().filter_map(|line| line.strip_prefix(':')?.split_whitespace().next()?.parse().ok()).collect()
}

/// The text that removes `doomed` from what `iptables-save -t mangle` printed, with every jump to them and nothing
/// else; `None` when none of them is there. Made from what is there, not from what was applied, so that it works on what
/// a dead process or a helpful administrator left.
#[must_use]
pub(crate) fn removal(saved: &str, doomed: &BTreeSet<Chain>) -> Option<String> {
    let present: Vec<Chain> = chains(saved).into_iter().filter(|chain| doomed.contains(chain)).collect();
    if present.is_empty() {
        return None;
    }
    let lines = ["*mangle".to_owned()]
        .into_iter()
        .chain(jumps(saved, doomed))
        .chain(present.iter().map(|chain| format!("-F {chain}")))
        .chain(present.iter().map(|chain| format!("-X {chain}")))
        .chain(["COMMIT\n".to_owned()]);
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// The lines that delete every jump to `doomed` from without.
fn jumps<'a>(saved: &'a str, doomed: &'a BTreeSet<Chain>) -> impl Iterator<Item = String> + 'a {
    saved.lines().filter_map(|line| {
        let rule = line.strip_prefix("-A ")?;
        let mut words = rule.split_whitespace();
        let within: Option<Chain> = words.next()?.parse().ok();
        let jumps = words
            .skip_while(|word| !matches!(*word, "-j" | "-g"))
            .nth(1)
            .and_then(|target| target.parse().ok())
            .is_some_and(|target: Chain| doomed.contains(&target));
        // Rules within a doomed chain go with it.
        (jumps && within.is_none_or(|chain| !doomed.contains(&chain))).then(|| format!("-D {rule}"))
    })
}

/// True if a table, as `nft list table` printed it, holds nothing but empty chains that accept everything, so that
/// nobody would miss it.
#[must_use]
pub(crate) fn is_bare(listing: &str) -> bool {
    listing.lines().map(str::trim).all(|line| {
        line.is_empty()
            || line == "}"
            || line.starts_with('#')
            || (line.starts_with("table ") || line.starts_with("chain ")) && line.ends_with('{')
            || line.starts_with("type ") && line.ends_with("policy accept;")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OnDeny;
    use crate::plan::firewall::Denial;

    fn rule(protocol: Protocol, prefix: &str, ports: &str, listener: &str) -> Rule {
        Rule {
            binding: Binding { protocol, prefix: prefix.parse().unwrap(), ports: ports.parse().unwrap() },
            listener: listener.parse().unwrap(),
        }
    }

    fn compiled(rules: &[Rule]) -> Vec<(Family, String)> {
        texts(&Chain::of(7), &Firewall::of(rules.to_vec())).unwrap().into_iter().collect()
    }

    #[test]
    fn all_ports_of_a_prefix_are_one_rule() {
        assert_eq!(
            compiled(&[rule(Protocol::Tcp, "192.0.2.0/24", "1-65535", "127.0.0.1:40001")]),
            [(
                Family::Ipv4,
                "*mangle\n\
                 :SPECTRUM-7 - [0:0]\n\
                 -A PREROUTING -d 192.0.2.0/24 -p tcp -j SPECTRUM-7\n\
                 -A SPECTRUM-7 -p tcp -m tcp ! --syn -m socket -j RETURN\n\
                 -A SPECTRUM-7 -d 192.0.2.0/24 -p tcp -j TPROXY --on-ip 127.0.0.1 --on-port 40001\n\
                 COMMIT\n"
                    .to_owned()
            )]
        );
    }

    #[test]
    fn longer_prefixes_then_narrower_ranges_come_first() {
        let rules = [
            rule(Protocol::Udp, "2001:db8::/64", "53", "[::1]:40005"),
            rule(Protocol::Tcp, "2001:db8::/32", "80-90", "[::1]:40001"),
            rule(Protocol::Tcp, "2001:db8::/64", "1-65535", "[::1]:40002"),
            rule(Protocol::Tcp, "2001:db8::/64", "443", "[::1]:40003"),
            rule(Protocol::Tcp, "2001:db8:1::1/128", "1-65535", "[::1]:40004"),
        ];
        let mut reversed = rules;
        reversed.reverse();
        assert_eq!(compiled(&rules), compiled(&reversed));
        assert_eq!(
            compiled(&rules),
            [(
                Family::Ipv6,
                "*mangle\n\
                 :SPECTRUM-7 - [0:0]\n\
                 -A PREROUTING -d 2001:db8::/32 -p tcp -j SPECTRUM-7\n\
                 -A PREROUTING -d 2001:db8::/64 -p udp -j SPECTRUM-7\n\
                 -A SPECTRUM-7 -p tcp -m tcp ! --syn -m socket -j RETURN\n\
                 -A SPECTRUM-7 -d 2001:db8:1::1/128 -p tcp -j TPROXY --on-ip ::1 --on-port 40004\n\
                 -A SPECTRUM-7 -d 2001:db8::/64 -p tcp -m tcp --dport 443 -j TPROXY --on-ip ::1 --on-port 40003\n\
                 -A SPECTRUM-7 -d 2001:db8::/64 -p tcp -j TPROXY --on-ip ::1 --on-port 40002\n\
                 -A SPECTRUM-7 -d 2001:db8::/32 -p tcp -m tcp --dport 80:90 -j TPROXY --on-ip ::1 --on-port 40001\n\
                 -A SPECTRUM-7 -d 2001:db8::/64 -p udp -m udp --dport 53 -j TPROXY --on-ip ::1 --on-port 40005\n\
                 COMMIT\n"
                    .to_owned()
            )]
        );
    }

    #[test]
    fn families_have_texts_of_their_own() {
        let families: Vec<Family> = compiled(&[
            rule(Protocol::Tcp, "192.0.2.0/24", "80", "127.0.0.1:40001"),
            rule(Protocol::Tcp, "2001:db8::/64", "80", "[::1]:40002"),
        ])
        .into_iter()
        .map(|(family, _)| family)
        .collect();
        assert_eq!(families, [Family::Ipv4, Family::Ipv6]);
        assert!(compiled(&[]).is_empty());
    }

    #[test]
    fn everything_means_the_addresses_of_the_host() {
        let texts = compiled(&[rule(Protocol::Tcp, "0.0.0.0/0", "22", "127.0.0.1:40001")]);
        assert!(texts[0].1.contains("-A PREROUTING -p tcp -j SPECTRUM-7\n"), "{}", texts[0].1);
        assert!(texts[0].1.contains(
            "-A SPECTRUM-7 -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 22 -j TPROXY --on-ip 127.0.0.1 --on-port 40001\n"
        ));
    }

    #[test]
    fn many_prefixes_share_one_jump() {
        let rules: Vec<Rule> =
            (0..100).map(|i| rule(Protocol::Tcp, &format!("192.0.2.{i}"), "80", "127.0.0.1:40001")).collect();
        let texts = compiled(&rules);
        assert_eq!(texts[0].1.matches("-A PREROUTING").count(), 1);
        assert!(texts[0].1.contains("-A PREROUTING -p tcp -j SPECTRUM-7\n"));
    }

    #[test]
    fn chain_names_fit_the_legacy_limit_of_28() {
        assert!(Chain::of("ffffff").as_str().len() <= 28);
    }

    #[test]
    fn more_rules_than_lookups_can_bear_are_refused_with_the_number() {
        let rules = (0..=MAX_RULES)
            .map(|i| {
                rule(
                    Protocol::Tcp,
                    &std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(i).unwrap()).to_string(),
                    "80",
                    "127.0.0.1:40001",
                )
            })
            .collect();
        let error = texts(&Chain::of(7), &Firewall::of(rules)).unwrap_err().to_string();
        assert!(error.contains("5001") && error.contains("--firewall nftables"), "{error}");
    }

    #[test]
    fn interfaces_are_rules_and_the_rest_of_a_policy_is_judged_elsewhere() {
        let listener = "127.0.0.1:40001".parse().unwrap();
        let denial = Denial {
            family: Family::Ipv4,
            listeners: vec![(Protocol::Tcp, listener)],
            on_deny: OnDeny::Refuse,
            ranges: vec![("10.0.0.0".parse().unwrap(), "10.0.0.9".parse().unwrap())],
            rate: None,
            interfaces: BTreeSet::new(),
            may_change: true,
        };
        let rules = [("192.0.2.0/24", "80", "127.0.0.1:40001"), ("192.0.2.0/24", "81", "127.0.0.1:40002")];
        let rules = rules.map(|(prefix, ports, to)| rule(Protocol::Tcp, prefix, ports, to));
        let firewall = Firewall::of(rules.to_vec());
        let without = texts(&Chain::of(7), &firewall).unwrap();
        let lists = firewall.clone().denying(vec![denial.clone()]);
        assert_eq!(texts(&Chain::of(7), &lists).unwrap(), without);
        let interfaces = ["eth0", "lo"].map(|name| name.parse().unwrap()).into();
        let denial = Denial { interfaces, ..denial };
        let text =
            texts(&Chain::of(7), &firewall.denying(vec![denial])).unwrap().remove(&Family::Ipv4).unwrap();
        let (expected, to) = ("-A SPECTRUM-7 -d 192.0.2.0/24", "-j TPROXY --on-ip 127.0.0.1 --on-port 4000");
        let expected = format!(
            "{expected} -i eth0 -p tcp -m tcp --dport 80 {to}1\n{expected} -i lo -p tcp -m tcp --dport 80 {to}1\n\
             {expected} -p tcp -m tcp --dport 80 -j DROP\n{expected} -p tcp -m tcp --dport 81 {to}2\nCOMMIT\n"
        );
        assert!(text.ends_with(&expected), "{text}");
    }

    #[test]
    fn a_replacement_deletes_the_old_jumps_in_the_same_commit() {
        let text = compiled(&[rule(Protocol::Tcp, "198.51.100.0/24", "80", "127.0.0.1:40002")]).remove(0).1;
        assert_eq!(
            replacement(&SAVED.replace("SPECTRUM-1", "SPECTRUM-7"), &Chain::of(7), &text),
            "*mangle\n\
             :SPECTRUM-7 - [0:0]\n\
             -D PREROUTING -d 192.0.2.0/24 -p tcp -j SPECTRUM-7\n\
             -D PREROUTING -p udp -m comment --comment \"by hand\" -j SPECTRUM-7\n\
             -A PREROUTING -d 198.51.100.0/24 -p tcp -j SPECTRUM-7\n\
             -A SPECTRUM-7 -p tcp -m tcp ! --syn -m socket -j RETURN\n\
             -A SPECTRUM-7 -d 198.51.100.0/24 -p tcp -m tcp --dport 80 -j TPROXY --on-ip 127.0.0.1 --on-port 40002\n\
             COMMIT\n"
        );
    }

    const SAVED: &str = "# Generated by iptables-save\n\
        *mangle\n\
        :PREROUTING ACCEPT [0:0]\n\
        :INPUT ACCEPT [0:0]\n\
        :SPECTRUM-1 - [0:0]\n\
        :SPECTRUM-2 - [0:0]\n\
        :SPECTRAL - [0:0]\n\
        -A PREROUTING -d 192.0.2.0/24 -p tcp -j SPECTRUM-1\n\
        -A PREROUTING -d 198.51.100.0/24 -p tcp -j SPECTRUM-2\n\
        -A PREROUTING -p tcp -j SPECTRAL\n\
        -A PREROUTING -p udp -m comment --comment \"by hand\" -j SPECTRUM-1\n\
        -A SPECTRUM-1 -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m socket -j RETURN\n\
        -A SPECTRUM-1 -d 192.0.2.0/24 -p tcp -j TPROXY --on-port 40001 --on-ip 127.0.0.1 --tproxy-mark 0x0/0x0\n\
        COMMIT\n";

    #[test]
    fn only_our_chains_are_listed() {
        assert_eq!(chains(SAVED), BTreeSet::from([Chain::of(1), Chain::of(2)]));
        assert!(chains("").is_empty());
    }

    #[test]
    fn a_chain_is_removed_with_the_jumps_to_it_and_nothing_else() {
        assert_eq!(
            removal(SAVED, &BTreeSet::from([Chain::of(1), Chain::of(9)])).unwrap(),
            "*mangle\n\
             -D PREROUTING -d 192.0.2.0/24 -p tcp -j SPECTRUM-1\n\
             -D PREROUTING -p udp -m comment --comment \"by hand\" -j SPECTRUM-1\n\
             -F SPECTRUM-1\n\
             -X SPECTRUM-1\n\
             COMMIT\n"
        );
    }

    #[test]
    fn nothing_is_removed_where_there_is_nothing() {
        assert_eq!(removal(SAVED, &BTreeSet::from([Chain::of(9)])), None);
        assert_eq!(removal(SAVED, &BTreeSet::new()), None);
    }

    #[test]
    fn a_table_with_empty_accepting_chains_is_bare() {
        let listing = "# Warning: table ip mangle is managed by iptables-nft, do not touch!\n\
            table ip mangle {\n\
            \tchain PREROUTING {\n\
            \t\ttype filter hook prerouting priority mangle; policy accept;\n\
            \t}\n\
            }\n";
        assert!(is_bare(listing));
        assert!(!is_bare(&listing.replace("policy accept", "policy drop")));
        assert!(!is_bare(&listing.replace("\t}\n", "\t\tmeta l4proto tcp accept\n\t}\n")));
        assert!(!is_bare(&listing.replace("chain PREROUTING", "set PREROUTING")));
    }
}
