//! What the program does with its standard streams where it needs no privileges: JSON wherever that was asked for, readers
//! that are gone, and disks that are full.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, OpenOptions};
use std::io::pipe;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn spectrum(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spectrum-user"));
    command.args(arguments.split_whitespace()).stdin(Stdio::null());
    command
}

fn example() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/spectrum.toml").display().to_string()
}

/// A configuration with two mistakes, in a file of its own.
fn bad(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.toml", std::process::id()));
    let text = "[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\", ports = 0 }]\nrespnd = \"hello\"\n";
    fs::write(&path, text).unwrap();
    path
}

fn objects(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Each problem's line, column and key.
fn places(problems: &[Value]) -> Vec<(u64, u64, &str)> {
    let place = |problem: &Value| Some((problem["line"].as_u64()?, problem["column"].as_u64()?));
    problems
        .iter()
        .map(|problem| {
            let (line, column) = place(problem).unwrap_or_else(|| panic!("{problem}"));
            (line, column, problem["key"].as_str().unwrap())
        })
        .collect()
}

const PLACES: [(u64, u64, &str); 2] =
    [(3, 48, "service \"a\" bindings[0].ports"), (4, 1, "service \"a\" respnd")];

#[test]
fn what_check_refuses_in_json_is_one_object_with_every_place() {
    let path = bad("refused");
    let Output { status, stdout, stderr } =
        spectrum(&format!("check --json --config {}", path.display())).output().unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!((status.code(), stderr.as_slice()), (Some(78), &b""[..]));
    let [refusal] = &objects(&stdout)[..] else { panic!("{stdout:?}") };
    assert_eq!(refusal["exit_code"], 78);
    let problems = refusal["problems"].as_array().unwrap();
    assert_eq!(places(problems), PLACES);
    assert!(problems.iter().all(|problem| problem["file"] == path.to_str().unwrap()), "{refusal}");
    assert!(problems[1]["message"].as_str().unwrap().contains("did you mean respond?"), "{refusal}");

    let missing = spectrum("check --json --config /nowhere").output().unwrap();
    let [refusal] = &objects(&missing.stdout)[..] else { panic!("{missing:?}") };
    assert_eq!((missing.status.code(), &refusal["problems"]), (Some(78), &Value::Array(Vec::new())));
    assert!(refusal["error"].as_str().unwrap().contains("No such file"), "{refusal}");
}

#[test]
fn errors_before_the_end_are_json_where_the_log_is() {
    let path = bad("started");
    let refused = spectrum(&format!("--log-format json --config {}", path.display())).output().unwrap();
    fs::remove_file(&path).unwrap();
    let errors = objects(&refused.stderr);
    assert_eq!((refused.status.code(), places(&errors)), (Some(78), PLACES.to_vec()));
    assert!(errors.iter().all(|error| error["level"] == "ERROR" && error["event"] == "error"), "{errors:?}");
    assert!(errors.iter().all(|error| error["timestamp"].is_string() && error["exit_code"] == 78));

    for misused in [
        "--log-format json --prefix nonsense",
        "--prefix nonsense --log-format=json",
        "--log-format json --unheard-of",
        "--log-format json",
        "--prefix 192.0.2.0/24 --ports 1-9,5-20 --log-format json",
    ] {
        let Output { status, stdout, stderr } = spectrum(misused).output().unwrap();
        assert_eq!((status.code(), stdout.as_slice()), (Some(2), &b""[..]), "{misused}");
        let [error] = &objects(&stderr)[..] else { panic!("{misused}: {stderr:?}") };
        assert_eq!((&error["level"], &error["exit_code"]), (&"ERROR".into(), &2.into()), "{misused}");
        assert!(error["message"].as_str().unwrap().contains("--"), "{error}");
    }
    let help = spectrum("--log-format json --help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(help.stdout.starts_with(b"One listening socket"), "{help:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for arguments in [format!("check --config {}", example()), "--help".to_owned(), "--version".to_owned()] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let Output { status, stderr, .. } = spectrum(&arguments).stdout(writer).output().unwrap();
        assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""), "{arguments}");
    }
}

#[test]
fn a_full_disk_is_an_error_that_is_told_and_no_panic() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let bad = bad("full");
    for (arguments, code) in [
        (format!("check --config {}", example()), 1),
        (format!("check --json --config {}", example()), 1),
        ("--help".to_owned(), 1),
        (format!("check --json --config {}", bad.display()), 78),
    ] {
        let Output { status, stderr, .. } = spectrum(&arguments).stdout(full()).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{arguments}: {said}");
        assert!(said.starts_with("error: ") && said.contains("No space left"), "{arguments}: {said}");
    }
    for (arguments, code) in [
        (format!("check --config {}", bad.display()), 78),
        (format!("--config {}", bad.display()), 78),
        (format!("--log-format json --config {}", bad.display()), 78),
        ("--unheard-of".to_owned(), 2),
        ("--log-format json --unheard-of".to_owned(), 2),
        ("status --netns nowhere".to_owned(), 1),
    ] {
        let status = spectrum(&arguments).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments}");
    }
    fs::remove_file(&bad).unwrap();
}
