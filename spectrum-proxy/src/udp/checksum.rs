//! The Internet checksum (RFC 1071). Knows no packet.

/// The sum in the making. 64 bits hold that of more words than a packet has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes, as if a zero followed an odd one.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            if let [high, low] = *word {
                self.add_word(u16::from_be_bytes([high, low]));
            }
        }
        if let [last] = *words.remainder() {
            self.add_word(u16::from_be_bytes([last, 0]));
        }
    }

    pub(super) fn add_word(&mut self, word: u16) {
        self.0 += u64::from(word);
    }

    /// The complement, and never 0, which says of UDP that there is no checksum: 65,535 means the same.
    pub(super) fn checksum(self) -> u16 {
        let mut folded = self.0;
        while folded > 0xffff {
            folded = (folded & 0xffff) + (folded >> 16);
        }
        match u16::try_from(folded) {
            Ok(0xffff) | Err(_) => 0xffff,
            Ok(sum) => !sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_never_zero() {
        let mut sum = Sum::default();
        sum.add_word(0xffff);
        assert_eq!(sum.checksum(), 0xffff);
        assert_eq!(Sum::default().checksum(), 0xffff);
    }

    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum(), !0xddf2);
        let mut odd = Sum::default();
        odd.add(&[0x12, 0x34, 0x56]);
        assert_eq!(odd.checksum(), !0x6834);
    }
}
