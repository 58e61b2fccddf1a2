//! Metrics and health over HTTP: what they say of connections, packets, tables and reloads, and that nobody who asks can
//! harm. How a connection ends is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;
use spectrum_tests::admin::{await_value, get, metrics, value};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::datagram::{self, assert_echo};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, call, dial};
use spectrum_tests::instance::Instance;
use spectrum_tests::on_every_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::Path;
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::state::State;

on_every_path!(
    metrics_say_what_happened,
    metrics_are_as_their_linter_wants_them,
    readiness_ends_before_the_connections_do,
    an_address_that_is_taken_fails_the_start,
    an_address_that_bindings_hide_needs_force,
    a_reload_cannot_hide_the_address,
    a_reload_is_counted_and_cannot_move_the_address,
    who_asks_badly_harms_nobody,
);

/// Three services of one prefix, and where metrics are.
fn configuration(case: &Case, origin: SocketAddr, admin: &str) -> String {
    let prefix = case.prefix();
    let refusing = SocketAddr::new(case.loopback(), 1);
    format!(
        "[admin]\nlisten = \"{admin}\"\n\
         [[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{prefix}\", ports = 80 }}]\norigins = \"{origin}\"\n\
         [[service]]\nname = \"gone\"\nbindings = [{{ prefix = \"{prefix}\", ports = 81 }}]\norigins = \"{refusing}\"\n\
         [[service]]\nname = \"games\"\nbindings = [{{ protocol = \"udp\", prefix = \"{prefix}\", ports = 53 }}]\n\
         respond = \"echo\"\n"
    )
}

/// The program with metrics on a port of its choice, and where they are.
fn serve(case: &Case, origin: &Origin, arguments: &str) -> (Instance, SocketAddr) {
    let listen = SocketAddr::new(case.loopback(), 0).to_string();
    configure(&case.server, &configuration(case, origin.address(), &listen));
    let instance = case.start(&format!("{CONFIG} {arguments}"));
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let admin = status["admin"].as_str().unwrap().parse().unwrap();
    (instance, admin)
}

fn metrics_say_what_happened(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, admin) = serve(case, &origin, "");
    let [web, gone, games] = [80, 81, 53].map(|port| SocketAddr::new(case.any_address(), port));
    let mut open = call(&case.server, web).unwrap();
    open.write_all(b"four").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();
    await_value(&case.server, admin, "open_sessions{service=\"web\",protocol=\"tcp\"}", 1.0);
    // Bytes count while they move: a connection may last for days.
    for direction in ["from_client", "to_client"] {
        await_value(
            &case.server,
            admin,
            &format!("{direction}_bytes_total{{service=\"web\",protocol=\"tcp\"}}"),
            4.0,
        );
    }
    let address = origin.address();
    let of_origin = format!("{{service=\"web\",origin=\"{address}\",address=\"{address}\"}}");
    await_value(&case.server, admin, &format!("origin_open_connections{of_origin}"), 1.0);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    assert_eq!(status["services"][0]["origins"][0]["open"], 1, "{status}");
    for (name, count) in
        [("origin_connections_total", 1.0), ("to_origin_bytes_total", 4.0), ("from_origin_bytes_total", 4.0)]
    {
        await_value(&case.server, admin, &format!("{name}{of_origin}"), count);
    }
    for _ in 0..3 {
        let _ = dial(&case.server, gone);
    }
    let refused =
        "ended_sessions_total{service=\"gone\",protocol=\"tcp\",end=\"dial-refused\",status=\"521\"}";
    await_value(&case.server, admin, refused, 3.0);
    assert_echo(&datagram::client(&case.server, games), b"a session");
    await_value(&case.server, admin, "open_sessions{service=\"games\",protocol=\"udp\"}", 1.0);
    let said = "from_client_bytes_total{service=\"games\",protocol=\"udp\"}";
    await_value(&case.server, admin, said, 9.0);
    drop(open);
    let closed = "ended_sessions_total{service=\"web\",protocol=\"tcp\",end=\"closed\",status=\"200\"}";
    await_value(&case.server, admin, closed, 1.0);
    let text = metrics(&case.server, admin);
    let labels = "{service=\"web\",protocol=\"tcp\"}";
    for (name, expected) in [
        ("opened_sessions_total", 1.0),
        ("open_sessions", 0.0),
        ("from_client_bytes_total", 4.0),
        ("to_client_bytes_total", 4.0),
        ("dial_duration_seconds_count", 1.0),
        ("session_duration_seconds_count", 1.0),
    ] {
        assert_eq!(value(&text, &format!("{name}{labels}")), Some(expected), "{name} in\n{text}");
    }
    let took = value(&text, &format!("session_duration_seconds_sum{labels}")).unwrap();
    assert!(took > 0.0 && took < 20.0, "{took}");
    assert_eq!(value(&text, "bindings{service=\"web\"}"), Some(1.0), "{text}");
    assert_eq!(value(&text, &format!("origin_up{of_origin}")), Some(1.0), "{text}");
    let refusing = SocketAddr::new(case.loopback(), 1);
    let of_refusing = format!("{{service=\"gone\",origin=\"{refusing}\",address=\"{refusing}\"}}");
    assert_eq!(value(&text, &format!("origin_failed_dials_total{of_refusing}")), Some(3.0), "{text}");
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let row = &status["services"][1]["origins"][0];
    assert_eq!((&row["failures"], &row["connections"]), (&3.into(), &0.into()), "{row}");
    assert_eq!(row["last_error"]["error"], "Connection refused (os error 111)", "{row}");
    assert_eq!(value(&text, &format!("origin_open_connections{of_origin}")), Some(0.0), "{text}");
    assert!(value(&text, "descriptors_limit").unwrap() > 100.0, "{text}");
    let family = case.family.pick("ipv4", "ipv6");
    let steered = value(
        &text,
        &format!("steered_packets_total{{service=\"gone\",protocol=\"tcp\",family=\"{family}\"}}"),
    );
    if case.path == Path::SkLookup {
        assert_eq!(steered, Some(3.0), "{text}");
        assert_eq!(value(&text, "table_generation"), Some(1.0), "{text}");
        assert_eq!(value(&text, "table_bytes"), status["table"]["bytes"].as_f64(), "{text}");
    } else {
        assert_eq!(steered, None, "{text}");
    }
    instance.stop();
}

fn metrics_are_as_their_linter_wants_them(case: &mut Case) {
    if !require::met("metrics_are_as_their_linter_wants_them", &[Need::Promtool]) {
        return;
    }
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, admin) = serve(case, &origin, "");
    let web = SocketAddr::new(case.any_address(), 80);
    drop(call(&case.server, web).unwrap());
    eventually("a connection that is over", PATIENCE, || {
        metrics(&case.server, admin).contains("spectrum_ended_sessions_total{").then_some(())
    });
    let text = metrics(&case.server, admin);
    let mut promtool = Command::new(find_in_path("promtool").unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let problems =
        String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && problems.is_empty(), "{problems}\n{text}");
    instance.stop();
}

fn readiness_ends_before_the_connections_do(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, admin) = serve(case, &origin, "--drain 1m");
    assert_eq!(get(&case.server, admin, "/readyz").unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(get(&case.server, admin, "/healthz").unwrap(), (200, "alive\n".to_owned()));
    let web = SocketAddr::new(case.any_address(), 80);
    let mut open = call(&case.server, web).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    instance.signal(Signal::SIGTERM);
    eventually("no readiness", PATIENCE, || {
        (get(&case.server, admin, "/readyz").ok()?.0 == 503).then_some(())
    });
    assert_eq!(get(&case.server, admin, "/healthz").unwrap().0, 200);
    assert!(
        metrics(&case.server, admin).contains("spectrum_open_sessions{service=\"web\",protocol=\"tcp\"} 1")
    );
    drop(open);
    let finished = instance.finish(PATIENCE);
    assert_eq!(finished.code(), 0, "{finished}");
    assert!(get(&case.server, admin, "/healthz").is_err(), "it still listens");
}

fn an_address_that_is_taken_fails_the_start(case: &mut Case) {
    let taken = case.server.run(|| TcpListener::bind(SocketAddr::new(case.loopback(), 0))).unwrap();
    let address = taken.local_addr().unwrap();
    let before = State::of(&case.server);
    let start = |admin: &str| {
        let arguments = format!("--prefix {} --admin {admin}", case.prefix());
        case.launch(&arguments).finish()
    };
    let finished = start(&address.to_string());
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.stderr.contains(&format!("serve metrics and health on {address}")), "{finished}");
    assert!(finished.stderr.contains("another program has it"), "{finished}");
    // Of the namespace that the instance works in, this is no address.
    let finished = start(case.family.pick("203.0.113.99:9180", "[2001:db8:99::1]:9180"));
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.stderr.contains("no interface"), "{finished}");
    before.assert_restored(&case.server, "starts without a place for metrics");
}

/// The prefix in which the addresses of the loopback interface are.
fn loopback_prefix(case: &Case) -> &'static str {
    case.family.pick("127.0.0.0/8", "::1/128")
}

/// The conflict that `status` shows of the listener at `address` which bindings hide.
fn conflict(case: &Case, instance: &Instance, address: SocketAddr) -> Option<Value> {
    let status = connect(&case.server, instance).ask("status").unwrap();
    let conflicts = status["conflicts"].as_array().unwrap();
    conflicts.iter().find(|conflict| conflict["address"] == address.to_string()).cloned()
}

fn an_address_that_bindings_hide_needs_force(case: &mut Case) {
    let before = State::of(&case.server);
    let prefix = loopback_prefix(case);
    let any_port = SocketAddr::new(case.loopback(), 0);
    let flags = format!("--prefix {prefix} --admin {any_port}");
    let finished = case.launch(&flags).finish();
    assert_eq!(finished.code(), 1, "{finished}");
    let hidden = format!("hidden by tcp {prefix} 1-65535 (service default), so that nobody would reach them");
    assert!(finished.stderr.contains(&hidden), "{finished}");
    assert!(finished.stderr.contains("give --admin or [admin] listen an address or a port"), "{finished}");
    assert_eq!(finished.stderr.matches("error:").count(), 1, "{finished}");
    before.assert_restored(&case.server, "a refusal");

    let instance = case.start(&format!("{flags} --force"));
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let admin: SocketAddr = status["admin"].as_str().unwrap().parse().unwrap();
    let named = conflict(case, &instance, admin).unwrap_or_else(|| panic!("{status}"));
    assert_eq!((&named["wholly"], &named["pid"]), (&true.into(), &instance.pid().into()), "{named}");
    assert_answered(&case.server, &[admin]);
    instance.stop();

    // Other ports leave it alone: one that the kernel chooses is none of the first thousand.
    let instance = case.start(&format!("{flags} --ports 1-1000"));
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let admin = status["admin"].as_str().unwrap().parse().unwrap();
    assert_eq!(get(&case.server, admin, "/readyz").unwrap().0, 200);
    assert_eq!(conflict(case, &instance, admin), None);
    instance.stop();
    before.assert_restored(&case.server, "starts and stops");
}

fn a_reload_cannot_hide_the_address(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, admin) = serve(case, &origin, "");
    let listen = SocketAddr::new(case.loopback(), 0).to_string();
    let text = configuration(case, origin.address(), &listen);
    let prefix = loopback_prefix(case);
    let port = admin.port();
    let hiding = format!(
        "{text}[[service]]\nname = \"more\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} }}]\nrespond = \"hello\"\n"
    );
    configure(&case.server, &hiding);
    let refused = reload(&case.server, &instance).unwrap_err();
    let hidden = format!("serve metrics and health on {admin}: hidden by tcp {prefix} {port} (service more)");
    assert!(refused.message.contains(&hidden), "{refused:?}");
    assert!(refused.message.contains("or restart with"), "{refused:?}");
    assert_eq!(get(&case.server, admin, "/readyz").unwrap().0, 200);
    instance.stop();
}

fn a_reload_is_counted_and_cannot_move_the_address(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, admin) = serve(case, &origin, "");
    let listen = SocketAddr::new(case.loopback(), 0).to_string();
    let (web, games) = (SocketAddr::new(case.any_address(), 80), SocketAddr::new(case.any_address(), 53));
    assert_echo(&datagram::client(&case.server, games), b"before");
    // One service less, and metrics as before.
    let text = configuration(case, origin.address(), &listen);
    let without_last = text.rsplit_once("[[service]]").unwrap().0;
    configure(&case.server, without_last);
    reload(&case.server, &instance).unwrap();
    await_value(&case.server, admin, "reloads_total{outcome=\"done\"}", 1.0);
    let after = metrics(&case.server, admin);
    assert_eq!(value(&after, "configuration_revision"), Some(1.0), "{after}");
    assert_eq!(value(&after, "bindings{service=\"games\"}"), None, "{after}");
    // Totals never fall.
    assert_eq!(
        value(&after, "opened_sessions_total{service=\"games\",protocol=\"udp\"}"),
        Some(1.0),
        "{after}"
    );
    if case.path == Path::SkLookup {
        assert_eq!(value(&after, "table_generation"), Some(2.0), "{after}");
    }
    configure(&case.server, &configuration(case, origin.address(), "127.0.0.1:9"));
    let refused = reload(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains("admin.listen: cannot change"), "{refused:?}");
    assert!(refused.message.contains("restart instead"), "{refused:?}");
    await_value(&case.server, admin, "reloads_total{outcome=\"refused\"}", 1.0);
    assert!(call(&case.server, web).is_ok());
    instance.stop();
}

fn who_asks_badly_harms_nobody(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, admin) = serve(case, &origin, "");
    let hanging: Vec<TcpStream> = (0..40).map(|_| call(&case.server, admin).unwrap()).collect();
    for mut stream in &hanging {
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ");
    }
    let mut noise = vec![0; 1 << 16];
    case.random.fill(&mut noise);
    let _ = call(&case.server, admin).unwrap().write_all(&noise);
    // Meanwhile connections are served, and who asks the control socket is answered.
    let web = SocketAddr::new(case.any_address(), 80);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut stream = call(&case.server, web).unwrap();
                    stream.write_all(b"x").unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                }
            });
        }
    });
    assert!(connect(&case.server, &instance).ask("status").is_ok());
    // The others have had their time, and whoever asks properly is answered.
    assert_eq!(get(&case.server, admin, "/healthz").unwrap().0, 200);
    drop(hanging);
    instance.stop();
    let plain = case.start_on_prefix();
    let target = case.any_target();
    assert_answered(&case.server, &[target]);
    plain.stop();
}
