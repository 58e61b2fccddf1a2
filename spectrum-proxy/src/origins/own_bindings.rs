//! What this instance itself binds, as far as dialling must know it: where an origin's address leads. What that is, is decided
//! by whoever has the bindings; what to make of it, here.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::refusal::AddressRefusal;
use crate::model::{Hop, OriginPort, PortRange, ServiceName};

/// Says where connections of a service go that are dialled at an address, with a port of this kind, or with the one that an
/// SRV record says. Of all that it says, nothing is said where no connection comes back to us.
#[derive(Clone)]
pub struct OwnBindings {
    ask: Arc<Ask>,
    addresses: Arc<Addresses>,
}

type Addresses = dyn Fn() -> BTreeSet<IpAddr> + Send + Sync;

type Ask = dyn Fn(&ServiceName, IpAddr, OriginPort, Option<u16>) -> Vec<Hop> + Send + Sync;

impl OwnBindings {
    /// Bindings as `ask` knows them, on a host whose interfaces have these `addresses` whenever that is asked.
    pub fn new(
        ask: impl Fn(&ServiceName, IpAddr, OriginPort, Option<u16>) -> Vec<Hop> + Send + Sync + 'static,
        addresses: impl Fn() -> BTreeSet<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Arc::new(ask), addresses: Arc::new(addresses) }
    }

    /// The addresses that this host's interfaces have now.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        (self.addresses)()
    }

    /// The judgement of `address` for `service`. `way_back` says by which services what goes to another one of ours comes
    /// back to it, if it does: that other one first, `service` last.
    pub(super) fn judge(
        &self,
        service: &ServiceName,
        address: IpAddr,
        port: OriginPort,
        record: Option<u16>,
        way_back: impl Fn(&ServiceName) -> Option<Vec<ServiceName>>,
    ) -> LoopJudgement {
        let mut judgement = LoopJudgement::default();
        let mut leaves = false;
        let hops = (self.ask)(service, address, port, record);
        let is_ours = !hops.is_empty();
        for Hop { ports, service: to } in hops {
            let Some(to) = to else {
                leaves = true;
                continue;
            };
            let way = if to == *service { Some(vec![to.clone()]) } else { way_back(&to) };
            match way {
                Some(way) => {
                    // Of two generations, during a reload, both say so.
                    push_unique(&mut judgement.barred, ports);
                    push_unique(&mut judgement.ways, way);
                }
                None => push_unique(&mut judgement.through, to),
            }
        }
        judgement.rest = if is_ours && !leaves { Rest::Through } else { Rest::Elsewhere };
        judgement.extent = match (judgement.barred.is_empty(), leaves || !judgement.through.is_empty()) {
            (true, _) => Barred::Nothing,
            (false, true) => Barred::Ports,
            (false, false) => Barred::Address,
        };
        judgement
    }
}

impl Default for OwnBindings {
    /// Nothing is bound.
    fn default() -> Self {
        Self::new(|_, _, _, _| Vec::new(), BTreeSet::new)
    }
}

impl fmt::Debug for OwnBindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnBindings").finish_non_exhaustive()
    }
}

/// The ports of an address that must not be dialled, since they would come back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct LoopJudgement {
    /// The part of it that is hidden.
    pub(super) extent: Barred,
    /// The ports.
    pub(super) barred: Vec<PortRange>,
    /// The ways on which they come back, each by services: the one that binds the address first, the one that dials it last.
    pub(super) ways: Vec<Vec<ServiceName>>,
    /// Services of ours that are dialled all the same, since their connections end elsewhere.
    pub(super) through: Vec<ServiceName>,
    /// The destination of what is not barred.
    pub(super) rest: Rest,
    /// Why it is not dialled whatever else holds, if it is not.
    pub(super) refusal: Option<AddressRefusal>,
}

impl LoopJudgement {
    /// The services that bind what is barred.
    pub(super) fn by(&self) -> impl Iterator<Item = &ServiceName> {
        self.ways.iter().filter_map(|way| way.first())
    }
}

/// The destination of connections that may be dialled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Rest {
    /// Some of them to who is no service of ours.
    #[default]
    Elsewhere,
    /// All of them to services of ours.
    Through,
}

/// The part of an address that must not be dialled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Barred {
    /// All that could be.
    Address,
    #[default]
    Nothing,
    /// Some ports.
    Ports,
}

fn push_unique<T: PartialEq>(items: &mut Vec<T>, item: T) {
    if !items.contains(&item) {
        items.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(ports: &str, service: Option<&str>) -> Hop {
        Hop { ports: ports.parse().unwrap(), service: service.map(|name| name.parse().unwrap()) }
    }

    fn names(text: &str) -> Vec<ServiceName> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    /// The judgement of an address of a's, where `circle` leads back by way of `middle`.
    fn judge(said: Vec<Hop>) -> LoopJudgement {
        let own = OwnBindings::new(move |_, _, _, _| said.clone(), BTreeSet::new);
        let a = "a".parse().unwrap();
        own.judge(&a, "192.0.2.1".parse().unwrap(), OriginPort::Dialled, None, |to| {
            (to.as_str() == "circle").then(|| names("circle middle a"))
        })
    }

    #[test]
    fn what_comes_back_is_barred_and_what_ends_elsewhere_is_not() {
        let address = judge(vec![hop("80", Some("a")), hop("81", Some("circle"))]);
        assert_eq!(address.extent, Barred::Address);
        assert_eq!(address.by().map(ServiceName::as_str).collect::<Vec<_>>(), ["a", "circle"]);
        assert_eq!(address.ways, [names("a"), names("circle middle a")]);
        let ports = judge(vec![hop("80", Some("a")), hop("81", Some("end"))]);
        assert_eq!((ports.extent, ports.barred), (Barred::Ports, vec!["80".parse().unwrap()]));
        assert_eq!(ports.through, names("end"));
        assert_eq!(judge(vec![hop("80", Some("a")), hop("81", None)]).extent, Barred::Ports);
        assert_eq!(judge(vec![hop("80", Some("end")), hop("81", None)]).extent, Barred::Nothing);
        assert_eq!(judge(Vec::new()), LoopJudgement::default());
    }

    #[test]
    fn what_may_be_dialled_stays_with_us_or_not() {
        for (ports, rest) in [
            (vec![hop("80", Some("end")), hop("81", Some("a"))], Rest::Through),
            (vec![hop("80", Some("end")), hop("81", None)], Rest::Elsewhere),
            (Vec::new(), Rest::Elsewhere),
        ] {
            assert_eq!(judge(ports).rest, rest);
        }
    }
}
