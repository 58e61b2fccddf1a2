//! UDP's own header, for what does not leave by an ordinary socket. Sends nothing.

use std::net::{IpAddr, SocketAddr};

use super::checksum::Sum;

pub(super) const LENGTH: u16 = 8;

/// The number of the protocol in headers of IP.
pub(super) const UDP: u8 = 17;

/// The header of a datagram; `None` when it is too long for one.
pub(super) fn header(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<[u8; LENGTH as usize]> {
    let length = u16::try_from(payload.len()).ok()?.checked_add(LENGTH)?;
    let mut sum = Sum::default();
    for address in [from.ip(), to.ip()] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    let fields = [from.port(), to.port(), length];
    // The length is in the pseudo header too, which also names the protocol.
    sum.add_word(u16::from(UDP));
    sum.add_word(length);
    for field in fields {
        sum.add_word(field);
    }
    sum.add(payload);
    let mut header = [0; LENGTH as usize];
    for (place, field) in header.chunks_exact_mut(2).zip(fields.into_iter().chain([sum.checksum()])) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_others_compute() {
        // Added up by hand, pseudo header first (RFC 768).
        let from = "192.0.2.1:53".parse().unwrap();
        let to = "198.51.100.2:4000".parse().unwrap();
        let header = header(from, to, b"abc").unwrap();
        assert_eq!(header[..6], [0, 53, 0x0f, 0xa0, 0, 11]);
        let sum: u32 = [0xc000, 0x0201, 0xc633, 0x6402, 0x11, 11, 53, 4000, 11, 0x6162, 0x6300].iter().sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        assert_eq!(u32::from(u16::from_be_bytes([header[6], header[7]])), 0xffff - folded);
    }

    #[test]
    fn a_datagram_that_fits_no_header_is_refused() {
        let address = "[2001:db8::1]:1".parse().unwrap();
        assert!(header(address, address, &vec![0; 65_527]).is_some());
        assert!(header(address, address, &vec![0; 65_528]).is_none());
    }
}
