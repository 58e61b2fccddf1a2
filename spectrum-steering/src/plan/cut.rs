//! What a plan would cut of the host's own: listeners on an address of its interfaces that bindings take. Finds no listener.

use std::net::{IpAddr, SocketAddr};

use super::Plan;
use crate::model::{Family, Protocol};

/// The port by which most hosts are administered: whoever binds it must mean it, even where nobody listens yet.
const SSH: u16 = 22;

/// The listeners that are cut on one address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cut {
    /// The listeners, of those given, that are not reached there any more.
    pub listeners: Vec<usize>,
    /// True if port 22 is bound.
    pub takes_ssh: bool,
}

impl Cut {
    /// True if it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && !self.takes_ssh
    }
}

#[doc(hidden)]
impl Plan {
    /// The listeners that are cut on `address`, where these are all `listeners` of the host. One on `::` is taken to
    /// listen on IPv4 too.
    #[must_use]
    pub fn cut(&self, address: IpAddr, listeners: &[(Protocol, SocketAddr)]) -> Cut {
        let hears = |listener: IpAddr| match listener.to_canonical() {
            IpAddr::V6(one) if one.is_unspecified() => true,
            one if one.is_unspecified() => Family::of(address) == Family::Ipv4,
            one => one == address,
        };
        let each = listeners.iter().enumerate();
        let cut = each.filter(|(_, (protocol, listener))| {
            hears(listener.ip()) && self.winner(*protocol, address, listener.port()).is_some()
        });
        Cut {
            listeners: cut.map(|(index, _)| index).collect(),
            takes_ssh: self.winner(Protocol::Tcp, address, SSH).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn listeners_of_bound_ports_are_cut_and_others_are_not() {
        let plan =
            plan(&["tcp 203.0.113.10 10000-50000", "udp 203.0.113.10 53", "tcp 2001:db8::/64 1-65535"]);
        let listeners: Vec<(Protocol, SocketAddr)> = [
            (Protocol::Tcp, "0.0.0.0:22"),
            (Protocol::Tcp, "[::]:22"),
            (Protocol::Tcp, "203.0.113.10:12345"),
            (Protocol::Tcp, "203.0.113.11:12345"),
            (Protocol::Tcp, "127.0.0.1:12346"),
            (Protocol::Udp, "0.0.0.0:53"),
            (Protocol::Udp, "[::ffff:203.0.113.10]:53"),
        ]
        .map(|(protocol, address)| (protocol, address.parse().unwrap()))
        .into();
        let cut = |address: &str| plan.cut(address.parse().unwrap(), &listeners);
        assert_eq!(cut("203.0.113.10"), Cut { listeners: vec![2, 5, 6], takes_ssh: false });
        assert_eq!(cut("2001:db8::5"), Cut { listeners: vec![1], takes_ssh: true });
        assert!(cut("203.0.113.12").is_empty());
    }
}
