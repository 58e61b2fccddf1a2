//! Values of flags that are no nouns of their own: what may be typed, and the cure where it may not. Which flag it was, clap
//! says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

/// A year, as humantime has it. Clocks that count from now end somewhere.
const LONGEST_DRAIN: Duration = Duration::from_hours(8_766);

/// More threads than any host has cores.
const MOST_WORKERS: usize = 4096;

/// An address and a port, or how they are written.
pub(super) fn address_and_port(typed: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = typed.parse() {
        return Ok(address);
    }
    if let Some((address, port)) = without_brackets(typed) {
        let bracketed = format!("[{address}]:{port}");
        return Err(if typed.parse::<Ipv6Addr>().is_ok() {
            format!(
                "an IPv6 address with a port stands in brackets; write {bracketed}, or [{typed}]:PORT if the port is missing"
            )
        } else {
            format!("an IPv6 address with a port stands in brackets; write {bracketed}")
        });
    }
    let bare = typed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(typed);
    Err(match bare.parse() {
        Ok(IpAddr::V4(address)) => format!("the port is missing; write {address}:PORT"),
        Ok(IpAddr::V6(address)) => format!("the port is missing; write [{address}]:PORT"),
        Err(_) => "expected an address and a port, as in 192.0.2.7:8443 or [2001:db8::7]:8443".to_owned(),
    })
}

/// What was probably meant by an IPv6 address whose last group could be a port: `2001:db8::5:80`.
fn without_brackets(typed: &str) -> Option<(Ipv6Addr, u16)> {
    let (address, port) = typed.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some((address.parse().ok()?, port))
}

/// How long to drain.
pub(super) fn drain(typed: &str) -> Result<Duration, String> {
    let Ok(time) = humantime::parse_duration(typed) else {
        return Err("not a time; write it as in 10s, \"1m 30s\" or 500ms, and 0s for none".to_owned());
    };
    if time > LONGEST_DRAIN {
        let longest = humantime::format_duration(LONGEST_DRAIN);
        return Err(format!("not a time up to {longest}; give one that somebody would wait for"));
    }
    Ok(time)
}

/// How many workers.
pub(super) fn workers(typed: &str) -> Result<NonZeroUsize, String> {
    typed.parse().ok().filter(|count: &NonZeroUsize| count.get() <= MOST_WORKERS).ok_or_else(|| {
        format!("not a number from 1 to {MOST_WORKERS}; leave --workers out for one worker for each core")
    })
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
            ("2001:db8::5:65536", "as in 192.0.2.7:8443 or [2001:db8::7]:8443"),
        ] {
            let error = address_and_port(typed).unwrap_err();
            assert!(error.contains(cure), "{typed}: {error}");
        }
        assert_eq!(address_and_port("[2001:db8:7::5]:80").unwrap(), "[2001:db8:7::5]:80".parse().unwrap());
    }

    #[test]
    fn times_and_numbers_have_ends() {
        assert_eq!(drain("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(drain("0s"), Ok(Duration::ZERO));
        for typed in ["soon", "10", "-1s", "", "99999999999999999999s"] {
            assert!(drain(typed).unwrap_err().contains("10s"), "{typed}");
        }
        assert!(drain("500000000y").unwrap_err().contains("up to 1year"));
        assert_eq!(workers("8").unwrap().get(), 8);
        for typed in ["0", "-1", "many", "", "1.5", "5000", "99999999999999999999999"] {
            assert!(workers(typed).unwrap_err().contains("from 1 to 4096"), "{typed}");
        }
    }
}
