//! The short form of a configuration: one service named `default`.

use super::{Config, FirewallChoice, ModeChoice};
use crate::model::{Binding, Origin, PortRange, Prefix, Protocol, Responder, Service, ServiceName, Target};
use crate::plan::{Plan, PlanError};

/// What the command line's flags say of the one service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// Every `--prefix`.
    pub prefixes: Vec<Prefix>,
    /// Every range of every `--ports`; none means all ports.
    pub ports: Vec<PortRange>,
    /// Every `--origin`; none means the built-in answer.
    pub origins: Vec<Origin>,
    /// `--mode`.
    pub mode: ModeChoice,
    /// `--firewall`.
    pub firewall: FirewallChoice,
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
    /// The same prefix twice.
    #[error("--prefix {prefix} is given twice")]
    PrefixTwice {
        /// Which.
        prefix: Prefix,
    },
}

impl Flags {
    /// The configuration that the flags stand for.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn into_config(self) -> Result<Config, FlagsError> {
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
                ports.iter().map(|ports| Binding { protocol: Protocol::Tcp, prefix: *prefix, ports: *ports })
            })
            .collect();
        let target = if self.origins.is_empty() {
            Target::Respond(Responder::Hello)
        } else {
            Target::Origins(self.origins)
        };
        let services = vec![Service { name: ServiceName::default(), bindings, target }];
        if let Err(errors) = Plan::of(&services)
            && let Some(PlanError::Tie { first, second, .. }) = errors.into_iter().next()
        {
            return Err(FlagsError::PortsOverlap { first: first.ports, second: second.ports });
        }
        Ok(Config { mode: self.mode, firewall: self.firewall, services })
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
        let config = flags(&["192.0.2.0/24"], &[]).into_config().unwrap();
        assert_eq!(config.services[0].bindings[0].to_string(), "tcp 192.0.2.0/24 1-65535");
    }

    #[test]
    fn every_prefix_has_every_range() {
        let config = flags(&["192.0.2.0/24", "2001:db8::/64"], &["80", "8000-8100"]).into_config().unwrap();
        assert_eq!(config.services[0].bindings.len(), 4);
    }

    #[test]
    fn a_prefix_given_twice_is_refused() {
        let error = flags(&["192.0.2.0/24", "192.0.2.0/24"], &[]).into_config().unwrap_err();
        assert_eq!(error.to_string(), "--prefix 192.0.2.0/24 is given twice");
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
