//! An address with a port, as people write it. The standard library reads it; what is here is the cure where it cannot.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address and the port in `typed`.
///
/// # Errors
/// What is missing or in excess, and how it is written.
pub fn parse_address_and_port(typed: &str) -> Result<SocketAddr, ParseAddressAndPortError> {
    typed.parse().ok().ok_or_else(|| ParseAddressAndPortError::of(typed))
}

/// The error of a text that is no address with a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParseAddressAndPortError {
    /// An IPv6 address without brackets, whose last group could be a port; `whole` if all of it is an address, too.
    Brackets {
        /// The address and port that was probably meant.
        meant: SocketAddr,
        /// The address without a port that may have been meant instead.
        whole: Option<Ipv6Addr>,
    },
    /// An address alone.
    NoPort(IpAddr),
    /// Anything else.
    Neither,
}

impl ParseAddressAndPortError {
    fn of(typed: &str) -> Self {
        if let Some(meant) = without_brackets(typed) {
            return Self::Brackets { meant, whole: typed.parse().ok() };
        }
        let bare = typed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(typed);
        bare.parse().map_or(Self::Neither, Self::NoPort)
    }
}

impl fmt::Display for ParseAddressAndPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Brackets { meant, whole } => {
                write!(f, "an IPv6 address with a port stands in brackets; write {meant}")?;
                match whole {
                    Some(whole) => write!(f, ", or [{whole}]:PORT if the port is missing"),
                    None => Ok(()),
                }
            }
            Self::NoPort(IpAddr::V4(address)) => write!(f, "the port is missing; write {address}:PORT"),
            Self::NoPort(IpAddr::V6(address)) => write!(f, "the port is missing; write [{address}]:PORT"),
            Self::Neither => {
                f.write_str("expected an address and a port, as in 192.0.2.7:8443 or [2001:db8::7]:8443")
            }
        }
    }
}

impl std::error::Error for ParseAddressAndPortError {}

/// The address and port probably meant by an IPv6 address whose last group could be a port: `2001:db8::5:80`.
fn without_brackets(typed: &str) -> Option<SocketAddr> {
    let (address, port) = typed.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let address: Ipv6Addr = address.parse().ok()?;
    Some((address, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_without_brackets_is_shown_with_them() {
        for (typed, cure) in [
            ("2001:db8:7::5:80", "write [2001:db8:7::5]:80, or [2001:db8:7::5:80]:PORT if the port"),
            ("::1:9090", "write [::1]:9090, or [::1:9090]:PORT if"),
            // Not an address at all with its port.
            ("2001:db8:1:2:3:4:5:6:443", "write [2001:db8:1:2:3:4:5:6]:443"),
            ("2001:db8::5:65535", "write [2001:db8::5]:65535"),
            ("2001:db8::5:ff", "the port is missing; write [2001:db8::5:ff]:PORT"),
            ("2001:db8::5:0", "the port is missing; write [2001:db8::5:0]:PORT"),
            ("2001:db8::5", "write [2001:db8::5]:PORT"),
            ("[2001:db8::5]", "write [2001:db8::5]:PORT"),
            ("192.0.2.7", "write 192.0.2.7:PORT"),
            ("2001:db8::5:65536", "as in 192.0.2.7:8443 or [2001:db8::7]:8443"),
            ("", "as in 192.0.2.7:8443"),
        ] {
            let error = parse_address_and_port(typed).unwrap_err().to_string();
            assert!(error.contains(cure), "{typed}: {error}");
        }
        let address = "[2001:db8:7::5]:80";
        assert_eq!(parse_address_and_port(address), Ok(address.parse().unwrap()));
    }
}
