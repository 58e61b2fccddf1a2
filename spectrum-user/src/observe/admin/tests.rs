//! The server as its clients see it, those that mean no good among them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use super::*;
use crate::observe::{Counters, Facts, RecordDrops};

fn serve() -> (AdminServer, Readiness) {
    let readiness = Readiness::default();
    let metrics = Metrics::new(Counters::default(), RecordDrops::default(), Facts::default);
    (AdminServer::start("127.0.0.1:0".parse().unwrap(), metrics, readiness.clone()).unwrap(), readiness)
}

fn dial(server: &AdminServer) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn ask(server: &AdminServer, request: &str) -> String {
    let mut stream = dial(server);
    write!(stream, "{request} HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn pages_are_what_they_are_and_nothing_else_is_there() {
    let (server, readiness) = serve();
    assert!(ask(&server, "GET /healthz").starts_with("HTTP/1.1 200 "));
    for (set, status) in
        [(None, 503), (Some(Readiness::ready as fn(&Readiness)), 200), (Some(Readiness::draining), 503)]
    {
        if let Some(set) = set {
            set(&readiness);
        }
        let answer = ask(&server, "GET /readyz");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let metrics = ask(&server, "GET /metrics");
    assert!(metrics.contains("\ncontent-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nspectrum_build_info{"), "{metrics}");
    assert!(!ask(&server, "HEAD /metrics").contains("spectrum_"));
    assert!(ask(&server, "GET /other").starts_with("HTTP/1.1 404 "));
    let refused = ask(&server, "POST /metrics");
    assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("\nallow: GET, HEAD\r"), "{refused}");
    let open =
        ask(&server, "GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text; version=1.0.0\r\nx:");
    assert!(open.contains("\ncontent-type: application/openmetrics-text"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[test]
fn who_says_nothing_or_too_much_is_let_go_and_others_are_answered() {
    let (server, _readiness) = serve();
    let begun = Instant::now();
    // As many as there is room for, and more: each gives its place back.
    let mut silent: Vec<TcpStream> = (0..AT_ONCE + 4).map(|_| dial(&server)).collect();
    for stream in &mut silent {
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nx: ");
    }
    let mut endless = dial(&server);
    let _ = endless.write_all(&vec![b'x'; 4 * LONGEST]);
    assert!(ask(&server, "GET /healthz").starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() < 5 * ASKING, "{:?}", begun.elapsed());
    // Who was let go reads an end, or a reset.
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let _ = endless.read_to_end(&mut Vec::new());
}

#[test]
fn an_address_that_is_taken_is_an_error_with_its_cure() {
    let (server, readiness) = serve();
    let metrics = Metrics::new(Counters::default(), RecordDrops::default(), Facts::default);
    let error = AdminServer::start(server.address(), metrics, readiness).unwrap_err();
    assert!(error.to_string().contains("another program has it"), "{error}");
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}
