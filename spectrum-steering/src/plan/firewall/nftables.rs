//! The rules as texts for `nft -f -`. Runs nothing.
//!
//! A table for each family that has bindings:
//!
//! ```text
//! table ip spectrum-4711 {
//!     map gen1-tcp {
//!         type ipv4_addr : verdict; flags interval
//!         elements = { 192.0.2.0-192.0.2.6 : goto gen1-to-tcp-40001, 192.0.2.7 : goto gen1-ports-tcp-1, … }
//!     }
//!     chain gen1-to-tcp-40001 { meta l4proto tcp tproxy to 127.0.0.1:40001 }
//!     chain gen1-ports-tcp-1 { tcp dport vmap { 80 : goto gen1-to-tcp-40002, 81-65535 : goto gen1-to-tcp-40001 } }
//!     chain prerouting { type filter hook prerouting priority mangle; meta l4proto tcp ip daddr vmap @gen1-tcp }
//! }
//! ```
//!
//! Precedence is resolved here and by the code that resolves it for the steering table: the map holds disjoint pieces
//! of the address space, each with what is bound there, so a packet costs one search among addresses and one among
//! ports, however many bindings there are. One map of addresses concatenated with ports would cost the kernel a pass
//! over bitmaps as long as the number of elements.
//!
//! A listener with a policy has a set of the sources that it denies, asked before the statement that steers: of TCP about SYNs
//! alone, since what an open connection says is nobody's to deny. Where connections are refused they are refused before the
//! handshake, as over `sk_lookup`.
//!
//! ```text
//!     counter denied-tcp-40001 { }
//!     set gen1-counted-tcp-1 { type ipv4_addr; size 65536; flags dynamic,timeout; timeout 4s; }
//!     set gen1-denied-1 { type ipv4_addr; flags interval; elements = { 203.0.113.0-203.0.113.255, … } }
//!     chain gen1-to-tcp-40001 {
//!         tcp flags & (fin | syn | rst | ack) == syn iifname != { "eth0" } counter name "interface-tcp-40001" reject with tcp reset
//!         tcp flags & (fin | syn | rst | ack) == syn ip saddr @gen1-denied-1 counter name "denied-tcp-40001" reject with tcp reset
//!         tcp flags & (fin | syn | rst | ack) == syn update @gen1-counted-tcp-1 { ip saddr limit rate over 50/second burst 100 packets }
//!             counter name "rate-tcp-40001" reject with tcp reset
//!         meta l4proto tcp tproxy to 127.0.0.1:40001
//!     }
//! ```
//!
//! Where sockets of other programs are registered the chain ends otherwise: `tproxy to 127.0.0.1:443 accept`, and then SYNs are
//! rejected. Whose server has ended is refused by the rules themselves. Where several share the clients, a hash leads to one of them, and where
//! that is closed to another:
//!
//! ```text
//!     chain gen1-to-tcp-registered-0-1 {
//!         meta l4proto tcp tproxy to 127.0.0.1:8001 accept
//!         meta l4proto tcp tproxy to 127.0.0.1:8002 accept
//!         tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset
//!     }
//!     chain gen1-to-tcp-registered-0 { jhash ip saddr . tcp sport mod 4096 seed 0x… vmap { 0 : goto gen1-to-tcp-registered-0-1, … } }
//! ```
//!
//! There is no guard as in iptables, because the statement is kinder than the target: where the packet's connection
//! belongs to a socket that is not transparent, or nobody listens, it lets the packet go on instead of dropping it. So
//! replies to clients of this host find their sockets, TCP and UDP alike; the last ACK of a handshake answered with a
//! SYN cookie finds our listener; and rules that a killed instance left steer nothing.
//!
//! A replacement is three transactions: everything is made anew beside the old, the rules of the one base chain are
//! exchanged, and the old goes. The packet that is being looked up during the exchange has begun with the rules of one
//! generation, and finds the map and chains of that generation intact. Were the table deleted and made again, or a map
//! refilled in place, it could find the rules of one generation and the elements of the other. Making the maps in the
//! transaction that exchanges the rules is no better: the kernel turns to the new rules before it publishes the
//! elements of new maps, and 6.18 was seen to lose every connection for half a millisecond with 3,000 of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use spectrum_common::{DenyReason, Value, hash_of};

use super::{
    Chain, ChainPart, ChainPlace, Denial, Firewall, Rule, SharedSlot, Sharing, TableFamily, TooManyBindings,
};
use crate::model::{DestinationId, Family, OnDeny, Protocol, SourceRate};
use crate::plan::PlannedBinding;
use crate::plan::table::ports::PortMaps;
use crate::plan::table::prefixes::{self, BoundPrefix};

/// More elements than this are refused: loading as many takes several seconds.
pub(crate) const MAX_ELEMENTS: usize = 200_000;

/// Sources that one set counts: some 15 MiB of the kernel's memory where they all come.
const MAX_COUNTED: usize = 65_536;

/// What begins and ends the elements of a set, of which each has a line.
const ELEMENTS: &str = "elements = { ";
const ELEMENTS_END: &str = "}; ";

/// The one base chain of a table.
const BASE: &str = "prerouting";

/// One generation of the rules, and the names of what it consists of.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub(crate) struct Ruleset {
    table: String,
    generation: u64,
    families: BTreeMap<Family, Contents>,
}

/// What is to be known of listeners besides.
#[derive(Clone, Copy, Debug)]
struct Others<'a> {
    denials: &'a [&'a Denial],
    shares: &'a [Sharing],
    /// That of the hash by which clients have slots: one for the life of a chain, or they would move.
    seed: u32,
}

/// The content of a table for one generation.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
struct Contents {
    /// Sets of denied sources, name and definition.
    sets: Vec<(String, String)>,
    /// Maps in the order of making them, name and definition.
    maps: Vec<(String, String)>,
    /// Chains in the order of making them: those that are gone to come first.
    chains: Vec<(String, String)>,
    /// The rules of the base chain.
    rules: Vec<String>,
    elements: usize,
    /// What counts those that are turned away; other generations may have the same.
    #[serde(default)]
    counters: BTreeSet<String>,
}

/// The three transactions of a replacement.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Replacement {
    /// Makes what the new rules refer to.
    pub(crate) preparation: String,
    /// Traffic follows the new rules after it.
    pub(crate) exchange: String,
    /// Removes what nothing refers to any more.
    pub(crate) cleanup: String,
    /// Removes what the preparation made, where the exchange failed.
    pub(crate) retreat: String,
}

impl Ruleset {
    /// Compiles the first generation of `firewall` into the table that belongs to `chain`.
    pub(crate) fn compile(chain: &Chain, firewall: &Firewall) -> Result<Self, TooManyBindings> {
        Self::generation(chain, firewall, 1)
    }

    /// Compiles the generation that follows this one.
    pub(crate) fn next(&self, chain: &Chain, firewall: &Firewall) -> Result<Self, TooManyBindings> {
        Self::generation(chain, firewall, self.generation + 1)
    }

    /// True if it is what this program would make of `firewall`.
    pub(crate) fn is_of(&self, chain: &Chain, firewall: &Firewall) -> bool {
        Self::generation(chain, firewall, self.generation).as_ref() == Ok(self)
    }

    fn generation(chain: &Chain, firewall: &Firewall, generation: u64) -> Result<Self, TooManyBindings> {
        let mut families = BTreeMap::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let mut contents = Contents::default();
            let denials: Vec<&Denial> =
                firewall.denials().iter().filter(|denial| denial.family == family).collect();
            contents.add_sets(family, &denials, generation);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let rules: Vec<&Rule> = firewall
                    .rules()
                    .iter()
                    .filter(|rule| rule.binding.family() == family && rule.binding.protocol == protocol)
                    .collect();
                if !rules.is_empty() {
                    let others = Others { denials: &denials, shares: firewall.shares(), seed: seed(chain) };
                    contents.add(family, protocol, &rules, &others, generation);
                }
            }
            if !contents.rules.is_empty() {
                families.insert(family, contents);
            }
        }
        let count = families.values().map(|contents| contents.elements).sum();
        if count > MAX_ELEMENTS {
            return Err(TooManyBindings::Nftables { count, limit: MAX_ELEMENTS });
        }
        Ok(Self { table: chain.table(), generation, families })
    }

    /// The transaction that makes the tables, in place of any of the same name.
    #[must_use]
    pub(crate) fn creation(&self) -> String {
        self.families.iter().fold(String::new(), |text, (family, contents)| {
            let table = self.table(*family);
            // Only what is there can be deleted, so it is made first.
            text + &format!("{table}\ndelete {table}\n")
                + &contents.preparation(&table)
                + &contents.exchange(&table)
        })
    }

    /// The replacement of `old`, the generation before this one, by which every packet meets either.
    #[must_use]
    pub(crate) fn replacement(&self, old: &Self) -> Replacement {
        let mut replacement = Replacement::default();
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = self.table(family);
            match (old.families.get(&family), self.families.get(&family)) {
                (None, None) => {}
                (Some(_), None) => replacement.exchange += &["delete ", &table, "\n"].concat(),
                (before, Some(contents)) => {
                    replacement.preparation += &contents.preparation(&table);
                    replacement.exchange += &contents.exchange(&table);
                    if let Some(before) = before {
                        replacement.cleanup += &before.deletion(&table, contents);
                        replacement.retreat += &contents.deletion(&table, before);
                    } else {
                        replacement.retreat += &["delete ", &table, "\n"].concat();
                    }
                }
            }
        }
        replacement
    }

    /// What makes this the ruleset of `firewall`, where that takes other elements of sets and nothing else, and the ruleset that it is
    /// then.
    pub(crate) fn amended(&self, chain: &Chain, firewall: &Firewall) -> Option<(String, Self)> {
        let next = Self::generation(chain, firewall, self.generation).ok()?;
        if !next.families.keys().eq(self.families.keys()) {
            return None;
        }
        let mut text = String::new();
        for (family, contents) in &next.families {
            text += &self.families.get(family)?.amendment(bare(&self.table(*family)), contents)?;
        }
        Some((text, next))
    }

    /// The families that have tables.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        self.families.keys().copied()
    }

    fn table(&self, family: Family) -> String {
        format!("table {} {}", TableFamily::from(family).keyword(), self.table)
    }
}

impl Contents {
    /// Adds a set for each of `denials`.
    fn add_sets(&mut self, family: Family, denials: &[&Denial], generation: u64) {
        let kind = match family {
            Family::Ipv4 => "ipv4_addr",
            Family::Ipv6 => "ipv6_addr",
        };
        for (number, denial) in denials.iter().enumerate() {
            let sets = SetNames { generation, number };
            if let Some(rate) = denial.rate {
                // Whoever is silent for so long may come as if it were new. Where the set is full, whoever is new may come.
                let seconds = rate.memory().as_secs() + 2;
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    self.sets.push((
                        sets.counted(protocol),
                        format!(
                            "type {kind}; size {MAX_COUNTED}; flags dynamic,timeout; timeout {seconds}s; "
                        ),
                    ));
                }
            }
            if denial.has_no_set() {
                continue;
            }
            self.elements += denial.ranges.len();
            let mut definition = format!("type {kind}; flags interval; ");
            if denial.ranges.is_empty() {
                self.sets.push((sets.denied(), definition));
                continue;
            }
            definition.push_str(ELEMENTS);
            for (first, last) in &denial.ranges {
                // Writing to a string cannot fail.
                let _ = if first == last {
                    writeln!(definition, "{first},")
                } else {
                    writeln!(definition, "{first}-{last},")
                };
            }
            definition.push_str(ELEMENTS_END);
            self.sets.push((sets.denied(), definition));
        }
    }

    /// Adds the rules of one protocol, which are of one family.
    fn add(
        &mut self,
        family: Family,
        protocol: Protocol,
        rules: &[&Rule],
        others: &Others<'_>,
        generation: u64,
    ) {
        let Others { denials, shares, seed } = *others;
        let mut listeners: Vec<SocketAddr> = rules.iter().map(|rule| rule.listener).collect();
        listeners.sort_unstable();
        listeners.dedup();
        for listener in &listeners {
            let denial = denials.iter().position(|one| one.listeners.contains(&(protocol, *listener)));
            let refusals = denial.and_then(|number| {
                let sets = SetNames { generation, number };
                Some(refusals(protocol, *listener, denials.get(number)?, &sets))
            });
            let refusals = refusals.unwrap_or_default();
            self.counters.extend(refusals.iter().map(|refusal| refusal.counter.clone()));
            let rules: String = refusals.into_iter().map(|refusal| refusal.rule + "\n").collect();
            let share = shares.iter().find(|one| one.protocol == protocol && one.listener == *listener);
            let name = to(generation, protocol, *listener);
            let steer = match share {
                None => format!("meta l4proto {protocol} tproxy to {listener}"),
                Some(share) => self.add_share(&name, share, family, seed),
            };
            self.chains.push((name, rules + &steer));
        }
        let planned: Vec<PlannedBinding> = rules
            .iter()
            .filter_map(|rule| {
                let index = listeners.binary_search(&rule.listener).ok()?;
                let destination = DestinationId(u32::try_from(index).ok()?);
                Some(PlannedBinding { binding: rule.binding, destination })
            })
            .collect();
        let mut maps = PortMaps::from_node(0);
        let prefixes = prefixes::resolve(planned.iter(), &mut maps, |id| Value::destination(id.0));

        let to_listener = |value: Value| {
            let listener = listeners.get(value.as_destination()? as usize)?;
            Some(to(generation, protocol, *listener))
        };
        let mut names: HashMap<Value, String> = HashMap::new();
        for (value, intervals) in maps.iter() {
            if let Some(chain) = to_listener(value) {
                names.insert(value, chain);
            } else if value.as_ports().is_some() {
                let name = format!("gen{generation}-ports-{protocol}-{}", names.len() + 1);
                let elements = ports(intervals, to_listener);
                self.elements += elements.len();
                self.chains
                    .push((name.clone(), format!("{protocol} dport vmap {{ {} }}", elements.join(", "))));
                names.insert(value, name);
            }
        }
        let name_of = |value: &Value| names.get(value).cloned().unwrap_or_default();

        // That of length 0 has no local route; see below.
        let routed = prefixes.iter().position(|prefix| prefix.length > 0).unwrap_or(prefixes.len());
        let pieces = pieces(prefixes.get(routed..).unwrap_or_default());
        if !pieces.is_empty() {
            self.elements += pieces.len();
            let map = format!("gen{generation}-{protocol}");
            let (kind, field) = match family {
                Family::Ipv4 => ("ipv4_addr", "ip daddr"),
                Family::Ipv6 => ("ipv6_addr", "ip6 daddr"),
            };
            let mut definition = format!("type {kind} : verdict; flags interval; elements = {{ ");
            for piece in &pieces {
                // Writing to a string cannot fail.
                let _ = writeln!(definition, "{} : goto {},", piece.range(family), name_of(&piece.value));
            }
            definition.push_str("}; ");
            self.maps.push((map.clone(), definition));
            self.rules.push(format!("meta l4proto {protocol} {field} vmap @{map}"));
        }
        if let Some(everything) = prefixes.first().filter(|prefix| prefix.length == 0) {
            // It has no local route. A packet that is forwarded must not get a socket: the kernel would drop it.
            self.rules.push(format!(
                "meta l4proto {protocol} fib daddr type local goto {}",
                name_of(&everything.value)
            ));
        }
    }

    /// The rules by which `share` gives packets to sockets of other programs. Where several share the clients a chain is added for each pair of
    /// them, whose names begin with `name`, and the hash of a client's address and port leads to one: the same for the first packet of a
    /// handshake and the last.
    fn add_share(&mut self, name: &str, share: &Sharing, family: Family, seed: u32) -> String {
        let protocol = share.protocol;
        let one = match share.slots.as_slice() {
            [] => return steer_to_others(protocol, None, family),
            [one] => return steer_to_others(protocol, Some(one), family),
            several => several,
        };
        let pairs: BTreeSet<&SharedSlot> = one.iter().collect();
        let numbers: HashMap<&SharedSlot, usize> = pairs.into_iter().zip(1..).collect();
        let mut chains: Vec<_> = numbers.iter().collect();
        chains.sort_unstable_by_key(|(_, number)| **number);
        for (slot, number) in chains {
            self.chains.push((format!("{name}-{number}"), steer_to_others(protocol, Some(slot), family)));
        }
        let source = match family {
            Family::Ipv4 => "ip saddr",
            Family::Ipv6 => "ip6 saddr",
        };
        let elements: Vec<String> = (0..)
            .zip(one)
            .filter_map(|(index, slot): (usize, _)| {
                Some(format!("{index} : goto {name}-{}", numbers.get(slot)?))
            })
            .collect();
        self.elements += elements.len();
        format!(
            "jhash {source} . {protocol} sport mod {} seed {seed:#x} vmap {{ {} }}",
            elements.len(),
            elements.join(", ")
        )
    }

    /// Makes all but the rules of the base chain.
    fn preparation(&self, table: &str) -> String {
        let chains = self.chains.iter().map(|(name, body)| format!("chain {name} {{\n{body}\n}}\n"));
        let maps = self.maps.iter().map(|(name, body)| format!("map {name} {{ {body}}}\n"));
        let base =
            format!("chain {BASE} {{\ntype filter hook prerouting priority mangle; policy accept;\n}}\n");
        let sets = self.sets.iter().map(|(name, body)| format!("set {name} {{ {body}}}\n"));
        let counters = self.counters.iter().map(|name| format!("counter {name} {{ }}\n"));
        let contents: String = counters.chain(sets).chain(chains).chain(maps).chain([base]).collect();
        format!("{table} {{\n{contents}}}\n")
    }

    /// Puts these rules in place of those that the base chain has.
    fn exchange(&self, table: &str) -> String {
        let rules = self.rules.join("\n");
        format!("flush chain {} {BASE}\n{table} {{\nchain {BASE} {{\n{rules}\n}}\n}}\n", bare(table))
    }

    /// What makes the sets of `table` those of `next`; `None` where more is different than their elements.
    fn amendment(&self, table: &str, next: &Self) -> Option<String> {
        let is_same = self.maps == next.maps
            && self.chains == next.chains
            && self.rules == next.rules
            && self.counters == next.counters
            && self.sets.len() == next.sets.len();
        if !is_same {
            return None;
        }
        let mut text = String::new();
        for ((name, before), (next_name, after)) in self.sets.iter().zip(&next.sets) {
            let ((head, before), (next_head, after)) = (elements(before), elements(after));
            if (name, head) != (next_name, next_head) {
                return None;
            }
            for (verb, these, those) in [("delete", &before, &after), ("add", &after, &before)] {
                let changed: Vec<&str> = these.difference(those).copied().collect();
                if !changed.is_empty() {
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{verb} element {table} {name} {{ {} }}", changed.join(", "));
                }
            }
        }
        Some(text)
    }

    /// Deletes all but the base chain and what `stays` counts with too; what refers to others goes before them.
    fn deletion(&self, table: &str, stays: &Self) -> String {
        let table = bare(table);
        let maps = self.maps.iter().map(|(name, _)| format!("delete map {table} {name}\n"));
        let chains = || self.chains.iter().rev();
        let flushed = chains().map(|(name, _)| format!("flush chain {table} {name}\n"));
        let deleted = chains().map(|(name, _)| format!("delete chain {table} {name}\n"));
        let sets = self.sets.iter().map(|(name, _)| format!("delete set {table} {name}\n"));
        let counters = self.counters.difference(&stays.counters);
        let counters = counters.map(|name| format!("delete counter {table} {name}\n"));
        maps.chain(flushed).chain(deleted).chain(sets).chain(counters).collect()
    }
}

/// The definition of a set without its elements, and these.
fn elements(definition: &str) -> (&str, BTreeSet<&str>) {
    let Some((head, listed)) = definition.split_once(ELEMENTS) else { return (definition, BTreeSet::new()) };
    let listed = listed.trim_end_matches(ELEMENTS_END);
    (head, listed.lines().map(|line| line.trim_end_matches(',')).collect())
}

/// The table's family and name, as the commands want it that name what is in a table.
fn bare(table: &str) -> &str {
    table.trim_start_matches("table ")
}

/// The names of the sets of one [`Denial`].
#[derive(Clone, Copy, Debug)]
struct SetNames {
    generation: u64,
    /// The first is 0.
    number: usize,
}

impl SetNames {
    /// The denied sources.
    fn denied(self) -> String {
        format!("gen{}-denied-{}", self.generation, self.number + 1)
    }

    /// The sources that are counted.
    fn counted(self, protocol: Protocol) -> String {
        format!("gen{}-counted-{protocol}-{}", self.generation, self.number + 1)
    }
}

/// A rule that turns clients away, and the name of what counts them.
#[derive(Clone, Debug, Eq, PartialEq)]
struct DenialRule {
    rule: String,
    counter: String,
}

/// The rules that give packets to the sockets of other programs that a slot names, and refuse a client whom nobody would hear: it must not
/// come to whoever has the port that it dials. What open connections and answers to this host consist of goes on.
fn steer_to_others(protocol: Protocol, slot: Option<&SharedSlot>, family: Family) -> String {
    let refuse = format!("{} {}", begins(protocol), refuse(protocol, family));
    let Some(SharedSlot { first, next }) = slot else { return refuse };
    let give = |to: &SocketAddr| format!("meta l4proto {protocol} tproxy to {to} accept\n");
    let given: String = std::iter::once(first).chain(next).map(give).collect();
    match protocol {
        Protocol::Tcp => given + &refuse,
        // Which of those that find no socket are answers to this host, no rule can tell.
        Protocol::Udp => given,
    }
}

/// The seed of the hashes of a chain's rules.
fn seed(chain: &Chain) -> u32 {
    let hash = chain.as_str().bytes().fold(0, |hash, byte| hash_of([0; 2], [hash, byte.into()]));
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// What is true of packets that begin something.
fn begins(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp flags & (fin | syn | rst | ack) == syn",
        Protocol::Udp => "meta l4proto udp",
    }
}

/// The verdict that tells a client that nobody is there.
fn refuse(protocol: Protocol, family: Family) -> &'static str {
    match (protocol, family) {
        (Protocol::Tcp, _) => "reject with tcp reset",
        (Protocol::Udp, Family::Ipv4) => "reject with icmp type port-unreachable",
        (Protocol::Udp, Family::Ipv6) => "reject with icmpv6 type port-unreachable",
    }
}

/// The rules that turn away whom `denial` names, in the order in which the steering table judges.
fn refusals(protocol: Protocol, listener: SocketAddr, denial: &Denial, sets: &SetNames) -> Vec<DenialRule> {
    let Denial { family, on_deny, .. } = *denial;
    let source = match family {
        Family::Ipv4 => "ip saddr",
        Family::Ipv6 => "ip6 saddr",
    };
    let begins = begins(protocol);
    let verdict = match on_deny {
        OnDeny::Silent => "drop",
        OnDeny::Refuse => refuse(protocol, family),
    };
    let rule = |reason: DenyReason, matched: &str| {
        let counter = counter(reason, protocol, listener);
        DenialRule { rule: format!("{begins} {matched} counter name \"{counter}\" {verdict}"), counter }
    };
    let names: Vec<String> = denial.interfaces.iter().map(|name| format!("\"{name}\"")).collect();
    let interface = (!names.is_empty()).then(|| format!("iifname != {{ {} }}", names.join(", ")));
    let denied = (!denial.has_no_set()).then(|| format!("{source} @{}", sets.denied()));
    let rate = denial.rate.map(|rate| {
        let masked = match (family, rate.length(family)) {
            (Family::Ipv4, 32) | (Family::Ipv6, 128) => source.to_owned(),
            (family, _) => format!("{source} & {}", mask(family, rate)),
        };
        format!("update @{} {{ {masked} limit rate over {} }}", sets.counted(protocol), rate.in_nftables())
    });
    [(DenyReason::Interface, interface), (DenyReason::Denied, denied), (DenyReason::Rate, rate)]
        .into_iter()
        .filter_map(|(reason, matched)| Some(rule(reason, &matched?)))
        .collect()
}

/// The bits that are counted, as an address.
fn mask(family: Family, rate: SourceRate) -> IpAddr {
    let mask = rate.mask(family);
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits((mask.hi >> 32) as u32)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(u128::from(mask.hi) << 64 | u128::from(mask.lo))),
    }
}

/// The name of what counts whom a listener's rules turn away. It is no generation's, so that the next one counts on.
pub(crate) fn counter(reason: DenyReason, protocol: Protocol, listener: SocketAddr) -> String {
    format!("{}-{}", reason.word(), place(protocol, listener))
}

/// A listener, as names have it.
fn place(protocol: Protocol, listener: SocketAddr) -> String {
    if listener.ip().is_unspecified() {
        // The name of others' sockets.
        return format!("{protocol}-registered-{}", listener.port() - 1);
    }
    // Those that share a port differ in the end of their address.
    let last = match listener.ip() {
        IpAddr::V4(address) => address.octets()[3].into(),
        IpAddr::V6(address) => address.segments()[7],
    };
    let beside = if last == 1 { String::new() } else { format!("-{last}") };
    format!("{protocol}-{}{beside}", listener.port())
}

/// The name of the chain that leads to a listener.
fn to(generation: u64, protocol: Protocol, listener: SocketAddr) -> String {
    format!("gen{generation}-to-{}", place(protocol, listener))
}

/// The elements of a map of ports: ranges and the chains they lead to.
fn ports(intervals: &[(u16, Value)], chain: impl Fn(Value) -> Option<String>) -> Vec<String> {
    let lasts = intervals.iter().skip(1).map(|(next, _)| next - 1).chain([u16::MAX]);
    intervals
        .iter()
        .zip(lasts)
        .filter_map(|((first, value), last)| {
            let (first, chain) = ((*first).max(1), chain(*value)?);
            Some(if first == last {
                format!("{first} : goto {chain}")
            } else {
                format!("{first}-{last} : goto {chain}")
            })
        })
        .collect()
}

/// Addresses that follow each other and have the same bound to them. IPv4 addresses stand in the upper 32 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    first: u128,
    last: u128,
    /// What is said of all of them.
    pub(super) value: Value,
}

impl Piece {
    /// The first and the last address.
    pub(super) fn bounds(&self, family: Family) -> (IpAddr, IpAddr) {
        let address = |bits: u128| match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        (address(self.first), address(self.last))
    }

    fn range(&self, family: Family) -> String {
        let (first, last) = self.bounds(family);
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    }
}

/// Flattens prefixes, which come in the order that [`prefixes::resolve`] gives them: of two that contain an address the
/// longer one says what is bound there, its value accounting for the shorter.
pub(super) fn pieces(prefixes: &[BoundPrefix]) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    let mut open: Vec<Piece> = Vec::new();
    for prefix in prefixes {
        let first = u128::from(prefix.address.hi) << 64 | u128::from(prefix.address.lo);
        let last = first | u128::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
        while let Some(outer) = open.pop_if(|outer| outer.last < first) {
            pieces.extend(outer.last, outer.value);
        }
        if let (Some(outer), Some(before)) = (open.last(), first.checked_sub(1)) {
            pieces.extend(before, outer.value);
        }
        pieces.next = Some(first);
        open.push(Piece { first, last, value: prefix.value });
    }
    while let Some(outer) = open.pop() {
        pieces.extend(outer.last, outer.value);
    }
    pieces.done
}

/// Pieces in ascending order.
#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
    /// The lowest address not dealt with; none beyond the highest there is.
    next: Option<u128>,
}

impl Pieces {
    /// Gives what is left up to `last` the value `value`.
    fn extend(&mut self, last: u128, value: Value) {
        let Some(first) = self.next.filter(|next| *next <= last) else { return };
        match self.done.last_mut() {
            Some(before) if before.value == value && before.last.checked_add(1) == Some(first) => {
                before.last = last;
            }
            _ => self.done.push(Piece { first, last, value }),
        }
        self.next = last.checked_add(1);
    }
}

/// Our tables in what `nft list tables` printed.
pub(crate) fn tables(listed: &str) -> impl Iterator<Item = ChainPart> {
    listed.lines().filter_map(|line| {
        let (family, name) = line.trim().strip_prefix("table ")?.split_once(' ')?;
        let family = TableFamily::of_keyword(family)?;
        if let Ok(chain) = Chain::of_table(name) {
            return Some(ChainPart { chain, place: ChainPlace::Table(family) });
        }
        let chain = Chain::of_exempting_table(name).ok().filter(|_| family == TableFamily::Inet)?;
        Some(ChainPart { chain, place: ChainPlace::Exemption })
    })
}

#[cfg(test)]
mod tests;
