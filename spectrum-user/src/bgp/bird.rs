//! BIRD 2 by its control socket: lines that begin with a code, the last of an answer with a space behind it. Asks only what changes nothing.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::{BgpAnswer, BgpError, PROTOCOL};
use crate::model::{PassedOn, Prefix};

/// Longer answers are cut.
const LONGEST: u64 = 1 << 20;

/// So many sessions are asked about.
const SESSIONS: usize = 32;

/// The answer of the BIRD that listens at `socket`.
pub(super) fn ask(socket: &Path, prefixes: &[Prefix], until: Instant) -> Result<BgpAnswer, BgpError> {
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => BgpError::Absent,
        _ => BgpError::Silent(format!("connect to {}: {error}", socket.display())),
    })?;
    let mut bird = Bird { reader: BufReader::new(stream), until };
    bird.answer()?;
    // Nothing that this conversation says could change anything.
    bird.asked("restrict")?;
    let sessions = sessions(&bird.asked("show protocols")?);
    let established: Vec<&str> = sessions
        .iter()
        .filter(|session| session.is_established)
        .map(|session| session.name.as_str())
        .collect();
    let mut answer =
        BgpAnswer { established: established.len(), sessions: sessions.len(), ..BgpAnswer::default() };
    let watched = watched(&bird.asked("show bfd sessions")?);
    for name in established.iter().take(SESSIONS) {
        let about = about(&bird.asked(&format!("show protocols all {name}"))?);
        if about.neighbour.is_some_and(|neighbour| watched.contains(&neighbour)) {
            answer.watched += 1;
        } else {
            answer.hold = answer.hold.max(about.hold);
        }
    }
    for prefix in prefixes {
        let learned = is_learned(&bird.asked(&format!("show route {prefix} all"))?);
        let mut exported = 0;
        for name in established.iter().take(SESSIONS) {
            exported += usize::from(has_route(&bird.asked(&format!("show route {prefix} export {name}"))?));
        }
        answer.prefixes.push(PassedOn { prefix: prefix.to_string(), learned, exported });
    }
    Ok(answer)
}

struct Bird {
    reader: BufReader<UnixStream>,
    until: Instant,
}

impl Bird {
    fn asked(&mut self, command: &str) -> Result<String, BgpError> {
        self.limit()?;
        let sent = self.reader.get_mut().write_all(format!("{command}\n").as_bytes());
        sent.map_err(|error| BgpError::Silent(format!("ask by its socket: {error}")))?;
        self.answer()
    }

    /// All lines of an answer.
    fn answer(&mut self) -> Result<String, BgpError> {
        let mut text = String::new();
        loop {
            self.limit()?;
            let mut line = Vec::new();
            let read = (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line);
            match read {
                Ok(0) => return Err(BgpError::Silent("it hung up".to_owned())),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(late());
                }
                Err(error) => return Err(BgpError::Silent(format!("hear by its socket: {error}"))),
            }
            let line = String::from_utf8_lossy(&line);
            text.push_str(&line);
            if text.len() as u64 > LONGEST {
                return Err(BgpError::Silent("it says more than anybody asked".to_owned()));
            }
            if is_last(&line) {
                return Ok(text);
            }
        }
    }

    /// Limits the next wait.
    fn limit(&self) -> Result<(), BgpError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        let stream = self.reader.get_ref();
        stream
            .set_read_timeout(Some(left))
            .and_then(|()| stream.set_write_timeout(Some(left)))
            .map_err(|error| BgpError::Silent(format!("limit the wait: {error}")))
    }
}

fn late() -> BgpError {
    BgpError::Silent("it does not answer in time".to_owned())
}

/// True of `0001 BIRD 2.0.12 ready.` and `0000 `, not of `1002-name …` and ` more`.
fn is_last(line: &str) -> bool {
    line.len() > 4
        && line.as_bytes().first_chunk::<4>().is_some_and(|code| code.iter().all(u8::is_ascii_digit))
        && line.as_bytes().get(4) == Some(&b' ')
}

/// A session with a router.
#[derive(Debug, Eq, PartialEq)]
struct Session {
    name: String,
    is_established: bool,
}

/// The sessions of BGP that `show protocols` lists: name, protocol, table, state, since, info.
fn sessions(text: &str) -> Vec<Session> {
    let lines = text.lines().map(|line| match line.as_bytes().first() {
        // The lines that follow the first of a kind have no code of their own.
        Some(b' ') => &line[1..],
        _ => line.get(5..).unwrap_or_default(),
    });
    let words = lines.map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let bgp = words.filter(|words| words.get(1) == Some(&"BGP"));
    bgp.filter_map(|words| {
        let name = (*words.first()?).to_owned();
        // It goes into questions, and names with other characters would have to be quoted.
        let is_plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.:".contains(letter));
        let is_established = words.contains(&"Established");
        is_plain.then_some(Session { name, is_established })
    })
    .collect()
}

/// What `show protocols all` says of a session.
#[derive(Debug, Default, Eq, PartialEq)]
struct AboutSession {
    neighbour: Option<IpAddr>,
    /// Its hold time in seconds.
    hold: Option<u64>,
}

fn about(text: &str) -> AboutSession {
    let said =
        |name: &str| text.lines().find_map(|line| line.split_once(name)).map(|(_, value)| value.trim());
    AboutSession {
        // A link-local one has its interface behind it.
        neighbour: said("Neighbor address:").and_then(|address| address.split('%').next()?.parse().ok()),
        // What is left of it, and the whole.
        hold: said("Hold timer:").and_then(|timer| timer.rsplit('/').next()?.parse().ok()),
    }
}

/// The neighbours whose sessions of BFD are up, by `show bfd sessions`: address, interface, state, since, interval, timeout.
fn watched(text: &str) -> BTreeSet<IpAddr> {
    let words = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let up = words.filter(|words| words.get(2) == Some(&"Up"));
    up.filter_map(|words| {
        let address = words.first()?;
        // The first line of a kind has its code before it.
        address.strip_prefix("1020-").unwrap_or(address).split('%').next()?.parse().ok()
    })
    .collect()
}

/// True if it has a route of ours, by the attributes that `show route … all` tells.
fn is_learned(text: &str) -> bool {
    let sources = text.lines().filter_map(|line| line.split_once("Kernel.source: "));
    sources.map(|(_, source)| source.trim()).any(|source| source == PROTOCOL)
}

/// True if an answer to `show route` has any.
fn has_route(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("1007-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: &str = "2002-Name       Proto      Table      State  Since         Info\n\
        1002-device1    Device     ---        up     01:03:54.790  \n \
        spectrum_ipv4 Kernel     master4    up     01:03:54.790  \n \
        router_ipv4 BGP        ---        up     01:03:55.694  Established   \n \
        router_ipv6 BGP        ---        start  01:03:55.694  Active        Socket: Connection refused\n\
        0000 \n";

    const ROUTE: &str = "1007-Table master4:\n \
        192.0.2.0/24         unicast [spectrum_ipv4 01:03:54.813] * (10)\n \
        \tdev spectrum0\n1008-\tType: inherit univ\n1012-\tKernel.source: 83\n \tKernel.metric: 0\n0000 \n";

    #[test]
    fn sessions_are_those_of_bgp_and_established_or_not() {
        let session = |name: &str, is_established| Session { name: name.into(), is_established };
        assert_eq!(sessions(PROTOCOLS), [session("router_ipv4", true), session("router_ipv6", false)]);
        assert_eq!(sessions("0000 \n"), []);
        assert_eq!(sessions("1002-a'b BGP --- up x Established\n\n \u{fc}\n"), []);
    }

    #[test]
    fn a_route_is_learned_if_it_is_of_our_protocol() {
        assert!(is_learned(ROUTE) && has_route(ROUTE));
        assert!(!is_learned(&ROUTE.replace("83", "3")) && !is_learned(&ROUTE.replace("83", "830")));
        let none = "8001 Network not found\n";
        assert!(!is_learned(none) && !has_route(none) && is_last(none));
        let last: Vec<bool> = ROUTE.lines().map(|line| is_last(&format!("{line}\n"))).collect();
        assert_eq!(last, [false, false, false, false, false, false, true]);
    }
    #[test]
    fn a_session_has_a_neighbour_and_a_hold_time_and_may_be_watched() {
        let text = "1002-router_ipv6 BGP        ---        up     01:03:55.694  Established   \n\
            1006-  BGP state:          Established\n     Neighbor address: fe80::1%eth0\n     Neighbor AS:      64496\n\
            \x20    Session:          external AS4\n     Hold timer:       201.120/240\n     Keepalive timer:  30.1/80\n0000 \n";
        let neighbour: IpAddr = "fe80::1".parse().unwrap();
        assert_eq!(about(text), AboutSession { neighbour: Some(neighbour), hold: Some(240) });
        assert_eq!(about("0000 \n"), AboutSession::default());
        let sessions = "1020-bfd1:\n IP address                Interface  State      Since         Interval  Timeout\n \
            198.51.100.254            ---        Up         01:03:55.694    0.100    0.500\n \
            198.51.100.253            ---        Down       01:03:55.694    1.000    0.000\n \
            fe80::1%eth0              eth0       Up         01:03:55.694    0.100    0.500\n0000 \n";
        assert_eq!(watched(sessions), ["198.51.100.254".parse().unwrap(), neighbour].into());
        assert_eq!(watched("9001 There is no BFD protocol running\n"), BTreeSet::new());
    }
}
