//! The ports that connections of a service can have at an origin, and so where they go. Does not say whether they may.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Plan;
use crate::model::{Hop, OriginPort, PortRange, Protocol, ServiceName};

/// The services that connections of `service` come to, by the protocols that it binds, which are dialled at `address`, an
/// origin's with this `port`, or with the one that its SRV `record` says; see [`Plan::hops`].
#[must_use]
pub fn hops(
    plan: &Plan,
    service: &ServiceName,
    address: IpAddr,
    port: OriginPort,
    record: Option<u16>,
    interfaces: &BTreeSet<IpAddr>,
) -> Vec<Hop> {
    let one = |port: u16| {
        let port = port.try_into().ok()?;
        PortRange::new(port, port)
    };
    let mut hops: Vec<Hop> = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let dialled = plan.dialled_ports(protocol, service);
        if dialled.is_empty() {
            continue;
        }
        let ports = match port {
            OriginPort::Dialled => dialled,
            OriginPort::Fixed(port) => one(port.get()).into_iter().collect(),
            OriginPort::Offset(range) => vec![range],
            OriginPort::Record => record.and_then(one).into_iter().collect(),
        };
        for hop in plan.hops(protocol, address, ports, interfaces) {
            if !hops.contains(&hop) {
                hops.push(hop);
            }
        }
    }
    hops
}
