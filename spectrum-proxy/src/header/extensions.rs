//! What a header of version 2 says besides the addresses: its TLVs. Makes nothing of their values, the checksum's and the
//! unique id's apart.

/// A checksum over the whole header.
pub(crate) const CHECKSUM: u8 = 0x03;

/// Padding.
const NOTHING: u8 = 0x04;

/// The type of the id by which everybody whom it passes calls the connection.
const UNIQUE_ID: u8 = 0x05;

/// The network namespace of the proxy that wrote the header.
const NAMESPACE: u8 = 0x30;

/// The first of those that may come to mean something about the format itself.
const RESERVED: u8 = 0xf8;

/// The longest unique id that the format allows.
pub const MAX_UNIQUE_ID: usize = 128;

/// The words about a client besides its addresses, as far as it is for whoever serves it: what it asked for by ALPN and SNI,
/// what became of its TLS, the endpoint of a cloud through which it came. What is about the header itself, or about the host
/// that wrote it, is left out.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Extensions(Vec<u8>);

/// Type, value, and what follows.
pub(crate) type Split<'a> = (u8, &'a [u8], &'a [u8]);

/// The first of `extensions`, `None` where it is none or cut off.
pub(crate) fn split(extensions: &[u8]) -> Option<Split<'_>> {
    let (&kind, rest) = extensions.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((kind, value, rest))
}

impl Extensions {
    /// Those of `came` that are to be passed on.
    pub(crate) fn to_pass_on(came: &[u8]) -> Self {
        let mut passed = Self::default();
        for (kind, value) in each(came) {
            if !matches!(kind, CHECKSUM | NOTHING | NAMESPACE | RESERVED..) {
                passed.push(kind, value);
            }
        }
        passed
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The unique id, unless it is longer than one may be.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        let found = each(&self.0).find(|(kind, _)| *kind == UNIQUE_ID);
        found.map(|(_, value)| value).filter(|value| value.len() <= MAX_UNIQUE_ID)
    }

    /// Adds a unique id before all others, where there is none yet.
    pub fn identify(&mut self, id: &[u8]) {
        if !each(&self.0).any(|(kind, _)| kind == UNIQUE_ID) {
            let others = std::mem::take(&mut self.0);
            self.push(UNIQUE_ID, id);
            self.0.extend(others);
        }
    }

    /// The bytes of as many of them, in their order, as `room` holds.
    pub(crate) fn within(&self, room: usize) -> &[u8] {
        let mut rest = self.0.as_slice();
        while let Some((.., behind)) = split(rest)
            && self.0.len() - behind.len() <= room
        {
            rest = behind;
        }
        self.0.get(..self.0.len() - rest.len()).unwrap_or_default()
    }

    fn push(&mut self, kind: u8, value: &[u8]) {
        let Ok(length) = u16::try_from(value.len()) else { return };
        self.0.push(kind);
        self.0.extend(length.to_be_bytes());
        self.0.extend(value);
    }
}

fn each(mut extensions: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, value, rest) = split(extensions)?;
        extensions = rest;
        Some((kind, value))
    })
}
