//! A configuration of several files under a running instance: what a reload reads of them with the rights that are left, and what it
//! does when one is not there. Does not test what a configuration means, nor which files a pattern stands for.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{connect, reload};
use spectrum_tests::dial::{assert_refused, dial};
use spectrum_tests::instance::program;
use spectrum_tests::on_one_path;

on_one_path!(
    reload_reads_every_file_again_and_refuses_one_that_is_gone,
    what_a_reload_would_change_is_told_by_name,
);

const DIRECTORY: &str = "/run/conf.d";

/// A user that no test runs as.
const STRANGER: u32 = 4_242;

fn write(case: &Case, name: &str, text: &str) {
    case.server.run(|| {
        fs::create_dir_all("/run/more").unwrap();
        fs::create_dir_all(DIRECTORY).unwrap();
        fs::write(format!("/run/{name}.new"), text).unwrap();
        fs::rename(format!("/run/{name}.new"), format!("/run/{name}")).unwrap();
    });
}

fn service(case: &Case, name: &str, port: u16) -> String {
    let prefix = case.prefix();
    format!(
        "[[service]]\nname = \"{name}\"\nrespond = \"hello\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} }}]\n"
    )
}

fn assert_answered(case: &Case, targets: &[(IpAddr, u16, &str)]) {
    for (address, port, service) in targets {
        let heard = dial(&case.server, SocketAddr::new(*address, *port)).unwrap();
        assert!(heard.text.contains(&format!("\nservice={service} ")), "{heard:?}");
    }
}

fn files(status: &Value) -> Vec<&str> {
    status["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect()
}

fn reload_reads_every_file_again_and_refuses_one_that_is_gone(case: &mut Case) {
    write(case, "conf.d/a.toml", &format!("include = [\"../more/*.toml\"]\n{}", service(case, "a", 80)));
    write(case, "conf.d/web.toml~", "no TOML");
    let instance = case.start(&format!("--config {DIRECTORY}"));
    let address = case.any_address();
    assert_answered(case, &[(address, 80, "a")]);
    assert_refused(&case.server, &[(address, 81).into()]);

    // One that only its owner may read, who is not the steerer.
    write(case, "more/b.toml", &service(case, "b", 81));
    case.server.run(|| {
        fs::set_permissions("/run/more/b.toml", fs::Permissions::from_mode(0o600)).unwrap();
        chown("/run/more/b.toml", Some(STRANGER), Some(STRANGER)).unwrap();
    });
    assert_eq!(reload(&case.server, &instance).unwrap()["services"], 2);
    assert_answered(case, &[(address, 80, "a"), (address, 81, "b")]);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    assert_eq!(files(&status), ["/run/conf.d/a.toml", "/run/conf.d/../more/b.toml"]);

    // A pattern need not stand for anything; a path must.
    case.server.run(|| fs::remove_file("/run/more/b.toml").unwrap());
    write(case, "conf.d/a.toml", &format!("include = [\"../more/b.toml\"]\n{}", service(case, "a", 82)));
    let refused = reload(&case.server, &instance).unwrap_err();
    assert_eq!(refused.code, 78);
    assert!(
        refused.message.contains("/run/conf.d/a.toml:1:12: include[0]: \"../more/b.toml\": read /run/conf.d/../more/b.toml: No such file"),
        "{}",
        refused.message
    );
    assert_answered(case, &[(address, 80, "a"), (address, 81, "b")]);

    write(case, "conf.d/a.toml", &service(case, "a", 82));
    reload(&case.server, &instance).unwrap();
    assert_answered(case, &[(address, 82, "a")]);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    assert_eq!(files(&status), ["/run/conf.d/a.toml"]);
}

/// What the program says in the namespace, and its exit code.
fn run(case: &Case, arguments: &str) -> (String, i32) {
    let program = program().unwrap();
    let output = case.server.output(format!("{} {arguments}", program.display()).trim());
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap())
}

fn what_a_reload_would_change_is_told_by_name(case: &mut Case) {
    let diff = format!("check --diff --config {DIRECTORY}");
    write(case, "conf.d/a.toml", &service(case, "a", 80));
    let none = run(case, &diff);
    assert!(none.0.contains("none runs in network namespace") && none.1 == 2, "{none:?}");
    let instance = case.start(&format!("--config {DIRECTORY} --drain 7s"));
    assert_eq!(run(case, &diff), ("a reload would change nothing\n".to_owned(), 0));

    write(case, "conf.d/a.toml", &format!("[instance]\ndrain = \"1s\"\n{}", service(case, "a", 81)));
    write(case, "conf.d/b.toml", &format!("{}timeouts = {{ idle = \"5m\" }}\n", service(case, "b", 80)));
    let (text, code) = run(case, &diff);
    let (prefix, family) = (case.prefix(), case.family.pick("ipv4", "ipv6"));
    assert_eq!(
        text,
        format!(
            "services added: b\nservice a changed:\n  bindings added: tcp {prefix} 81\n  bindings removed: tcp {prefix} 80\n\
             listeners kept: 1\nlisteners new: b tcp {family}\nfiles added: /run/conf.d/b.toml\n"
        )
    );
    assert_eq!(code, 1);
    let reloaded = reload(&case.server, &instance).unwrap();
    assert_eq!((&reloaded["added"], &reloaded["removed"]), (&1.into(), &0.into()), "{reloaded}");
    assert_eq!(run(case, &diff).1, 0);

    let (effective, _) = run(case, "config --effective");
    for line in [
        "drain = \"7s\"  # --drain",
        "timeouts.idle = \"5m\"  # /run/conf.d/b.toml:5",
        "timeouts.connect = \"5s\"  # built in",
    ] {
        assert!(effective.lines().any(|said| said == line), "{line}\n{effective}");
    }

    write(case, "conf.d/c.toml", "[admin]\nlisten = \"127.0.0.1:9180\"\n[instance]\nworkers = 77\n");
    let (text, code) = run(case, &diff);
    let refused: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("a reload would be refused: ")).collect();
    assert_eq!(
        refused,
        [
            "admin.listen: nothing -> \"127.0.0.1:9180\"  (/run/conf.d/c.toml:2): cannot change while running; restart instead",
            "instance.workers: nothing -> 77  (/run/conf.d/c.toml:4): cannot change while running; restart instead",
        ]
    );
    assert_eq!(code, 1);
    assert!(reload(&case.server, &instance).unwrap_err().message.contains("restart instead"));
    write(case, "conf.d/c.toml", "[admin\n");
    assert_eq!(run(case, &diff).1, 78);
}
