//! Datagrams that travel as one: what GRO made of several from one sender, and what GSO is to make several of. Sends none.

use std::net::{IpAddr, SocketAddr};

use super::control::Control;

/// The most datagrams that the kernel makes of one (UDP_MAX_SEGMENTS; newer kernels take twice as many).
const MOST_SEGMENTS: usize = 64;

/// The most bytes that one datagram may have, or all that are sent as one: 65,535 without the shortest headers.
const MOST_BYTES: usize = 65_507;

/// One datagram or several of one sender that came as one, all of a length but for the last, with what the kernel knows of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train<'a> {
    /// Who sent them; `None` only of something that is no UDP.
    pub(super) sender: Option<SocketAddr>,
    /// The address and port that they were sent to, where the socket asks for it.
    pub(super) dialled: Option<SocketAddr>,
    /// The rest of their hop limit.
    pub(super) hops: u8,
    /// Their traffic class.
    pub(super) class: u8,
    pub(super) payload: &'a [u8],
    /// The length of each but the last; that of the payload where there is one only.
    pub(super) segment: usize,
    /// False where the end of it was lost.
    pub(super) is_whole: bool,
}

impl<'a> Train<'a> {
    /// Each of them.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let empty = self.payload.is_empty().then_some(self.payload);
        self.payload.chunks(self.segment.max(1)).chain(empty)
    }

    /// The first of them.
    pub(super) fn first(&self) -> &'a [u8] {
        self.payload.get(..self.segment).unwrap_or(self.payload)
    }

    /// The number of datagrams.
    pub(super) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.segment.max(1)).max(1)
    }
}

/// What one call sends: a datagram, or as many of the same length as the kernel makes of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter<'a> {
    /// `None` where the socket is connected.
    pub(super) to: Option<SocketAddr>,
    /// The address that it comes from, where the socket is bound to all; `None`: its own.
    pub(super) from: Option<IpAddr>,
    /// What stands before each datagram.
    pub(super) head: &'a [u8],
    pub(super) payload: &'a [u8],
    /// The length of the payload's datagrams but for the last, without the head; `None` where it is one.
    pub(super) segment: Option<usize>,
    /// The hop limit; `None`: the system's.
    pub(super) hops: Option<u8>,
    pub(super) class: u8,
    /// The family of the socket, which notes depend on.
    pub(super) is_v4: bool,
}

impl<'a> Letter<'a> {
    /// True if there is nothing to tell the kernel but its bytes.
    pub(super) fn is_plain(&self) -> bool {
        let is_alone = self.head.is_empty() && self.segment.is_none() && self.to.is_none();
        is_alone && self.class == 0 && self.hops.is_none() && self.from.is_none()
    }

    /// The parts of which it consists.
    pub(super) fn for_each_part(&self, mut each: impl FnMut(&'a [u8])) {
        if self.head.is_empty() || self.payload.is_empty() {
            if !self.head.is_empty() {
                each(self.head);
            }
            return each(self.payload);
        }
        for datagram in self.payload.chunks(self.segment.unwrap_or(usize::MAX).max(1)) {
            each(self.head);
            each(datagram);
        }
    }

    /// Its first datagram, and the others if there are any.
    pub(super) fn first_apart(self) -> (Self, Option<Self>) {
        let Some((first, rest)) = self.segment.and_then(|segment| self.payload.split_at_checked(segment))
        else {
            return (self, None);
        };
        let segment = self.segment.filter(|segment| rest.len() > *segment);
        let rest = Self { payload: rest, segment, ..self };
        (Self { payload: first, segment: None, ..self }, (!rest.payload.is_empty()).then_some(rest))
    }

    /// Its bytes, with every head.
    #[cfg(test)]
    pub(super) fn length(&self) -> usize {
        self.payload.len() + self.count() * self.head.len()
    }

    /// The number of its datagrams.
    pub(super) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.segment.unwrap_or(usize::MAX).max(1)).max(1)
    }

    /// Writes the notes for the kernel: how many bytes they take.
    pub(super) fn write_notes(&self, control: &mut Control) -> usize {
        let mut end = 0;
        let (level, hops, class) = if self.is_v4 {
            (libc::SOL_IP, libc::IP_TTL, libc::IP_TOS)
        } else {
            (libc::SOL_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS)
        };
        if let Some(limit) = self.hops {
            end = control.put(end, level, hops, &i32::from(limit).to_ne_bytes());
        }
        if self.class != 0 {
            end = control.put(end, level, class, &i32::from(self.class).to_ne_bytes());
        }
        match self.from {
            // `in_pktinfo`: interface, the address to send from, one that only received ones have.
            Some(IpAddr::V4(from)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                end = control.put(end, libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            // `in6_pktinfo`: address, interface.
            Some(IpAddr::V6(from)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.octets());
                end = control.put(end, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(segment) = self.segment {
            let segment = u16::try_from(segment + self.head.len()).unwrap_or(u16::MAX);
            end = control.put(end, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        end
    }

    /// Itself as letters that the kernel can take, each with as many datagrams as fit.
    pub(super) fn split(self) -> impl Iterator<Item = Self> {
        let segment = self.segment.unwrap_or(usize::MAX).max(1);
        let most = match self.segment {
            Some(segment) => (MOST_BYTES / (segment + self.head.len()).max(1)).clamp(1, MOST_SEGMENTS),
            None => 1,
        };
        let whole = segment.saturating_mul(most);
        let empty = self.payload.is_empty().then_some(self.payload);
        let payloads = self.payload.chunks(whole).chain(empty);
        payloads.map(move |payload| Self {
            payload,
            segment: self.segment.filter(|segment| payload.len() > *segment),
            ..self
        })
    }

    /// Each of its datagrams as a letter of its own.
    pub(super) fn singly(self) -> impl Iterator<Item = Self> {
        let empty = self.payload.is_empty().then_some(self.payload);
        let payloads = self.payload.chunks(self.segment.unwrap_or(usize::MAX).max(1)).chain(empty);
        payloads.map(move |payload| Self { payload, segment: None, ..self })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letter<'a>(payload: &'a [u8], segment: Option<usize>, head: &'a [u8]) -> Letter<'a> {
        Letter { to: None, from: None, head, payload, segment, hops: None, class: 0, is_v4: true }
    }

    /// The datagrams that the kernel makes of a letter.
    fn datagrams(letter: &Letter<'_>) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        letter.for_each_part(|part| bytes.extend_from_slice(part));
        match letter.segment {
            Some(segment) => bytes.chunks(segment + letter.head.len()).map(<[u8]>::to_vec).collect(),
            None => vec![bytes],
        }
    }

    proptest! {
        #[test]
        fn a_train_leaves_as_the_datagrams_that_it_came_as(
            length in 0..65_508_usize,
            segment in 1..9_000_usize,
            head in 0..53_usize,
            singly: bool,
        ) {
            let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let head = vec![0xee; head];
            let whole = letter(&payload, Some(segment), &head);
            let letters: Vec<_> =
                if singly { whole.singly().collect() } else { whole.split().collect() };
            let expected: Vec<Vec<u8>> = if payload.is_empty() {
                vec![head.clone()]
            } else {
                payload.chunks(segment).map(|part| [&head, part].concat()).collect()
            };
            let sent: Vec<Vec<u8>> = letters.iter().flat_map(datagrams).collect();
            prop_assert_eq!(sent, expected);
            for one in &letters {
                prop_assert!(one.count() <= MOST_SEGMENTS);
                prop_assert!(one.segment.is_none() || one.length() <= MOST_BYTES);
                prop_assert_eq!(one.segment.is_some(), one.count() > 1);
            }
        }
    }

    #[test]
    fn what_came_alone_is_one_and_what_is_empty_is_one_too() {
        for (length, segment, count) in [(0, 0, 1), (5, 5, 1), (10, 5, 2), (11, 5, 3)] {
            let payload = vec![0; length];
            let train = Train {
                sender: None,
                dialled: None,
                hops: 64,
                class: 0,
                payload: &payload,
                segment,
                is_whole: true,
            };
            assert_eq!(train.count(), count, "{length} by {segment}");
        }
    }
}
