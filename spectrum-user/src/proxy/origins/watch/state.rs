//! What is known of a service's origins, for who asks. Changes nothing.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Origin, OriginPort, OriginRole};
use crate::proxy::origins::board::Board;
use crate::proxy::origins::own_bindings::Extent;
use crate::proxy::origins::roster::{Member, Place, Record};

/// One address of an origin, or an origin without any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OriginState {
    /// The origin as configured.
    pub origin: String,
    /// Where it is now: an address, with the port where it does not depend on what is dialled. `None`: nowhere.
    pub address: Option<String>,
    /// Its share.
    pub weight: u16,
    /// When it is used.
    pub role: OriginRole,
    /// Whether it is used.
    pub condition: OriginCondition,
    /// What its last health check said; `None`: it is not checked, or not yet.
    pub last_check: Option<CheckOutcome>,
    /// Dials in a row that failed.
    pub failures: u32,
    /// Its open connections.
    pub open: u32,
    /// The SRV record that names it, where the origin is asked for such.
    pub record: Option<RecordState>,
}

/// An SRV record.
#[derive(Clone, Debug, Eq, PartialEq)]
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

/// Whether an address of an origin is used.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum OriginCondition {
    /// Its checks say that it is down.
    Down,
    /// Dialling it failed so often that it is not dialled for a time.
    Ejected,
    /// It would lead back to a service of ours.
    Loop,
    /// Its name has no address.
    Unresolved,
    /// It is.
    Up,
}

/// What a health check said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckOutcome {
    /// How long it took to connect, or why it did not.
    pub outcome: Result<Duration, String>,
    /// How long ago it ended.
    pub ago: Duration,
}

impl OriginCondition {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Down, Self::Ejected, Self::Loop, Self::Unresolved, Self::Up];
}

impl fmt::Display for OriginCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Loop => "loop",
            Self::Unresolved => "unresolved",
            Self::Up => "up",
        })
    }
}

/// What is known of the origins on `board`, in the order configured.
pub(super) fn states(board: &Board) -> Vec<OriginState> {
    let roster = board.roster();
    let mut states = Vec::new();
    for (index, origin) in board.origins.list.iter().enumerate() {
        let before = states.len();
        for member in roster.members.iter().filter(|member| member.origin == index) {
            states.extend(member.places.iter().map(|place| state(board, index, member, place)));
        }
        let undialled = |address, condition| OriginState {
            origin: origin.to_string(),
            address,
            weight: origin.weight.get(),
            role: origin.role,
            condition,
            last_check: None,
            failures: 0,
            open: 0,
            record: None,
        };
        let left_out =
            roster.loops.iter().filter(|one| one.origin == index && one.judgement.extent == Extent::Address);
        states.extend(
            left_out.map(|one| undialled(Some(shown(origin, one.port, one.address)), OriginCondition::Loop)),
        );
        if states.len() == before {
            states.push(undialled(None, OriginCondition::Unresolved));
        }
    }
    states
}

fn state(board: &Board, index: usize, member: &Member, place: &Place) -> OriginState {
    let origin = &board.origins.list[index];
    let is_up = place.health.as_ref().is_none_or(|health| health.is_up());
    OriginState {
        origin: origin.to_string(),
        address: Some(shown(origin, member.port, place.standing.address)),
        weight: origin.weight.get(),
        role: origin.role,
        condition: if !is_up {
            OriginCondition::Down
        } else if place.standing.is_ejected() {
            OriginCondition::Ejected
        } else {
            OriginCondition::Up
        },
        last_check: place
            .health
            .as_ref()
            .and_then(|health| health.last())
            .map(|last| CheckOutcome { outcome: last.outcome, ago: last.at.elapsed() }),
        failures: place.standing.failures(),
        open: place.standing.open(),
        record: member.port.zip(member.record.as_ref()).map(|(port, Record { priority, weight, target })| {
            let target = target.strip_suffix('.').unwrap_or(target).to_owned();
            RecordState { priority: *priority, weight: *weight, port, target }
        }),
    }
}

/// An address with the port that an SRV record says, or that does not depend on what is dialled.
fn shown(origin: &Origin, record: Option<u16>, address: IpAddr) -> String {
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
