//! What a configuration needs of what brings back to this host what origins answer to clients' addresses, for services whose
//! origins are dialled from those. Carries nothing out.

use std::collections::BTreeSet;

use crate::model::{DialSource, Family, OriginHost, Service, Target};

/// The needs of a configuration for its services with `transparent = true`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplyNeeds {
    /// The families that clients are spoken for in; empty: nothing is needed.
    pub families: BTreeSet<Family>,
    /// The hosts that answers come from.
    pub origins: OriginsPlace,
}

/// The hosts of the origins to which clients are spoken for.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum OriginsPlace {
    /// All have loopback addresses. What they answer is known by its source alone.
    #[default]
    Loopback,
    /// Elsewhere too: only a packet's socket tells an answer from what an origin sends on its own account.
    Elsewhere,
}

impl ReplyNeeds {
    /// The needs of `services`.
    #[must_use]
    pub fn of(services: &[Service]) -> Self {
        let mut needs = Self::default();
        for service in services {
            let Target::Origins(origins) = &service.target else { continue };
            if origins.source != DialSource::Client {
                continue;
            }
            needs.families.extend(service.bindings.iter().map(|binding| binding.prefix.family()));
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

    /// True if answers must be marked.
    #[must_use]
    pub fn mark(&self) -> bool {
        !self.families.is_empty() && self.origins == OriginsPlace::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Binding, Origins, Policy, PortRange, Protocol};

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
}
