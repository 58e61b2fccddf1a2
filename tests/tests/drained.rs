//! Origins that are drained, weighed and made ready while an instance runs, by the verb that does it. What a weight makes of
//! the choice is tested beside the choosing.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use spectrum_tests::case::{self, Case};
use spectrum_tests::control::{CONFIG, assert_logged, configure, reload};
use spectrum_tests::dial::{call, dial};
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::name_server::NameServer;
use spectrum_tests::on_each_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};

on_each_path!(an_origin_that_is_drained_by_hand_stays_so_over_reloads_until_it_is_ready);

/// The verb's answer to these words.
fn set(case: &Case, words: &str) -> Finished {
    Launch::new(&case.server).arguments(&format!("origin {words}")).finish()
}

fn row(case: &Case, origin: &str) -> Value {
    let finished = Launch::new(&case.server).arguments("status --json").finish();
    let status: Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    let rows = status["services"][0]["origins"].as_array().unwrap();
    rows.iter().find(|row| row["origin"] == origin || row["address"] == origin).unwrap().clone()
}

fn words(case: &mut Case, count: usize) -> BTreeSet<String> {
    (0..count)
        .map(|_| {
            let target = SocketAddr::new(case.any_address(), 80);
            dial(&case.server, target).map_or_else(|error| error.kind().to_string(), |heard| heard.text)
        })
        .collect()
}

fn is(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}

fn an_origin_that_is_drained_by_hand_stays_so_over_reloads_until_it_is_ready(case: &mut Case) {
    let (one, two) = (
        Origin::echo(&case.server, case.loopback()),
        Origin::saying(&case.server, (case.loopback(), 0).into(), "two"),
    );
    let (echo, other) = (one.address().to_string(), two.address().to_string());
    let service = |case: &Case, list: &str| {
        let prefix = case.prefix();
        configure(
            &case.server,
            &format!(
                "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{prefix}\", ports = 80 }}]\norigins = [{list}]\n"
            ),
        );
    };
    service(case, &format!("\"{echo}\", \"{other}\""));
    let instance = case.start(&format!("{CONFIG} --workers 3"));
    assert_eq!(set(case, &format!("web {other} drain")).code(), 0);
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open = call(&case.server, target).unwrap();
    let mut pass = || {
        open.write_all(b"four").unwrap();
        open.read_exact(&mut [0; 4]).unwrap();
    };
    pass();

    let said = set(case, &format!("web {echo} drain"));
    assert_eq!(
        said.stdout.lines().next(),
        Some(format!("web {echo}: drained by hand, weight 0, 1 open").as_str())
    );
    assert!(said.stdout.contains("no origin of web gets new connections now"), "{said}");
    assert_eq!(words(case, 6), is(&[&ErrorKind::ConnectionReset.to_string()]), "whichever worker has it");
    let said = set(case, &format!("web {other} ready --json"));
    let answer: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&answer["serves"], &answer["origins"][0]["condition"]),
        (&true.into(), &"up".into()),
        "{said}"
    );
    assert_eq!(words(case, 6), is(&["two"]));
    pass();
    let logged =
        format!("origin set by hand service=web origin=\"{echo}\" addresses=\"\" setting=\"drain\" pid=");
    assert_logged(&instance, &logged, 1);
    assert!(instance.stderr().contains("uid=0"), "{}", instance.stderr());

    // As long as the file names it, whatever else it says.
    service(case, &format!("\"{other}\", {{ origin = \"{echo}\", weight = 200 }}"));
    reload(&case.server, &instance).unwrap();
    let drained = row(case, &echo);
    assert_eq!((&drained["condition"], &drained["by_hand"]), (&"drained".into(), &true.into()), "{drained}");
    assert_eq!(words(case, 6), is(&["two"]));
    pass();
    assert_eq!(set(case, &format!("web {echo} weight 3")).code(), 0);
    assert_eq!(row(case, &echo)["weight"], 3);
    assert_eq!(set(case, &format!("web {echo} ready")).code(), 0);
    let ready = row(case, &echo);
    assert_eq!((&ready["weight"], ready.get("by_hand")), (&200.into(), None), "{ready}");

    // And no longer.
    assert_eq!(set(case, &format!("web {echo} drain")).code(), 0);
    for list in [format!("\"{other}\""), format!("\"{other}\", \"{echo}\"")] {
        service(case, &list);
        reload(&case.server, &instance).unwrap();
    }
    assert_eq!(row(case, &echo)["condition"], "up");
    pass();
}

#[test]
fn one_address_of_a_name_is_drained_and_made_ready() {
    case::check("one_address_of_a_name_is_drained_and_made_ready", Path::SkLookup, Family::V4, |case| {
        let server = NameServer::start(&case.server, case.loopback());
        let [one, two]: [IpAddr; 2] = ["127.1.0.1", "127.1.0.2"].map(|address| address.parse().unwrap());
        let first = Origin::saying(&case.server, (one, 0).into(), "one");
        let port = first.address().port();
        let _second = Origin::saying(&case.server, (two, port).into(), "two");
        server.set("origin.test", &[one, two]);
        let service = format!(
            "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\" }}]\norigins = \"origin.test:{port}\"\nlocal-origins = true\n",
            case.prefix()
        );
        configure(&case.server, &format!("{}\n{service}", server.section(Duration::from_millis(300))));
        let _instance = case.start(CONFIG);
        assert_eq!(words(case, 8), is(&["one", "two"]));
        let said = set(case, &format!("web {two} drain"));
        let line = format!("web origin.test:{port} at {two}:{port}: drained by hand, weight 0, 0 open\n");
        assert_eq!(said.stdout, line, "{said}");
        assert_eq!(words(case, 8), is(&["one"]));
        assert_eq!(row(case, &format!("{one}:{port}"))["condition"], "up");
        let said = set(case, &format!("web {two}:{port} weight 3"));
        assert_eq!(said.code(), 2, "{said}");
        assert!(
            said.stderr.contains(&format!("the addresses of origin.test:{port} share its weight")),
            "{said}"
        );
        assert_eq!(set(case, &format!("web origin.test:{port} ready")).code(), 0);
        assert_eq!(words(case, 8), is(&["one", "two"]));
    });
}

#[test]
fn what_is_not_there_cannot_be_drained() {
    case::check("what_is_not_there_cannot_be_drained", Path::SkLookup, Family::V4, |case| {
        let prefix = case.prefix();
        configure(
            &case.server,
            &format!(
                "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{prefix}\", ports = 80 }}]\n\
                 origins = [\"127.0.0.1:8080\", \"127.0.0.1:9090\"]\n\
                 [[service]]\nname = \"hello\"\nbindings = [{{ prefix = \"{prefix}\", ports = 81 }}]\nrespond = \"hello\"\n"
            ),
        );
        let _instance: Instance = case.start(CONFIG);
        for (typed, told) in [
            ("wbe 127.0.0.1:8080 drain", "there is no service \"wbe\"; did you mean web?"),
            ("x 127.0.0.1:8080 drain", "there is no service \"x\"; there is web, hello"),
            ("hello 127.0.0.1 drain", "service hello has no origins; it answers by itself"),
            ("web 127.0.0.1:8081 drain", "has no origin \"127.0.0.1:8081\"; did you mean 127.0.0.1:8080?"),
            ("web 10.0.0.1 drain", "has no origin \"10.0.0.1\"; there is 127.0.0.1:8080, 127.0.0.1:9090"),
            (
                "web 127.0.0.1 drain",
                "several are meant: 127.0.0.1:8080, 127.0.0.1:9090; type it as one of them",
            ),
            ("web 127.0.0.1:8080 weight", "weight: say which, 0 to 256"),
            ("web 127.0.0.1:8080 drain 3", "3: a number goes with weight alone"),
            ("web 127.0.0.1:8080 weight 257", "a weight is 0 to 256"),
            ("web 127.0.0.1:8080 stop", "[possible values: drain, ready, weight]"),
        ] {
            let said = set(case, typed);
            assert!(said.code() == 2 && said.stderr.contains(told), "{typed}: {said}");
        }
        assert_eq!(row(case, "127.0.0.1:8080")["condition"], "up");
    });
}
