//! What ICMP says to a client about a datagram of its: that nobody is there, or that it was too big. Sends none.

use std::net::SocketAddr;

use super::checksum::Sum;
use super::header::{LENGTH as UDP_HEADER, UDP, header};

/// What an error may have in all: of IPv4 what every host takes whole (RFC 1812, 4.3.2.3), of IPv6 its least MTU (RFC 4443, 2.4).
const MOST_IPV4: usize = 576;
const MOST_IPV6: usize = 1280;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The number of ICMPv6 in headers of IP, and so in its checksum.
const ICMPV6: u16 = 58;

/// What a datagram that is quoted once had for others to pass. Nobody asks.
const HOPS: u8 = 64;

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum IcmpFault {
    /// Nobody has the port.
    PortUnreachable,
    /// Whole it gets no further: IP packets with so many bytes do.
    TooBig(u16),
}

/// The ICMP message, without a header of IP, that tells `client` what is wrong with a datagram that it has sent to `dialled`, and that
/// had this `payload`. The headers are made anew: nobody knows any more what hop limit and options they had. `None` where one
/// address cannot have sent anything to the other.
pub(super) fn message(
    fault: IcmpFault,
    client: SocketAddr,
    dialled: SocketAddr,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let udp = header(client, dialled, payload)?;
    let length = UDP_HEADER + u16::try_from(payload.len()).ok()?;
    let mut message = Vec::with_capacity(MOST_IPV6);
    match (client, dialled) {
        (SocketAddr::V4(client), SocketAddr::V4(dialled)) => {
            let (kind, code, mtu) = match fault {
                IcmpFault::PortUnreachable => (3, 3, 0),
                IcmpFault::TooBig(mtu) => (3, 4, mtu),
            };
            message.extend([kind, code, 0, 0, 0, 0]);
            message.extend(mtu.to_be_bytes());
            // "Don't fragment": had it not been set, nobody would complain of the size.
            let fragments: u16 = if matches!(fault, IcmpFault::TooBig(_)) { 0x4000 } else { 0 };
            let total = length.saturating_add(20);
            let mut ip = [0; IPV4_HEADER];
            let [high, low] = total.to_be_bytes();
            let [flags, offset] = fragments.to_be_bytes();
            ip[..10].copy_from_slice(&[0x45, 0, high, low, 0, 0, flags, offset, HOPS, UDP]);
            ip[12..16].copy_from_slice(&client.ip().octets());
            ip[16..].copy_from_slice(&dialled.ip().octets());
            let mut sum = Sum::default();
            sum.add(&ip);
            ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
            message.extend(ip);
            quote(&mut message, &udp, payload, MOST_IPV4 - IPV4_HEADER);
            seal(&mut message, Sum::default());
        }
        (SocketAddr::V6(client), SocketAddr::V6(dialled)) => {
            let (kind, code, mtu) = match fault {
                IcmpFault::PortUnreachable => (1, 4, 0),
                IcmpFault::TooBig(mtu) => (2, 0, mtu),
            };
            message.extend([kind, code, 0, 0, 0, 0]);
            message.extend(mtu.to_be_bytes());
            message.extend([0x60, 0, 0, 0]);
            message.extend(length.to_be_bytes());
            message.extend([UDP, HOPS]);
            message.extend(client.ip().octets());
            message.extend(dialled.ip().octets());
            quote(&mut message, &udp, payload, MOST_IPV6 - IPV6_HEADER);
            let mut sum = Sum::default();
            sum.add(&dialled.ip().octets());
            sum.add(&client.ip().octets());
            sum.add_word(u16::try_from(message.len()).ok()?);
            sum.add_word(ICMPV6);
            seal(&mut message, sum);
        }
        _ => return None,
    }
    Some(message)
}

/// Adds the beginning of a datagram, so that the whole has no more than `most` bytes.
fn quote(message: &mut Vec<u8>, udp: &[u8], payload: &[u8], most: usize) {
    message.extend(udp);
    let room = most.saturating_sub(message.len()).min(payload.len());
    message.extend(payload.iter().take(room));
}

/// Writes the checksum of `message`, to which `sum` belongs.
fn seal(message: &mut [u8], mut sum: Sum) {
    sum.add(message);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum.checksum().to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ICMP_HEADER: usize = 8;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What a receiver makes of bytes that carry their own checksum.
    fn is_sound(parts: &[&[u8]]) -> bool {
        let mut sum = 0_u32;
        for word in parts.concat().chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }

    #[test]
    fn a_port_unreachable_quotes_the_headers_as_the_client_sent_them() {
        let (client, dialled) = (address("192.0.2.1:4000"), address("198.51.100.2:53"));
        let message = message(IcmpFault::PortUnreachable, client, dialled, b"abc").unwrap();
        assert_eq!(message.len(), ICMP_HEADER + IPV4_HEADER + 8 + 3);
        assert_eq!(message[..2], [3, 3]);
        assert_eq!(message[4..8], [0, 0, 0, 0]);
        assert_eq!(message[8..18], [0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17]);
        assert_eq!(message[20..28], [192, 0, 2, 1, 198, 51, 100, 2]);
        assert_eq!(message[28..34], [0x0f, 0xa0, 0, 53, 0, 11]);
        assert_eq!(message[36..], *b"abc");
        assert!(is_sound(&[&message]));
        assert!(is_sound(&[&message[8..28]]), "the header within");
        assert!(is_sound(&[&message[20..28], &[0, 17, 0, 11], &message[28..]]), "the datagram within");
    }

    #[test]
    fn a_datagram_that_is_too_big_is_told_what_gets_through() {
        let (client, dialled) = (address("192.0.2.1:4000"), address("198.51.100.2:53"));
        let too_big = message(IcmpFault::TooBig(1300), client, dialled, &[7; 1400]).unwrap();
        assert_eq!(too_big.len() + IPV4_HEADER, MOST_IPV4);
        assert_eq!(too_big[..2], [3, 4]);
        assert_eq!(too_big[4..8], [0, 0, 0x05, 0x14]);
        assert_eq!(too_big[10..12], 1428_u16.to_be_bytes(), "the whole of it");
        assert_eq!(too_big[14..16], [0x40, 0], "it was not to be fragmented");
        assert!(is_sound(&[&too_big]));
    }

    #[test]
    fn of_ipv6_as_much_is_quoted_as_gets_through_everywhere() {
        let (client, dialled) = (address("[2001:db8::1]:4000"), address("[2001:db8:1::2]:53"));
        let (IpAddrs { from, to }, payload) = (octets(dialled, client), [9; 1400]);
        for (fault, start, mtu) in
            [(IcmpFault::PortUnreachable, [1, 4], [0; 4]), (IcmpFault::TooBig(1300), [2, 0], [0, 0, 5, 0x14])]
        {
            let message = message(fault, client, dialled, &payload).unwrap();
            assert_eq!(message.len() + IPV6_HEADER, MOST_IPV6);
            assert_eq!(message[..2], start);
            assert_eq!(message[4..8], mtu);
            assert_eq!(message[8..16], [0x60, 0, 0, 0, 0x05, 0x80, 17, 64]);
            assert_eq!(message[16..32], to);
            assert_eq!(message[32..48], from);
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            assert!(is_sound(&[&from, &to, &length, &[0, 0, 0, 58], &message]));
        }
    }

    struct IpAddrs {
        from: [u8; 16],
        to: [u8; 16],
    }

    fn octets(from: SocketAddr, to: SocketAddr) -> IpAddrs {
        let octets = |address| match address {
            SocketAddr::V6(address) => address.ip().octets(),
            SocketAddr::V4(_) => panic!("{address} is no address of IPv6"),
        };
        IpAddrs { from: octets(from), to: octets(to) }
    }

    #[test]
    fn nothing_is_said_between_families_nor_about_what_is_no_datagram() {
        let (ipv4, ipv6) = (address("192.0.2.1:4000"), address("[2001:db8::1]:53"));
        assert_eq!(message(IcmpFault::PortUnreachable, ipv4, ipv6, b""), None);
        assert_eq!(message(IcmpFault::PortUnreachable, ipv4, ipv4, &vec![0; 65_528]), None);
        assert!(message(IcmpFault::PortUnreachable, ipv4, ipv4, b"").is_some());
    }
}
