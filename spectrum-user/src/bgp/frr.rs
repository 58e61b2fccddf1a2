//! FRR by `vtysh`, in JSON: what zebra has learned, and to whom bgpd tells it. Asks only what changes nothing.

use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Deserializer, Value};

use super::{BgpAnswer, BgpError};
use crate::model::{Family, PassedOn, Prefix};

/// Longer answers are cut.
const LONGEST: u64 = 1 << 20;

/// The pause between looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// The answer of the FRR whose daemons have their sockets in `directory`.
pub(super) fn ask(directory: &str, prefixes: &[Prefix], until: Instant) -> Result<BgpAnswer, BgpError> {
    let mut questions = vec!["show bgp summary json".to_owned(), "show bgp neighbors json".to_owned()];
    for prefix in prefixes {
        let (route, bgp) = match prefix.family() {
            Family::Ipv4 => ("ip", "ipv4"),
            Family::Ipv6 => ("ipv6", "ipv6"),
        };
        questions.push(format!("show {route} route {prefix} json"));
        questions.push(format!("show bgp {bgp} unicast {prefix} json"));
    }
    let text = said(directory, &questions, until)?;
    // One after the other, with nothing between them.
    let values: Result<Vec<Value>, _> = Deserializer::from_str(&text).into_iter().collect();
    let values = values.map_err(|error| BgpError::Silent(format!("understand vtysh: {error}")))?;
    understood(prefixes, &values)
        .ok_or_else(|| BgpError::Silent("vtysh does not answer all that was asked".to_owned()))
}

fn understood(prefixes: &[Prefix], values: &[Value]) -> Option<BgpAnswer> {
    let [summary, neighbours, rest @ ..] = values else { return None };
    let families = ["ipv4Unicast", "ipv6Unicast"].map(|family| summary[family]["peers"].as_object());
    let peers: Vec<&Value> = families.into_iter().flatten().flat_map(|peers| peers.values()).collect();
    let established = peers.iter().filter(|peer| peer["state"] == "Established").count();
    if rest.len() != 2 * prefixes.len() {
        return None;
    }
    let (mut watched, mut hold) = (0, None);
    for neighbour in neighbours.as_object().into_iter().flat_map(serde_json::Map::values) {
        if neighbour["bgpState"] != "Established" {
            continue;
        }
        if neighbour["peerBfdInfo"]["status"] == "Up" {
            watched += 1;
        } else {
            let milliseconds = neighbour["bgpTimerHoldTimeMsecs"].as_u64();
            hold = hold.max(milliseconds.map(|milliseconds| milliseconds / 1000));
        }
    }
    let of_prefixes = prefixes.iter().zip(rest.chunks_exact(2)).map(|(prefix, answers)| {
        let [route, bgp] = answers else { return PassedOn::default() };
        let routes = route[prefix.to_string()].as_array().map_or(&[][..], Vec::as_slice);
        PassedOn {
            prefix: prefix.to_string(),
            learned: routes.iter().any(|route| route["protocol"] == "kernel"),
            exported: bgp["advertisedTo"].as_object().map_or(0, serde_json::Map::len),
        }
    });
    Some(BgpAnswer { established, sessions: peers.len(), watched, hold, prefixes: of_prefixes.collect() })
}

/// What `vtysh` says to these questions.
fn said(directory: &str, questions: &[String], until: Instant) -> Result<String, BgpError> {
    let failed = |error: io::Error| BgpError::Silent(format!("run vtysh: {error}"));
    let mut vtysh = Command::new("vtysh");
    vtysh.args(["--vty_socket", directory]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    vtysh.args(questions.iter().flat_map(|question| ["-c", question]));
    let mut child = vtysh.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BgpError::Silent("vtysh is not installed".to_owned()),
        _ => failed(error),
    })?;
    let stdout = child.stdout.take();
    // It may say more than a pipe holds.
    let reading = thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.map(|stdout| stdout.take(LONGEST).read_to_end(&mut text));
        read.transpose().map(|_| text)
    });
    let ended = ended(&mut child, until);
    let _ = child.kill();
    let _ = child.wait();
    let text =
        reading.join().map_err(|_panic| failed(io::Error::other("reading it failed")))?.map_err(failed)?;
    if !ended.map_err(failed)? {
        return Err(BgpError::Silent("it does not answer in time".to_owned()));
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if text.trim_start().starts_with('{') { Ok(text) } else { Err(BgpError::Absent) }
}

/// True if it ends before that.
fn ended(child: &mut Child, until: Instant) -> io::Result<bool> {
    loop {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zebra_learns_and_bgpd_tells_routers() {
        let prefixes: Vec<Prefix> =
            ["192.0.2.0/24", "2001:db8::/48"].map(|text| text.parse().unwrap()).into();
        let text = r#"{"ipv4Unicast":{"peers":{"198.51.100.254":{"state":"Established"},"198.51.100.253":{"state":"Active"}}}}
            {"198.51.100.254":{"bgpState":"Established","bgpTimerHoldTimeMsecs":9000,"peerBfdInfo":{"status":"Down"}},
             "198.51.100.253":{"bgpState":"Active","bgpTimerHoldTimeMsecs":180000}}
            {"192.0.2.0/24":[{"protocol":"kernel","selected":true}]}
            {"prefix":"192.0.2.0/24","advertisedTo":{"198.51.100.254":{}},"paths":[]}
            {}{}"#;
        let values: Vec<Value> = Deserializer::from_str(text).into_iter().collect::<Result<_, _>>().unwrap();
        let passed_on =
            |prefix: &str, learned, exported| PassedOn { prefix: prefix.into(), learned, exported };
        assert_eq!(
            understood(&prefixes, &values),
            Some(BgpAnswer {
                established: 1,
                sessions: 2,
                watched: 0,
                hold: Some(9),
                prefixes: vec![passed_on("192.0.2.0/24", true, 1), passed_on("2001:db8::/48", false, 0)],
            })
        );
        let mut watched = values.clone();
        watched[1]["198.51.100.254"]["peerBfdInfo"]["status"] = "Up".into();
        let watched = understood(&prefixes, &watched).unwrap();
        assert_eq!((watched.watched, watched.hold), (1, None));
        assert_eq!(understood(&prefixes, &values[..4]), None);
        assert_eq!(understood(&prefixes, &[]), None);
        assert!(understood(&[], &[Value::Null, Value::Null]).is_some());
    }
}
