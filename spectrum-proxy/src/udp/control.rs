//! The notes that the kernel puts beside a datagram, and those that we put beside one for it (cmsg(3)). Knows no socket.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Notes begin at multiples of this many bytes.
const ALIGNMENT: usize = size_of::<usize>();

/// The head of a note: its length with the head, a level and a type.
const HEAD: usize = (size_of::<usize>() + 2 * size_of::<i32>()).next_multiple_of(ALIGNMENT);

/// Room for all notes that are asked for, or given.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub(super) struct Control([u8; Self::SIZE]);

impl Control {
    /// An address of IPv6, four numbers, and their heads need 168 bytes.
    pub(super) const SIZE: usize = 192;

    /// What stands in the first `length` bytes, which C libraries count in integers of their own.
    pub(super) fn as_bytes(&self, length: impl TryInto<usize>) -> &[u8] {
        length.try_into().ok().and_then(|length| self.0.get(..length)).unwrap_or(&self.0)
    }

    pub(super) fn as_mut_bytes(&mut self) -> &mut [u8; Self::SIZE] {
        &mut self.0
    }

    /// Puts a note at `offset`: where the next one may be put.
    pub(super) fn put(&mut self, offset: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let length = HEAD + data.len();
        let next = offset + length.next_multiple_of(ALIGNMENT);
        let Some(note) = self.0.get_mut(offset..next) else { return offset };
        let fields = [&length.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data];
        for (place, byte) in note.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        next
    }
}

impl Default for Control {
    fn default() -> Self {
        Self([0; Self::SIZE])
    }
}

/// What the kernel knows of a datagram, as far as it was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Notes {
    /// The dialled address and port. PKTINFO would tell the address alone.
    pub(super) dialled: Option<SocketAddr>,
    /// The rest of its hop limit.
    pub(super) hops: u8,
    /// Its traffic class: DSCP, and ECN in the last two bits.
    pub(super) class: u8,
    /// The length of each datagram of a train but the last.
    pub(super) segment: Option<usize>,
}

impl Notes {
    /// Reads what the kernel wrote. What nobody asked for is skipped.
    pub(super) fn parse(mut control: &[u8]) -> Self {
        let mut notes = Self { dialled: None, hops: u8::MAX, class: 0, segment: None };
        while let Some((length, level, kind)) = head(control) {
            let Some(data) = control.get(HEAD..length) else { break };
            match (level, kind) {
                (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                    notes.hops = number(data).and_then(|hops| u8::try_from(hops).ok()).unwrap_or(u8::MAX);
                }
                (libc::SOL_IP, libc::IP_TOS) => notes.class = data.first().copied().unwrap_or(0),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    notes.class = number(data).and_then(|class| u8::try_from(class).ok()).unwrap_or(0);
                }
                (libc::SOL_IP, libc::IP_ORIGDSTADDR) => notes.dialled = v4(data),
                (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => notes.dialled = v6(data),
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    notes.segment = number(data).and_then(|length| usize::try_from(length).ok());
                }
                _ => {}
            }
            control = control.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        notes
    }
}

/// The length, level and type of the first note, if there is one.
fn head(control: &[u8]) -> Option<(usize, i32, i32)> {
    let (length, rest) = control.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let length = usize::from_ne_bytes(*length);
    (length >= HEAD).then_some((length, i32::from_ne_bytes(*level), i32::from_ne_bytes(*rest.first_chunk()?)))
}

fn number(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// A `sockaddr_in`: family, port, address.
fn v4(data: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*data.get(2..)?.first_chunk()?);
    let ip: &[u8; 4] = data.get(4..)?.first_chunk()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(*ip), port).into())
}

/// A `sockaddr_in6`: family, port, flow, address, scope.
fn v6(data: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*data.get(2..)?.first_chunk()?);
    let ip: &[u8; 16] = data.get(8..)?.first_chunk()?;
    let scope = u32::from_ne_bytes(*data.get(24..)?.first_chunk()?);
    Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_again_and_the_rest_is_skipped() {
        let mut control = Control::default();
        let mut end = control.put(0, libc::SOL_IP, libc::IP_TTL, &7_i32.to_ne_bytes());
        end = control.put(end, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &9_u32.to_ne_bytes());
        end = control.put(end, libc::SOL_IP, libc::IP_TOS, &[0xb9]);
        end = control.put(end, libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes());
        end = control.put(end, libc::SOL_IP, libc::IP_ORIGDSTADDR, &[2, 0, 0x12, 0x34, 192, 0, 2, 1]);
        let notes = Notes::parse(control.as_bytes(end));
        let dialled = Some("192.0.2.1:4660".parse().unwrap());
        assert_eq!(notes, Notes { dialled, hops: 7, class: 0xb9, segment: Some(1200) });
        for cut in 0..end {
            Notes::parse(control.as_bytes(cut));
        }
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for length in [0, 1, HEAD - 1, HEAD + 1000, usize::MAX] {
            let mut control = Control::default();
            control.as_mut_bytes()[..ALIGNMENT].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Notes::parse(control.as_bytes(64)).hops, u8::MAX, "{length}");
        }
    }
}
