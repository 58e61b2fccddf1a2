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
use spectrum_tests::on_one_path;

on_one_path!(reload_reads_every_file_again_and_refuses_one_that_is_gone);

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
