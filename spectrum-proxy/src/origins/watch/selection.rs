//! Which origin of a service somebody means, who types it as the file has it or as `status` prints it. Changes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::settings::Part;
use super::state::shown;
use crate::model::{Origin, OriginHost, OriginPort};
use crate::origins::roster::{Roster, SrvRecord};

/// The address that is meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Selection {
    /// The number of the origin in its service.
    pub(super) origin: usize,
    /// Which of its addresses; empty: all there are and will be.
    pub(super) parts: Vec<Part>,
}

/// Why nothing is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum SelectionFault {
    /// Several, as they are configured.
    Several(Vec<String>),
    /// None.
    Unknown,
}

/// The selection that `typed` means of `origins`, which have the addresses of `roster`.
pub(super) fn select(origins: &[Origin], roster: &Roster, typed: &str) -> Result<Selection, SelectionFault> {
    let typed = typed.trim();
    let parsed: Option<Origin> = typed.parse().ok();
    if let Some(parsed) = &parsed
        && let Some(origin) = origins.iter().position(|origin| origin.identity() == parsed.identity())
    {
        return Ok(Selection { origin, parts: Vec::new() });
    }
    let mut named = BTreeSet::new();
    let mut parts = BTreeSet::new();
    for (index, origin) in origins.iter().enumerate() {
        // A host without its port says enough where it is there once.
        if parsed.as_ref().is_some_and(|parsed| is_host_of(parsed, origin)) {
            named.insert(index);
        }
    }
    for member in &roster.members {
        let Some(origin) = origins.get(member.origin) else { continue };
        for place in &member.places {
            let address = place.standing.address;
            let is_it = is_address(typed, parsed.as_ref(), origin, member.port, address)
                || member.record.as_ref().is_some_and(|record| is_record(typed, origin, member.port, record));
            if !is_it {
                continue;
            }
            match origin.host {
                OriginHost::Address(_) => drop(named.insert(member.origin)),
                OriginHost::Name(_) | OriginHost::Service(_) => {
                    parts.insert((member.origin, Part { address, port: member.port }));
                }
            }
        }
    }
    let meant: BTreeSet<usize> =
        named.iter().copied().chain(parts.iter().map(|(origin, _)| *origin)).collect();
    let several = || {
        let shown = meant.iter().filter_map(|index| origins.get(*index)).map(ToString::to_string);
        SelectionFault::Several(shown.collect())
    };
    match (meant.first(), meant.len()) {
        (None, _) => Err(SelectionFault::Unknown),
        (Some(origin), 1) if named.is_empty() => {
            Ok(Selection { origin: *origin, parts: parts.iter().map(|(_, part)| *part).collect() })
        }
        (Some(origin), 1) => Ok(Selection { origin: *origin, parts: Vec::new() }),
        _ => Err(several()),
    }
}

fn is_host_of(typed: &Origin, origin: &Origin) -> bool {
    let hostless = |origin: &Origin| Origin::new(origin.host.clone(), OriginPort::Dialled).identity();
    typed.port == OriginPort::Dialled && hostless(typed) == hostless(origin)
}

/// `192.0.2.1:80`, as it is shown, or the bare address.
fn is_address(
    typed: &str,
    parsed: Option<&Origin>,
    origin: &Origin,
    port: Option<u16>,
    address: IpAddr,
) -> bool {
    typed.parse() == Ok(address)
        || parsed.is_some_and(|parsed| {
            shown(origin, port, address)
                .parse::<Origin>()
                .is_ok_and(|shown| shown.identity() == parsed.identity())
        })
}

/// `_http._tcp.example.com 10 3 8080 a.example.com`, as it is shown, or `a.example.com:8080`, or the bare host.
fn is_record(typed: &str, origin: &Origin, port: Option<u16>, record: &SrvRecord) -> bool {
    let Some(port) = port else { return false };
    let SrvRecord { priority, weight, target } = record;
    let target = target.strip_suffix('.').unwrap_or(target);
    let words = typed.split_whitespace().collect::<Vec<_>>().join(" ");
    [target.to_owned(), format!("{target}:{port}"), format!("{origin} {priority} {weight} {port} {target}")]
        .iter()
        .any(|shown| shown.eq_ignore_ascii_case(&words))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Origins;
    use crate::origins::own_bindings::LoopJudgement;
    use crate::origins::resolver::{Resolution, ResolvedTarget};
    use crate::origins::roster::Place;
    use crate::origins::standing::Standing;

    /// `TARGET:PORT ADDRESS…`, or `- ADDRESS…` of a name that is no service's.
    fn target(text: &str) -> ResolvedTarget {
        let (name, addresses) = text.split_once(' ').unwrap();
        let record = name.split_once(':');
        ResolvedTarget {
            name: record.map_or("", |(name, _)| name).to_owned(),
            port: record.map(|(_, port)| port.parse().unwrap()),
            priority: 10,
            weight: 3,
            addresses: addresses.split(' ').map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn an_origin_is_meant_as_typed_or_as_shown() {
        let origins: Vec<Origin> = [
            "203.0.113.10:80",
            "203.0.113.11",
            "[2001:db8::10]:80",
            "web.example:80",
            "203.0.113.12:80",
            "203.0.113.12:81",
            "_http._tcp.example.com",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let resolutions: Vec<_> = origins
            .iter()
            .map(|origin| {
                let mut resolution = Resolution::of_address("192.0.2.1".parse().unwrap());
                match &origin.host {
                    OriginHost::Address(address) => resolution = Resolution::of_address(*address),
                    OriginHost::Name(_) => resolution.targets = vec![target("- 198.51.100.1 2001:db8::1")],
                    OriginHost::Service(_) => {
                        resolution.targets = vec![
                            target("a.example.com.:8080 198.51.100.2"),
                            target("b.example.com.:80 198.51.100.1"),
                        ];
                    }
                }
                Some(Arc::new(resolution))
            })
            .collect();
        let roster = Roster::of(
            &Origins::from(origins.clone()),
            &resolutions,
            |_, _, _| LoopJudgement::default(),
            |_, _, address, judgement| Place::new(Arc::new(Standing::new(address)), None, judgement),
        );
        let whole = |origin| Ok(Selection { origin, parts: Vec::new() });
        let part = |origin, address: &str, port| {
            Ok(Selection { origin, parts: vec![Part { address: address.parse().unwrap(), port }] })
        };
        let several =
            |of: &[&str]| Err(SelectionFault::Several(of.iter().map(ToString::to_string).collect()));
        for (typed, meant) in [
            ("203.0.113.10:80", whole(0)),
            ("203.0.113.10", whole(0)),
            ("203.0.113.11", whole(1)),
            ("[2001:DB8:0::10]:80", whole(2)),
            ("2001:db8::10", whole(2)),
            ("Web.example.:80", whole(3)),
            ("web.example", whole(3)),
            ("198.51.100.1:80", several(&["web.example:80", "_http._tcp.example.com"])),
            ("2001:db8::1", part(3, "2001:db8::1", None)),
            ("[2001:db8::1]:80", part(3, "2001:db8::1", None)),
            ("203.0.113.12", several(&["203.0.113.12:80", "203.0.113.12:81"])),
            ("203.0.113.12:81", whole(5)),
            ("_http._tcp.example.com", whole(6)),
            ("_http._tcp.example.com 10 3 8080  a.example.com", part(6, "198.51.100.2", Some(8080))),
            ("a.example.com:8080", part(6, "198.51.100.2", Some(8080))),
            ("a.example.com", part(6, "198.51.100.2", Some(8080))),
            ("198.51.100.2:8080", part(6, "198.51.100.2", Some(8080))),
            ("a.example.com:80", Err(SelectionFault::Unknown)),
            ("203.0.113.10:81", Err(SelectionFault::Unknown)),
            ("", Err(SelectionFault::Unknown)),
        ] {
            assert_eq!(select(&origins, &roster, typed), meant, "{typed}");
        }
    }
}
