//! Starts that fail half-way, at every step that can fail: nothing is left and one message says why. What the program
//! refuses before it acts is in `refusals.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::signal::Signal;
use spectrum_tests::case::{BOTH_PREFIXES, Case};
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::assert_answered;
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::path::{Path, TOOLS};
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::state::State;
use spectrum_tests::{on_each_path, on_iptables};

on_each_path!(
    any_system_call_may_fail,
    any_system_call_of_a_transparent_start_may_fail,
    any_limit_of_file_descriptors_is_survived,
    loopback_that_is_down_is_explained,
    read_only_run_directory_is_explained,
);

on_iptables!(
    absent_iptables_is_explained,
    absent_target_is_explained,
    second_family_failing_undoes_the_first,
    auto_falls_back_when_the_kernel_refuses_the_program,
);

/// System calls that a start makes for an effect, each with an error that it can meet in earnest.
const EFFECTS: &[(&str, &str)] = &[
    ("bpf", "EPERM"),
    ("bpf", "ENOMEM"),
    ("socket", "EMFILE"),
    ("bind", "EADDRINUSE"),
    ("listen", "EADDRINUSE"),
    ("setsockopt", "EPERM"),
    ("getsockname", "ENOBUFS"),
    ("sendto", "ENOBUFS"),
    ("sendmsg", "ENOBUFS"),
    ("flock", "EINTR"),
    ("mkdir", "ENOSPC"),
    ("epoll_create1", "EMFILE"),
    ("clone3", "EAGAIN"),
];

/// Those by which reply routes and the reply mark are made: over netlink, and by running nft.
const EFFECTS_OF_REPLIES: &[(&str, &str)] = &[
    ("socket", "EMFILE"),
    ("sendto", "ENOBUFS"),
    ("sendmsg", "ENOBUFS"),
    ("pipe2", "EMFILE"),
    ("execve", "ENOMEM"),
];

fn any_system_call_may_fail(case: &mut Case) {
    if !require::met("any_system_call_may_fail", &[Need::Strace]) {
        return;
    }
    survive_faults(case, BOTH_PREFIXES, EFFECTS);
    let instance = case.start_on_both("");
    assert_answered(&case.server, &case.targets_of_both());
    instance.stop();
}

fn any_system_call_of_a_transparent_start_may_fail(case: &mut Case) {
    let test = "any_system_call_of_a_transparent_start_may_fail";
    if !require::met(test, &[Need::Strace, Need::Nftables, Need::Ipv6]) {
        return;
    }
    let before = State::of(&case.server);
    configure(
        &case.server,
        "[[service]]\nname = \"games\"\nbindings = [{ prefix = [\"192.0.2.0/24\", \"2001:db8::/64\"] }]\n\
         origins = [\"203.0.113.2\", \"2001:db8:eeee::2\"]\ntransparent = true\n",
    );
    survive_faults(case, CONFIG, EFFECTS_OF_REPLIES);
    let instance = case.start(CONFIG);
    let added = before.difference(&State::of(&case.server));
    assert_eq!(added.matches("fwmark 0x53000000/0xff000000").count(), 2, "{added}");
    instance.stop();
    before.assert_restored(&case.server, "start and stop");
}

/// Starts with `arguments` again and again, each time with another of the calls failing, until each has failed once.
fn survive_faults(case: &Case, arguments: &str, effects: &[(&str, &str)]) {
    let before = State::of(&case.server);
    for (call, error) in effects {
        let mut failed = 0;
        for nth in 1..=200 {
            let outcome =
                start_with_fault(case, arguments, call, &format!("{call}:error={error}:when={nth}"));
            let fault = format!("failure of {call} number {nth} with {error}");
            match outcome {
                Ok(mut instance) => {
                    // Again and again, since the fault may hit the byte by which a signal handler wakes its program.
                    eventually("end of the instance", PATIENCE, || {
                        let has_ended = !instance.is_running();
                        if !has_ended {
                            instance.signal(Signal::SIGTERM);
                        }
                        has_ended.then_some(())
                    });
                    let finished = instance.finish(PATIENCE);
                    // The fault may come while undoing, too: then it is said and what is left is cleaned.
                    if finished.code() != 0 {
                        assert_eq!(finished.code(), 1, "after {fault}: {finished}");
                        assert!(finished.stderr.contains("stop"), "after {fault}: {finished}");
                        let cleaned = Launch::new(&case.server).arguments("clean").finish();
                        assert_eq!(cleaned.code(), 0, "{cleaned}");
                    }
                }
                Err(finished) => {
                    failed += 1;
                    assert_explained(&finished, &fault);
                }
            }
            before.assert_restored(&case.server, &fault);
            // Only now, since the fault may have come at the very end.
            let calls = case.server.run(|| fs::read_to_string("/run/strace")).unwrap();
            if !calls.contains("INJECTED") {
                break;
            }
        }
        let is_essential = match *call {
            "bpf" => case.path == Path::SkLookup,
            "socket" | "bind" | "listen" => true,
            _ => false,
        };
        assert!(!is_essential || failed > 0, "no start failed for want of {call}");
    }
}

/// Starts the program with one system call failing, unless it makes fewer of them than that.
fn start_with_fault(case: &Case, arguments: &str, call: &str, fault: &str) -> Result<Instance, Finished> {
    let strace = find_in_path("strace").unwrap();
    // -D makes the tracer a grandchild, so that the process we started is the program itself.
    // With a filter in the kernel only the calls in question stop, which takes half the time.
    let through =
        format!("{} -D -f --seccomp-bpf -o /run/strace -e trace={call} -e inject={fault}", strace.display());
    case.launch(arguments).through(&through).spawn().await_ready_or_end()
}

fn assert_explained(finished: &Finished, fault: &str) {
    let code = finished.code();
    assert!([1, 77].contains(&code), "after {fault}: {finished}");
    assert!(!finished.stderr.contains("panicked"), "after {fault}: {finished}");
    assert!(!finished.stderr.trim().is_empty(), "after {fault}: {finished}");
    assert_eq!(finished.stdout, "", "after {fault}: {finished}");
}

fn any_limit_of_file_descriptors_is_survived(case: &mut Case) {
    let before = State::of(&case.server);
    let prlimit = find_in_path("prlimit").unwrap();
    let mut ready = 0;
    for limit in 3..=80 {
        let outcome = case
            .launch(BOTH_PREFIXES)
            .through(&format!("{} --nofile={limit}:{limit}", prlimit.display()))
            .spawn()
            .await_ready_or_end();
        match outcome {
            Ok(instance) => {
                ready += 1;
                // Not `stop`: with so few descriptors the undo may have to say what it could not do.
                instance.kill();
                let finished = Launch::new(&case.server).arguments("clean").finish();
                assert_eq!(finished.code(), 0, "{finished}");
            }
            // 127: the dynamic linker itself could not open a library.
            Err(finished) if finished.code() == 127 => {}
            Err(finished) => assert_explained(&finished, &format!("a limit of {limit} descriptors")),
        }
        before.assert_restored(&case.server, &format!("a limit of {limit} descriptors"));
        if ready == 3 {
            break;
        }
    }
    assert!(ready > 0, "it does not start with 80 descriptors");
}

fn loopback_that_is_down_is_explained(case: &mut Case) {
    case.server.ip("link set lo down");
    let before = State::of(&case.server);
    let finished = case.launch(BOTH_PREFIXES).finish();
    assert_explained(&finished, "lo down");
    assert!(finished.stderr.contains("ip link set lo up"), "{finished}");
    before.assert_restored(&case.server, "a start with lo down");
}

fn read_only_run_directory_is_explained(case: &mut Case) {
    let before = State::of(&case.server);
    let finished = case.launch(BOTH_PREFIXES).environment("SPECTRUM_RUN_DIR", "/proc/nowhere").finish();
    assert_explained(&finished, "a run directory that cannot be made");
    assert!(finished.stderr.contains("/proc/nowhere"), "{finished}");
    before.assert_restored(&case.server, "a start without a run directory");
}

fn absent_iptables_is_explained(case: &mut Case) {
    hide_iptables(case);
    let before = State::of(&case.server);
    let finished = case.launch(BOTH_PREFIXES).finish();
    assert_explained(&finished, "absence of iptables");
    for word in ["iptables", "install"] {
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
    }
    before.assert_restored(&case.server, "absence of iptables");
}

/// Takes iptables out of the directories of the namespace in which programs look for it, and leaves the rest there.
fn hide_iptables(case: &Case) {
    case.server.run(|| {
        fs::remove_dir_all(TOOLS).unwrap();
        fs::create_dir("/run/sbin").unwrap();
    });
    case.server.command("mount --bind /usr/sbin /run/sbin");
    case.server.command("mount -t tmpfs tmpfs /usr/sbin");
    case.server.run(|| {
        for entry in fs::read_dir("/run/sbin").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !name.starts_with("iptables") && !name.starts_with("ip6tables") {
                symlink(entry.path(), format!("/usr/sbin/{name}")).unwrap();
            }
        }
    });
}

/// Puts a script in the place of a tool.
fn replace_tool(case: &Case, tool: &str, script: &str) {
    case.server.run(|| {
        let file = format!("{TOOLS}/{tool}");
        let _ = fs::remove_file(&file);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    });
}

fn absent_target_is_explained(case: &mut Case) {
    let before = State::of(&case.server);
    for tool in ["iptables-restore", "ip6tables-restore"] {
        replace_tool(
            case,
            tool,
            "echo 'iptables-restore: line 4 failed: No chain/target/match by that name.' >&2; exit 1",
        );
    }
    let finished = case.launch(BOTH_PREFIXES).finish();
    assert_explained(&finished, "absence of the target");
    assert!(finished.stderr.contains("TPROXY"), "{finished}");
    before.assert_restored(&case.server, "absence of the target");
}

fn second_family_failing_undoes_the_first(case: &mut Case) {
    for failing in ["iptables-restore", "ip6tables-restore"] {
        let case = Case::new(case.path, case.family);
        let before = State::of(&case.server);
        replace_tool(&case, failing, "echo 'something unheard of' >&2; exit 1");
        let finished = case.launch(BOTH_PREFIXES).finish();
        assert_explained(&finished, failing);
        assert!(finished.stderr.contains("something unheard of"), "{finished}");
        before.assert_restored(&case.server, failing);
    }
}

fn auto_falls_back_when_the_kernel_refuses_the_program(case: &mut Case) {
    if !require::met("auto_falls_back_when_the_kernel_refuses_the_program", &[Need::Strace]) {
        return;
    }
    let strace = find_in_path("strace").unwrap();
    for (error, code) in [("EPERM", 77), ("EINVAL", 1), ("ENOSYS", 1)] {
        let case = Case::new(case.path, case.family);
        let before = State::of(&case.server);
        let through =
            format!("{} -D -f -o /run/strace -e trace=bpf -e inject=bpf:error={error}", strace.display());
        let launch = |mode: &str| {
            Launch::new(&case.server).through(&through).arguments(&format!("{BOTH_PREFIXES} --mode {mode}"))
        };

        let instance = launch("auto").start();
        assert_eq!(instance.ready().mode, "tproxy");
        assert_answered(&case.server, &case.targets_of_both());
        let stderr = instance.stop().stderr;
        assert!(stderr.contains("sk_lookup"), "no reason given:\n{stderr}");
        before.assert_restored(&case.server, "auto");

        let finished = launch("sk-lookup").finish();
        assert_explained(&finished, error);
        assert_eq!(finished.code(), code, "{finished}");
        let word = match error {
            "EPERM" => "CAP_BPF",
            "EINVAL" => "Linux 5.10",
            _ => "kernel has no bpf",
        };
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
        before.assert_restored(&case.server, "sk-lookup where it is impossible");

        hide_iptables(&case);
        let nothing = launch("auto --firewall iptables").finish();
        assert_explained(&nothing, "absence of everything");
        for word in ["iptables", "sk_lookup"] {
            assert!(nothing.stderr.contains(word), "{word:?} is missing: {nothing}");
        }
        before.assert_restored(&case.server, "auto where nothing is possible");
    }
    assert_ne!(case.path, Path::SkLookup);
}
