//! Origins at which a service would dial itself, so that one connection of a client becomes as many as there are
//! descriptors. Knows addresses only: where names lead is not known before they are asked for.

use std::net::IpAddr;

use super::{Plan, PlanError};
use crate::model::{Origin, OriginHost, OriginPort, Protocol, Service, Target};

impl Plan {
    /// An error for each origin that one of its own service's bindings would bring back.
    pub(super) fn loops(&self, services: &[Service]) -> Vec<PlanError> {
        let mut loops = Vec::new();
        for (index, service) in services.iter().enumerate() {
            let Target::Origins(origins) = &service.target else { continue };
            for origin in &origins.list {
                let OriginHost::Address(address) = origin.host else { continue };
                if let Some(port) = self.port_that_comes_back(service, origin, address) {
                    loops.push(PlanError::Loop {
                        at: index,
                        service: service.name.to_string(),
                        origin: origin.clone(),
                        port,
                    });
                }
            }
        }
        loops
    }

    /// Ranges are judged by their ends, which is enough unless other services bind exactly those.
    fn port_that_comes_back(&self, service: &Service, origin: &Origin, address: IpAddr) -> Option<u16> {
        let own = service
            .bindings
            .iter()
            .filter(|own| own.protocol == Protocol::Tcp && own.prefix.contains(address))
            .map(|own| own.ports);
        let ports: Vec<u16> = own
            .filter_map(|bound| match origin.port {
                OriginPort::Dialled => Some([bound.first(), bound.last()]),
                OriginPort::Fixed(port) => Some([port.get(); 2]),
                OriginPort::Offset(range) => range
                    .overlaps(&bound)
                    .then(|| [range.first().max(bound.first()), range.last().min(bound.last())]),
                // Goes with a name.
                OriginPort::Record => None,
            })
            .flatten()
            .collect();
        // Most origins are not among what their service binds: only for those that are is the scan worth its time.
        ports.into_iter().find(|port| {
            self.winner(Protocol::Tcp, address, *port)
                .and_then(|winner| self.destination(winner.destination))
                .is_some_and(|destination| destination.service == service.name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Binding, Origins, Policy, Prefix, Responder, parse_port_ranges};

    fn service(name: &str, prefix: &str, ports: &str, target: Target) -> Service {
        let prefix: Prefix = prefix.parse().unwrap();
        let bindings = parse_port_ranges(ports).unwrap().into_iter().map(|ports| Binding {
            protocol: Protocol::Tcp,
            prefix,
            ports,
        });
        Service {
            name: name.parse().unwrap(),
            bindings: bindings.collect(),
            target,
            policy: Policy::default(),
        }
    }

    fn origins(text: &str) -> Target {
        Target::Origins(Origins::from(vec![text.parse().unwrap()]))
    }

    /// Whether a service with these bindings and this origin is refused, beside one with `192.0.2.80` port 8080.
    fn is_refused(prefix: &str, ports: &str, origin: &str) -> bool {
        let services = [
            service("a", prefix, ports, origins(origin)),
            service("b", "192.0.2.80", "8080", Target::Respond(Responder::Hello)),
        ];
        match Plan::of(&services) {
            Ok(_) => false,
            Err(errors) => {
                assert!(matches!(errors[..], [PlanError::Loop { at: 0, .. }]), "{errors:?}");
                true
            }
        }
    }

    #[test]
    fn an_origin_that_its_own_service_binds_is_refused() {
        assert!(is_refused("192.0.2.0/24", "1-65535", "192.0.2.5"));
        assert!(is_refused("192.0.2.0/24", "80", "192.0.2.5"));
        assert!(is_refused("192.0.2.0/24", "80,443", "192.0.2.5:443"));
        assert!(is_refused("2001:db8::/64", "1-65535", "[2001:db8::5]:22"));
        assert!(is_refused("192.0.2.0/24", "1000-1100", "192.0.2.5:1050-1150"));
    }

    #[test]
    fn an_origin_elsewhere_on_another_port_or_of_another_service_is_not() {
        assert!(!is_refused("192.0.2.0/24", "1-65535", "203.0.113.5"));
        assert!(!is_refused("192.0.2.0/24", "80", "192.0.2.5:8080"));
        assert!(!is_refused("192.0.2.0/24", "1000-1100", "192.0.2.5:2000-2100"));
        assert!(!is_refused("192.0.2.0/24", "1-65535", "192.0.2.80:8080"));
        assert!(!is_refused("192.0.2.0/24", "1-65535", "origin.example"));
    }
}
