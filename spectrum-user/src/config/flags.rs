//! The short form of a configuration: one service named `default`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::udp::{self, BoundProtocols, UdpTargetError};
use super::{
    Config, FirewallChoice, InstanceKeys, Keys, ModeChoice, NatChoice, OriginPlaces, Planned, PolicyPlaces,
    Protocols, RepairLimit,
};
use crate::model::{
    Announcing, Binding, Force, LogOptions, Origin, OriginPort, Origins, Policy, PortRange, Prefix,
    ResolverOptions, Responder, Service, ServiceName, Target,
};
use crate::plan::{self, Plan, PlanError, ServicesError};

/// The command line's flags about the one service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// Every `--prefix`.
    pub prefixes: Vec<Prefix>,
    /// Every range of every `--ports`; none means all ports.
    pub ports: Vec<PortRange>,
    /// `--protocol`.
    pub protocols: Protocols,
    /// Every `--origin`; none means a built-in answer.
    pub origins: Vec<Origin>,
    /// `--respond`: which built-in answer; none means `hello`. Not together with origins.
    pub respond: Option<Responder>,
    /// `--mode`.
    pub mode: ModeChoice,
    /// `--firewall`.
    pub firewall: FirewallChoice,
    /// `--nat`.
    pub nat: NatChoice,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
}

/// Flags that contradict each other.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FlagsError {
    /// Neither of two ranges of ports would win for a port that both have.
    #[error("--ports {first} and {second} overlap; write each port once, or one range within the other")]
    PortsOverlap {
        /// The one given first.
        first: PortRange,
        /// The other.
        second: PortRange,
    },
    /// An origin that the service itself binds.
    #[error(
        "--origin {origin}: is within --prefix and --ports itself, with port {port} for one: connections would come back \
         without end; name an address or a port that is not"
    )]
    Loop {
        /// Which.
        origin: Origin,
        /// A port with which connections would come back.
        port: u16,
    },
    /// The same origin twice.
    #[error("--origin {origin} is given twice; give it once (weights need a configuration file, --config)")]
    OriginTwice {
        /// Which.
        origin: Origin,
    },
    /// A range of an origin's ports, which takes the form that a file has.
    #[error("--origin {origin}: a range of ports needs a configuration file, --config")]
    OriginRange {
        /// Which.
        origin: Origin,
    },
    /// The same prefix twice.
    #[error("--prefix {prefix} is given twice")]
    PrefixTwice {
        /// Which.
        prefix: Prefix,
    },
    /// UDP in front of what speaks only TCP.
    #[error("{error}; add --origin HOST, --respond echo or --respond discard")]
    Udp {
        /// The targets that are possible.
        error: UdpTargetError,
    },
}

impl Flags {
    /// The configuration that the flags stand for.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn into_config(self) -> Result<Planned, FlagsError> {
        let mut seen = Vec::new();
        for prefix in &self.prefixes {
            if seen.contains(prefix) {
                return Err(FlagsError::PrefixTwice { prefix: *prefix });
            }
            seen.push(*prefix);
        }
        let ports = if self.ports.is_empty() { vec![PortRange::ALL] } else { self.ports };
        let bindings = self
            .prefixes
            .iter()
            .flat_map(|prefix| {
                let protocols = self.protocols.each().iter();
                protocols.flat_map(|protocol| {
                    ports.iter().map(|ports| Binding { protocol: *protocol, prefix: *prefix, ports: *ports })
                })
            })
            .collect::<Vec<_>>();
        let target = if self.origins.is_empty() {
            Target::Respond(self.respond.unwrap_or(Responder::Hello))
        } else {
            if let Some(origin) =
                self.origins.iter().find(|origin| matches!(origin.port, OriginPort::Offset(_)))
            {
                return Err(FlagsError::OriginRange { origin: origin.clone() });
            }
            let mut seen = HashSet::new();
            if let Some(origin) = self.origins.iter().find(|origin| !seen.insert(origin.identity())) {
                return Err(FlagsError::OriginTwice { origin: origin.clone() });
            }
            let protocols = BoundProtocols::of(&bindings).of_origins();
            Target::Origins(Origins { protocols, ..Origins::from(self.origins) })
        };
        udp::require_answer(&bindings, &target).map_err(|error| FlagsError::Udp { error })?;
        let services =
            vec![Service { name: ServiceName::default(), bindings, target, policy: Policy::default() }];
        let plan = match plan::of(&services).map_err(|errors| errors.into_iter().next()) {
            Ok(plan) => plan,
            Err(Some(ServicesError::Bindings(PlanError::Tie { first, second, .. }))) => {
                return Err(FlagsError::PortsOverlap { first: first.ports, second: second.ports });
            }
            Err(Some(ServicesError::Loop { origin, port, .. })) => {
                return Err(FlagsError::Loop { origin, port });
            }
            // One service has no other to go by, and few destinations.
            Err(
                Some(
                    ServicesError::Circle { .. }
                    | ServicesError::Bindings(PlanError::TooManyDestinations { .. }),
                )
                | None,
            ) => Plan::default(),
        };
        let config = Config {
            instance: InstanceKeys::default(),
            announcing: Announcing::default(),
            log: LogOptions::default(),
            mode: self.mode,
            firewall: self.firewall,
            nat: self.nat,
            repairs: RepairLimit::default(),
            admin: self.admin,
            resolver: ResolverOptions::default(),
            xdp: BTreeSet::new(),
            services,
            force: Force::default(),
            origin_places: OriginPlaces::default(),
            socket_sources: BTreeMap::new(),
            policy_places: PolicyPlaces::default(),
            files: Vec::new(),
            texts: Arc::default(),
            keys: Keys::default(),
        };
        Ok(Planned { config, plan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(prefixes: &[&str], ports: &[&str]) -> Flags {
        Flags {
            prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
            ..Flags::default()
        }
    }

    #[test]
    fn no_ports_are_all_ports() {
        let config = flags(&["192.0.2.0/24"], &[]).into_config().unwrap().config;
        assert_eq!(config.services[0].bindings[0].to_string(), "tcp 192.0.2.0/24 1-65535");
    }

    #[test]
    fn every_prefix_has_every_range() {
        let config =
            flags(&["192.0.2.0/24", "2001:db8::/64"], &["80", "8000-8100"]).into_config().unwrap().config;
        assert_eq!(config.services[0].bindings.len(), 4);
    }

    #[test]
    fn both_protocols_are_two_bindings() {
        let mut flags = flags(&["192.0.2.0/24"], &["80"]);
        flags.protocols = Protocols::Both;
        let error = flags.clone().into_config().unwrap_err();
        assert_eq!(
            error.to_string(),
            "hello is for TCP; add --origin HOST, --respond echo or --respond discard"
        );
        flags.respond = Some(Responder::Echo);
        let config = flags.into_config().unwrap().config;
        assert_eq!(
            config.services[0].bindings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["tcp 192.0.2.0/24 80", "udp 192.0.2.0/24 80"]
        );
    }

    #[test]
    fn a_prefix_given_twice_is_refused() {
        let error = flags(&["192.0.2.0/24", "192.0.2.0/24"], &[]).into_config().unwrap_err();
        assert_eq!(error.to_string(), "--prefix 192.0.2.0/24 is given twice");
    }

    #[test]
    fn an_origin_given_twice_is_refused() {
        let mut flags = flags(&["192.0.2.0/24"], &["80"]);
        flags.origins =
            ["a.example:80", "a.example", "A.example:80"].map(|text| text.parse().unwrap()).into();
        assert_eq!(
            flags.into_config().unwrap_err().to_string(),
            "--origin A.example:80 is given twice; give it once (weights need a configuration file, --config)"
        );
    }

    #[test]
    fn an_origin_within_the_prefix_is_refused() {
        let mut flags = flags(&["192.0.2.0/24"], &["80"]);
        flags.origins = vec!["192.0.2.7:8080".parse().unwrap()];
        assert!(flags.clone().into_config().is_ok());
        flags.origins = vec!["192.0.2.7".parse().unwrap()];
        assert_eq!(
            flags.into_config().unwrap_err().to_string(),
            "--origin 192.0.2.7: is within --prefix and --ports itself, with port 80 for one: connections would come \
             back without end; name an address or a port that is not"
        );
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let error = flags(&["192.0.2.0/24"], &["1-10", "5-20"]).into_config().unwrap_err();
        assert_eq!(
            error.to_string(),
            "--ports 1-10 and 5-20 overlap; write each port once, or one range within the other"
        );
    }
}
