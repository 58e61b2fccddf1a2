//! Ethernet frames that nobody sent, for a program that looks at them. Checksums are zero. Says nothing of what the judgement should be.

use std::net::{IpAddr, SocketAddr};

/// The flag of a TCP segment that begins a connection.
pub const SYN: u8 = 0x02;

/// The payload of an IP packet.
#[derive(Clone, Copy, Debug)]
pub enum Inside {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A datagram.
    Udp,
    /// Some bytes of this protocol.
    Other(u8),
}

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    from: SocketAddr,
    to: SocketAddr,
    inside: Inside,
    tags: usize,
    options: usize,
    fragment: Option<(u16, bool)>,
    is_routed: bool,
    length: usize,
}

impl Frame {
    /// A frame without anything special.
    pub fn new(from: SocketAddr, to: SocketAddr, inside: Inside) -> Self {
        Self { from, to, inside, tags: 0, options: 0, fragment: None, is_routed: false, length: usize::MAX }
    }

    /// With so many VLAN tags.
    #[must_use]
    pub fn tagged(mut self, tags: usize) -> Self {
        self.tags = tags;
        self
    }

    /// With so many words of options of IPv4, ten at most, or so many extension headers with options of IPv6.
    #[must_use]
    pub fn with_options(mut self, options: usize) -> Self {
        self.options = options;
        self
    }

    /// As the fragment at `offset` eights, before others or the last.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// With a routing header, if it is of IPv6.
    #[must_use]
    pub fn routed(mut self) -> Self {
        self.is_routed = true;
        self
    }

    /// Cut off after so many bytes.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.length = length;
        self
    }

    /// The number of bytes up to the end of its TCP flags, or of its ports: what takes to know who dials what.
    pub fn needed(&self) -> usize {
        let payload = self.payload();
        let last = match self.inside {
            Inside::Tcp(_) => 14,
            Inside::Udp => 4,
            Inside::Other(_) => 0,
        };
        self.bytes().len() - payload.len() + last
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for tag in 0..self.tags {
            // A provider's tag outside of the customer's.
            let kind: u16 = if tag + 1 < self.tags { 0x88a8 } else { 0x8100 };
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 7]);
        }
        let payload = self.payload();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([0x08, 0x00]);
                let words = u8::try_from(5 + self.options).expect("few options");
                let length = u16::try_from(usize::from(words) * 4 + payload.len()).expect("a small packet");
                let (offset, more) = self.fragment.unwrap_or_default();
                bytes.extend([0x40 | words, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 0]);
                // May not be fragmented, unless it is one.
                let flags = if self.fragment.is_some() { u16::from(more) << 13 } else { 1 << 14 };
                bytes.extend((flags | offset).to_be_bytes());
                bytes.extend([64, self.protocol(), 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(vec![1; self.options * 4]);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd]);
                let (first, extensions) = self.extensions();
                let length = u16::try_from(extensions.len() + payload.len()).expect("a small packet");
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([first, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(extensions);
            }
            _ => panic!("two families: {self:?}"),
        }
        bytes.extend(payload);
        bytes.truncate(self.length);
        bytes
    }

    fn protocol(&self) -> u8 {
        match self.inside {
            Inside::Tcp(_) => 6,
            Inside::Udp => 17,
            Inside::Other(protocol) => protocol,
        }
    }

    /// The number of the first header behind that of IPv6, and all that stand before the payload.
    fn extensions(&self) -> (u8, Vec<u8>) {
        // Hop by hop is the first, if any; the others are options for the destination, each longer than the one before.
        let options = (0..self.options).map(|number| (if number == 0 { 0 } else { 60 }, number));
        let routing = self.is_routed.then_some((43, 2));
        let fragment = self.fragment.map(|_| (44, 0));
        let headers: Vec<(u8, usize)> = options.chain(routing).chain(fragment).collect();
        let kinds = headers.iter().map(|(kind, _)| *kind).chain([self.protocol()]);
        let mut bytes = Vec::new();
        for ((kind, eights), next) in headers.iter().zip(kinds.clone().skip(1)) {
            let mut header = vec![0; (eights + 1) * 8];
            header[0] = next;
            header[1] = u8::try_from(*eights).expect("a short header");
            if let (44, Some((offset, more))) = (*kind, self.fragment) {
                header[1] = 0;
                header[2..4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
            }
            bytes.extend(header);
        }
        (kinds.clone().next().expect("the payload's"), bytes)
    }

    fn payload(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.from.port().to_be_bytes());
        bytes.extend(self.to.port().to_be_bytes());
        match self.inside {
            Inside::Tcp(flags) => {
                bytes.extend([0; 8]);
                bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            Inside::Udp => bytes.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            Inside::Other(_) => bytes.extend([0; 16]),
        }
        bytes
    }
}
