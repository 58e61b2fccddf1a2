//! What the two processes of an instance may do, by what the kernel says of each of their threads and by what they try from within.
//! Does not test what they do for a living.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;
use spectrum_tests::control::await_logged;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::assert_answered;
use spectrum_tests::instance::{Instance, Launch, program};
use spectrum_tests::netns::Netns;
use spectrum_tests::require::{self, Need, find_in_path};

/// A service of TCP, which takes no capability to serve.
const TCP: &str = r#"
[dispatcher]
mode = "sk-lookup"
[[service]]
name = "web"
bindings = [{ prefix = "192.0.2.0/24", ports = 443 }]
origins = ["203.0.113.10"]
"#;

/// One that speaks for its clients.
const TRANSPARENT: &str = r#"
[[service]]
name = "seen"
bindings = [{ prefix = "198.51.100.0/24", ports = 443 }]
origins = ["203.0.113.10"]
transparent = true
"#;

const NOBODY: u64 = 65_534;

/// Capabilities, each as a bit.
fn bits(names: &[&str]) -> u64 {
    let number = |name: &&str| match *name {
        "CAP_DAC_READ_SEARCH" => 2,
        "CAP_KILL" => 5,
        "CAP_SETGID" => 6,
        "CAP_SETUID" => 7,
        "CAP_SETPCAP" => 8,
        "CAP_NET_BIND_SERVICE" => 10,
        "CAP_NET_ADMIN" => 12,
        "CAP_NET_RAW" => 13,
        "CAP_SYS_PTRACE" => 19,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        other => panic!("{other} was not expected"),
    };
    names.iter().map(number).fold(0, |bits, number| bits | 1 << number)
}

/// What the kernel says of each thread of `pid`, but for those that end meanwhile.
fn threads_of(pid: u32) -> Vec<BTreeMap<String, String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok());
    statuses
        .map(|status| {
            let lines = status.lines().filter_map(|line| line.split_once(':'));
            lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
        })
        .collect()
}

/// A process of the program, and what it said of itself.
struct Confined {
    said: Value,
    /// Killed with this; the worker process dies with it.
    _instance: Option<Instance>,
}

impl Confined {
    /// The process with these words, which the program writes its configuration for.
    fn start(netns: &Netns, words: &str, config: &str) -> Self {
        let (said, instance) = Self::launch(Launch::new(netns), netns, words, config, 1);
        Self { said: said.into_iter().next().unwrap(), _instance: Some(instance) }
    }

    /// A steerer, and the worker process that it starts.
    fn start_both(launch: Launch<'_>, netns: &Netns, words: &str, config: &str) -> [Self; 2] {
        let words = format!("steerer {words}");
        let (said, instance) = Self::launch(launch, netns, &words, config, 2);
        let [steerer, worker] = <[Value; 2]>::try_from(said).unwrap();
        [Self { said: steerer, _instance: Some(instance) }, Self { said: worker, _instance: None }]
    }

    fn launch(
        launch: Launch<'_>,
        netns: &Netns,
        words: &str,
        config: &str,
        lines: usize,
    ) -> (Vec<Value>, Instance) {
        const FILE: &str = "/run/confined.toml";
        netns.run(|| fs::write(FILE, config).unwrap());
        let mut instance = launch.arguments(&format!("confined {words} --config {FILE}")).spawn();
        let said = eventually("what the processes say of themselves", PATIENCE, || {
            let text = instance.stdout();
            let is_running = instance.is_running();
            let said: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            assert!(is_running || said.len() == lines, "{text}{}", instance.stderr());
            (said.len() == lines).then_some(said)
        });
        (said, instance)
    }

    fn report(&self) -> &Value {
        &self.said["report"]
    }

    /// What the kernel says of each of its threads.
    fn threads(&self) -> Vec<BTreeMap<String, String>> {
        let threads = threads_of(u32::try_from(self.said["pid"].as_u64().unwrap()).unwrap());
        assert_eq!(threads.len(), 3, "{threads:?}");
        threads
    }

    /// Panics unless each thread has these capabilities in these sets, and none in the others.
    fn assert_has(&self, capabilities: &[&str], sets: &[&str]) {
        for thread in self.threads() {
            for set in ["CapAmb", "CapBnd", "CapEff", "CapInh", "CapPrm"] {
                let expected = if sets.contains(&set) { bits(capabilities) } else { 0 };
                let held = u64::from_str_radix(&thread[set], 16).unwrap();
                assert_eq!(held, expected, "{set} {held:x} instead of {expected:x}: {thread:?}");
            }
        }
    }

    /// Panics unless each thread is this user's, can gain nothing, and has its system calls filtered.
    fn assert_is_bound(&self, user: u64) {
        for thread in self.threads() {
            let ids = vec![user.to_string(); 4].join("\t");
            assert_eq!((&thread["Uid"], &thread["Gid"]), (&ids, &ids));
            assert!(thread["Groups"].is_empty() || thread["Groups"] == user.to_string(), "{thread:?}");
            assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"), "{thread:?}");
        }
        let files = &self.report()["files"];
        let is_restricted = *files == "whole" || files["partial"].is_string();
        assert_eq!(self.report()["system_calls"], "whole", "{}", self.said);
        assert_eq!(is_restricted, Need::Landlock.is_met(), "{files}");
    }

    /// What came of each thing that it tried.
    fn tried(&self) -> BTreeMap<&str, &str> {
        let tried = self.said["tried"].as_array().unwrap().iter();
        tried.map(|one| (one["what"].as_str().unwrap(), one["error"].as_str().unwrap_or("done"))).collect()
    }

    /// Panics unless all that it tried was refused.
    fn assert_refused_everything(&self) {
        let tried = self.tried();
        assert_eq!(tried.len(), 16, "{tried:?}");
        for (what, error) in tried {
            // Files stay closed by landlock, and without it by their modes, which is not much.
            let by_landlock = what.starts_with("open ");
            let is_root = self.report()["user"]["another"].is_null();
            match error {
                "EPERM" | "EACCES" => {}
                "EALREADY" if what == "become root" && is_root => {}
                "done" if by_landlock && !Need::Landlock.is_met() => {}
                error => panic!("{what}: {error}"),
            }
        }
    }
}

fn is_possible(test: &str, more: &[Need]) -> bool {
    let needs = [&[Need::Program, Need::Netns, Need::Seccomp], more].concat();
    require::met(test, &needs)
}

#[test]
fn a_worker_process_can_do_nothing_but_serve_tcp() {
    if !is_possible("a_worker_process_can_do_nothing_but_serve_tcp", &[]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let [steerer, worker] = Confined::start_both(Launch::new(&netns), &netns, "--user nobody", TCP);
    let kept = [
        "CAP_BPF",
        "CAP_DAC_READ_SEARCH",
        "CAP_KILL",
        "CAP_NET_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_PERFMON",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_PTRACE",
    ];
    steerer.assert_has(&kept, &["CapAmb", "CapBnd", "CapEff", "CapInh", "CapPrm"]);
    assert_eq!(steerer.report()["bounded"], true);
    worker.assert_has(&[], &[]);
    worker.assert_is_bound(NOBODY);
    worker.assert_refused_everything();
}

#[test]
fn services_that_need_a_capability_leave_that_one_and_nothing_to_gain() {
    if !is_possible("services_that_need_a_capability_leave_that_one_and_nothing_to_gain", &[]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let [steerer, worker] =
        Confined::start_both(Launch::new(&netns), &netns, "", &format!("{TCP}{TRANSPARENT}"));
    let needed = ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"];
    worker.assert_has(&needed, &["CapEff", "CapPrm"]);
    assert_eq!(worker.report()["capabilities"], Value::from(needed.to_vec()));
    assert_eq!(
        (&worker.report()["missing"], &worker.report()["bounded"]),
        (&Value::from([0; 0]), &Value::from(true))
    );
    worker.assert_refused_everything();
    for capability in needed {
        assert!(steerer.report()["capabilities"].as_array().unwrap().contains(&Value::from(capability)));
    }
}

#[test]
fn what_is_refused_a_worker_process_is_allowed_to_root() {
    if !is_possible("what_is_refused_a_worker_process_is_allowed_to_root", &[Need::Bpf]) {
        return;
    }
    let netns = Netns::create().unwrap();
    netns.ip("link set lo up");
    let free = Confined::start(&netns, "none", TCP);
    for (what, error) in free.tried() {
        let expected = match what {
            "become root" => "EALREADY",
            // What would be executed is not there, and nobody is there to be traced.
            "execve(2)" => "ENOENT",
            "ptrace(2)" => "ESRCH",
            // A process with threads stays in its own.
            "a user namespace" => "EINVAL",
            _ => "done",
        };
        assert_eq!(error, expected, "{what}");
    }
    assert_eq!(netns.ip("route show table 83"), "");
}

#[test]
fn a_steerer_with_a_services_capabilities_keeps_its_worker_process_in_bounds() {
    let test = "a_steerer_with_a_services_capabilities_keeps_its_worker_process_in_bounds";
    if !is_possible(test, &[Need::Setpriv]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let setpriv = find_in_path("setpriv").unwrap();
    // As the documented unit has it: root, without what makes another user of it.
    let few = "--inh-caps=-all --bounding-set=-all,+bpf,+net_admin,+net_raw,+perfmon";
    let launch = || Launch::new(&netns).through(&format!("{} {few}", setpriv.display()));
    let [steerer, worker] = Confined::start_both(launch(), &netns, "", TCP);
    let sets = ["CapAmb", "CapBnd", "CapEff", "CapInh", "CapPrm"];
    // Without CAP_SETPCAP bounding sets stay as they were: the steerer needs all that is in this one.
    for thread in steerer.threads() {
        assert_eq!(
            u64::from_str_radix(&thread["CapEff"], 16).unwrap(),
            bits(&["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON"])
        );
    }
    assert_eq!((&steerer.report()["bounded"], &worker.report()["bounded"]), (&true.into(), &false.into()));
    for thread in worker.threads() {
        for set in sets.iter().filter(|set| **set != "CapBnd") {
            assert_eq!(u64::from_str_radix(&thread[*set], 16).unwrap(), 0, "{set}");
        }
    }
    worker.assert_is_bound(0);
    assert_eq!(worker.report()["user"]["same"], "not-permitted");
    worker.assert_refused_everything();

    let refused = launch().arguments("confined worker --user nobody --config /run/confined.toml").finish();
    assert_eq!(refused.code(), 77, "{refused}");
    assert!(refused.stderr.contains("needs CAP_SETUID and CAP_SETGID"), "{refused}");
}

#[test]
fn another_user_than_root_hands_its_capabilities_on_whether_ambient_or_the_files() {
    let test = "another_user_than_root_hands_its_capabilities_on_whether_ambient_or_the_files";
    if !is_possible(test, &[Need::Setpriv]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let user = 4711;
    let setpriv = format!(
        "{} --reuid {user} --regid {user} --clear-groups",
        find_in_path("setpriv").unwrap().display()
    );
    let ambient = "+bpf,+net_admin,+net_raw,+perfmon,+setpcap";
    let service = format!("{setpriv} --inh-caps={ambient} --ambient-caps={ambient}");
    let config = &format!("{TCP}{TRANSPARENT}").replace("sk-lookup", "tproxy");
    let check = |[steerer, worker]: [Confined; 2]| {
        let kept = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETPCAP"];
        steerer.assert_has(&kept, &["CapAmb", "CapBnd", "CapEff", "CapInh", "CapPrm"]);
        worker.assert_has(&["CAP_NET_RAW"], &["CapEff", "CapPrm"]);
        worker.assert_is_bound(user);
        assert_eq!(worker.report()["user"]["same"], "started");
        let missing = &worker.report()["missing"];
        assert_eq!(missing[0]["name"], "CAP_NET_BIND_SERVICE");
        assert!(missing[0]["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{missing}");
        worker.assert_refused_everything();
    };
    let readable =
        |program: &str| fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let copy = "/run/spectrum-user";
    let original = program().unwrap();
    netns.run(|| fs::copy(original, copy).and_then(|_| readable(copy)).unwrap());
    let launch = |words: &str| Launch::new(&netns).program(copy).through(words);
    check(Confined::start_both(launch(&service), &netns, "", config));

    let Some(setcap) = find_in_path("setcap") else {
        return println!("SKIP {test}: capabilities of the file need setcap");
    };
    let set = netns.run(|| {
        Command::new(setcap)
            .args(["cap_bpf,cap_net_admin,cap_net_raw,cap_perfmon,cap_setpcap=p", copy])
            .status()
    });
    assert!(set.unwrap().success());
    check(Confined::start_both(launch(&setpriv), &netns, "", config));
}

/// Starts a whole instance, has its worker process try what it must not be able to do while it serves, and asks the kernel what each of
/// its threads may: nothing but these capabilities.
fn assert_serves_in_bounds(launch: Launch<'_>, netns: &Netns, arguments: &str, user: u64) {
    let instance = launch
        .environment("SPECTRUM_TRESPASS", "1")
        .arguments(&format!("{arguments} --prefix 192.0.2.0/24 --log-format json"))
        .start();
    await_logged(&instance, "trespasses tried", 1);
    assert_answered(netns, &["192.0.2.9:4443".parse().unwrap()]);
    let said = instance.stderr();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tried: Vec<Value> = lines.filter(|line| line["what"].is_string()).collect();
    assert_eq!(tried.len(), 16, "{said}");
    for one in tried {
        let (what, error) = (one["what"].as_str().unwrap(), one["error"].as_str().unwrap());
        let is_file = what.starts_with("open ") && !Need::Landlock.is_met();
        assert!(["EPERM", "EACCES"].contains(&error) || is_file, "{what}: {error}");
    }
    let ids = vec![user.to_string(); 4].join("\t");
    for thread in threads_of(instance.worker()) {
        for set in ["CapAmb", "CapEff", "CapInh", "CapPrm"] {
            assert_eq!(u64::from_str_radix(&thread[set], 16), Ok(0), "{set}: {thread:?}");
        }
        assert_eq!((&thread["Uid"], &thread["Gid"]), (&ids, &ids));
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"), "{thread:?}");
    }
    let told = Launch::new(netns).arguments("doctor").finish().stdout;
    let row = told.lines().find(|line| line.contains(&format!("worker process {}", instance.worker())));
    let row = row.unwrap_or_else(|| panic!("{told}"));
    assert!(row.contains(&format!("user {user}, seccomp, no new privileges")), "{row}");
    assert!(row.contains("no capability"), "{row}");
    instance.stop();
}

#[test]
fn the_worker_process_of_a_whole_instance_is_kept_in_bounds_while_it_serves() {
    let test = "the_worker_process_of_a_whole_instance_is_kept_in_bounds_while_it_serves";
    if !is_possible(test, &[Need::Bpf]) {
        return;
    }
    let netns = Netns::create().unwrap();
    netns.ip("link set lo up");
    assert_serves_in_bounds(Launch::new(&netns), &netns, "--user nobody", NOBODY);
}

#[test]
fn a_whole_instance_serves_without_root_whether_capabilities_are_ambient_or_the_files() {
    let test = "a_whole_instance_serves_without_root_whether_capabilities_are_ambient_or_the_files";
    if !is_possible(test, &[Need::Bpf, Need::Setpriv]) {
        return;
    }
    let netns = Netns::create().unwrap();
    netns.ip("link set lo up");
    let user = 4711;
    let setpriv = format!(
        "{} --reuid {user} --regid {user} --clear-groups",
        find_in_path("setpriv").unwrap().display()
    );
    let ambient = "+bpf,+net_admin,+net_raw,+perfmon,+setpcap";
    let service = format!("{setpriv} --inh-caps={ambient} --ambient-caps={ambient}");
    let copy = "/run/spectrum-user";
    let original = program().unwrap();
    netns.run(|| {
        fs::copy(original, copy).unwrap();
        fs::set_permissions(copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir_all("/run/spectrum").unwrap();
        std::os::unix::fs::chown("/run/spectrum", Some(user), Some(user)).unwrap();
    });
    let launch = |words: &str| Launch::new(&netns).program(copy).through(words);
    assert_serves_in_bounds(launch(&service), &netns, "", user.into());

    let Some(setcap) = find_in_path("setcap") else {
        return println!("SKIP {test}: capabilities of the file need setcap");
    };
    let set = netns.run(|| {
        Command::new(setcap)
            .args(["cap_bpf,cap_net_admin,cap_net_raw,cap_perfmon,cap_setpcap=p", copy])
            .status()
    });
    assert!(set.unwrap().success());
    assert_serves_in_bounds(launch(&setpriv), &netns, "", user.into());
}

#[test]
fn a_user_that_is_not_there_is_told_with_the_cure() {
    if !is_possible("a_user_that_is_not_there_is_told_with_the_cure", &[]) {
        return;
    }
    let netns = Netns::create().unwrap();
    netns.run(|| fs::write("/run/confined.toml", TCP).unwrap());
    let launch = Launch::new(&netns).arguments("confined worker --user spectre --config /run/confined.toml");
    let refused = launch.finish();
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(refused.stderr.contains("there is no such user (try: useradd --system"), "{refused}");
}

#[test]
fn what_a_kernel_has_not_is_said_and_what_it_has_must_work() {
    let test = "what_a_kernel_has_not_is_said_and_what_it_has_must_work";
    if !is_possible(test, &[Need::Landlock, Need::Strace]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let strace = find_in_path("strace").unwrap();
    let failing = |call: &str, error: &str| {
        let words = "-D -f -qq -o /dev/null";
        let through = format!("{} {words} -e trace={call} -e inject={call}:error={error}", strace.display());
        Launch::new(&netns).through(&through)
    };
    for (call, error, part, told) in [
        ("landlock_create_ruleset", "ENOSYS", "files", "the kernel has no landlock (Linux 5.13"),
        ("landlock_create_ruleset", "EOPNOTSUPP", "files", "not switched on (lsm="),
        ("seccomp", "EINVAL", "system_calls", "has no filters of system calls"),
    ] {
        let (said, _instance) = Confined::launch(failing(call, error), &netns, "worker", TCP, 1);
        let report = &said[0]["report"];
        let reason = report[part]["lacking"].as_str().unwrap();
        assert!(reason.contains(told), "{reason}");
        let other = if part == "files" { "system_calls" } else { "files" };
        assert!(report[other] == "whole" || report[other]["partial"].is_string(), "{report}");
    }
    let words = "confined worker --config /run/confined.toml";
    let refused = failing("landlock_restrict_self", "E2BIG").arguments(words).finish();
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(refused.stderr.contains("restrict the files that may be opened (landlock): "), "{refused}");
}
