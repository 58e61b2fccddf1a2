//! A configuration's services, brought into the order in which the kernel decides. The slow scan over this order is
//! the definition of every other answer.

use std::cmp::Reverse;
use std::net::IpAddr;

use spectrum_common::names;

use crate::model::{Binding, Destination, DestinationId, Prefix, Protocol, Service};

/// What the kernel must contain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Every destination that a binding leads to; its id is its index.
    pub destinations: Vec<Destination>,
    /// Every binding, in the order of precedence.
    pub bindings: Vec<PlannedBinding>,
    /// The prefixes whose addresses must be local, each once, none within another.
    pub routes: Vec<Prefix>,
}

/// A binding and where it leads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PlannedBinding {
    /// What is steered.
    pub binding: Binding,
    /// Where to.
    pub destination: DestinationId,
}

/// Which of the services' bindings one is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BindingIndex {
    /// Which service, the first is 0.
    pub service: usize,
    /// Which of its bindings, the first is 0.
    pub binding: usize,
}

/// Why services cannot be planned.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// For some packets neither of two bindings would win.
    #[error(
        "bindings tie: {first} (service {first_service}) and {second} (service {second_service}); one range must be \
         narrower and lie within the other"
    )]
    Tie {
        /// The one that is configured first.
        first: Binding,
        /// Which that is.
        first_at: BindingIndex,
        /// The service that has it.
        first_service: String,
        /// The other.
        second: Binding,
        /// Which that is.
        second_at: BindingIndex,
        /// The service that has it.
        second_service: String,
    },
    /// More destinations than the kernel's maps hold.
    #[error("{count} destinations (service, protocol, family) are more than the {limit} that the maps hold")]
    TooManyDestinations {
        /// How many there are.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
}

impl Plan {
    /// Brings the services' bindings into the order of precedence and numbers their destinations.
    ///
    /// # Errors
    /// Every pair of neighbouring bindings that tie, and a number of destinations that the maps cannot hold.
    pub fn of(services: &[Service]) -> Result<Self, Vec<PlanError>> {
        let mut plan = Self::default();
        let mut configured = Vec::new();
        for (service_index, service) in services.iter().enumerate() {
            let mut ids: Vec<(Destination, DestinationId)> = Vec::new();
            for (binding_index, binding) in service.bindings.iter().enumerate() {
                let id = ids
                    .iter()
                    .find(|(known, _)| known.family == binding.family() && known.protocol == binding.protocol)
                    .map(|(_, id)| *id);
                let destination = id.unwrap_or_else(|| {
                    let destination = Destination {
                        service: service.name.clone(),
                        family: binding.family(),
                        protocol: binding.protocol,
                    };
                    let id = DestinationId(u32::try_from(plan.destinations.len()).unwrap_or(u32::MAX));
                    plan.destinations.push(destination.clone());
                    ids.push((destination, id));
                    id
                });
                let at = BindingIndex { service: service_index, binding: binding_index };
                configured.push((PlannedBinding { binding: *binding, destination }, at));
            }
        }
        configured.sort_unstable_by(|(a, _), (b, _)| a.binding.precedence(&b.binding));

        let mut errors = ties(&configured, services);
        if plan.destinations.len() > names::DEFAULT_DESTINATIONS {
            errors.push(PlanError::TooManyDestinations {
                count: plan.destinations.len(),
                limit: names::DEFAULT_DESTINATIONS,
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        plan.bindings = configured.into_iter().map(|(binding, _)| binding).collect();
        plan.routes = outermost(plan.bindings.iter().map(|planned| planned.binding.prefix));
        Ok(plan)
    }

    /// The binding that decides on a packet to `address` and `port`: the obvious scan, which says what every faster
    /// answer must be.
    #[must_use]
    pub fn winner(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<&PlannedBinding> {
        self.bindings.iter().find(|planned| planned.binding.matches(protocol, address, port))
    }

    /// The destination with this id.
    #[must_use]
    pub fn destination(&self, id: DestinationId) -> Option<&Destination> {
        self.destinations.get(id.0 as usize)
    }
}

/// Ties among bindings in the order of precedence, where those of one prefix follow each other. Ranges that nest form a
/// tree, so each need only be compared with the innermost one that it begins in.
fn ties(sorted: &[(PlannedBinding, BindingIndex)], services: &[Service]) -> Vec<PlanError> {
    let name = |at: BindingIndex| {
        services.get(at.service).map_or_else(String::new, |service| service.name.to_string())
    };
    let mut errors = Vec::new();
    for run in sorted.chunk_by(|(a, _), (b, _)| {
        a.binding.protocol == b.binding.protocol && a.binding.prefix == b.binding.prefix
    }) {
        if run.len() == 1 {
            continue;
        }
        let mut run: Vec<(Binding, BindingIndex)> =
            run.iter().map(|(planned, at)| (planned.binding, *at)).collect();
        run.sort_unstable_by_key(|(binding, at)| (binding.ports.first(), Reverse(binding.ports.last()), *at));
        let mut open: Vec<(Binding, BindingIndex)> = Vec::new();
        for (binding, at) in run {
            while open.last().is_some_and(|(outer, _)| outer.ports.last() < binding.ports.first()) {
                open.pop();
            }
            if let Some((outer, outer_at)) = open.last()
                && outer.ties(&binding)
            {
                let mut both = [(*outer, *outer_at), (binding, at)];
                both.sort_unstable_by_key(|(_, at)| *at);
                let [(first, first_at), (second, second_at)] = both;
                errors.push(PlanError::Tie {
                    first,
                    first_at,
                    first_service: name(first_at),
                    second,
                    second_at,
                    second_service: name(second_at),
                });
            }
            open.push((binding, at));
        }
    }
    errors
}

/// The prefixes that lie in no other, sorted, each once.
fn outermost(prefixes: impl Iterator<Item = Prefix>) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = prefixes.collect();
    prefixes.sort_unstable_by_key(|prefix| (prefix.address(), prefix.length()));
    let mut outermost: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if !outermost.last().is_some_and(|last| last.contains(prefix.address())) {
            outermost.push(prefix);
        }
    }
    outermost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Responder, Target};

    fn service(name: &str, bindings: &[&str]) -> Service {
        let binding = |text: &&str| {
            let [protocol, prefix, ports] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
            Binding {
                protocol: if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp },
                prefix: prefix.parse().unwrap(),
                ports: ports.parse().unwrap(),
            }
        };
        Service {
            name: name.parse().unwrap(),
            bindings: bindings.iter().map(binding).collect(),
            target: Target::Respond(Responder::Hello),
        }
    }

    fn winner(plan: &Plan, address: &str, port: u16) -> Option<String> {
        let winner = plan.winner(Protocol::Tcp, address.parse().unwrap(), port)?;
        Some(winner.binding.to_string())
    }

    #[test]
    fn a_longer_prefix_hides_only_the_ports_it_binds() {
        let plan = Plan::of(&[service("a", &["tcp 192.0.2.0/24 1-65535", "tcp 192.0.2.7/32 80"])]).unwrap();
        assert_eq!(winner(&plan, "192.0.2.7", 80).unwrap(), "tcp 192.0.2.7/32 80");
        assert_eq!(winner(&plan, "192.0.2.7", 81).unwrap(), "tcp 192.0.2.0/24 1-65535");
        assert_eq!(winner(&plan, "192.0.3.7", 81), None);
    }

    #[test]
    fn ties_name_both_bindings_and_services() {
        let errors = Plan::of(&[
            service("a", &["tcp 192.0.2.0/24 1-100"]),
            service("b", &["tcp 192.0.2.0/24 50-200", "udp 192.0.2.0/24 1-100"]),
        ])
        .unwrap_err();
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "bindings tie: tcp 192.0.2.0/24 1-100 (service a) and tcp 192.0.2.0/24 50-200 (service b); one range \
              must be narrower and lie within the other"
            ]
        );
    }

    #[test]
    fn a_tie_with_a_range_beyond_an_enclosing_one_is_found() {
        let errors = Plan::of(&[service(
            "a",
            &["tcp 192.0.2.0/24 10-14", "tcp 192.0.2.0/24 5-30", "tcp 192.0.2.0/24 15-65535"],
        )])
        .unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    #[test]
    fn routes_are_the_outermost_prefixes() {
        let plan = Plan::of(&[service(
            "a",
            &[
                "tcp 192.0.2.0/25 80",
                "tcp 192.0.2.0/24 1-65535",
                "udp 192.0.2.0/24 53",
                "tcp 2001:db8::/64 80",
            ],
        )])
        .unwrap();
        assert_eq!(
            plan.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.0/24", "2001:db8::/64"]
        );
        assert_eq!(plan.destinations.len(), 3);
    }
}
