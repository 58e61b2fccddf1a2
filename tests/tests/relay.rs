//! What travels between a client and an origin through the program. Which connections are relayed at all is steering's
//! affair.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc;
use std::thread;

use socket2::SockRef;
use spectrum_tests::case::Case;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call, dial, dial_all};
use spectrum_tests::on_every_path;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};

on_every_path!(
    hundred_megabytes_each_way_arrive_unharmed,
    client_that_ends_first_still_hears_the_answer,
    origin_that_ends_first_still_hears_the_client,
    origin_without_a_port_gets_the_dialled_port,
    reset_by_the_client_reaches_the_origin,
    reset_by_the_origin_reaches_the_client,
    origin_that_refuses_costs_one_connection_only,
    origins_share_the_connections,
    one_record_per_connection_is_logged,
    a_connection_that_begins_has_a_record_if_asked_for,
);

const HUNDRED_MEGABYTES: u64 = 100 << 20;

fn start_with_origin(case: &mut Case, origin: &Origin) -> (spectrum_tests::instance::Instance, SocketAddr) {
    let instance = case.start(&format!("--prefix {} --origin {}", case.prefix(), origin.address()));
    (instance, case.any_target())
}

fn hundred_megabytes_each_way_arrive_unharmed(case: &mut Case) {
    let [question, answer] = [case.random.bits(), case.random.bits()];
    let (report, received) = mpsc::channel();
    let loopback = SocketAddr::new(case.loopback(), 0);
    let origin = Origin::serve(&case.server, loopback, move |stream| {
        thread::scope(|scope| {
            let sender = scope.spawn(|| send_sequence(&stream, answer, HUNDRED_MEGABYTES));
            let outcome = receive_sequence(&stream, question, HUNDRED_MEGABYTES);
            report.send(outcome.and(sender.join().unwrap()).map_err(|error| error.to_string())).unwrap();
        });
        Ok(())
    });
    let (_instance, target) = start_with_origin(case, &origin);
    let stream = call(&case.server, target).unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_sequence(&stream, question, HUNDRED_MEGABYTES));
        receive_sequence(&stream, answer, HUNDRED_MEGABYTES).unwrap();
        sender.join().unwrap().unwrap();
    });
    assert_eq!(received.recv_timeout(PATIENCE).unwrap(), Ok(()));
}

fn client_that_ends_first_still_hears_the_answer(case: &mut Case) {
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), |mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        write!(stream, "you said {question}")
    });
    let (_instance, target) = start_with_origin(case, &origin);
    let mut stream = call(&case.server, target).unwrap();
    stream.write_all(b"something").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "you said something");
}

fn origin_that_ends_first_still_hears_the_client(case: &mut Case) {
    let (report, heard) = mpsc::channel();
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), move |mut stream| {
        stream.write_all(b"welcome and goodbye")?;
        stream.shutdown(Shutdown::Write)?;
        let mut late = String::new();
        stream.read_to_string(&mut late)?;
        report.send(late).unwrap();
        Ok(())
    });
    let (_instance, target) = start_with_origin(case, &origin);
    let mut stream = call(&case.server, target).unwrap();
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "welcome and goodbye");
    stream.write_all(b"one more thing").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "one more thing");
}

fn origin_without_a_port_gets_the_dialled_port(case: &mut Case) {
    let origins = ["first", "second"]
        .map(|word| (word, Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), word)));
    let _instance = case.start(&format!("--prefix {} --origin {}", case.prefix(), case.loopback()));
    for (word, origin) in origins {
        let target = SocketAddr::new(case.any_address(), origin.address().port());
        assert_eq!(dial(&case.server, target).unwrap().text, word);
    }
}

fn reset_by_the_client_reaches_the_origin(case: &mut Case) {
    let (report, heard) = mpsc::channel();
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), move |mut stream| {
        stream.write_all(b"ready")?;
        let mut rest = Vec::new();
        report.send(stream.read_to_end(&mut rest).map_err(|error| error.kind())).unwrap();
        Ok(())
    });
    let (_instance, target) = start_with_origin(case, &origin);
    let mut stream = call(&case.server, target).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
}

fn reset_by_the_origin_reaches_the_client(case: &mut Case) {
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), |mut stream| {
        stream.read_exact(&mut [0; 4])?;
        SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))
    });
    let (_instance, target) = start_with_origin(case, &origin);
    let mut stream = call(&case.server, target).unwrap();
    stream.write_all(b"this").unwrap();
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn origin_that_refuses_costs_one_connection_only(case: &mut Case) {
    let origin = Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), "there");
    let _instance = case.start(&format!("--prefix {} --origin {}", case.prefix(), case.loopback()));
    let nobody = SocketAddr::new(case.any_address(), free_port_beside(case, &origin));
    let somebody = SocketAddr::new(case.any_address(), origin.address().port());
    for _ in 0..3 {
        // The handshake is the program's and succeeds; then there is nobody to talk to.
        let nothing = dial(&case.server, nobody).map(|heard| heard.text);
        assert!(matches!(nothing.as_deref(), Err(_) | Ok("")), "{nothing:?}");
        assert_eq!(dial(&case.server, somebody).unwrap().text, "there");
    }
}

fn free_port_beside(case: &Case, origin: &Origin) -> u16 {
    let port = origin.address().port() ^ 1;
    assert_refused(&case.server, &[SocketAddr::new(case.loopback(), port)]);
    port
}

fn origins_share_the_connections(case: &mut Case) {
    let loopback = SocketAddr::new(case.loopback(), 0);
    let origins = ["one", "two"].map(|word| Origin::saying(&case.server, loopback, word));
    let arguments = origins.each_ref().map(|origin| format!("--origin {}", origin.address())).join(" ");
    let _instance = case.start(&format!("--prefix {} {arguments}", case.prefix()));
    let targets: Vec<SocketAddr> = (0..100).map(|_| case.any_target()).collect();
    let heard: Vec<String> =
        dial_all(&case.server, &targets).into_iter().map(|(_, heard)| heard.unwrap().text).collect();
    for word in ["one", "two"] {
        let share = heard.iter().filter(|heard| *heard == word).count();
        assert!(share >= 20, "{word} got {share} of 100");
    }
}

fn one_record_per_connection_is_logged(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let (arguments, prefix) = (format!("--origin {} --log-format json", origin.address()), case.prefix());
    let instance = case.start(&format!("--prefix {prefix} {arguments}"));
    let target = case.any_target();
    let mut stream = call(&case.server, target).unwrap();
    stream.write_all(b"four").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).unwrap();
    assert_eq!(echoed, "four");
    let client = stream.local_addr().unwrap().to_string();
    let record = eventually("a record of the connection", PATIENCE, || {
        let stderr = instance.stderr();
        let records: Vec<serde_json::Value> = stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
            .filter(|record: &serde_json::Value| record["client"] == client.as_str())
            .collect();
        assert!(records.len() < 2, "{records:?}");
        records.into_iter().next()
    });
    assert_eq!(record["service"], "default", "{record}");
    assert_eq!(record["protocol"], "tcp", "{record}");
    assert_eq!(record["dialled"], target.to_string(), "{record}");
    assert_eq!(record["origin"], origin.address().to_string(), "{record}");
    let counts = record.as_object().unwrap().values().filter(|value| value.as_u64() == Some(4)).count();
    assert_eq!(counts, 2, "bytes each way: {record}");
}

fn a_connection_that_begins_has_a_record_if_asked_for(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let prefix = case.prefix();
    let instance = case.start(&format!("--prefix {prefix} --origin {} --log-opened", origin.address()));
    let target = case.any_target();
    let mut stream = call(&case.server, target).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let (client, origin) = (stream.local_addr().unwrap(), origin.address());
    let line = eventually("a record of what has begun", PATIENCE, || {
        let log = instance.stderr();
        log.lines().find(|line| line.contains(" opened service=default ")).map(str::to_owned)
    });
    for field in [
        format!(" client={client} "),
        format!(" dialled={target} "),
        format!(" origin={origin} "),
        " status=0".to_owned(),
    ] {
        assert!(line.contains(&field), "{field:?} is missing: {line}");
    }
    assert!(!instance.stderr().contains(" connection service="), "{}", instance.stderr());
    drop(stream);
    instance.stop();
}
