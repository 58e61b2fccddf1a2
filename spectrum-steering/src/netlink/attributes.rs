//! The attributes that follow a netlink message's own header. Knows the meaning of none.

/// The length and the kind.
const HEADER: usize = 4;

/// The upper two bits of a kind say how the value is written (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const KIND: u16 = 0x3fff;

/// The value of the first attribute of `kind`.
pub(crate) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(HEADER..length)?;
        if u16::from_ne_bytes([k0, k1]) & KIND == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A value that is text, without the zero at its end.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(value.get(..end)?).ok()
}

/// A value that is a number in the network's byte order, as nf_tables writes them.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others() {
        let mut bytes = Vec::new();
        for (kind, value) in [(1_u16, &b"filter\0"[..]), (2 | 0x4000, &[0, 0, 0x12, 0x67])] {
            bytes.extend(u16::try_from(HEADER + value.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        assert_eq!(attribute(&bytes, 1).and_then(text), Some("filter"));
        assert_eq!(attribute(&bytes, 2).and_then(number), Some(4711));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&bytes[..6], 1), None);
        assert_eq!(attribute(&[0; 8], 1), None);
    }
}
