//! Debian's fail2ban, which has us deny whom it bans, and an sshd behind us that sees its clients' addresses. What denying does is
//! tested in `denying.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call};
use spectrum_tests::instance::{Launch, program, workspace};
use spectrum_tests::on_one_path;
use spectrum_tests::peer::{Peer, file};
use spectrum_tests::require::{Need, find_in_path, met};
use spectrum_tests::scene::transparent_service;
use spectrum_tests::veth::{client_address, client_of};

on_one_path!(whom_fail2ban_bans_is_denied_until_it_takes_that_back);

const JAIL: &str = "[DEFAULT]\nbackend = polling\nignoreself = false\nusedns = no\nbantime = 10m\nfindtime = 10m\nmaxretry = 2\n\
                    [sshd]\nenabled = true\nlogpath = /run/sshd.log\naction = spectrum[service=ssh]\n";

const FAIL2BAN: &str = "[Definition]\ndbfile = None\nlogtarget = /run/fail2ban.log\n";

fn whom_fail2ban_bans_is_denied_until_it_takes_that_back(case: &mut Case) {
    let test = "whom_fail2ban_bans_is_denied_until_it_takes_that_back";
    if !met(test, &[Need::Fail2ban, Need::Ssh, Need::Nftables]) {
        return;
    }
    let client = client_of(&case.server);
    let origin = SocketAddr::new(case.loopback(), 2222);
    configure(&case.server, &transparent_service("ssh", case.prefix(), origin));
    let target = case.any_target();
    let sshd = sshd(case, origin);
    // What is transparent takes nft, on either path.
    case.server.run(|| {
        let nft = find_in_path("nft").unwrap();
        let _ = symlink(nft, "/run/tools/nft");
    });
    let instance = case.start(CONFIG);
    drop(call(&client, target).unwrap());

    case.server.command("cp -r /etc/fail2ban /run/f2b");
    let action = workspace().join("packaging/fail2ban/spectrum.conf");
    case.server.command(&format!("cp {} /run/f2b/action.d/", action.display()));
    case.server.run(|| {
        for entry in fs::read_dir("/run/f2b/jail.d").unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::write("/run/f2b/jail.local", JAIL).unwrap();
        fs::write("/run/f2b/fail2ban.local", FAIL2BAN).unwrap();
        fs::create_dir_all("/run/bin").unwrap();
        symlink(program().unwrap(), "/run/bin/spectrum-user").unwrap();
    });
    let path = std::env::var("PATH").unwrap();
    let line = format!(
        "env PATH=/run/bin:{path} fail2ban-server -xf -c /run/f2b -s /run/f2b.sock -p /run/f2b.pid start"
    );
    let ping = "fail2ban-client -s /run/f2b.sock status sshd";
    let is_ready = || case.server.output(ping).status.success();
    let fail2ban = Peer::ready(&case.server, &line, "fail2ban", is_ready);
    let told = || {
        let log = case.server.run(|| fs::read_to_string("/run/fail2ban.log").unwrap_or_default());
        format!("{log}\n{}\n{}\n{}", fail2ban.said(), sshd.said(), instance.stderr())
    };

    for _ in 0..3 {
        let _ = client.output(&format!(
            "ssh -F none -p {} -o BatchMode=yes -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no \
             nobody-here@{} true",
            target.port(),
            target.ip()
        ));
    }
    let banned = client_address(case.family);
    let listed = || Launch::new(&case.server).arguments("denied --json").finish().stdout;
    let denial = format!("\"service\":\"ssh\",\"prefix\":\"{banned}/");
    let started = std::time::Instant::now();
    while !listed().contains(&denial) {
        assert!(started.elapsed() < PATIENCE, "{}\n{}", listed(), told());
        std::thread::yield_now();
    }
    assert!(listed().contains("\"until\""), "{}", listed());
    assert_refused(&client, &[target]);
    case.server.command(&format!("fail2ban-client -s /run/f2b.sock set sshd unbanip {banned}"));
    eventually("the end of the ban", PATIENCE, || (!listed().contains(&denial)).then_some(()));
    drop(call(&client, target).unwrap());
}

/// An sshd that nobody can log in to, whose log is as syslog would have it.
fn sshd(case: &Case, at: SocketAddr) -> Peer<'_> {
    case.server.run(|| {
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", Permissions::from_mode(0o755)).unwrap();
    });
    case.server.command("ssh-keygen -q -t ed25519 -N  -f /run/host");
    let configuration = format!(
        "ListenAddress {at}\nHostKey /run/host\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n\
         StrictModes no\nPidFile none\nLogLevel VERBOSE\n"
    );
    let path = file(&case.server, "sshd.conf", configuration);
    let program = find_in_path("sshd").unwrap();
    let script = format!(
        "exec {} -D -e -f {} 2> >(while read -r line; do echo \"$(date '+%b %e %H:%M:%S') host sshd[7]: $line\"; done >> \
         /run/sshd.log)\n",
        program.display(),
        path.display()
    );
    let script = file(&case.server, "sshd.sh", script);
    Peer::listening(&case.server, &format!("bash {}", script.display()), at)
}
