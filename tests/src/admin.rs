//! What an instance says over HTTP at its `--admin` address. Does not know which metrics there should be.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use crate::deadline::{PATIENCE, eventually};
use crate::dial::call;
use crate::netns::Netns;

/// Asks for `path`: the status and the body.
///
/// # Errors
/// Whatever the network says.
pub fn get(netns: &Netns, admin: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = call(netns, admin)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: metrics\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
}

/// All metrics, as text.
pub fn metrics(netns: &Netns, admin: SocketAddr) -> String {
    let (status, text) = get(netns, admin, "/metrics").expect("ask for metrics");
    assert_eq!(status, 200, "{text}");
    text
}

/// The value of a sample, written as Prometheus does, without the prefix of all.
pub fn value(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("spectrum_")?.strip_prefix(sample)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// Waits until a sample has that value.
pub fn await_value(netns: &Netns, admin: SocketAddr, sample: &str, expected: f64) {
    eventually(&format!("{sample} {expected}"), PATIENCE, || {
        (value(&metrics(netns, admin), sample) == Some(expected)).then_some(())
    });
}
