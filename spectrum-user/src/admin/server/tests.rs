//! The server as its clients see it, those that mean no good among them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::view::{InstanceState, OriginView, ServicePlan, ServiceView};
use spectrum_proxy::OriginCondition;

/// An instance of two services, one of which has no origin that could be dialled.
fn view(state: InstanceState) -> View {
    let service = |name: &str, condition| {
        let plan = ServicePlan { name: name.to_owned(), ..ServicePlan::default() };
        let origins = vec![OriginView { condition, ..OriginView::up_at("192.0.2.1:80") }];
        ServiceView { plan, origins, ..ServiceView::default() }
    };
    let services = vec![service("good", OriginCondition::Up), service("gone", OriginCondition::Down)];
    View { state, services, ..View::default() }
}

fn serve() -> (AdminServer, Arc<Mutex<View>>) {
    let shown = Arc::new(Mutex::new(view(InstanceState::Starting)));
    let address = "127.0.0.1:0".parse().unwrap();
    let own = Arc::clone(&shown);
    (AdminServer::start(address, move |_| own.lock().unwrap().clone()).unwrap(), shown)
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
    let (server, shown) = serve();
    assert!(ask(&server, "GET /healthz").starts_with("HTTP/1.1 200 "));
    for (state, status) in [
        (InstanceState::Starting, 503),
        (InstanceState::Ready, 200),
        (InstanceState::Reloading, 200),
        (InstanceState::Draining, 503),
    ] {
        shown.lock().unwrap().state = state;
        let answer = ask(&server, "GET /readyz");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert!(
        ask(&server, "GET /readyz?service=good").starts_with("HTTP/1.1 503 "),
        "nothing is, while draining"
    );
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
fn a_service_is_ready_by_itself_and_not_before_the_instance() {
    let (server, shown) = serve();
    assert!(ask(&server, "GET /readyz?service=good").starts_with("HTTP/1.1 503 "));
    shown.lock().unwrap().state = InstanceState::Ready;
    assert!(ask(&server, "GET /readyz?service=good").starts_with("HTTP/1.1 200 "));
    let gone = ask(&server, "GET /readyz?other=1&service=gone");
    let reason = "origin web.example:80 (192.0.2.1:80) is down\n";
    assert!(gone.starts_with("HTTP/1.1 503 ") && gone.ends_with(reason), "{gone}");
    assert!(ask(&server, "GET /readyz?service=nobody").starts_with("HTTP/1.1 404 "));
    assert!(ask(&server, "GET /readyz").starts_with("HTTP/1.1 200 "), "whatever its services");
}

#[test]
fn what_is_missing_and_what_could_not_be_looked_at_is_said_as_the_view_has_it() {
    let (server, shown) = serve();
    let missing = "local route 192.0.2.0/24 missing (not put back)";
    *shown.lock().unwrap() = View { hindrances: vec![missing.to_owned()], ..view(InstanceState::Ready) };
    for page in ["GET /readyz", "GET /readyz?service=good"] {
        let answer = ask(&server, page);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with(&format!("{missing}\n")), "{answer}");
    }
    let unseen = "could not look whether anything is missing of rules: run nft: timed out";
    *shown.lock().unwrap() = View { unseen: vec![unseen.to_owned()], ..view(InstanceState::Ready) };
    let answer = ask(&server, "GET /readyz");
    let said = format!("ready\n{unseen}\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&said), "{answer}");
}

#[test]
fn who_says_nothing_or_too_much_is_let_go_and_others_are_answered_meanwhile() {
    let (server, _shown) = serve();
    // As many as there is room for, twice; each says a little, and goes on to.
    let mut slow: Vec<TcpStream> = (0..2 * AT_ONCE).map(|_| dial(&server)).collect();
    for round in 0..8 {
        for stream in &mut slow {
            let part: &[u8] = if round == 0 { b"GET /healthz HTTP/1.1\r\nx: " } else { b"x" };
            let _ = stream.write_all(part);
        }
        let begun = Instant::now();
        assert!(ask(&server, "GET /healthz").starts_with("HTTP/1.1 200 "));
        assert!(begun.elapsed() < ASKING / 2, "{:?}", begun.elapsed());
    }
    let mut endless = dial(&server);
    let _ = endless.write_all(&vec![b'x'; 4 * LONGEST]);
    let begun = Instant::now();
    // Who was let go reads an end, or a reset.
    for mut stream in slow {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let _ = endless.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < 5 * ASKING, "{:?}", begun.elapsed());
}

#[test]
fn for_one_too_many_the_oldest_silent_one_goes_and_not_one_that_has_asked() {
    let runtime = runtime::Builder::new_current_thread().build().unwrap();
    let waiting = || Exchange {
        asked: Arc::default(),
        task: runtime.spawn(std::future::pending::<()>()).abort_handle(),
    };
    let mut exchanges = Exchanges((0..AT_ONCE).map(|_| waiting()).collect());
    let ids = |exchanges: &Exchanges| exchanges.0.iter().map(|one| one.task.id()).collect::<Vec<_>>();
    let before = ids(&exchanges);
    exchanges.0[0].asked.store(true, Ordering::Relaxed);
    exchanges.make_room();
    assert_eq!(ids(&exchanges), [&before[..1], &before[2..]].concat());
    exchanges.make_room();
    assert_eq!(exchanges.0.len(), AT_ONCE - 1, "there was room");
    exchanges.0.push_back(waiting());
    for exchange in &exchanges.0 {
        exchange.asked.store(true, Ordering::Relaxed);
    }
    exchanges.make_room();
    assert_eq!(ids(&exchanges)[0], before[2], "all have asked: the oldest");
}

#[test]
fn an_address_that_is_taken_is_an_error_with_its_cure() {
    let (server, _shown) = serve();
    let error = AdminServer::start(server.address(), |_| View::default()).unwrap_err();
    assert!(error.to_string().contains("another program has it"), "{error}");
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}
