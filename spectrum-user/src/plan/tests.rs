//! Plans for the tests of this module's files, written as users would say them.

use super::Plan;
use crate::model::{Binding, Policy, Protocol, Responder, Service, Target, parse_port_ranges};

/// The plan of bindings such as `tcp 192.0.2.0/24 80,443`, all of one service.
pub(crate) fn plan(texts: &[&str]) -> Plan {
    let bindings = texts.iter().flat_map(|text| {
        let [protocol, prefix, ports] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        let prefix = prefix.parse().unwrap();
        parse_port_ranges(ports).unwrap().into_iter().map(move |ports| Binding { protocol, prefix, ports })
    });
    let service = Service {
        name: "s".parse().unwrap(),
        bindings: bindings.collect(),
        target: Target::Respond(Responder::Hello),
        policy: Policy::default(),
    };
    Plan::of(&[service]).unwrap()
}
