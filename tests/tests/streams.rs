//! What is written and who reads it: nothing that becomes of standard output and standard error touches traffic, changes or
//! the end, and which connections are recorded is up to the configuration. What records say is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;
use socket2::SockRef;
use spectrum_tests::admin::{await_value, metrics, value};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::call;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::on_every_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::record::records;
use spectrum_tests::require::find_in_path;
use spectrum_tests::state::State;

on_every_path!(a_reader_that_stalls_stops_nothing, checks_of_a_load_balancer_can_leave_no_record);

/// For what is the same on every path.
fn on_one_path(test: &str, case: impl FnOnce(&mut Case)) {
    spectrum_tests::case::check(test, Path::SkLookup, Family::V4, case);
}

/// A service `web` that echoes, and where metrics are.
fn echoing(case: &Case, log: &str) -> String {
    format!(
        "[admin]\nlisten = \"{}\"\n{log}\n\
         [[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = 80 }}]\nrespond = \"echo\"\n",
        SocketAddr::new(case.loopback(), 0),
        case.prefix()
    )
}

fn admin_of(case: &Case, instance: &Instance) -> SocketAddr {
    connect(&case.server, instance).ask("status").unwrap()["admin"].as_str().unwrap().parse().unwrap()
}

fn talks(stream: &mut TcpStream) -> bool {
    stream.write_all(b"still there?").is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

/// Connects, has something echoed, and ends.
fn visit(case: &Case, target: SocketAddr) {
    let mut stream = call(&case.server, target).unwrap();
    assert!(talks(&mut stream), "no echo");
}

/// A pipe of two pages, which some forty records fill.
fn small_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
    (reader, writer)
}

/// Ends it, and says how long that took.
fn stopped(instance: Instance) -> Duration {
    let asked = Instant::now();
    instance.stop();
    asked.elapsed()
}

fn a_reader_that_stalls_stops_nothing(case: &mut Case) {
    let before = State::of(&case.server);
    configure(&case.server, &echoing(case, ""));
    let (reader, writer) = small_pipe();
    let instance = case.launch(&format!("{CONFIG} --drain 1s")).stderr_to(writer).start();
    let admin = admin_of(case, &instance);
    let target = SocketAddr::new(case.any_address(), 80);
    let mut early = call(&case.server, target).unwrap();
    assert!(talks(&mut early));
    for _ in 0..100 {
        visit(case, target);
    }
    let ended = "ended_sessions_total{service=\"web\",protocol=\"tcp\",end=\"closed\",status=\"200\"}";
    await_value(&case.server, admin, ended, 100.0);
    assert!(talks(&mut early), "an open connection stands still");
    // Both ways to a reload say something in the log.
    reload(&case.server, &instance).unwrap();
    instance.signal(Signal::SIGHUP);
    await_value(&case.server, admin, "reloads_total{outcome=\"done\"}", 2.0);
    visit(case, target);
    drop(early);
    let took = stopped(instance);
    // The drain and the last lines have a second each.
    assert!(took < Duration::from_secs(10), "{took:?}");
    before.assert_restored(&case.server, "a stalled reader");
    // What came before is whole, but for the last line, which the end of the process may have cut.
    let read = std::io::read_to_string(reader).unwrap();
    let whole = read.lines().count().saturating_sub(1);
    assert!(whole >= 10, "{read}");
    for line in read.lines().filter(|line| line.contains(" connection ")).take(whole) {
        assert!(line.contains(" end=closed status=200 unique_id="), "{line}");
    }
}

#[test]
fn a_reader_that_dies_loses_nothing_that_the_next_one_cannot_have() {
    on_one_path("a_reader_that_dies_loses_nothing_that_the_next_one_cannot_have", |case| {
        configure(&case.server, &echoing(case, ""));
        let fifo = std::env::temp_dir().join(format!("spectrum-streams-{}", std::process::id()));
        let _ = fs::remove_file(&fifo);
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        // Somebody must read when the writing end is opened, and here that is the reader that dies.
        let both = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let writer = OpenOptions::new().write(true).open(&fifo).unwrap();
        let instance = case.launch(&format!("{CONFIG} --log-format json")).stderr_to(writer).start();
        let admin = admin_of(case, &instance);
        let target = SocketAddr::new(case.any_address(), 80);
        let first = File::open(&fifo).unwrap();
        drop(both);
        visit(case, target);
        let mut lines = BufReader::new(first).lines();
        let is_record = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"] == "connection";
        while !is_record(&lines.next().unwrap().unwrap()) {}
        drop(lines);
        for _ in 0..500 {
            visit(case, target);
        }
        reload(&case.server, &instance).unwrap();
        let ended = "ended_sessions_total{service=\"web\",protocol=\"tcp\",end=\"closed\",status=\"200\"}";
        await_value(&case.server, admin, ended, 501.0);
        let second = BufReader::new(File::open(&fifo).unwrap());
        let (mut found, mut reloaded) = (0, 0);
        for line in second.lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            found += u32::from(line["event"] == "connection");
            reloaded += u32::from(line["message"] == "reloaded");
            if (found, reloaded) == (500, 1) {
                break;
            }
        }
        assert_eq!(value(&metrics(&case.server, admin), "log_lost_total{stream=\"records\"}"), Some(0.0));
        instance.stop();
        fs::remove_file(&fifo).unwrap();
    });
}

#[test]
fn losses_are_counted_and_said_once_somebody_reads_again() {
    on_one_path("losses_are_counted_and_said_once_somebody_reads_again", |case| {
        configure(&case.server, &echoing(case, "[log]\nopened = true"));
        let (reader, writer) = small_pipe();
        let instance = case.launch(CONFIG).stderr_to(writer).start();
        let admin = admin_of(case, &instance);
        let target = SocketAddr::new(case.any_address(), 80);
        let lost = "log_lost_total{stream=\"records\"}";
        eventually("losses", Duration::from_mins(2), || {
            (0..200).for_each(|_| visit(case, target));
            value(&metrics(&case.server, admin), lost).filter(|lost| *lost > 0.0)
        });
        let mut lines = BufReader::new(reader).lines();
        let told = lines.find(|line| line.as_ref().unwrap().contains("what the log did not take was lost"));
        let told = told.unwrap().unwrap();
        assert!(told.contains("because=\"it was read too slowly\"") && told.contains("lines=0"), "{told}");
        let lost = value(&metrics(&case.server, admin), lost).unwrap();
        assert!(told.contains(&format!("records={lost} ")), "{lost}: {told}");
        visit(case, target);
        while !lines.next().unwrap().unwrap().contains(" connection service=web ") {}
        instance.signal(Signal::SIGTERM);
        for line in lines {
            line.unwrap();
        }
        instance.finish(PATIENCE);
    });
}

#[test]
fn a_full_disk_or_no_stream_at_all_serves_and_ends_well() {
    on_one_path("a_full_disk_or_no_stream_at_all_serves_and_ends_well", |case| {
        let shell = find_in_path("sh").unwrap();
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let before = State::of(&case.server);
        let target = SocketAddr::new(case.any_address(), 80);
        let arguments = format!("--prefix {} --ports 80 --respond echo --drain 1s", case.prefix());
        for redirection in
            ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "", "2>/dev/full", ">/dev/full 2>/dev/full"]
        {
            let script =
                spectrum_tests::peer::file(&case.server, "start.sh", format!("exec \"$@\" {redirection}\n"));
            let launch = case.launch(&arguments);
            let launch = match redirection {
                "" => launch.stdout_to(full()).stderr_to(full()),
                _ => launch.through(&format!("{} {}", shell.display(), script.display())),
            };
            let mut instance = launch.spawn();
            let answered = || case.server.run(|| TcpStream::connect_timeout(&target, PATIENCE)).ok();
            eventually("an answer", PATIENCE, answered);
            // With a descriptor of the streams reused, log lines would come here.
            for _ in 0..20 {
                let mut stream = call(&case.server, target).unwrap();
                assert!(talks(&mut stream), "{redirection}");
                SockRef::from(&stream).shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "{redirection}");
            }
            assert!(instance.is_running(), "{redirection}");
            assert_eq!(instance.finish_after(Signal::SIGTERM).code(), 0, "{redirection}");
            before.assert_restored(&case.server, redirection);
        }
    });
}

#[test]
fn every_line_is_json_where_that_is_asked_for() {
    on_one_path("every_line_is_json_where_that_is_asked_for", |case| {
        configure(&case.server, &echoing(case, "[log]\nformat = \"json\""));
        let instance = case.start(CONFIG);
        assert_eq!(instance.ready().services, 1);
        let target = SocketAddr::new(case.any_address(), 80);
        visit(case, target);
        configure(
            &case.server,
            &echoing(case, "[log]\nformat = \"jsno\"").replace("ports = 80", "ports = 0"),
        );
        let refused = reload(&case.server, &instance).unwrap_err();
        assert!(refused.message.contains("log.format"), "{refused:?}");
        let asked = Launch::new(&case.server)
            .arguments(&format!("reload --json --instance {}", instance.pid()))
            .finish();
        let refusal: Value = serde_json::from_str(&asked.stdout).unwrap();
        assert_eq!((asked.code(), asked.stderr.as_str()), (78, ""));
        assert_eq!(refusal["problems"][0]["key"], "log.format", "{refusal}");
        assert_eq!(refusal["problems"][1]["key"], "service \"web\" bindings[0].ports", "{refusal}");
        configure(&case.server, &echoing(case, ""));
        let message = reload(&case.server, &instance).unwrap_err().message;
        assert!(message.contains("cannot change from json to text"), "{message}");
        let finished = instance.stop();
        let lines: Vec<Value> = finished
            .stderr
            .lines()
            .chain(finished.stdout.lines())
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        for event in ["ready", "connection"] {
            assert_eq!(lines.iter().filter(|line| line["event"] == event).count(), 1, "{event}: {finished}");
        }
        assert!(lines.iter().all(|line| line["timestamp"].is_string()), "{finished}");
    });
}

fn checks_of_a_load_balancer_can_leave_no_record(case: &mut Case) {
    let origin = Origin::echo(&case.server, case.loopback());
    let [own, relayed] = [80, 81].map(|port| SocketAddr::new(case.any_address(), port));
    let case = &*case;
    let text = |log: &str| {
        format!(
            "{}\n[[service]]\nname = \"relayed\"\nbindings = [{{ prefix = \"{}\", ports = 81 }}]\norigins = \"{}\"\n{log}\n",
            echoing(case, "[log]\nempty = false"),
            case.prefix(),
            origin.address()
        )
    };
    configure(&case.server, &text(""));
    let instance = case.start(CONFIG);
    let admin = admin_of(case, &instance);
    let check = |target: SocketAddr| {
        let stream = call(&case.server, target).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let is_reset = |service: &str, count: f64| {
        let end = "end=\"downstream-reset\",status=\"499\"";
        let sample = format!("ended_sessions_total{{service=\"{service}\",protocol=\"tcp\",{end}}}");
        await_value(&case.server, admin, &sample, count);
    };
    for target in [own, relayed] {
        (0..10).for_each(|_| check(target));
        visit(case, target);
    }
    is_reset("web", 10.0);
    is_reset("relayed", 10.0);
    await_value(&case.server, admin, "omitted_records_total{reason=\"empty\"}", 20.0);
    // A reload changes it, for one of them.
    configure(&case.server, &text("log = { empty = true, records = \"failures\" }"));
    reload(&case.server, &instance).unwrap();
    for target in [own, relayed] {
        (0..5).for_each(|_| check(target));
        visit(case, target);
    }
    is_reset("relayed", 15.0);
    is_reset("web", 15.0);
    await_value(&case.server, admin, "omitted_records_total{reason=\"unwanted\"}", 1.0);
    let finished = instance.stop();
    let mut found: Vec<(&str, &str)> =
        records(&finished.stderr).iter().map(|record| (record["service"], record["end"])).collect();
    found.sort_unstable();
    let mut expected = vec![("relayed", "closed"), ("web", "closed"), ("web", "closed")];
    expected.extend([("relayed", "downstream-reset"); 5]);
    expected.sort_unstable();
    assert_eq!(found, expected, "{finished}");
}

#[test]
fn a_flood_of_sessions_is_no_flood_of_records() {
    on_one_path("a_flood_of_sessions_is_no_flood_of_records", |case| {
        // More sessions than a worker has.
        const CLIENTS: u32 = 68_000;
        let (prefix, admin) = (case.prefix(), SocketAddr::new(case.loopback(), 0));
        let instance = case.start(&format!(
            "--prefix {prefix} --protocol udp --respond discard --workers 1 --admin {admin}"
        ));
        let admin = admin_of(case, &instance);
        let target = SocketAddr::new(case.any_address(), 5000);
        let began = Instant::now();
        for number in 0..CLIENTS {
            let client = SocketAddr::from((Ipv4Addr::from_bits(0x7f01_0000 + number), 10_000));
            let _ = datagram::client_from(&case.server, client, target).send(b"flood");
        }
        let ended =
            "ended_sessions_total{service=\"default\",protocol=\"udp\",end=\"evicted\",status=\"500\"}";
        let evicted = eventually("evictions", PATIENCE, || {
            value(&metrics(&case.server, admin), ended).filter(|evicted| *evicted > 1000.0)
        });
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        let finished = instance.stop();
        let records = records(&finished.stderr);
        let written = records.iter().filter(|record| record["end"] == "evicted").count();
        assert!((1..=10 * seconds + 10).contains(&written), "{written} of {evicted} in {seconds} s");
    });
}
