//! Names of which a part is never answered for: what is known of them serves meanwhile. What becomes of names that are answered is
//! tested in `origins.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::dial;
use spectrum_tests::instance::Instance;
use spectrum_tests::name_server::NameServer;
use spectrum_tests::on_one_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::Family;

on_one_path!(
    a_target_that_has_an_address_waits_for_no_other,
    a_family_that_is_never_answered_holds_up_no_connection,
);

/// The time that a name server has: nobody is to wait for it.
const LONG: Duration = Duration::from_secs(20);

/// A service with this origin, and name servers asked with more options.
fn serve(case: &Case, server: &NameServer, options: &str, origin: &str) -> Instance {
    let text = format!(
        "{}{options}[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = 80 }}]\n\
         origins = \"{origin}\"\nlocal-origins = true\n",
        server.section(LONG),
        case.prefix()
    );
    configure(&case.server, &text);
    case.start(CONFIG)
}

fn origin(case: &Case) -> Origin {
    Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), "one")
}

fn heard(case: &mut Case) -> Option<String> {
    let target = SocketAddr::new(case.any_address(), 80);
    dial(&case.server, target).map(|heard| heard.text).ok()
}

/// The last of 64 targets has an address, and what the others mean is never said.
fn a_target_that_has_an_address_waits_for_no_other(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let origin = origin(case);
    let one = origin.address();
    let targets: Vec<String> = (10..74).map(|number| format!("h{number}.test")).collect();
    for target in &targets[..63] {
        server.ignore(target, Family::V4);
        server.ignore(target, Family::V6);
    }
    server.set("h73.test", &[one.ip()]);
    let records: Vec<_> = targets.iter().map(|target| (10, 1, one.port(), target.as_str())).collect();
    server.set_service("_web._tcp.test", &records);
    let began = Instant::now();
    let _instance = serve(case, &server, "targets = 64\n", "_web._tcp.test");
    let first = eventually("an answer", PATIENCE, || heard(case));
    assert!(began.elapsed() < LONG / 2, "the first answer took {:?}", began.elapsed());
    assert_eq!(first, "one");
}

fn a_family_that_is_never_answered_holds_up_no_connection(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let origin = origin(case);
    let one = origin.address();
    server.set("one.test", &[one.ip()]);
    let ignored = [Family::V4, Family::V6].into_iter().find(|family| *family != case.family);
    server.ignore("one.test", ignored.unwrap());
    server.set_service("_web._tcp.test", &[(10, 1, one.port(), "one.test")]);
    for name in [format!("one.test:{}", one.port()), "_web._tcp.test".to_owned()] {
        let began = Instant::now();
        let instance = serve(case, &server, "", &name);
        assert_eq!(heard(case).as_deref(), Some("one"), "{name}: {}", instance.stderr());
        assert!(began.elapsed() < LONG / 2, "{name}: the first answer took {:?}", began.elapsed());
        instance.stop();
    }
}
