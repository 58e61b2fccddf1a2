//! What brings back to this host what origins answer to clients' addresses, for services whose origins are dialled from
//! those: which of it a configuration needs, and by which numbers it goes. Carries nothing out.

use std::collections::BTreeSet;

use super::firewall::Chain;
use crate::model::{DialSource, Family, OriginHost, Protocol, Service, Target};

/// The mark of packets that belong to a connection of ours with an origin, in the bits of [`MARK_MASK`]. The same for all
/// instances, since all want it for the same: that the packet is delivered here.
pub const MARK: u32 = (b'S' as u32) << 24;

/// The bits of a packet's mark that [`MARK`] takes. The others stay whoever's they are.
pub const MARK_MASK: u32 = 0xff << 24;

/// The bits of a process id: Linux gives none above (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;

/// What a configuration needs for its services with `transparent = true`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplyNeeds {
    /// The families that clients are spoken for in; empty: nothing is needed.
    pub families: BTreeSet<Family>,
    /// Whether answers come from other hosts.
    pub origins: OriginsPlace,
}

/// Where the origins are that clients are spoken for to.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum OriginsPlace {
    /// All have loopback addresses. What they answer is known by its source alone.
    #[default]
    Loopback,
    /// Elsewhere too: only a packet's socket tells an answer from what an origin sends on its own account.
    Elsewhere,
}

impl ReplyNeeds {
    /// What `services` need.
    #[must_use]
    pub fn of(services: &[Service]) -> Self {
        let mut needs = Self::default();
        for service in services {
            let Target::Origins(origins) = &service.target else { continue };
            if origins.source != DialSource::Client {
                continue;
            }
            let bound = service.bindings.iter().filter(|binding| binding.protocol == Protocol::Tcp);
            needs.families.extend(bound.map(|binding| binding.prefix.family()));
            for origin in &origins.list {
                let address = match &origin.host {
                    OriginHost::Address(address) => Some(address),
                    OriginHost::Name(_) | OriginHost::Service(_) => None,
                };
                if !address.is_some_and(std::net::IpAddr::is_loopback) {
                    needs.origins = OriginsPlace::Elsewhere;
                }
                // A trusted proxy may speak for clients of any family.
                if !service.policy.trusted_proxies.prefixes.is_empty() {
                    needs.families.extend(address.map(|address| Family::of(*address)));
                }
            }
        }
        needs
    }

    /// Whether answers must be marked.
    #[must_use]
    pub fn mark(&self) -> bool {
        !self.families.is_empty() && self.origins == OriginsPlace::Elsewhere
    }
}

/// An instance's routing table: its number, which nobody else uses.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReplyTable(u32);

impl ReplyTable {
    /// The table of the instance that has `chain`: whoever knows the one knows the other, so the claim of a chain is one of
    /// the table as well.
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        let id = chain.as_str().split_once('-').map_or("", |(_, id)| id);
        let (pid, number) = id.split_once('-').unwrap_or((id, "0"));
        let [pid, number] = [pid, number].map(|part| part.parse::<u32>().unwrap_or_default());
        Self(MARK | (number & 0b11) << PID_BITS | pid & ((1 << PID_BITS) - 1))
    }

    /// The table with this number, if it is one of ours.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        (number & MARK_MASK == MARK).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for ReplyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Binding, Origins, Policy, PortRange};

    fn service(prefix: &str, origins: &[&str], source: DialSource) -> Service {
        let prefix = prefix.parse().unwrap();
        let mut target = Origins::from(origins.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        target.source = source;
        Service {
            name: crate::model::ServiceName::default(),
            bindings: vec![Binding { protocol: Protocol::Tcp, prefix, ports: PortRange::ALL }],
            target: Target::Origins(target),
            policy: Policy::default(),
        }
    }

    #[test]
    fn only_services_that_speak_for_clients_need_anything() {
        assert_eq!(
            ReplyNeeds::of(&[service("192.0.2.0/24", &["10.0.0.5"], DialSource::Host)]),
            ReplyNeeds::default()
        );
        for (origins, place) in [
            (&["127.0.0.1"][..], OriginsPlace::Loopback),
            (&["127.0.0.1", "10.0.0.5"], OriginsPlace::Elsewhere),
            (&["origin.example"], OriginsPlace::Elsewhere),
        ] {
            let needs = ReplyNeeds::of(&[service("192.0.2.0/24", origins, DialSource::Client)]);
            assert_eq!(needs, ReplyNeeds { families: [Family::Ipv4].into(), origins: place }, "{origins:?}");
        }
    }

    #[test]
    fn clients_that_a_proxy_names_may_be_of_the_origins_family() {
        let mut service = service("192.0.2.0/24", &["::1"], DialSource::Client);
        service.policy.trusted_proxies.prefixes = vec!["192.0.2.1".parse().unwrap()];
        assert_eq!(ReplyNeeds::of(&[service]).families, [Family::Ipv4, Family::Ipv6].into());
    }

    #[test]
    fn every_instance_has_a_table_of_its_own() {
        let tables: BTreeSet<ReplyTable> =
            ["1", "4711", "4711-1", "4194304"].map(|id| ReplyTable::of(&Chain::of(id))).into();
        assert_eq!(tables.len(), 4);
        for table in tables {
            assert_eq!(ReplyTable::numbered(table.number()), Some(table));
        }
        assert_eq!(ReplyTable::numbered(254), None);
    }
}
