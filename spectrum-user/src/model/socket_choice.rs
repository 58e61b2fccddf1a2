//! Which of the sockets that somebody offers gets the packets of a destination, and what its clients would not take for an answer. Has none of
//! them in its hands.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use super::{Destination, DestinationId, Family, PortRange, Protocol};

/// Only so many ranges of ports are named.
const NAMED: usize = 4;

/// The part of an offered socket that decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketShape {
    /// The protocol of what comes to it.
    pub protocol: Protocol,
    /// The families of what comes to it.
    pub families: Vec<Family>,
    /// The address that it is bound to.
    pub address: SocketAddr,
}

impl fmt::Display for SocketShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<String> = self.families.iter().map(ToString::to_string).collect();
        write!(f, "{} {} of {}", self.protocol, self.address, families.join(" and "))
    }
}

/// A reason for which no socket can be chosen.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SocketChoiceError {
    /// None of them is for what the service binds.
    #[error("it binds {}, and offered are {}", listed(.wanted.iter().map(|one| format!("{} of {}", one.protocol, one.family))), listed(.offered))]
    NoneFits {
        /// The destinations of the service.
        wanted: Vec<Destination>,
        /// What there was to be chosen from.
        offered: Vec<SocketShape>,
    },
    /// More than one is for the same destination.
    #[error("several sockets fit {destination}: {}; say which, by its address and port at the end of the line", listed(.addresses))]
    Several {
        /// The destination.
        destination: Destination,
        /// Their addresses.
        addresses: BTreeSet<SocketAddr>,
    },
}

fn listed<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

/// For each of the `wanted` destinations the one of `offered` that fits it, of which there must be one at least. One of one family alone is
/// meant for it; of several that share an address and port the kernel chooses, whichever of them it is told of.
///
/// # Errors
/// [`SocketChoiceError`].
pub fn choose_sockets<'a, 'o, T>(
    wanted: &'a [(DestinationId, Destination)],
    offered: &'o [T],
    shape: impl Fn(&T) -> SocketShape,
) -> Result<Vec<(DestinationId, &'a Destination, &'o T)>, SocketChoiceError> {
    let shapes: Vec<(&T, SocketShape)> = offered.iter().map(|one| (one, shape(one))).collect();
    let mut chosen = Vec::new();
    for (id, destination) in wanted {
        let fits = |(_, shape): &&(&T, SocketShape)| {
            shape.protocol == destination.protocol && shape.families.contains(&destination.family)
        };
        let mut fit: Vec<_> = shapes.iter().filter(fits).collect();
        if fit.iter().any(|(_, shape)| shape.families.len() == 1) {
            fit.retain(|(_, shape)| shape.families.len() == 1);
        }
        let addresses: BTreeSet<SocketAddr> = fit.iter().map(|(_, shape)| shape.address).collect();
        if addresses.len() > 1 {
            return Err(SocketChoiceError::Several { destination: destination.clone(), addresses });
        }
        chosen.extend(fit.first().map(|(one, _)| (*id, destination, *one)));
    }
    if chosen.is_empty() {
        let wanted = wanted.iter().map(|(_, one)| one.clone()).collect();
        let offered = shapes.into_iter().map(|(_, shape)| shape).collect();
        return Err(SocketChoiceError::NoneFits { wanted, offered });
    }
    Ok(chosen)
}

/// The reasons for which clients of datagrams take nothing for an answer that `command` says, whose socket is bound to `port`, where what is
/// `bound` comes to it. It `asks` which address a datagram was sent to, or does not.
#[must_use]
pub fn answer_notes(
    destination: &Destination,
    bound: &BTreeSet<PortRange>,
    port: u16,
    command: &str,
    asks: bool,
) -> Vec<String> {
    if destination.protocol != Protocol::Udp {
        return Vec::new();
    }
    let others = bound.iter().filter(|ports| (ports.first(), ports.last()) != (port, port));
    let others: Vec<String> = others.take(NAMED).map(ToString::to_string).collect();
    let mut notes = Vec::new();
    if !others.is_empty() {
        notes.push(format!(
            "{destination}: answers leave from port {port}, and no client takes them for answers that dialled another one ({}): bind port \
             {port} alone, or relay to the server by origins",
            others.join(", ")
        ));
    }
    if !asks {
        notes.push(format!(
            "{destination}: {command} does not ask which address a datagram was sent to (IP_PKTINFO), so that its answers leave from another one, \
             and no client takes them for answers"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(protocol: Protocol, family: Family) -> (DestinationId, Destination) {
        (DestinationId(7), Destination { service: "web".parse().unwrap(), revision: 0, family, protocol })
    }

    fn shape(protocol: Protocol, families: &[Family], address: &str) -> SocketShape {
        SocketShape { protocol, families: families.to_vec(), address: address.parse().unwrap() }
    }

    #[test]
    fn each_destination_gets_the_one_socket_that_fits() {
        let (ipv4, ipv6) = (Family::Ipv4, Family::Ipv6);
        let mut sockets = vec![
            shape(Protocol::Tcp, &[ipv4], "127.0.0.1:80"),
            shape(Protocol::Udp, &[ipv4], "127.0.0.1:53"),
            shape(Protocol::Tcp, &[ipv6, ipv4], "[::]:81"),
        ];
        let all = [
            wanted(Protocol::Tcp, ipv4),
            wanted(Protocol::Tcp, ipv6),
            wanted(Protocol::Udp, ipv4),
            wanted(Protocol::Udp, ipv6),
        ];
        let addresses = |sockets: &[SocketShape]| {
            let chosen = choose_sockets(&all, sockets, Clone::clone).map_err(|error| error.to_string())?;
            Ok::<_, String>(chosen.iter().map(|(.., one)| one.address.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(addresses(&sockets).unwrap(), ["127.0.0.1:80", "[::]:81", "127.0.0.1:53"]);
        // Which of those that share a port is told to the kernel is no matter.
        sockets.push(sockets[0].clone());
        assert_eq!(addresses(&sockets).unwrap().len(), 3);
        sockets.push(shape(Protocol::Tcp, &[ipv4], "127.0.0.2:80"));
        assert_eq!(
            addresses(&sockets).unwrap_err(),
            "several sockets fit web tcp ipv4: 127.0.0.1:80, 127.0.0.2:80; say which, by its address and port at the end of the line"
        );
        let refused = choose_sockets(&all[3..], &sockets[1..3], Clone::clone).unwrap_err().to_string();
        assert_eq!(
            refused,
            "it binds udp of ipv6, and offered are udp 127.0.0.1:53 of ipv4, tcp [::]:81 of ipv6 and ipv4"
        );
    }

    #[test]
    fn answers_that_nobody_takes_are_told() {
        let (_, dns) = wanted(Protocol::Udp, Family::Ipv4);
        let bound = |ports: &str| BTreeSet::from([ports.parse().unwrap()]);
        assert!(answer_notes(&dns, &bound("53"), 53, "knotd", true).is_empty());
        let notes = answer_notes(&dns, &bound("50-60"), 53, "knotd", false);
        assert!(notes[0].contains("port 53 alone") && notes[1].contains("knotd does not ask"), "{notes:?}");
        let (_, web) = wanted(Protocol::Tcp, Family::Ipv4);
        assert!(answer_notes(&web, &bound("1-65535"), 80, "nginx", false).is_empty());
    }
}
