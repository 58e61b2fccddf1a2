//! What this instance itself binds, as far as dialling must know it: where an origin's address leads. What that is, is decided
//! by whoever has the bindings; what to make of it, here.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Onward, OriginPort, PortRange, ServiceName};

/// Says where connections of a service go that are dialled at an address, with a port of this kind, or with the one that an
/// SRV record says. Of all that it says, nothing is said where no connection comes back to us.
#[derive(Clone)]
pub struct OwnBindings(Arc<Ask>);

type Ask = dyn Fn(&ServiceName, IpAddr, OriginPort, Option<u16>) -> Vec<Onward> + Send + Sync;

impl OwnBindings {
    /// What `ask` says.
    pub fn new(
        ask: impl Fn(&ServiceName, IpAddr, OriginPort, Option<u16>) -> Vec<Onward> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(ask))
    }

    /// What to make of `address` for `service`. `comes_back` says whether what goes to another service of ours comes back.
    pub(super) fn judge(
        &self,
        service: &ServiceName,
        address: IpAddr,
        port: OriginPort,
        record: Option<u16>,
        comes_back: impl Fn(&ServiceName) -> bool,
    ) -> Judgement {
        let mut judgement = Judgement::default();
        let mut open = false;
        for Onward { ports, service: to } in (self.0)(service, address, port, record) {
            match to {
                Some(to) if to == *service || comes_back(&to) => {
                    // Of two generations, during a reload, both say so.
                    if !judgement.barred.contains(&ports) {
                        judgement.barred.push(ports);
                    }
                    push_unique(&mut judgement.by, to);
                }
                Some(to) => {
                    open = true;
                    push_unique(&mut judgement.through, to);
                }
                None => open = true,
            }
        }
        judgement.extent = match (judgement.barred.is_empty(), open) {
            (true, _) => Extent::Nothing,
            (false, true) => Extent::Ports,
            (false, false) => Extent::Address,
        };
        judgement
    }
}

impl Default for OwnBindings {
    /// Nothing is bound.
    fn default() -> Self {
        Self::new(|_, _, _, _| Vec::new())
    }
}

impl fmt::Debug for OwnBindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnBindings").finish_non_exhaustive()
    }
}

/// What must not be dialled at an address, since it would come back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Judgement {
    /// How much of it.
    pub(super) extent: Extent,
    /// Which ports.
    pub(super) barred: Vec<PortRange>,
    /// The services that bind them.
    pub(super) by: Vec<ServiceName>,
    /// Services of ours that are dialled all the same, since their connections end elsewhere.
    pub(super) through: Vec<ServiceName>,
}

/// How much of an address must not be dialled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Extent {
    /// All that could be.
    Address,
    #[default]
    Nothing,
    /// Some ports.
    Ports,
}

fn push_unique(names: &mut Vec<ServiceName>, name: ServiceName) {
    if !names.contains(&name) {
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn onward(ports: &str, service: Option<&str>) -> Onward {
        Onward { ports: ports.parse().unwrap(), service: service.map(|name| name.parse().unwrap()) }
    }

    #[test]
    fn what_comes_back_is_barred_and_what_ends_elsewhere_is_not() {
        let judge = |said: Vec<Onward>| {
            let own = OwnBindings::new(move |_, _, _, _| said.clone());
            let a = "a".parse().unwrap();
            own.judge(&a, "192.0.2.1".parse().unwrap(), OriginPort::Dialled, None, |to| {
                to.as_str() == "circle"
            })
        };
        let address = judge(vec![onward("80", Some("a")), onward("81", Some("circle"))]);
        assert_eq!(address.extent, Extent::Address);
        assert_eq!(address.by.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["a", "circle"]);
        let ports = judge(vec![onward("80", Some("a")), onward("81", Some("end"))]);
        assert_eq!((ports.extent, ports.barred), (Extent::Ports, vec!["80".parse().unwrap()]));
        assert_eq!(ports.through.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["end"]);
        assert_eq!(judge(vec![onward("80", Some("a")), onward("81", None)]).extent, Extent::Ports);
        assert_eq!(judge(vec![onward("80", Some("end")), onward("81", None)]).extent, Extent::Nothing);
        assert_eq!(judge(Vec::new()), Judgement::default());
    }
}
