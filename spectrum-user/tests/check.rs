//! `check` and `--config` through the real program: what is printed where, and exit codes. Needs no privileges.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn spectrum(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spectrum-user")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/spectrum.toml")
}

/// A file of its own for each test, removed afterwards.
struct File(PathBuf);

impl File {
    fn with(name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.toml", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn the_example_is_good_and_its_plan_is_printed() {
    let output = spectrum(&["check", "--config", example().to_str().unwrap()]);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    let plan = text(&output.stdout);
    let order: Vec<&str> = plan
        .lines()
        .skip_while(|line| !line.starts_with("bindings"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect();
    assert_eq!(
        order,
        [
            "  tcp  192.0.2.80/32    8080         web",
            "  tcp  192.0.2.80/32    8443-8453    web",
            "  tcp  198.51.100.7/32  7            games",
            "  tcp  192.0.2.64/28    1000-2000    edge",
            "  tcp  192.0.2.96/28    1-65535      transparent",
            "  tcp  192.0.2.0/24     80           web",
            "  tcp  192.0.2.0/24     443          web",
            "  tcp  192.0.2.0/24     1-65535      catch-all",
            "  tcp  2001:db8:7::/48  80           web",
            "  tcp  2001:db8:7::/48  443          web",
            "  tcp  2001:db8:7::/48  1-65535      catch-all",
            "  udp  198.51.100.7/32  7            games",
            "  udp  198.51.100.0/24  3478         games",
            "  udp  198.51.100.0/24  27000-27100  games",
        ]
    );
    assert!(
        plan.contains("\nlocal routes: 3\n  192.0.2.0/24\n  198.51.100.0/24\n  2001:db8:7::/48\n"),
        "{plan}"
    );
    assert!(plan.contains("\nsteering table: "), "{plan}");
}

#[test]
fn the_plan_is_one_json_object_when_asked_for() {
    let output = spectrum(&["check", "--json", "--config", example().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["mode"], "auto");
    assert_eq!(plan["services"][0]["name"], "web");
    assert_eq!(plan["firewall"], "auto");
    assert_eq!(plan["admin"], "127.0.0.1:9180");
    assert_eq!(
        plan["resolver"],
        serde_json::json!({
            "servers": ["203.0.113.53:53", "[2001:db8:9::53]:53"],
            "timeout_ms": 2000,
            "addresses": 64,
            "targets": 64,
            "min_ttl_ms": 1000,
        })
    );
    assert_eq!(plan["services"][0]["origins"][1]["origin"], "[2001:db8:9::10]:8080");
    assert_eq!(
        plan["services"][1]["origins"][2],
        serde_json::json!({"origin": "203.0.113.12:3000-4000", "role": "backup", "weight": 1})
    );
    assert_eq!(plan["services"][3]["respond"], "hello");
    assert_eq!(plan["services"][4]["origins"][0]["weight"], 2);
    assert_eq!(
        plan["services"][4]["udp"],
        serde_json::json!({
            "idle_ms": 30_000, "lifetime_ms": null, "responses": null, "sessions": 100_000, "quic": false,
        })
    );
    assert_eq!(
        plan["services"][1]["limits"],
        serde_json::json!({
            "connections": 100_000,
            "connections_per_source": 100,
            "rate_per_source_per_second": 50,
            "source_ipv4_bits": 32,
            "source_ipv6_bits": 64,
        })
    );
    assert_eq!(plan["services"][0]["limits"]["connections"], serde_json::Value::Null);
    assert_eq!(
        plan["services"][1]["timeouts"],
        serde_json::json!({
            "connect_ms": 5000,
            "idle_ms": 3_600_000,
            "half_closed_ms": 300_000,
            "lifetime_ms": null,
            "unacknowledged_ms": null,
            "keepalive_ms": 60_000,
        })
    );
    assert_eq!(plan["destinations"].as_array().unwrap().len(), 8);
    assert_eq!(
        plan["bindings"][1],
        serde_json::json!({
            "protocol": "tcp", "prefix": "192.0.2.80/32", "ports": "8443-8453", "service": "web", "destination": 0
        })
    );
    assert_eq!(plan["routes"][2], "2001:db8:7::/48");
    let nodes = plan["table"]["nodes"].as_u64().unwrap();
    assert!(nodes > 0);
    // The kernel keeps nodes by the page.
    assert_eq!(plan["table"]["bytes"], 4096 * 64);
}

#[test]
fn what_the_file_says_of_times_admin_and_resolver_is_printed() {
    let file = File::with(
        "more",
        "[dispatcher]\nfirewall = \"nftables\"\n[admin]\nlisten = \"127.0.0.1:9180\"\n[resolver]\nservers = \
         \"192.0.2.53:53\"\n[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\nrespond = \
         \"echo\"\n[service.timeouts]\nidle = \"none\"\nlifetime = \"90s\"\n",
    );
    let output = spectrum(&["check", "--config", file.path()]);
    assert_eq!(text(&output.stderr), "");
    let plan = text(&output.stdout);
    for line in [
        "firewall: nftables",
        "metrics and health: http://127.0.0.1:9180/",
        "name servers: 192.0.2.53:53",
        "     timeouts: idle none, lifetime 1m 30s",
    ] {
        assert!(plan.lines().any(|said| said == line), "no {line:?} in\n{plan}");
    }
}

#[test]
fn every_problem_is_an_error_of_its_own_and_printed_once() {
    let file = File::with("problems", "mode = 1\n\n[[service]]\nname = \"a\"\nrespond = \"helo\"\n");
    for arguments in [&["check", "--config", file.path()][..], &["--config", file.path()]] {
        let output = spectrum(arguments);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        assert_eq!(text(&output.stdout), "");
        let path = file.path();
        assert_eq!(
            text(&output.stderr),
            format!(
                "error: {path}:1:1: mode: unknown key; it belongs in [dispatcher]\n\
                 error: {path}:3:1: service \"a\" bindings: missing; add at least one, for instance bindings = \
                 [{{ prefix = \"192.0.2.0/24\" }}]\n\
                 error: {path}:5:11: service \"a\" respond: \"helo\": expected hello, echo or discard; did you mean \
                 hello?\n"
            )
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_a_bad_configuration() {
    let output = spectrum(&["check", "--config", "/nonexistent/spectrum.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr),
        "error: read configuration /nonexistent/spectrum.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn what_is_neither_a_file_nor_a_pipe_is_refused_unread() {
    for (path, reason) in [
        ("/dev/zero", "it is a character device; name a file or a pipe that holds the configuration"),
        ("/", "it is a directory without any file *.toml; put one there, or name a file"),
    ] {
        let output = spectrum(&["check", "--config", path]);
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(text(&output.stderr), format!("error: read configuration {path}: {reason}\n"));
    }
}

#[test]
fn a_pipe_is_as_good_as_a_file() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spectrum-user"))
        .args(["check", "--config", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(example()).unwrap()).unwrap();
    let piped = child.wait_with_output().unwrap();
    let read = spectrum(&["check", "--config", example().to_str().unwrap()]);
    assert_eq!(
        (piped.status.code(), text(&piped.stdout)),
        (Some(0), text(&read.stdout)),
        "{}",
        text(&piped.stderr)
    );
}

#[test]
fn a_file_that_is_not_text_is_refused_where_it_ceases_to_be() {
    let file = File::with("binary", b"[dispatcher]\nmode = \"\xff\"\n");
    let output = spectrum(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr),
        format!("error: {}:2:9: not UTF-8, which TOML is written in\n", file.path())
    );
}

#[test]
fn flags_that_a_file_replaces_are_a_usage_error() {
    let example = example();
    let example = example.to_str().unwrap();
    for flag in [
        &["--prefix", "192.0.2.0/24"],
        &["--ports", "80"],
        &["--protocol", "tcp"],
        &["--origin", "203.0.113.10"],
        &["--respond", "echo"],
    ] {
        let output = spectrum(&["--config", example, flag[0], flag[1]]);
        assert_eq!(output.status.code(), Some(2), "{flag:?}");
        assert!(text(&output.stderr).contains("--config"), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn udp_needs_an_answer_that_speaks_it() {
    let output = spectrum(&["--prefix", "192.0.2.0/24", "--protocol", "both"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("hello is for TCP; add --origin HOST, --respond echo"), "{said}");
}

#[test]
fn check_without_a_file_is_a_usage_error() {
    assert_eq!(spectrum(&["check"]).status.code(), Some(2));
}

#[test]
fn metrics_that_nobody_would_reach_are_pointed_out() {
    let service = "[[service]]\nname = \"web\"\nbindings = [{ prefix = \"127.0.0.0/8\", ports = \"9000-9999\" }]\n\
                   respond = \"hello\"\n";
    for (listen, hidden) in [("127.0.0.1:9180", true), ("127.0.0.1:8180", false), ("[::1]:9180", false)] {
        let file = File::with("admin-hidden", format!("[admin]\nlisten = \"{listen}\"\n{service}"));
        let output = spectrum(&["check", "--config", file.path()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let by = "by tcp 127.0.0.0/8 9000-9999 (service web)";
        let pointed_out = format!("http://{listen}/ (hidden {by}: refused at the start without --force)\n");
        assert_eq!(text(&output.stdout).contains(&pointed_out), hidden, "{}", text(&output.stdout));
        let json = spectrum(&["check", "--json", "--config", file.path()]);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json.get("admin_hidden").and_then(|hiding| hiding.as_str()), hidden.then_some(by));
    }
}

#[test]
fn a_file_of_more_words_than_a_configuration_has_is_not_parsed() {
    let file = File::with("tokens", "#\n".repeat(20_000_001));
    let output = spectrum(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(78));
    let expected = format!(
        "error: {}:20000001:1: more than 40000000 words and signs until here, the most that a configuration may have",
        file.path()
    );
    assert!(text(&output.stderr).starts_with(&expected), "{}", text(&output.stderr));
}

#[test]
fn what_is_in_force_and_the_schema_are_printed() {
    let example = example();
    let output = spectrum(&["config", "--effective", "--config", example.to_str().unwrap()]);
    assert_eq!(text(&output.stderr), "");
    let printed = text(&output.stdout).to_owned();
    assert!(
        printed.lines().any(|line| line.starts_with("timeouts.idle = \"1h\"  # [defaults], ")),
        "{printed}"
    );
    // It is a file of the same meaning.
    let file = File::with("effective", printed);
    let plan = |path: &str| {
        let output = spectrum(&["check", "--json", "--config", path]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let mut plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        plan["files"] = serde_json::Value::Null;
        plan
    };
    assert_eq!(plan(example.to_str().unwrap()), plan(file.path()));

    let output = spectrum(&["config", "--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["properties"]["dispatcher"]["properties"]["mode"]["default"], "auto");
    assert_eq!(spectrum(&["config"]).status.code(), Some(2));
}
