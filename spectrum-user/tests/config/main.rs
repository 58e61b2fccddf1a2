//! Configuration files, good and bad: what is understood, and what exactly is said about the rest.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::path::Path;

use proptest::prelude::*;
use spectrum_user::config::{Config, ConfigError, ModeChoice, PolicyPlace};
use spectrum_user::model::{Balance, DatagramHeader, HealthProbe, LogFormat, Question, Target};

mod bad;
mod databases;
mod keys;
#[path = "../../../tests/src/mmdb.rs"]
#[allow(unreachable_pub, reason = "it is a part of another crate, too")]
mod mmdb;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("spectrum.toml"), text).map(|planned| planned.config)
}

/// The bindings of every service, in the order configured.
fn bindings(config: &Config) -> Vec<String> {
    let services = config.services.iter();
    services
        .flat_map(|service| service.bindings.iter().map(move |binding| format!("{} {binding}", service.name)))
        .collect()
}

#[test]
fn every_problem_is_told_with_its_place_and_its_cure() {
    let files = bad::files();
    assert!(files.len() >= 130);
    let mut wrong = Vec::new();
    for file in files {
        let name = file.path.display();
        let Err(error) = parse(&file.text) else { panic!("{name} is good") };
        let told = error.to_string();
        let told: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("spectrum.toml:")).collect();
        if told != file.problems {
            wrong.push(format!("{name}\n  told     {told:#?}\n  expected {:#?}", file.problems));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_example_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/spectrum.toml");
    let config = Config::load(&path).unwrap().config;
    assert_eq!(config.mode, ModeChoice::Auto);
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["web", "edge", "transparent", "catch-all", "games"]);
}

#[test]
fn fewest_are_sessions_where_there_are_sessions() {
    let balance = |protocol: &str, word: &str| {
        let config = parse(&format!(
            "[[service]]\nname = \"a\"\nbindings = [{{ prefix = \"192.0.2.0/24\", protocol = \"{protocol}\" }}]\norigins = \
             [\"203.0.113.10:53\"]\nbalance = \"{word}\"\n"
        ));
        let config = config.map_err(|error| error.to_string())?;
        let Target::Origins(origins) = &config.services[0].target else { panic!("no origins") };
        Ok::<_, String>(origins.balance)
    };
    for protocol in ["udp", "both"] {
        for word in ["least-sessions", "least-connections"] {
            assert_eq!(balance(protocol, word), Ok(Balance::LeastConnections), "{protocol} {word}");
        }
    }
    let error = balance("tcp", "least-sessions").unwrap_err();
    assert!(error.ends_with("; write \"least-connections\""), "{error}");
}

#[test]
fn what_is_left_out_is_tcp_and_all_ports() {
    let config =
        parse("[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\nrespond = \"hello\"\n")
            .unwrap();
    assert_eq!(config.mode, ModeChoice::Auto);
    assert_eq!(bindings(&config), ["a tcp 192.0.2.0/24 1-65535"]);
}

#[test]
fn a_bad_piece_of_ports_is_told_where_it_stands() {
    let error = parse(
        r#"
        [[service]]
        name = "a"
        bindings = [
            { protocol = "both", prefix = ["192.0.2.1", "2001:db8::/64"], ports = [80, "443, 1_000-2000"] },
        ]
        respond = "echo"
        "#,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "spectrum.toml:5:88: service \"a\" bindings[0].ports[1]: \"443, 1_000-2000\": port \"1_000\" is not a number \
         from 1 to 65535"
    );
}

#[test]
fn all_forms_of_ports_are_understood() {
    for (ports, ranges) in [
        ("80", &["80"][..]),
        ("8_080", &["8080"]),
        ("0x50", &["80"]),
        ("\"80\"", &["80"]),
        ("\"443, 80,27000-27100\"", &["443", "80", "27000-27100"]),
        ("[80, \"443,8000-8100\"]", &["80", "443", "8000-8100"]),
        ("[\"1-100\", \"50\"]", &["1-100", "50"]),
    ] {
        let text = format!(
            "[[service]]\nname = \"a\"\nbindings = [{{ prefix = \"::1\", ports = {ports} }}]\nrespond = \"echo\"\n"
        );
        let config = parse(&text).expect(ports);
        let expected: Vec<String> = ranges.iter().map(|range| format!("a tcp ::1/128 {range}")).collect();
        assert_eq!(bindings(&config), expected, "{ports}");
    }
}

#[test]
fn bindings_may_be_tables_of_their_own() {
    let config = parse(
        "[[service]]\nname = \"a\"\norigins = [\"o.example:80\"]\n[[service.bindings]]\nprefix = \"192.0.2.0/24\"\n\
         [[service.bindings]]\nprefix = \"2001:db8::/64\"\nports = 80\n",
    )
    .unwrap();
    assert_eq!(bindings(&config), ["a tcp 192.0.2.0/24 1-65535", "a tcp 2001:db8::/64 80"]);
    let Target::Origins(origins) = &config.services[0].target else { panic!("{config:?}") };
    assert_eq!(origins.list[0].to_string(), "o.example:80");
}

#[test]
fn services_of_udp_have_origins_with_what_those_of_tcp_have() {
    let config = parse(
        "[[service]]\nname = \"a\"\nbindings = [{ protocol = \"udp\", prefix = \"192.0.2.0/24\", ports = \"1000-1009\" }]\n\
         origins = [\"_sip._udp.example.com\", { origin = \"10.0.0.1:3000-3009\", weight = 2 }, \"10.0.0.2\"]\n\
         balance = \"source-hash\"\nejection = {}\ntransparent = true\nlocal-origins = true\n\
         limits = { connections = 10, rate-per-source = 5 }\n\
         [[service]]\nname = \"b\"\norigins = [\"10.0.0.1\"]\ndial-on = \"first-byte\"\n\
         timeouts = { connect = \"1s\" }\nhealth = { port = 80 }\n\
         bindings = [{ protocol = \"both\", prefix = \"192.0.2.0/24\", ports = 53 }]\n",
    )
    .unwrap();
    assert_eq!(
        bindings(&config),
        ["a udp 192.0.2.0/24 1000-1009", "b tcp 192.0.2.0/24 53", "b udp 192.0.2.0/24 53"]
    );
    let Target::Origins(origins) = &config.services[0].target else { panic!("{config:?}") };
    assert_eq!(origins.port(&origins.list[1], 1003), Some(3003));
}

#[test]
fn what_is_for_sessions_of_udp_is_understood() {
    let config = parse(
        "[[service]]\nname = \"a\"\nbindings = [{ protocol = \"udp\", prefix = \"192.0.2.0/24\", ports = 53 }]\n\
         origins = [\"10.0.0.1:53\"]\nproxy-header = \"v2-first\"\nhealth = { send = \"0xff00\", expect = \"ok\" }\n[service.udp]\nidle = \"5m\"\nlifetime = \"1h\"\nresponses = 1\nsessions = 1000\n\
         source = [\"10.0.0.0/28\"]\n",
    )
    .unwrap();
    let policy = config.services[0].policy.udp.to_string();
    assert_eq!(policy, "idle 5m, lifetime 1h, responses 1, sessions 1000");
    let Target::Origins(origins) = &config.services[0].target else { panic!("{config:?}") };
    assert_eq!(origins.sources, ["10.0.0.0/28".parse().unwrap()]);
    assert_eq!((origins.header, origins.datagram_header), (None, Some(DatagramHeader::V2First)));
    let Some(HealthProbe::Datagram(probe)) = origins.health.as_ref().map(|health| &health.probe) else {
        panic!("{config:?}")
    };
    let (send, expect) = ("0xff00".parse().unwrap(), "ok".parse().unwrap());
    assert_eq!(probe.question, Question::Bytes { send, expect });
    assert_eq!(probe.header, Some(DatagramHeader::V2First), "a check of its own port has the header, too");
}

#[test]
fn who_might_be_spoken_for_is_not_refused() {
    for (prefixes, more) in [
        ("\"192.0.2.0/24\"", "origins = [\"2001:db8::1\", \"203.0.113.10\"]"),
        ("\"192.0.2.0/24\"", "origins = [\"2001:db8::1\", \"origin.example\"]"),
        ("\"192.0.2.0/24\"", "origins = [\"2001:db8::1\"]\ntrusted-proxies = [\"198.51.100.0/24\"]"),
        ("[\"192.0.2.0/24\", \"2001:db8:7::/64\"]", "origins = [\"2001:db8::1\"]"),
    ] {
        let text = format!(
            "[[service]]\nname = \"a\"\nbindings = [{{ prefix = {prefixes} }}]\n{more}\ntransparent = true\n"
        );
        parse(&text).expect(more);
    }
}

#[test]
fn services_may_share_a_prefix_when_one_range_is_within_the_other() {
    let text = "[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\nrespond = \"hello\"\n\
                [[service]]\nname = \"b\"\nbindings = [{ prefix = \"192.0.2.0/24\", ports = 80 }]\n\
                respond = \"discard\"\n";
    assert_eq!(parse(text).unwrap().services.len(), 2);
}

#[test]
fn marks_and_line_ends_of_other_systems_are_understood() {
    let text = "\u{feff}[[service]]\r\nname = \"a\"\r\nbindings = [{ prefix = \"192.0.2.0/24\" }]\r\n\
                respond = \"hello\"\r\n";
    assert!(parse(text).is_ok());
    let error = parse("\u{feff}mode = 1\r\nverbose = 2\r\n").unwrap_err().to_string();
    assert!(error.contains("spectrum.toml:2:1: verbose"), "{error}");
}

#[test]
fn depth_is_refused_before_the_stack_ends() {
    let text = format!("service = {}", "[".repeat(1_000_000));
    let told = parse(&text).unwrap_err().to_string();
    assert!(told.starts_with("spectrum.toml:1:"), "{}", told.lines().next().unwrap());
}

proptest! {
    /// Whatever an editor leaves behind is judged, and every problem has a place in the file.
    #[test]
    fn no_damage_to_a_file_is_too_much(
        at in 0_usize..3_000,
        removed in 0_usize..40,
        inserted in prop_oneof![
            "[\\[\\]{}=\",.#\n a-z0-9-]{0,12}",
            "\\PC{0,8}",
            Just("\"192.0.2.0/24\"".to_owned()),
            Just("bindings = []\n".to_owned()),
        ],
    ) {
        let example = include_str!("../../../config/spectrum.toml");
        let damaged: String = example
            .chars()
            .take(at)
            .chain(inserted.chars())
            .chain(example.chars().skip(at + removed))
            .collect();
        if let Err(ConfigError::Invalid { problems }) = parse(&damaged) {
            prop_assert!(!problems.is_empty());
            let lines: Vec<&str> = damaged.split('\n').collect();
            for problem in problems {
                let line = lines.get(problem.line - 1);
                prop_assert!(line.is_some_and(|line| problem.column <= line.chars().count() + 1), "{problem}");
            }
        }
    }
}

#[test]
fn a_service_logs_as_in_general_unless_it_says_otherwise() {
    let text = r#"
[log]
format = "json"
records = "failures"
sample = "1/10"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.1" }]
respond = "hello"
[[service]]
name = "b"
bindings = [{ prefix = "192.0.2.2" }]
respond = "hello"
[service.log]
records = "all"
empty = false
"#;
    let log = parse(text).unwrap().log;
    assert_eq!(log.format, Some(LogFormat::Json));
    let of = |name: &str| log.of(&name.parse().unwrap()).to_string();
    assert_eq!(of("a"), "records failures, sample 1/10");
    assert_eq!(of("b"), "records all, sample 1/10, empty false");
}

#[test]
fn lists_of_prefixes_are_read_and_told_by_their_lines() {
    let directory = std::env::temp_dir().join(format!("spectrum-lists-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (file, list) = (directory.join("spectrum.toml"), directory.join("denied.txt"));
    let service =
        "[[service]]\nname = \"a\"\nrespond = \"hello\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";
    std::fs::write(
        &file,
        format!("{service}[policy]\ndeny = {{ file = \"denied.txt\" }}\nallow = \"10.0.0.0/9\"\n"),
    )
    .unwrap();
    std::fs::write(
        &list,
        "# all of it\n\n10.0.0.0/8 ; SBL1\r\n2001:db8::/32\n224.0.0.0/3\n233.252.0.7\nff02::1\n10.0.0.0/8\n",
    )
    .unwrap();
    let planned = Config::load(&file).unwrap();
    let policies = &planned.plan.policies;
    assert_eq!(policies.common.entries().len(), 6);
    let (_, entry) = policies.decisive(&"a".parse().unwrap(), "10.128.0.1".parse().unwrap()).unwrap();
    let place = planned.config.policy_places.of(None, &policies.common, entry).unwrap();
    assert_eq!(place, PolicyPlace::Line { file: list.as_path(), line: 3 });

    std::fs::write(&list, "10.0.0.0/9\n10.0.0.1/8\nnonsense\n").unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    for told in [
        "denied.txt:2: \"10.0.0.1/8\"",
        "denied.txt:3: \"nonsense\"",
        "10.0.0.0/9 is allowed in",
        "denied.txt:1",
    ] {
        assert!(error.contains(told), "{told}: {error}");
    }
    std::fs::remove_file(&list).unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    assert!(error.contains("spectrum.toml:6:") && error.contains("make it, or take it out"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}
