//! Hundreds of services of one port each, where descriptors are few: each is served, and what does not fit is refused with the
//! cure. Does not test which binding wins.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::datagram::assert_echoes;
use spectrum_tests::dial::dial_all;
use spectrum_tests::holdings::descriptors;
use spectrum_tests::instance::Instance;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(hundreds_of_services_have_a_socket_each);
on_one_path!(thousands_of_services_get_another_answer_within_the_limit);

/// A socket of each for each of two workers would take more than half of these, one of each less than three quarters.
const DESCRIPTORS: usize = 1_400;
const SERVICES: u16 = 800;
const FIRST: u16 = 10_000;

fn configuration(case: &Case, services: impl Iterator<Item = u16>, name: &str) -> String {
    let prefix = case.prefix();
    let mut text = format!(
        "[[service]]\nname = \"datagrams\"\nrespond = \"echo\"\nbindings = [{{ protocol = \"udp\", prefix = \"{prefix}\", ports = \
         53 }}]\n"
    );
    for number in services {
        let port = FIRST + number;
        let _ = write!(
            text,
            "[[service]]\nname = \"{name}-{port}\"\nrespond = \"hello\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} \
             }}]\n"
        );
    }
    text
}

fn assert_served(case: &mut Case, services: impl Iterator<Item = u16>, name: &str) {
    let address = case.any_address();
    let targets: Vec<SocketAddr> = services.map(|number| SocketAddr::new(address, FIRST + number)).collect();
    for (target, heard) in dial_all(&case.server, &targets) {
        let heard = heard.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert!(heard.text.contains(&format!("service={name}-{} ", target.port())), "{target}: {heard:?}");
    }
    assert_echoes(&case.server, &[SocketAddr::new(address, 53)]);
}

/// The protocols and addresses of the listeners, and how many sockets they have.
fn listeners(case: &Case, instance: &Instance) -> (HashSet<(String, SocketAddr)>, usize) {
    let status = connect(&case.server, instance).ask("status").unwrap();
    let destinations = status["destinations"].as_array().unwrap();
    let listener = |destination: &Value| {
        let address = destination["listener"]["address"].as_str().unwrap().parse().unwrap();
        (destination["protocol"].to_string(), address)
    };
    let sockets = |destination: &Value| destination["listener"]["cookies"].as_array().map_or(0, Vec::len);
    (destinations.iter().map(listener).collect(), destinations.iter().map(sockets).sum())
}

fn hundreds_of_services_have_a_socket_each(case: &mut Case) {
    configure(&case.server, &configuration(case, 0..SERVICES, "one"));
    let instance = case
        .launch(&format!("{CONFIG} --workers 2 --drain 0s"))
        .through(&format!("/usr/bin/prlimit --nofile={DESCRIPTORS}:{DESCRIPTORS} --"))
        .start();
    let (addresses, sockets) = listeners(case, &instance);
    let all = usize::from(SERVICES) + 1;
    assert_eq!((addresses.len(), sockets), (all, all));
    // Ports that are bound are lost to clients of this host.
    let ports: HashSet<u16> = addresses.iter().map(|(_, address)| address.port()).collect();
    assert!(ports.len() < 80, "{} ports", ports.len());
    for process in instance.processes() {
        assert!(descriptors(process) < all + 64, "none is held twice by one process");
    }
    assert_served(case, (0..SERVICES).step_by(7), "one");

    // A few come, as many as still fit, and a few go.
    configure(&case.server, &configuration(case, 50..SERVICES + 50, "one"));
    let reloaded = reload(&case.server, &instance).unwrap();
    assert_eq!((&reloaded["added"], &reloaded["removed"]), (&Value::from(50), &Value::from(50)));
    assert_served(case, (50..SERVICES + 50).step_by(7), "one");

    // All of them get another answer, in the place of the former.
    configure(&case.server, &configuration(case, 50..SERVICES + 50, "other"));
    let reloaded = reload(&case.server, &instance).unwrap();
    let counts = ["added", "removed", "switched"].map(|count| reloaded[count].as_u64().unwrap());
    assert_eq!(counts, [0, 0, u64::from(SERVICES)]);
    assert_served(case, (50..SERVICES + 50).step_by(7), "other");

    // With other bindings both are there for a moment.
    configure(&case.server, &configuration(case, SERVICES + 50..2 * SERVICES + 50, "one"));
    let refused = reload(&case.server, &instance).unwrap_err();
    for said in ["take a descriptor each", "the hard limit of open files", "LimitNOFILE=", "a range of ports"]
    {
        assert!(refused.message.contains(said), "{refused:?}");
    }
    assert_served(case, (50..SERVICES + 50).step_by(7), "other");
    instance.stop();
}

/// Beside those of so many services there is no room for others.
fn thousands_of_services_get_another_answer_within_the_limit(case: &mut Case) {
    const MANY: u16 = 4_000;
    let text = configuration(case, 0..MANY, "one");
    configure(&case.server, &text);
    let instance = case
        .launch(&format!("{CONFIG} --workers 2 --drain 0s"))
        .through("/usr/bin/prlimit --nofile=6000:6000 --")
        .start();
    let (before, _) = listeners(case, &instance);
    assert_served(case, (0..MANY).step_by(97), "one");
    for (text, name) in [
        (text.replace("respond = \"hello\"", "respond = \"hello\"\ntimeouts = { idle = \"7s\" }"), "one"),
        (configuration(case, 0..MANY, "other"), "other"),
    ] {
        configure(&case.server, &text);
        let reloaded = reload(&case.server, &instance).unwrap();
        assert_eq!(reloaded["switched"], MANY, "{reloaded}");
        assert_served(case, (0..MANY).step_by(97), name);
    }
    assert_eq!(listeners(case, &instance).0, before, "the listeners stay where they are");
    instance.stop();
}
