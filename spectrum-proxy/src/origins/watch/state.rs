//! What is known of a service's origins, for who asks. Changes nothing.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Origin, OriginPort, OriginProtocols, OriginRole, Protocol, ServiceName};
use crate::origins::current_roster::CurrentRoster;
use crate::origins::own_bindings::Barred;
use crate::origins::resolver::Unused;
use crate::origins::roster::{Member, Place, Share, SrvRecord};

/// Those by which origins are dialled.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// One address of an origin, or an origin without any.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct OriginState {
    /// The origin as configured.
    pub origin: String,
    /// Its address now, with the port where it does not depend on what is dialled. `None`: nowhere.
    pub address: Option<String>,
    /// Its share.
    pub weight: u16,
    /// True if that was set while running, and is not as configured.
    pub is_by_hand: bool,
    /// The condition under which it is used.
    pub role: OriginRole,
    /// Its use, or why there is none.
    pub condition: OriginCondition,
    /// Of one that is unresolved, refused or unused: why. Of one that is down or ejected for one of two protocols: for which.
    pub reason: Option<String>,
    /// The outcome of its last health check; `None`: it is not checked, or not yet.
    pub last_check: Option<CheckOutcome>,
    /// Dials in a row that failed.
    pub failures_in_row: u32,
    /// All dials that failed.
    pub failed_dials: u64,
    /// Connections that the origin broke off, by a reset or by falling silent.
    pub broken: u64,
    /// The last of either, and how long ago.
    pub last_error: Option<(String, Duration)>,
    /// Its open connections.
    pub open: u64,
    /// All connections to it so far.
    pub connections: u64,
    /// Bytes that clients of these have sent.
    pub bytes_to: u64,
    /// Bytes that they were handed.
    pub bytes_from: u64,
    /// The SRV record that names it, where the origin is asked for such.
    pub record: Option<RecordState>,
    /// Of a loop: the services that a connection would pass, this one first, until it came to one of them again.
    pub way: Vec<ServiceName>,
}

/// An SRV record.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct RecordState {
    /// The lowest that can be reached is used.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// The host's port.
    pub port: u16,
    /// The host, without the dot at the end.
    pub target: String,
}

/// The use of an address of an origin, or why there is none.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginCondition {
    /// Its checks say that it is down.
    Down,
    /// It gets no new connections, since its weight is 0.
    Drained,
    /// Dialling it failed so often that it is not dialled for a time.
    Ejected,
    /// It would lead back to a service of ours; or it leads to one that has nothing to dial but what leads back.
    Loop,
    /// Its name means what no name may mean.
    Refused,
    /// Its name has no address.
    Unresolved,
    /// There are more than are used.
    Unused,
    /// It is.
    Up,
}

/// The outcome of a health check.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct CheckOutcome {
    /// The time that connecting took, or why it failed.
    pub outcome: Result<Duration, String>,
    /// The milliseconds since it ended.
    pub ago: Duration,
}

impl OriginCondition {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Down,
        Self::Drained,
        Self::Ejected,
        Self::Loop,
        Self::Refused,
        Self::Unresolved,
        Self::Unused,
        Self::Up,
    ];
}

impl fmt::Display for OriginCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Down => "down",
            Self::Drained => "drained",
            Self::Ejected => "ejected",
            Self::Loop => "loop",
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
            Self::Unused => "unused",
            Self::Up => "up",
        })
    }
}

/// The states of the origins of `current`, in the order configured. `roster_of` finds that of another service; what
/// has none answers by itself.
pub(super) fn states(
    current: &CurrentRoster,
    roster_of: impl Fn(&ServiceName) -> Option<Arc<CurrentRoster>>,
) -> Vec<OriginState> {
    let roster = current.roster();
    let mut circles = Circles { roster_of, known: HashMap::new() };
    let mut states = Vec::new();
    for (index, origin) in current.origins.list.iter().enumerate() {
        let configured = Share { weight: origin.weight, is_by_hand: false };
        let share = roster.shares.get(index).copied().unwrap_or(configured);
        let before = states.len();
        for member in roster.members.iter().filter(|member| member.origin == index) {
            for place in &member.places {
                let way = circles.entered_at(place).map(|on| until_it_repeats(&current.service, on));
                states.push(state(origin, share, member, place, way, current.origins.protocols));
            }
        }
        let undialled = |address, condition| OriginState {
            origin: origin.to_string(),
            address,
            weight: share.weight.get(),
            is_by_hand: share.is_by_hand,
            role: origin.role,
            condition,
            reason: None,
            last_check: None,
            failures_in_row: 0,
            failed_dials: 0,
            broken: 0,
            last_error: None,
            open: 0,
            connections: 0,
            bytes_to: 0,
            bytes_from: 0,
            record: None,
            way: Vec::new(),
        };
        let left_out =
            roster.loops.iter().filter(|one| one.origin == index && one.judgement.extent == Barred::Address);
        states.extend(left_out.map(|one| OriginState {
            record: recorded(one.port, one.record.as_ref()),
            way: until_it_repeats(&current.service, one.judgement.ways.first().map_or(&[], Vec::as_slice)),
            ..undialled(Some(shown(origin, one.port, one.address)), OriginCondition::Loop)
        }));
        states.extend(roster.refused.iter().filter(|one| one.origin == index).map(|one| OriginState {
            record: recorded(one.port, one.record.as_ref()),
            reason: Some(format!("{}; {}", one.refusal, one.refusal.cure())),
            ..undialled(Some(shown(origin, one.port, one.address)), OriginCondition::Refused)
        }));
        if states.len() == before {
            let nowhere = roster.nowhere.get(index).and_then(Option::as_ref);
            let reason = nowhere.map(|nowhere| nowhere.reason.clone());
            states.push(OriginState { reason, ..undialled(None, OriginCondition::Unresolved) });
        }
        let Unused { targets, addresses } = roster.unused.get(index).copied().unwrap_or_default();
        if targets + addresses > 0 {
            let reason = Some(format!("{targets} SRV records and {addresses} addresses more than are used"));
            states.push(OriginState { reason, ..undialled(None, OriginCondition::Unused) });
        }
    }
    states
}

/// `a -> b -> a`
pub(super) fn shown_way<'a>(services: impl IntoIterator<Item = &'a ServiceName>) -> String {
    services.into_iter().map(ServiceName::as_str).collect::<Vec<_>>().join(" -> ")
}

/// `service` and the way `on` from it, which ends where it comes to one of its services again.
fn until_it_repeats(service: &ServiceName, on: &[ServiceName]) -> Vec<ServiceName> {
    let mut way = vec![service.clone()];
    for next in on {
        let is_again = way.contains(next);
        way.push(next.clone());
        if is_again {
            break;
        }
    }
    way
}

/// Services that have nothing to dial but what leads back to a service of ours. Who dials them is not refused, since that
/// alone closes no circle, but served it is not.
struct Circles<F> {
    roster_of: F,
    /// The way on from each that was asked for; `None`: it has something to dial, or answers by itself.
    known: HashMap<ServiceName, Option<Vec<ServiceName>>>,
}

impl<F: Fn(&ServiceName) -> Option<Arc<CurrentRoster>>> Circles<F> {
    /// The way on from `place` if all of its connections come to such services: the first of these, and where it leads.
    fn entered_at(&mut self, place: &Place) -> Option<&[ServiceName]> {
        for service in &place.through {
            self.way_on(service)?;
        }
        self.known.get(place.through.first()?)?.as_deref()
    }

    fn way_on(&mut self, service: &ServiceName) -> Option<()> {
        if !self.known.contains_key(service) {
            // Rosters close no circle, but may be of different moments.
            self.known.insert(service.clone(), None);
            let way = self.search(service);
            self.known.insert(service.clone(), way);
        }
        self.known.get(service)?.as_ref().map(|_| ())
    }

    fn search(&mut self, service: &ServiceName) -> Option<Vec<ServiceName>> {
        let current = (self.roster_of)(service)?;
        let roster = current.roster();
        let is_usable = |place: &&Place| match current.origins.protocols {
            OriginProtocols::Both => PROTOCOLS.iter().any(|by| place.is_usable(*by)),
            OriginProtocols::One => PROTOCOLS.iter().all(|by| place.is_usable(*by)),
        };
        let left_out = roster.loops.iter().find_map(|one| one.judgement.ways.first());
        let mut on = left_out.cloned();
        for place in roster.places().filter(is_usable) {
            let entered = self.entered_at(place)?.to_vec();
            on.get_or_insert(entered);
        }
        Some([service.clone()].into_iter().chain(on?).collect())
    }
}

fn state(
    origin: &Origin,
    share: Share,
    member: &Member,
    place: &Place,
    way: Option<Vec<ServiceName>>,
    protocols: OriginProtocols,
) -> OriginState {
    let sums = place.standing.tallies.sums();
    let down = for_which(|by| place.is_down(by));
    let ejected = for_which(|by| place.standing.is_ejected(by));
    // Of the protocol that is not there nothing is ever dialled, and nothing is checked.
    let sole = match (protocols, for_which(|by| place.is_down(by) || place.standing.is_ejected(by))) {
        (OriginProtocols::Both, Some(Affected::Only(protocol))) => Some(protocol),
        _ => None,
    };
    OriginState {
        origin: origin.to_string(),
        address: Some(shown(origin, member.port, place.standing.address)),
        weight: if place.is_drained() { 0 } else { share.weight.get() },
        is_by_hand: place.is_drained_by_hand || share.is_by_hand,
        role: origin.role,
        condition: if down.is_some() {
            OriginCondition::Down
        } else if ejected.is_some() {
            OriginCondition::Ejected
        } else if way.is_some() {
            OriginCondition::Loop
        } else if place.is_drained() {
            OriginCondition::Drained
        } else {
            OriginCondition::Up
        },
        reason: sole.map(|protocol| format!("for {protocol} alone")),
        last_check: place
            .health
            .as_ref()
            .and_then(|health| health.last())
            .map(|last| CheckOutcome { outcome: last.outcome, ago: last.at.elapsed() }),
        failures_in_row: place.standing.failures(),
        failed_dials: place.standing.failed_dials(),
        broken: place.standing.broken(),
        last_error: place.standing.last_fault().map(|(fault, ago)| (fault.to_string(), ago)),
        open: sums.open,
        connections: sums.connections,
        bytes_to: sums.from_client,
        bytes_from: sums.to_client,
        record: recorded(member.port, member.record.as_ref()),
        way: way.unwrap_or_default(),
    }
}

/// The protocols of which something is true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Affected {
    All,
    Only(Protocol),
}

fn for_which(is_so: impl Fn(Protocol) -> bool) -> Option<Affected> {
    match PROTOCOLS.map(&is_so) {
        [true, true] => Some(Affected::All),
        [true, false] => Some(Affected::Only(Protocol::Tcp)),
        [false, true] => Some(Affected::Only(Protocol::Udp)),
        [false, false] => None,
    }
}

fn recorded(port: Option<u16>, record: Option<&SrvRecord>) -> Option<RecordState> {
    let (port, SrvRecord { priority, weight, target }) = port.zip(record)?;
    let target = target.strip_suffix('.').unwrap_or(target).to_owned();
    Some(RecordState { priority: *priority, weight: *weight, port, target })
}

/// An address with the port that an SRV record says, or that does not depend on what is dialled.
pub(super) fn shown(origin: &Origin, record: Option<u16>, address: IpAddr) -> String {
    let port = record.map(|port| port.to_string()).or_else(|| match origin.port {
        OriginPort::Fixed(port) => Some(port.to_string()),
        OriginPort::Offset(range) => Some(range.to_string()),
        OriginPort::Dialled | OriginPort::Record => None,
    });
    match port {
        Some(port) if address.is_ipv6() => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origins, PortRange};
    use crate::origins::own_bindings::{LoopJudgement, Rest};
    use crate::origins::resolver::{Resolution, ResolvedTarget};
    use crate::origins::roster::Roster;
    use crate::origins::standing::Standing;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    fn names(text: &str) -> Vec<ServiceName> {
        text.split(' ').map(name).collect()
    }

    /// A judgement of an address that leads to services: `back` by a way that comes back, `on` to one that is dialled.
    fn judged(how: &str) -> LoopJudgement {
        match how.split_once(' ') {
            Some(("back", way)) => LoopJudgement {
                extent: Barred::Address,
                barred: vec!["80".parse::<PortRange>().unwrap()],
                ways: vec![names(way)],
                rest: Rest::Through,
                ..LoopJudgement::default()
            },
            Some(("on", to)) => {
                LoopJudgement { through: names(to), rest: Rest::Through, ..LoopJudgement::default() }
            }
            Some(("partly", to)) => LoopJudgement { through: names(to), ..LoopJudgement::default() },
            _ => LoopJudgement::default(),
        }
    }

    /// The current roster of a service whose origins, 192.0.2.0 and so on, are judged like this.
    fn current_roster(service: &str, judgements: &[&str]) -> Arc<CurrentRoster> {
        let list: Vec<Origin> =
            (0..judgements.len()).map(|at| format!("192.0.2.{at}:80").parse().unwrap()).collect();
        let addresses: Vec<IpAddr> =
            (0..judgements.len()).map(|at| format!("192.0.2.{at}").parse().unwrap()).collect();
        let resolutions: Vec<_> =
            addresses.iter().map(|address| Some(Arc::new(Resolution::of_address(*address)))).collect();
        let of = |address: IpAddr| addresses.iter().position(|one| *one == address).unwrap();
        let roster = Roster::of(
            &Origins::from(list.clone()),
            &resolutions,
            |_, _, address| judged(judgements[of(address)]),
            |_, _, address, judgement| Place::new(Arc::new(Standing::new(address)), None, judgement),
        );
        let current = CurrentRoster::new(name(service), Origins::from(list));
        current.renew(roster);
        Arc::new(current)
    }

    /// `up`, or `loop` and the way, for each origin of the first of `rosters`.
    fn shown_states(rosters: &[Arc<CurrentRoster>]) -> Vec<String> {
        let roster_of =
            |service: &ServiceName| rosters.iter().find(|current| current.service == *service).cloned();
        let states = states(&rosters[0], roster_of);
        states.iter().map(|state| format!("{} {}", state.condition, shown_way(&state.way))).collect()
    }

    #[test]
    fn both_sides_of_a_circle_say_so() {
        let (a, b) = (current_roster("a", &["on b"]), current_roster("b", &["back a b"]));
        assert_eq!(shown_states(&[b.clone(), a.clone()]), ["loop b -> a -> b"]);
        assert_eq!(shown_states(&[a.clone(), b.clone()]), ["loop a -> b -> a"]);
        let outside = current_roster("outside", &["on a", "elsewhere"]);
        assert_eq!(shown_states(&[outside, a, b]), ["loop outside -> a -> b -> a", "up "]);
    }

    #[test]
    fn what_leads_to_a_service_with_another_way_out_is_up() {
        let a = current_roster("a", &["on b"]);
        assert_eq!(shown_states(&[a.clone(), current_roster("b", &["back a b", "elsewhere"])]), ["up "]);
        // One that answers by itself has no roster.
        assert_eq!(shown_states(&[a.clone(), current_roster("b", &["back a b", "on hello"])]), ["up "]);
        assert_eq!(
            shown_states(&[a, current_roster("b", &["on c"]), current_roster("c", &["partly b"])]),
            ["up "]
        );
        let partly = current_roster("a", &["partly b"]);
        assert_eq!(shown_states(&[partly, current_roster("b", &["back a b"])]), ["up "]);
    }

    #[test]
    fn rosters_of_different_moments_end_the_search() {
        let (a, b) = (current_roster("a", &["on b"]), current_roster("b", &["on a"]));
        assert_eq!(shown_states(&[a, b]), ["up "]);
    }

    #[test]
    fn a_target_of_srv_records_that_leads_back_has_its_record() {
        let origins = Origins::from(vec!["_http._tcp.example.com".parse().unwrap()]);
        let mut resolution = Resolution::of_address("192.0.2.1".parse().unwrap());
        resolution.targets = vec![ResolvedTarget {
            name: "web.example.com.".to_owned(),
            port: Some(8080),
            priority: 10,
            weight: 3,
            addresses: vec!["192.0.2.1".parse().unwrap()],
        }];
        let roster = Roster::of(
            &origins,
            &[Some(Arc::new(resolution))],
            |_, _, _| judged("back a"),
            |_, _, address, judgement| Place::new(Arc::new(Standing::new(address)), None, judgement),
        );
        let current = CurrentRoster::new(name("a"), origins);
        current.renew(roster);
        let states = states(&current, |_| None);
        assert_eq!(states.len(), 1);
        assert_eq!(
            (states[0].condition, shown_way(&states[0].way)),
            (OriginCondition::Loop, "a -> a".into())
        );
        assert_eq!(states[0].address.as_deref(), Some("192.0.2.1:8080"));
        let target = "web.example.com".to_owned();
        assert_eq!(states[0].record, Some(RecordState { priority: 10, weight: 3, port: 8080, target }));
    }
}
