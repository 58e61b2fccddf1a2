//! Origins at which services would dial themselves, or each other in a circle, so that one connection of a client becomes as
//! many as there are descriptors. Knows addresses only: where names lead is not known before they are asked for.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;

use super::{Plan, ServicesError, hops};
use crate::model::{Origin, OriginHost, Service, ServiceName, Target};

/// One way on from a service: an origin that another service binds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leg {
    /// The service that dials.
    pub service: ServiceName,
    /// The origin, an address.
    pub origin: Origin,
    /// The service that binds it.
    pub by: ServiceName,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, origin, by } = self;
        write!(f, "origin {origin} of service {service} is bound by service {by}")
    }
}

/// An error for each origin that would bring connections back to its own service, at once or by way of others.
pub(super) fn loops(plan: &Plan, services: &[Service]) -> Vec<ServicesError> {
    let mut loops = Vec::new();
    let mut legs: HashMap<&ServiceName, Vec<Leg>> = HashMap::new();
    for (at, service) in services.iter().enumerate() {
        let Target::Origins(origins) = &service.target else { continue };
        for origin in &origins.list {
            let OriginHost::Address(address) = origin.host else { continue };
            // What interfaces have is not known here; who dials knows.
            let hops = hops(plan, &service.name, address, origin.port, None, &BTreeSet::new());
            for hop in hops {
                let Some(by) = hop.service else { continue };
                if by == service.name {
                    let (service, port) = (service.name.to_string(), hop.ports.first());
                    loops.push(ServicesError::Loop { at, service, origin: origin.clone(), port });
                    break;
                }
                let leg = Leg { service: service.name.clone(), origin: origin.clone(), by };
                let known = legs.entry(&service.name).or_default();
                if known.iter().all(|known| known.by != leg.by) {
                    known.push(leg);
                }
            }
        }
    }
    let mut told = HashSet::new();
    for (at, service) in services.iter().enumerate() {
        if told.contains(&service.name) {
            continue;
        }
        if let Some(circle) = circle(&service.name, &legs) {
            told.extend(circle.iter().map(|leg| leg.service.clone()));
            loops.push(ServicesError::Circle { at, legs: circle });
        }
    }
    loops
}

/// The shortest way from `service` back to itself.
fn circle(service: &ServiceName, legs: &HashMap<&ServiceName, Vec<Leg>>) -> Option<Vec<Leg>> {
    let mut reached: HashMap<&ServiceName, &Leg> = HashMap::new();
    let mut next = VecDeque::from([service]);
    while let Some(here) = next.pop_front() {
        for leg in legs.get(here).into_iter().flatten() {
            if reached.contains_key(&leg.by) {
                continue;
            }
            reached.insert(&leg.by, leg);
            next.push_back(&leg.by);
        }
    }
    let mut way = vec![*reached.get(service)?];
    while let Some(first) = way.last()
        && first.service != *service
    {
        way.push(reached.get(&first.service)?);
    }
    Some(way.into_iter().rev().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Binding, Origins, Policy, Prefix, Protocol, Responder, parse_port_ranges};

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

    /// True if a service with these bindings and this origin is refused, beside one with `192.0.2.80` port 8080.
    fn is_refused(prefix: &str, ports: &str, origin: &str) -> bool {
        let services = [
            service("a", prefix, ports, origins(origin)),
            service("b", "192.0.2.80", "8080", Target::Respond(Responder::Hello)),
        ];
        match crate::plan::of(&services) {
            Ok(_) => false,
            Err(errors) => {
                assert!(matches!(errors[..], [ServicesError::Loop { at: 0, .. }]), "{errors:?}");
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

    /// The refusals of services whose origins are these, each with its bindings.
    fn said(services: &[(&str, &str, &str, &str)]) -> Vec<String> {
        let services: Vec<Service> = services
            .iter()
            .map(|(name, prefix, ports, origin)| service(name, prefix, ports, origins(origin)))
            .collect();
        crate::plan::of(&services).err().into_iter().flatten().map(|error| error.to_string()).collect()
    }

    #[test]
    fn services_that_dial_each_other_in_a_circle_are_refused_once() {
        let circle = said(&[
            ("a", "192.0.2.0/24", "80", "198.51.100.1:8080"),
            ("b", "198.51.100.0/24", "8080", "203.0.113.1"),
            ("c", "203.0.113.0/24", "8000-8100", "192.0.2.5:80"),
            ("d", "2001:db8::/64", "80", "192.0.2.5:80"),
        ]);
        assert_eq!(
            circle,
            [
                "connections would go round without end: origin 198.51.100.1:8080 of service a is bound by service b, origin \
              203.0.113.1 of service b is bound by service c, origin 192.0.2.5:80 of service c is bound by service a; \
              give one of them an address or a port that none of these services binds"
            ]
        );
    }

    #[test]
    fn a_chain_of_services_that_ends_is_none() {
        let chain = [
            ("a", "192.0.2.0/24", "80", "198.51.100.1:8080"),
            ("b", "198.51.100.0/24", "8080", "203.0.113.1"),
            ("c", "203.0.113.0/24", "8000-8100", "192.0.2.5:81"),
        ];
        assert_eq!(said(&chain), [""; 0]);
        // Of b's connections none has the port that c binds.
        let [a, b, _] = chain;
        assert_eq!(said(&[a, b, ("c", "203.0.113.0/24", "8081", "192.0.2.5:80")]), [""; 0]);
    }

    #[test]
    fn what_everything_local_is_bound_for_may_be_elsewhere() {
        assert!(!is_refused("0.0.0.0/0", "80", "203.0.113.5:80"));
        assert!(is_refused("0.0.0.0/0", "80", "127.0.0.1:80"));
    }

    #[test]
    fn a_port_in_the_middle_of_a_range_is_found() {
        let a = Binding {
            protocol: Protocol::Tcp,
            prefix: "192.0.2.0/24".parse().unwrap(),
            ports: "80-90".parse().unwrap(),
        };
        let others = service("b", "192.0.2.5", "80,90", Target::Respond(Responder::Hello));
        let this = Service { bindings: vec![a], ..service("a", "192.0.2.9", "1", origins("192.0.2.5")) };
        let errors = crate::plan::of(&[this, others]).unwrap_err();
        assert!(matches!(errors[..], [ServicesError::Loop { at: 0, port: 81, .. }]), "{errors:?}");
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
