//! Plans for the tests of this module's files, written as users would say them.

use super::{Binds, Plan};
use crate::model::{Binding, Protocol, ServiceName, parse_port_ranges};

/// A service that answers in its way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answering {
    pub(crate) name: ServiceName,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) answer: u8,
}

impl Binds for Answering {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    fn answers_like(&self, before: &Self) -> bool {
        self.answer == before.answer
    }
}

/// A service of bindings such as `tcp 192.0.2.0/24 80,443`.
pub(crate) fn answering(name: &str, texts: &[&str]) -> Answering {
    let bindings = texts.iter().flat_map(|text| {
        let [protocol, prefix, ports] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        let prefix = prefix.parse().unwrap();
        parse_port_ranges(ports).unwrap().into_iter().map(move |ports| Binding { protocol, prefix, ports })
    });
    Answering { name: name.parse().unwrap(), bindings: bindings.collect(), answer: 0 }
}

/// The plan of such bindings, all of one service.
pub(crate) fn plan(texts: &[&str]) -> Plan {
    Plan::of(&[answering("s", texts)]).unwrap()
}
