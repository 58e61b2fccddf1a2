//! How a health check asks an origin whether it is there. Asks none.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use spectrum_common::UnknownWord;
use strum::{Display, EnumString, VariantNames};

use super::{DatagramHeader, Protocol};

/// The question of a health check.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum HealthProbe {
    /// A connection by TCP.
    #[default]
    Connect,
    /// A datagram, and its answer.
    Datagram(Box<DatagramProbe>),
}

impl HealthProbe {
    /// The protocol by which it asks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Connect => Protocol::Tcp,
            Self::Datagram(_) => Protocol::Udp,
        }
    }
}

/// A datagram that a health check sends to an origin, and the answers that are good ones.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct DatagramProbe {
    /// The datagram.
    pub question: Question,
    /// The header that the origin expects before it, which says that nobody is spoken for; `None`: none.
    pub header: Option<DatagramHeader>,
}

/// The content of a probe, and what answers it.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum Question {
    /// Certain bytes.
    Bytes {
        /// The datagram.
        send: ProbeBytes,
        /// What an answer must begin with; empty: any answer is good.
        expect: ProbeBytes,
    },
    /// One of a protocol that is known here.
    Template(ProbeTemplate),
}

/// A protocol whose servers can be asked something harmless.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<ProbeTemplate>)]
pub enum ProbeTemplate {
    /// Valve's game servers: A2S_INFO.
    A2s,
    /// DNS: the name servers of the root.
    Dns,
    /// NTP: the time.
    Ntp,
    /// QUIC: a version that there is not, which is answered with those that there are (RFC 9000, section 6).
    Quic,
    /// STUN: the address that we come from (RFC 8489).
    Stun,
}

/// The bytes of a probe: typed as text, or behind `0x` as hexadecimal digits.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct ProbeBytes(Vec<u8>);

/// The error of a text that is no [`ProbeBytes`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseProbeBytesError {
    /// Half a byte.
    #[error("an odd number of hexadecimal digits; write two for each byte, as in \"0xffffffff54\"")]
    Half,
    /// Not a digit.
    #[error(
        "behind 0x stand hexadecimal digits, as in \"0xffffffff54\"; text that begins so is written in them too"
    )]
    Digit,
    /// More than a datagram that passes everywhere.
    #[error("more than {} bytes, which do not pass everywhere in one datagram", ProbeBytes::MOST)]
    Length,
}

impl ProbeBytes {
    /// The most bytes: what fits into the smallest packet that IPv6 carries whole, a PROXY header included.
    pub const MOST: usize = 1024;

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ProbeBytes {
    type Err = ParseProbeBytesError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let bytes = match typed.strip_prefix("0x") {
            None => typed.as_bytes().to_vec(),
            Some(digits) => {
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || digits.is_empty() {
                    return Err(ParseProbeBytesError::Digit);
                }
                if !digits.len().is_multiple_of(2) {
                    return Err(ParseProbeBytesError::Half);
                }
                let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0);
                let bytes = digits.as_bytes().chunks_exact(2).map(|pair| match *pair {
                    [high, low] => u8::try_from(value(high) << 4 | value(low)).unwrap_or(0),
                    _ => 0,
                });
                bytes.collect()
            }
        };
        if bytes.len() > Self::MOST { Err(ParseProbeBytesError::Length) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for ProbeBytes {
    /// As text where that is plain, else as hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = self.0.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        match std::str::from_utf8(&self.0) {
            Ok(text) if is_plain && !text.starts_with("0x") => f.pad(text),
            _ => {
                let mut digits = "0x".to_owned();
                for byte in &self.0 {
                    write!(digits, "{byte:02x}")?;
                }
                f.pad(&digits)
            }
        }
    }
}

impl fmt::Display for Question {
    /// The name of the protocol, or the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { send, .. } => write!(f, "{:?}", send.to_string()),
            Self::Template(template) => template.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_digits_and_shown_as_they_may_be_typed() {
        for (typed, bytes) in [
            ("ping", &b"ping"[..]),
            ("0xffffffff54", &[0xff, 0xff, 0xff, 0xff, 0x54]),
            ("0x3078", b"0x"),
            ("", b""),
        ] {
            let parsed: ProbeBytes = typed.parse().unwrap();
            assert_eq!(parsed.as_slice(), bytes, "{typed}");
            assert_eq!(parsed.to_string(), typed);
        }
        assert_eq!("0xABcd".parse::<ProbeBytes>().unwrap().as_slice(), [0xab, 0xcd]);
        assert_eq!("a\nb".parse::<ProbeBytes>().unwrap().to_string(), "0x610a62");
    }

    #[test]
    fn what_are_no_bytes_is_refused() {
        assert_eq!("0x".parse::<ProbeBytes>(), Err(ParseProbeBytesError::Digit));
        assert_eq!("0xfg".parse::<ProbeBytes>(), Err(ParseProbeBytesError::Digit));
        assert_eq!("0xfff".parse::<ProbeBytes>(), Err(ParseProbeBytesError::Half));
        let most = "x".repeat(ProbeBytes::MOST);
        assert!(most.parse::<ProbeBytes>().is_ok());
        assert_eq!((most + "x").parse::<ProbeBytes>(), Err(ParseProbeBytesError::Length));
    }
}
