//! Hosts made of files in a directory. Runs no init system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A host that is removed with its directory.
struct Scratch(Host);

impl Scratch {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("xtask-host-{}-{name}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Self(Host { root })
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    fn quieting(&self, service: &str, has_systemctl: bool) -> Vec<String> {
        let standing = self.0.standing(service);
        let root = self.0.root.display().to_string();
        let commands = self.0.quieting(service, standing, has_systemctl);
        commands.iter().map(|words| words.join(" ").replace(&root, "")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.root);
    }
}

#[test]
fn a_service_without_unit_and_script_is_absent() {
    let host = Scratch::new("absent");
    assert_eq!(host.0.standing("nginx"), Standing::Absent);
    assert!(host.quieting("nginx", true).is_empty());
}

#[test]
fn a_unit_is_a_service_wherever_it_lies_and_a_mask_is_none() {
    for directory in UNITS {
        let host = Scratch::new(&directory.replace('/', "-"));
        host.file(&format!("{directory}/nginx.service"), "[Service]\n");
        assert_eq!(host.0.standing("nginx"), Standing::Idle, "{directory}");
    }
    let host = Scratch::new("masked");
    host.link("etc/systemd/system/nginx.service", "/dev/null");
    assert_eq!(host.0.standing("nginx"), Standing::Absent);
}

#[test]
fn the_script_of_a_removed_package_is_no_service() {
    let host = Scratch::new("removed");
    host.file("etc/init.d/nginx", "#!/bin/sh\nexit 3\n");
    assert_eq!(host.0.standing("nginx"), Standing::Idle, "a script that nobody packaged");
    let status = |state| {
        format!(
            "Package: bash\nStatus: install ok installed\n\nPackage: nginx-common\nStatus: {state}\n\
             Conffiles:\n /etc/default/nginx 0a\n /etc/init.d/nginx 0b\nVersion: 1\n"
        )
    };
    host.file("var/lib/dpkg/status", &status("deinstall ok config-files"));
    assert_eq!(host.0.standing("nginx"), Standing::Absent);
    host.file("var/lib/dpkg/status", &status("install ok installed"));
    assert_eq!(host.0.standing("nginx"), Standing::Idle);
}

#[test]
fn without_a_running_systemd_the_script_says_whether_it_runs() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Scratch::new("running");
    host.file("etc/init.d/nginx", "#!/bin/sh\n[ \"$1\" = status ]\n");
    fs::set_permissions(host.path("etc/init.d/nginx"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(host.0.standing("nginx"), Standing::Running);
    assert_eq!(host.quieting("nginx", false), ["/etc/init.d/nginx stop"]);
}

#[test]
fn a_unit_without_links_of_an_init_script_needs_no_update_rc_d() {
    let host = Scratch::new("iperf3");
    host.file("lib/systemd/system/iperf3.service", "[Service]\n");
    assert_eq!(host.quieting("iperf3", true), ["systemctl disable iperf3"]);
    assert!(host.quieting("iperf3", false).is_empty());
}

#[test]
fn without_systemctl_the_links_of_script_and_unit_go() {
    let host = Scratch::new("links");
    host.file("lib/systemd/system/nginx.service", "[Service]\n");
    host.link("etc/rc3.d/S01nginx", "../init.d/nginx");
    host.link("etc/rc3.d/S01nginx-other", "../init.d/nginx-other");
    host.link(
        "etc/systemd/system/multi-user.target.wants/nginx.service",
        "/lib/systemd/system/nginx.service",
    );
    assert_eq!(
        host.quieting("nginx", false),
        ["update-rc.d nginx disable", "rm -f /etc/systemd/system/multi-user.target.wants/nginx.service"]
    );
    // What is disabled already has links that stop it, and none that starts it.
    let host = Scratch::new("disabled");
    host.link("etc/rc3.d/K01nginx", "../init.d/nginx");
    assert!(host.quieting("nginx", false).is_empty());
}

#[test]
fn a_unit_of_the_hosts_own_loses_the_links_that_a_package_gave_it_and_no_other() {
    let host = Scratch::new("own");
    let wants = |target: &str| format!("etc/systemd/system/{target}.target.wants/nginx.service");
    host.file("etc/systemd/system/nginx.service", "[Service]\n");
    host.link(&wants("graphical"), "../nginx.service");
    let before = host.0.links("nginx");
    assert!(host.0.restoring("nginx", Standing::Idle, &before, Standing::Idle).is_empty());

    host.link(&wants("multi-user"), "../nginx.service");
    host.file("run/systemd/system/any", "");
    let new = host.0.root.join(wants("multi-user")).display().to_string();
    let commands = host.0.restoring("nginx", Standing::Idle, &before, Standing::Running);
    assert_eq!(commands, [vec!["systemctl", "stop", "nginx"], vec!["rm", "-f", &new]]);
    let commands = host.0.restoring("nginx", Standing::Running, &before, Standing::Running);
    assert_eq!(commands, [vec!["rm", "-f", &new]]);
}
