//! What a service's connections can go to now: its origins with the addresses that their names have, best tier first. A value
//! made anew whenever names change; what changes with each connection or check is in the standings and healths it refers to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::balance::{Candidate, client_key, score, seed};
use super::health::Health;
use super::own_bindings::{Barred, LoopJudgement, Rest};
use super::refusal::AddressRefusal;
use super::resolver::{Resolution, ResolvedTarget, Unused};
use super::standing::Standing;
use crate::model::{
    Balance, Origin, OriginHost, OriginRole, Origins, PortRange, Protocol, ServiceName, Weight,
};
use crate::report::DialFailure;

/// The share of weight 1, so that the records of a service can divide it among themselves.
const SHARE: u32 = 1 << 16;

/// The members to choose from.
#[derive(Debug)]
pub(crate) struct Roster {
    /// The best tier first.
    pub(super) members: Vec<Member>,
    /// The failure that connections get while there are none.
    pub(super) fault: DialFailure,
    /// The addresses that would come back to us, and so are not dialled.
    pub(super) loops: Vec<Loop>,
    /// Services of ours that the members lead to.
    pub(super) through: Vec<ServiceName>,
    /// The share of each of the service's origins.
    pub(super) shares: Vec<Share>,
    /// The addresses that names mean and nobody dials.
    pub(super) refused: Vec<Refused>,
    /// For each of the service's origins: how much of what its name says is more than is used.
    pub(super) unused: Vec<Unused>,
    /// For each of the service's origins: why its name leads nowhere, if it does not.
    pub(super) nowhere: Vec<Option<Nowhere>>,
}

/// An address that an origin's name means and that no name may mean.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    /// The number of the origin in its service.
    pub(super) origin: usize,
    pub(super) address: IpAddr,
    /// The port that an SRV record says.
    pub(super) port: Option<u16>,
    /// The SRV record that it is of.
    pub(super) record: Option<SrvRecord>,
    pub(super) refusal: AddressRefusal,
}

/// The reason for which the name of an origin leads nowhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Nowhere {
    pub(super) reason: String,
    /// The cure; `None` while it has not been looked up.
    pub(super) cure: Option<&'static str>,
}

impl Nowhere {
    fn not_yet() -> Self {
        Self { reason: "not looked up yet".to_owned(), cure: None }
    }

    /// No answer came in the time that somebody had for it.
    pub(super) fn unanswered() -> Self {
        Self {
            reason: "no name server answered in time".to_owned(),
            cure: Some("see whether the name servers can be reached, or give the server's address"),
        }
    }

    pub(super) fn of(resolution: &Resolution) -> Option<Self> {
        resolution.is_empty().then(|| match &resolution.fault {
            Some(fault) => Self { reason: fault.text().to_owned(), cure: Some(fault.cure()) },
            None => Self::not_yet(),
        })
    }
}

/// An origin's share of the connections, and whose word that is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Share {
    pub(super) weight: Weight,
    /// Set while running, and not as configured.
    pub(super) is_by_hand: bool,
}

/// An address of an origin that would lead back to a service of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Loop {
    /// The number of the origin in its service.
    pub(super) origin: usize,
    pub(super) address: IpAddr,
    /// The port that an SRV record says.
    pub(super) port: Option<u16>,
    /// The SRV record that it is of.
    pub(super) record: Option<SrvRecord>,
    pub(super) judgement: LoopJudgement,
}

/// The unit of choice: an origin, or one target of its SRV records.
#[derive(Debug)]
pub(crate) struct Member {
    /// The number of the origin in its service.
    pub(super) origin: usize,
    tier: Tier,
    weight: u32,
    seed: u64,
    /// The number of connections that have asked for the order of its places, of all workers.
    turn: Arc<AtomicUsize>,
    /// The port that an SRV record says.
    pub(super) port: Option<u16>,
    /// The SRV record that it is of.
    pub(super) record: Option<SrvRecord>,
    /// Never empty.
    pub(crate) places: Vec<Place>,
}

/// The content of an SRV record (RFC 2782).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SrvRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) target: String,
}

/// Members of a tier are used while none of a lower one is usable: backups after primaries, and within these the
/// priorities of SRV records.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Tier {
    is_backup: bool,
    priority: usize,
}

/// One address of a member.
#[derive(Debug)]
pub(crate) struct Place {
    /// Which of the roster's, in their order.
    number: usize,
    pub(super) standing: Arc<Standing>,
    /// `None`: it is not checked.
    pub(super) health: Option<Arc<Health>>,
    /// The only protocol of which the checks say anything; `None`: of both.
    pub(super) judged: Option<Protocol>,
    /// Ports that would lead back to a service of ours. Empty where that does not depend on the connection.
    pub(super) barred: Box<[PortRange]>,
    /// The services of ours that all of its connections go to. Empty where some go elsewhere.
    pub(super) through: Box<[ServiceName]>,
    /// True if it was itself drained while running.
    pub(super) is_drained_by_hand: bool,
    /// True if it gets no new connections, for that or because its origin has weight 0.
    is_drained: bool,
}

impl Roster {
    /// Nothing to choose from, because of `fault`.
    pub(super) fn empty(fault: DialFailure) -> Self {
        Self {
            members: Vec::new(),
            fault,
            loops: Vec::new(),
            through: Vec::new(),
            shares: Vec::new(),
            refused: Vec::new(),
            unused: Vec::new(),
            nowhere: Vec::new(),
        }
    }

    /// The members of `origins`, whose names resolve to `resolutions`, in the same order; `None`: not yet. `judge` says what
    /// would come back of an address of an origin, or of the target of an SRV record with that port, and `place` makes or
    /// finds what is known of one that may be dialled.
    pub(super) fn of(
        origins: &Origins,
        resolutions: &[Option<Arc<Resolution>>],
        judge: impl Fn(&Origin, Option<u16>, IpAddr) -> LoopJudgement,
        mut place: impl FnMut(&Origin, Option<u16>, IpAddr, &LoopJudgement) -> Place,
    ) -> Self {
        let mut members = Vec::new();
        let mut loops = Vec::new();
        let mut through = Vec::new();
        let mut refused = Vec::new();
        let mut unused = Vec::with_capacity(origins.list.len());
        let mut nowhere = Vec::with_capacity(origins.list.len());
        let mut fault = DialFailure::Unresolved;
        for (index, (origin, resolution)) in origins.list.iter().zip(resolutions).enumerate() {
            let Some(resolution) = resolution else {
                nowhere.push(Some(Nowhere::not_yet()));
                unused.push(Unused::default());
                continue;
            };
            unused.push(resolution.unused);
            nowhere.push(Nowhere::of(resolution));
            if resolution.is_lost() {
                fault = DialFailure::ResolverFailed;
            }
            let mut priorities: Vec<u16> = resolution
                .targets
                .iter()
                .filter(|target| !target.addresses.is_empty())
                .map(|target| target.priority)
                .collect();
            priorities.sort_unstable();
            priorities.dedup();
            for (priority, value) in priorities.into_iter().enumerate() {
                let tier = Tier { is_backup: origin.role == OriginRole::Backup, priority };
                let peers: Vec<&ResolvedTarget> = resolution
                    .targets
                    .iter()
                    .filter(|target| target.priority == value && !target.addresses.is_empty())
                    .collect();
                let total = peers.iter().map(|target| record_weight(target)).sum::<u64>().max(1);
                for target in peers {
                    let share =
                        u64::from(origin.weight.get()) * u64::from(SHARE) * record_weight(target) / total;
                    let record = target.port.map(|_| SrvRecord {
                        priority: target.priority,
                        weight: target.weight,
                        target: target.name.clone(),
                    });
                    let mut places = Vec::with_capacity(target.addresses.len());
                    for address in &target.addresses {
                        let judgement = judge(origin, target.port, *address);
                        if let Some(refusal) = judgement.refusal {
                            refused.push(Refused {
                                origin: index,
                                address: *address,
                                port: target.port,
                                record: record.clone(),
                                refusal,
                            });
                            continue;
                        }
                        through.extend(judgement.through.iter().cloned());
                        if judgement.extent != Barred::Address {
                            let mut place = place(origin, target.port, *address, &judgement);
                            place.is_drained = place.is_drained_by_hand || origin.weight == Weight::ZERO;
                            places.push(place);
                        }
                        if judgement.extent != Barred::Nothing {
                            loops.push(Loop {
                                origin: index,
                                address: *address,
                                port: target.port,
                                record: record.clone(),
                                judgement,
                            });
                        }
                    }
                    if places.is_empty() {
                        continue;
                    }
                    members.push(Member {
                        origin: index,
                        tier,
                        weight: u32::try_from(share).unwrap_or(u32::MAX).max(1),
                        seed: seed(&named(origin, target)),
                        turn: Arc::default(),
                        port: target.port,
                        record,
                        places,
                    });
                }
            }
        }
        members.sort_by_key(|member| member.tier);
        let places = members.iter_mut().flat_map(|member| &mut member.places);
        places.enumerate().for_each(|(number, place)| place.number = number);
        through.sort_unstable();
        through.dedup();
        if !loops.is_empty() {
            fault = DialFailure::Loop;
        }
        let share = |origin: &Origin| Share { weight: origin.weight, is_by_hand: false };
        let shares = origins.list.iter().map(share).collect();
        Self { members, fault, loops, through, shares, refused, unused, nowhere }
    }

    /// Goes on with the turns of `before`, which this one follows.
    pub(super) fn take_over_turns(&mut self, before: &Self) {
        for member in self.members.iter_mut().filter(|member| member.places.len() > 1) {
            let same =
                |one: &&Member| (one.origin, one.seed, one.tier) == (member.origin, member.seed, member.tier);
            if let Some(before) = before.members.iter().find(same) {
                member.turn = Arc::clone(&before.turn);
            }
        }
    }

    /// Every address there is.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.members.iter().flat_map(|member| &member.places)
    }

    /// The only address there is, if there is but one: then nothing needs to be chosen.
    pub(super) fn sole(&self) -> Option<(&Member, &Place)> {
        match &self.members[..] {
            [member] => match &member.places[..] {
                [place] => Some((member, place)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Those of the best tier in which anybody is usable and not among `tried`.
    pub(super) fn candidates(
        &self,
        by: Protocol,
        tried: &[usize],
    ) -> impl Iterator<Item = Candidate> + Clone {
        let usable = move |(index, member): &(usize, &Member)| !tried.contains(index) && member.is_usable(by);
        let first = self.members.iter().enumerate().find(usable);
        let tier = first.map(|(_, member)| member.tier);
        self.members
            .iter()
            .enumerate()
            .skip(first.map_or(self.members.len(), |(index, _)| index))
            .take_while(move |(_, member)| Some(member.tier) == tier)
            .filter(usable)
            .map(|(index, member)| Candidate {
                index,
                weight: member.weight,
                open: member.places.iter().map(|place| place.standing.tallies.shared()).sum(),
                seed: member.seed,
            })
    }
}

/// RFC 2782 wants weight 0 to have a very small chance next to others, and an equal one among its like.
fn record_weight(target: &ResolvedTarget) -> u64 {
    (u64::from(target.weight) * 256).max(1)
}

/// The name by which an origin, or one target of its records, is told from others, however they are ordered.
fn named(origin: &Origin, target: &ResolvedTarget) -> String {
    match (&origin.host, target.port) {
        (OriginHost::Service(_), Some(port)) => format!("{}:{port}", target.name),
        _ => origin.to_string(),
    }
}

impl Member {
    fn is_usable(&self, by: Protocol) -> bool {
        self.places.iter().any(|place| place.is_usable(by))
    }

    /// The usable places in the order of dialling them: families take turns (RFC 8305), and who was slow or has no route comes
    /// last. Of two connections in a row one begins with IPv6 and the next with IPv4, each with the next address of the family;
    /// where the client's address decides, always with the same.
    pub(super) fn order(&self, by: Protocol, balance: Balance, client: IpAddr) -> Vec<&Place> {
        let mut families: [Vec<&Place>; 2] = [Vec::new(), Vec::new()];
        for place in self.places.iter().filter(|place| place.is_usable(by)) {
            families[usize::from(place.standing.address.is_ipv4())].push(place);
        }
        let turn = match balance {
            Balance::LeastConnections | Balance::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed),
            Balance::SourceHash => 0,
        };
        // Each family has every other connection, so its addresses take turns half as fast.
        let turn_of_family = if families.iter().any(Vec::is_empty) { turn } else { turn / 2 };
        for family in &mut families {
            let turns = turn_of_family.checked_rem(family.len()).unwrap_or(0);
            family.rotate_left(turns);
            match balance {
                Balance::LeastConnections => family.sort_by_key(|place| place.standing.tallies.shared()),
                Balance::RoundRobin => {}
                Balance::SourceHash => {
                    let key = client_key(client);
                    let score = |place: &Place| score(key, seed(&place.standing.address.to_string()), 1);
                    family.sort_by(|a, b| score(b).total_cmp(&score(a)));
                }
            }
        }
        let begins_with_v4 = match balance {
            Balance::LeastConnections | Balance::RoundRobin => turn % 2 == 1,
            Balance::SourceHash => {
                let score = |family| score(client_key(client), seed(family), 1);
                score("IPv4") > score("IPv6")
            }
        };
        if begins_with_v4 {
            families.reverse();
        }
        let [first, second] = families;
        let mut ordered = Vec::with_capacity(first.len() + second.len());
        let (mut first, mut second) = (first.into_iter(), second.into_iter());
        loop {
            match (first.next(), second.next()) {
                (None, None) => break,
                (one, other) => ordered.extend(one.into_iter().chain(other)),
            }
        }
        ordered.sort_by_key(|place| place.standing.is_slow() || !place.standing.is_routed());
        ordered
    }
}

impl Place {
    pub(super) fn new(
        standing: Arc<Standing>,
        health: Option<Arc<Health>>,
        judgement: &LoopJudgement,
    ) -> Self {
        let LoopJudgement { barred, through, rest, .. } = judgement;
        let through = match rest {
            Rest::Elsewhere => Box::default(),
            Rest::Through => through.clone().into_boxed_slice(),
        };
        let barred = barred.clone().into_boxed_slice();
        Self {
            number: 0,
            standing,
            health,
            judged: None,
            barred,
            through,
            is_drained_by_hand: false,
            is_drained: false,
        }
    }

    /// Its place among [`Roster::places`] of the roster it is in.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn is_usable(&self, by: Protocol) -> bool {
        !self.is_drained && !self.is_down(by) && !self.standing.is_ejected(by)
    }

    /// True if checks say that who dials by this protocol finds nobody.
    pub(super) fn is_down(&self, by: Protocol) -> bool {
        let is_judged = self.judged.is_none_or(|judged| judged == by);
        is_judged && self.health.as_ref().is_some_and(|health| !health.is_up())
    }

    /// True if it gets no new connections, whoever says so.
    pub(super) fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// Another address answered before this one, which had a head start.
    pub(crate) fn overtaken(&self) {
        self.standing.overtaken();
    }

    /// True if a connection with this port would come back.
    pub(crate) fn bars(&self, port: u16) -> bool {
        !self.barred.is_empty() && self.barred.iter().any(|ports| ports.contains(port))
    }

    /// With the port of a connection.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.standing.address, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Ejection, HealthCheck};
    use crate::origins::fault;
    use crate::origins::standing::Moment;
    use std::time::{Duration, Instant};

    const ONCE: Option<Ejection> = Some(Ejection { failures: 1, time: Duration::from_hours(1) });

    fn nothing(_: &Origin, _: Option<u16>, _: IpAddr) -> LoopJudgement {
        LoopJudgement::default()
    }

    fn place(_: &Origin, _: Option<u16>, address: IpAddr, judgement: &LoopJudgement) -> Place {
        let health = Health::new(
            SocketAddr::new(address, 80),
            HealthCheck { fall: 1, ..HealthCheck::default() },
            None,
        );
        Place::new(Arc::new(Standing::new(address)), Some(Arc::new(health)), judgement)
    }

    fn target(name: &str, priority: u16, weight: u16, addresses: &[&str]) -> ResolvedTarget {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        ResolvedTarget { name: name.to_owned(), port: Some(80), priority, weight, addresses }
    }

    fn resolution(targets: Vec<ResolvedTarget>) -> Arc<Resolution> {
        let mut resolution = Resolution::of_address("192.0.2.1".parse().unwrap());
        resolution.targets = targets;
        resolution.until = Some(Instant::now());
        Arc::new(resolution)
    }

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    fn addresses(roster: &Roster, tried: &[usize]) -> Vec<String> {
        let member = |one: Candidate| roster.members[one.index].places[0].standing.address.to_string();
        roster.candidates(Protocol::Tcp, tried).map(member).collect()
    }

    fn down(place: &Place) {
        place.health.as_ref().unwrap().note(Err("refused".to_owned()));
    }

    #[test]
    fn backups_are_used_when_no_primary_is_usable_and_no_longer() {
        let mut backup = origin("192.0.2.3:80");
        backup.role = OriginRole::Backup;
        let origins = Origins::from(vec![backup, origin("192.0.2.1:80"), origin("192.0.2.2:80")]);
        let resolutions: Vec<_> = ["192.0.2.3", "192.0.2.1", "192.0.2.2"]
            .map(|address| Some(Arc::new(Resolution::of_address(address.parse().unwrap()))))
            .into();
        let roster = Roster::of(&origins, &resolutions, nothing, place);
        assert_eq!(addresses(&roster, &[]), ["192.0.2.1", "192.0.2.2"]);
        down(&roster.members[0].places[0]);
        assert_eq!(addresses(&roster, &[]), ["192.0.2.2"]);
        assert_eq!(addresses(&roster, &[1]), ["192.0.2.3"], "also when the last primary was tried in vain");
        roster.members[1].places[0].standing.failed(Protocol::Tcp, fault::Fault::SOME, ONCE, Moment::now());
        assert_eq!(addresses(&roster, &[]), ["192.0.2.3"]);
        let health = roster.members[0].places[0].health.as_ref().unwrap();
        health.note(Ok(Duration::ZERO));
        health.note(Ok(Duration::ZERO));
        assert_eq!(addresses(&roster, &[]), ["192.0.2.1"]);
    }

    #[test]
    fn an_origin_of_weight_0_is_never_chosen_and_backups_take_the_place_of_drained_primaries() {
        let weighted = |text, weight| Origin { weight: Weight::new(weight).unwrap(), ..origin(text) };
        let mut backup = origin("192.0.2.3:80");
        backup.role = OriginRole::Backup;
        let resolutions: Vec<_> = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
            .map(|address| Some(Arc::new(Resolution::of_address(address.parse().unwrap()))))
            .into();
        let candidates = |first, second| {
            let list =
                vec![weighted("192.0.2.1:80", first), weighted("192.0.2.2:80", second), backup.clone()];
            let roster = Roster::of(&Origins::from(list), &resolutions, nothing, place);
            (addresses(&roster, &[]), addresses(&roster, &[1]))
        };
        let is = |expected: &[&str]| expected.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(candidates(0, 2), (is(&["192.0.2.2"]), is(&["192.0.2.3"])));
        assert_eq!(candidates(0, 0), (is(&["192.0.2.3"]), is(&["192.0.2.3"])));
        let all = Origins::from(vec![weighted("192.0.2.1:80", 0)]);
        let roster = Roster::of(&all, &resolutions[..1], nothing, place);
        assert_eq!(addresses(&roster, &[]), is(&[]));
        assert!(roster.sole().is_some_and(|(_, place)| !place.is_usable(Protocol::Tcp)));
    }

    #[test]
    fn srv_records_are_used_by_priority_and_share_by_weight() {
        let origins = Origins::from(vec![origin("_http._tcp.example.com")]);
        let resolution = resolution(vec![
            target("late.", 20, 1, &["192.0.2.9"]),
            target("a.", 10, 3, &["192.0.2.1"]),
            target("b.", 10, 1, &["192.0.2.2"]),
            target("zero.", 10, 0, &["192.0.2.3"]),
            target("none.", 5, 1, &[]),
        ]);
        let roster = Roster::of(&origins, &[Some(resolution)], nothing, place);
        let weights: Vec<u32> = roster.candidates(Protocol::Tcp, &[]).map(|one| one.weight).collect();
        assert_eq!(addresses(&roster, &[]), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert!(weights[0].abs_diff(3 * weights[1]) <= 3 && weights[2] * 200 < weights[1], "{weights:?}");
        assert!(weights.iter().sum::<u32>().abs_diff(SHARE) <= 3, "together as much as any other origin");
        assert_eq!(addresses(&roster, &[0, 1, 2]), ["192.0.2.9"]);
        assert_eq!(roster.members[0].port, Some(80));
        let numbers: Vec<usize> = roster.places().map(Place::number).collect();
        assert_eq!(numbers, [0, 1, 2, 3], "also where the best tier was not named first");
    }

    /// The roster of one name with these addresses.
    fn roster_of_name(addresses: &[&str]) -> Roster {
        let origins = Origins::from(vec![origin("example.com:80")]);
        Roster::of(&origins, &[Some(resolution(vec![target("", 0, 0, addresses)]))], nothing, place)
    }

    fn order(roster: &Roster, balance: Balance, client: &str) -> Vec<String> {
        let places = roster.members[0].order(Protocol::Tcp, balance, client.parse().unwrap()).into_iter();
        places.map(|place| place.standing.address.to_string()).collect()
    }

    #[test]
    fn families_take_turns_among_connections_and_within_one() {
        let roster = roster_of_name(&["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let next = || order(&roster, Balance::RoundRobin, "198.51.100.1");
        assert_eq!(next(), ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(next(), ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "192.0.2.3"]);
        assert_eq!(next(), ["2001:db8::2", "192.0.2.2", "2001:db8::1", "192.0.2.3", "192.0.2.1"]);
        assert_eq!(next()[0], "192.0.2.2");
    }

    #[test]
    fn of_thirty_connections_each_family_begins_with_half_and_its_addresses_share_evenly() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let roster = roster_of_name(&["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
            let mut counts = std::collections::BTreeMap::new();
            for _ in 0..30 {
                *counts.entry(order(&roster, balance, "198.51.100.1")[0].clone()).or_insert(0) += 1;
            }
            let counts: Vec<(&str, i32)> =
                counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
            assert_eq!(counts, [("192.0.2.1", 5), ("192.0.2.2", 5), ("192.0.2.3", 5), ("2001:db8::1", 15)]);
        }
        let roster = roster_of_name(&["192.0.2.1", "192.0.2.2"]);
        let firsts = [(); 4].map(|()| order(&roster, Balance::RoundRobin, "198.51.100.1").remove(0));
        assert_eq!(
            firsts,
            ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"],
            "of one family all take turns"
        );
    }

    #[test]
    fn a_clients_address_decides_between_families_too() {
        let roster = roster_of_name(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        let first = |client: &str| order(&roster, Balance::SourceHash, client).remove(0);
        let clients: Vec<String> = (0..200).map(|last| format!("198.51.100.{last}")).collect();
        let by_v6 = clients.iter().filter(|client| first(client).contains(':')).count();
        assert!((70..=130).contains(&by_v6), "{by_v6} of 200");
        assert!(clients.iter().all(|client| first(client) == first(client)));
    }

    #[test]
    fn who_was_slow_or_has_no_route_comes_last() {
        let roster = roster_of_name(&["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"]);
        let places = &roster.members[0].places;
        places[0].standing.overtaken();
        down(&places[2]);
        for _ in 0..4 {
            let order = order(&roster, Balance::RoundRobin, "198.51.100.1");
            assert_eq!((order.len(), order[2].as_str()), (3, "2001:db8::1"));
        }
        places[1].standing.note_route(false);
        for _ in 0..4 {
            assert_eq!(order(&roster, Balance::RoundRobin, "198.51.100.1")[0], "192.0.2.2");
        }
    }

    #[test]
    fn turns_go_on_with_another_roster() {
        let before = roster_of_name(&["2001:db8::1", "192.0.2.1"]);
        order(&before, Balance::RoundRobin, "198.51.100.1");
        let mut after = roster_of_name(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        after.take_over_turns(&before);
        assert_eq!(order(&after, Balance::RoundRobin, "198.51.100.1")[0], "192.0.2.1");
    }

    #[test]
    fn what_is_refused_is_not_dialled_and_said() {
        let origins = Origins::from(vec![origin("example.com:80")]);
        let judge = |_: &Origin, _: Option<u16>, address: IpAddr| LoopJudgement {
            refusal: AddressRefusal::of(address, crate::model::LocalOrigins::Refused, |_| false),
            ..LoopJudgement::default()
        };
        let found = resolution(vec![target("", 0, 0, &["127.0.0.1", "192.0.2.1"])]);
        let roster = Roster::of(&origins, &[Some(found)], judge, place);
        assert_eq!(addresses(&roster, &[]), ["192.0.2.1"]);
        assert_eq!(roster.refused[0].refusal, AddressRefusal::Loopback);
        let found = resolution(vec![target("", 0, 0, &["127.0.0.1", "0.0.0.0"])]);
        let roster = Roster::of(&origins, &[Some(found)], judge, place);
        assert_eq!(
            (roster.members.len(), roster.refused.len(), roster.fault),
            (0, 2, DialFailure::Unresolved)
        );
    }

    #[test]
    fn what_comes_back_is_left_out_or_barred() {
        let origins = Origins::from(vec![origin("example.com:80"), origin("example.net")]);
        let resolutions = [
            Some(resolution(vec![target("", 0, 0, &["192.0.2.1", "192.0.2.2"])])),
            Some(resolution(vec![target("", 0, 0, &["192.0.2.3", "192.0.2.4"])])),
        ];
        let judge = |_: &Origin, _: Option<u16>, address: IpAddr| match address.to_string().as_str() {
            "192.0.2.1" => LoopJudgement { extent: Barred::Address, ..LoopJudgement::default() },
            "192.0.2.3" => {
                let through = vec!["b".parse().unwrap()];
                LoopJudgement {
                    extent: Barred::Ports,
                    barred: vec!["80-90".parse().unwrap()],
                    through,
                    ..LoopJudgement::default()
                }
            }
            _ => LoopJudgement::default(),
        };
        let roster = Roster::of(&origins, &resolutions, judge, place);
        let places: Vec<String> = roster
            .members
            .iter()
            .flat_map(|member| &member.places)
            .map(|place| place.standing.address.to_string())
            .collect();
        assert_eq!(places, ["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let [partly, open] = &roster.members[1].places[..] else { panic!("{roster:?}") };
        assert!(partly.bars(80) && partly.bars(90) && !partly.bars(91) && !open.bars(80));
        assert_eq!(roster.loops.iter().map(|one| one.origin).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(roster.through, ["b".parse().unwrap()]);

        let all = |_: &Origin, _: Option<u16>, _: IpAddr| LoopJudgement {
            extent: Barred::Address,
            ..LoopJudgement::default()
        };
        let roster = Roster::of(&origins, &resolutions, all, place);
        assert_eq!((roster.members.len(), roster.loops.len(), roster.fault), (0, 4, DialFailure::Loop));
    }

    #[test]
    fn without_addresses_the_fault_says_whose_it_is() {
        let origins = Origins::from(vec![origin("example.com:80")]);
        for resolution in [None, Some(resolution(Vec::new()))] {
            let roster = Roster::of(&origins, &[resolution], nothing, place);
            assert_eq!(roster.fault, DialFailure::Unresolved);
            assert!(roster.nowhere[0].is_some());
        }
    }
}
