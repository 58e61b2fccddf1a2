//! What connections are called, so that what is said of one in several places can be brought together. Says it to nobody.

use std::cell::Cell;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

/// A worker's supply of names that no other connection has, here or elsewhere.
#[derive(Debug)]
pub(super) struct UniqueIdSupply {
    /// Drawn when the worker starts.
    life: u64,
    next: Cell<u64>,
}

impl UniqueIdSupply {
    pub(super) fn start() -> Self {
        Self { life: RandomState::new().hash_one(0), next: Cell::new(0) }
    }

    /// Another one: 32 hexadecimal digits.
    pub(super) fn draw(&self) -> Arc<str> {
        let next = self.next.get();
        self.next.set(next.wrapping_add(1));
        format!("{:016x}{next:016x}", self.life).into()
    }
}

/// An `id` that somebody else chose, as records show it: as it is where it is a word, else in hexadecimal digits behind
/// `0x`.
pub(super) fn shown(id: &[u8]) -> Arc<str> {
    let is_word = |byte: &u8| byte.is_ascii_graphic() && !br#""\="#.contains(byte);
    match std::str::from_utf8(id) {
        Ok(text) if !text.is_empty() && text != "-" && id.iter().all(is_word) => text.into(),
        _ => {
            let mut digits = "0x".to_owned();
            for byte in id {
                // Writing to a String cannot fail.
                let _ = write!(digits, "{byte:02x}");
            }
            digits.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let (one, other) = (UniqueIdSupply::start(), UniqueIdSupply::start());
        let ids: std::collections::BTreeSet<_> = (0..100)
            .flat_map(|_| [one.draw(), other.draw()])
            .inspect(|id| assert_eq!(id.len(), 32))
            .collect();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn what_a_record_shows_is_one_word() {
        for (id, text) in [
            (&b"7F000001:D431_7F000001:1F90_5"[..], "7F000001:D431_7F000001:1F90_5"),
            (b"two words", "0x74776f20776f726473"),
            (b"a=b", "0x613d62"),
            (b"\xff\n", "0xff0a"),
            (b"-", "0x2d"),
            (b"", "0x"),
        ] {
            assert_eq!(&*shown(id), text);
        }
    }
}
