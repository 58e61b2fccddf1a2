//! Other products' notations for origins, and what to write instead. Asked only about what has been refused.

use super::{Origin, PortRange};

/// The right notation of the origin `typed`.
pub(super) fn origin(typed: &str) -> Option<String> {
    let typed = typed.trim();
    let socket = typed.strip_prefix("unix:").unwrap_or(typed).trim_start_matches("//");
    if socket.starts_with('/') {
        return Some(format!(
            "origins are dialled by address and port, not by a path; have the server listen on 127.0.0.1 as well and name that, or put \
             before it: socat TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork UNIX-CONNECT:{socket}"
        ));
    }
    if let Some((scheme, rest)) = typed.split_once("://") {
        return Some(without_scheme(scheme, rest));
    }
    if typed.contains(',') {
        let quoted: Vec<String> = typed.split(',').map(|piece| format!("{:?}", piece.trim())).collect();
        return Some(format!("one string is one origin; write a list: [{}]", quoted.join(", ")));
    }
    if let Some((host, ports)) = typed.rsplit_once(':') {
        if let Some(shift) = Shift::of(typed) {
            let example = "1000-2000".parse().ok().and_then(|ports| shift.range(ports));
            let example =
                example.map_or_else(String::new, |range| format!(", for ports 1000-2000 {host}:{range}"));
            return Some(format!(
                "an offset is written as the range of ports that it leads to, as long as the one that is bound{example}"
            ));
        }
        if ["", "*", "0", "$server_port"].contains(&ports) && host.parse::<Origin>().is_ok() {
            return Some(format!("the dialled port is kept without any; write {host}"));
        }
    }
    let (host, port) = typed.split_once(':').map_or((typed, None), |(host, port)| (host, Some(port)));
    if !host.is_ascii() {
        let ascii = idna::domain_to_ascii(host).ok()?;
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        return Some(format!("a name is written as DNS has it; write {ascii}{port}"));
    }
    None
}

/// For an origin that was typed as a URL.
fn without_scheme(scheme: &str, rest: &str) -> String {
    let scheme = scheme.to_ascii_lowercase();
    let (place, path) = rest.split_once('/').map_or((rest, ""), |(place, path)| (place, path));
    let usual = match scheme.as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    };
    let cure = match (place.parse::<Origin>(), usual) {
        (Ok(origin), Some(port)) if origin.to_string() == origin.host.to_string() => {
            match origin.host.to_string() {
                host if host.contains(':') => format!("write [{host}]:{port}"),
                host => format!("write {host}:{port}"),
            }
        }
        (Ok(_), _) => format!("write {place}"),
        (Err(_), _) => "write HOST or HOST:PORT".to_owned(),
    };
    match scheme.as_str() {
        "udp" | "quic" | "dtls" | "tcp" | "tcp4" | "tcp6" => {
            format!("origins are dialled by the protocol of the bindings; {cure}")
        }
        _ if path.is_empty() => {
            format!("connections are passed on as they are, whatever is spoken over them; {cure}")
        }
        _ => format!(
            "connections are passed on as they are, whatever is spoken over them, and for every path; {cure}"
        ),
    }
}

/// An origin's ports by how far they are from those that are bound, as HAProxy has it: `10.8.0.2:+1000`.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shift(i32);

impl Shift {
    /// The cure for the origin `typed`, if there is any.
    #[must_use]
    pub fn of(typed: &str) -> Option<Self> {
        let (_, ports) = typed.trim().rsplit_once(':')?;
        let digits = ports.strip_prefix(['+', '-'])?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let shift = ports.parse().ok().filter(|shift: &i32| u16::try_from(shift.unsigned_abs()).is_ok())?;
        is_number.then_some(Self(shift))
    }

    /// The ports that those of `bound` lead to, if there are such.
    #[must_use]
    pub fn range(self, bound: PortRange) -> Option<PortRange> {
        let moved = |port: u16| u16::try_from(i32::from(port) + self.0).ok();
        format!("{}-{}", moved(bound.first())?, moved(bound.last())?).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_of_origins_are_told_what_to_write() {
        for (typed, cure) in [
            ("tcp://10.8.0.2:22", "origins are dialled by the protocol of the bindings; write 10.8.0.2:22"),
            (
                "http://a.example/x",
                "connections are passed on as they are, whatever is spoken over them, and for every path; write \
                 a.example:80",
            ),
            (
                "https://[2001:db8::1]:8443",
                "connections are passed on as they are, whatever is spoken over them; write [2001:db8::1]:8443",
            ),
            (
                "HTTPS://2001:db8::1",
                "connections are passed on as they are, whatever is spoken over them; write [2001:db8::1]:443",
            ),
            ("udp://10.8.0.2:53", "origins are dialled by the protocol of the bindings; write 10.8.0.2:53"),
            (
                "unix:/run/app.sock",
                "origins are dialled by address and port, not by a path; have the server listen on 127.0.0.1 as well and name that, or put \
                 before it: socat TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork UNIX-CONNECT:/run/app.sock",
            ),
            (
                "10.8.0.2:+1000",
                "an offset is written as the range of ports that it leads to, as long as the one that is bound, for ports \
                 1000-2000 10.8.0.2:2000-3000",
            ),
            (
                "10.8.0.2:-5000",
                "an offset is written as the range of ports that it leads to, as long as the one that is bound",
            ),
            ("10.8.0.2:$server_port", "the dialled port is kept without any; write 10.8.0.2"),
            ("a.example:0", "the dialled port is kept without any; write a.example"),
            ("münchen.example:80", "a name is written as DNS has it; write xn--mnchen-3ya.example:80"),
            ("10.0.0.1:80, b", "one string is one origin; write a list: [\"10.0.0.1:80\", \"b\"]"),
        ] {
            assert_eq!(origin(typed).as_deref(), Some(cure), "{typed}");
            assert_eq!(typed.parse::<Origin>().unwrap_err().to_string(), cure, "{typed}");
        }
        assert_eq!(origin("10.8.0.2:http"), None);
    }

    #[test]
    fn a_shift_moves_a_range_within_the_ports_there_are() {
        let moved = |typed, bound: &str| {
            let shift = Shift::of(typed)?;
            shift.range(bound.parse().unwrap()).map(|range| range.to_string())
        };
        assert_eq!(moved("a:+1000", "1000-2000").as_deref(), Some("2000-3000"));
        assert_eq!(moved("a:-1000", "2000").as_deref(), Some("1000"));
        assert_eq!(moved("a:-1000", "1000-2000"), None);
        assert_eq!(moved("a:+1", "65535"), None);
        assert_eq!(Shift::of("a:+"), None);
        assert_eq!(Shift::of("a:1000"), None);
    }
}
