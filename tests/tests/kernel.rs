//! What the program makes of the kernel it finds, whole or in part: the path that is there, or a refusal that names the
//! cure. What this kernel has is taken away by failing system calls, capabilities and hidden tools.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;

use spectrum_tests::case::Case;
use spectrum_tests::dial::assert_answered;
use spectrum_tests::fault::Fault;
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need, find_in_path};

const FAILURE: i32 = 1;
const NOT_PERMITTED: i32 = 77;

const PREFIX: &str = "--prefix 192.0.2.0/24";
const TARGET: &str = "192.0.2.9:4443";

/// The answer of a kernel without a part, and what the program must say then.
struct Lack {
    /// In the line that strace writes of the call.
    call: &'static str,
    /// The error that the call fails with.
    error: &'static str,
    /// The cure that `--mode sk-lookup` must name.
    cure: &'static str,
    code: i32,
}

const LACKS: [Lack; 6] = [
    // CONFIG_NET_SOCK_MSG and CONFIG_BPF_STREAM_PARSER were options until 5.12; sk_lookup did without.
    Lack { call: "BPF_MAP_TYPE_SOCKMAP", error: "EINVAL", cure: "--mode tproxy", code: FAILURE },
    // Inner maps of different sizes came with 5.10, sk_lookup with 5.9.
    Lack { call: "BPF_MAP_TYPE_ARRAY_OF_MAPS", error: "EINVAL", cure: "Linux 5.10", code: FAILURE },
    Lack { call: "BPF_PROG_TYPE_SK_LOOKUP", error: "EINVAL", cure: "Linux 5.10", code: FAILURE },
    // A verifier that will not follow the program.
    Lack { call: "BPF_PROG_TYPE_SK_LOOKUP", error: "EACCES", cure: "CAP_BPF", code: NOT_PERMITTED },
    Lack { call: "BPF_LINK_CREATE", error: "EINVAL", cure: "--mode tproxy", code: FAILURE },
    Lack { call: "BPF_LINK_CREATE", error: "E2BIG", cure: "bpftool link", code: FAILURE },
];

/// The log's reason for the path that was not taken.
fn reason(log: &str) -> Option<&str> {
    let (_, reason) = log.split_once("since sk_lookup is not possible reason=\"")?;
    reason.split('"').next()
}

fn case(test: &str, path: Path, needs: &[Need]) -> Option<Case> {
    let is_possible = require::met(test, path.needs()) && require::met(test, needs);
    is_possible.then(|| Case::new(path, Family::V4))
}

fn assert_says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code(), code, "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
    }
}

fn assert_serves(case: &Case, instance: &Instance, mode: &str) {
    assert_eq!(instance.ready().mode, mode, "{}", instance.stderr());
    assert_answered(&case.server, &[TARGET.parse().unwrap()]);
}

/// A start in which strace makes bpf(2) do what `what` says.
fn start_with(case: &Case, arguments: &str, what: &str) -> Result<Instance, Finished> {
    let strace = find_in_path("strace").unwrap();
    // -D makes the tracer a grandchild, so that the process we started is the program itself.
    let through = format!("{} -D -f -o /run/strace -e trace=bpf{what}", strace.display());
    Launch::new(&case.server)
        .arguments(&format!("{PREFIX} {arguments}"))
        .through(&through)
        .spawn()
        .await_ready_or_end()
}

/// The calls of bpf(2) that a start makes, as strace writes them.
fn calls_of_a_start(case: &Case) -> Vec<String> {
    start_with(case, "--mode sk-lookup", "").unwrap().stop();
    let log = case.server.run(|| fs::read_to_string("/run/strace")).unwrap();
    log.lines().filter(|line| line.contains("bpf(")).map(str::to_owned).collect()
}

#[test]
fn auto_takes_the_path_that_the_kernel_has() {
    let test = "auto_takes_the_path_that_the_kernel_has";
    if !require::met(test, &[Need::Netns, Need::Program]) {
        return;
    }
    let expected = if Need::Bpf.is_met() { "sk-lookup" } else { "tproxy" };
    let netns = Netns::create().unwrap();
    let instance = Launch::new(&netns).arguments(PREFIX).environment("PATH", "/usr/sbin:/usr/bin").start();
    assert_answered(&netns, &[TARGET.parse().unwrap()]);
    let mode = instance.ready().mode.clone();
    let finished = instance.stop();
    assert_eq!(mode, expected, "{finished}");
    let reason = reason(&finished.stderr);
    assert_eq!(reason.is_some(), mode == "tproxy", "{finished}");
    let why = reason.map(|reason| format!(" reason=\"{reason}\"")).unwrap_or_default();
    // Not `println!`: the record is wanted of runs that pass.
    writeln!(io::stdout(), "RECORD path: mode={mode}{why}").unwrap();
}

#[test]
fn insisting_on_what_the_kernel_lacks_names_the_cure() {
    let test = "insisting_on_what_the_kernel_lacks_names_the_cure";
    if !require::met(test, &[Need::Netns, Need::Program]) || Need::Bpf.is_met() {
        return;
    }
    let netns = Netns::create().unwrap();
    let finished = Launch::new(&netns).arguments(&format!("{PREFIX} --mode sk-lookup")).finish();
    assert_says(&finished, FAILURE, &["--mode tproxy works without"]);
}

#[test]
fn kernel_that_lacks_a_part_of_sk_lookup_gets_tproxy() {
    let test = "kernel_that_lacks_a_part_of_sk_lookup_gets_tproxy";
    let needs = [Need::Bpf, Need::Strace];
    let Some(case) = case(test, Path::TproxyNftables, &needs) else { return };
    let calls = calls_of_a_start(&case);
    for Lack { call, error, cure, code } in LACKS {
        let at = calls
            .iter()
            .position(|line| line.contains(call))
            .unwrap_or_else(|| panic!("no {call}: {calls:?}"));
        // And those after it, since a program that is refused is loaded once more, to hear why.
        let fault = format!(" -e inject=bpf:error={error}:when={}+", at + 1);
        let instance = start_with(&case, "", &fault).unwrap();
        assert_serves(&case, &instance, "tproxy");
        let finished = instance.stop();
        let reason = reason(&finished.stderr).unwrap_or_default();
        assert!(reason.contains(cure), "{call} {error}: {cure:?} is missing: {finished}");
        let finished = start_with(&case, "--mode sk-lookup", &fault).unwrap_err();
        assert_says(&finished, code, &[cure]);
    }
}

#[test]
fn bpf_that_is_locked_down_gets_tproxy() {
    let test = "bpf_that_is_locked_down_gets_tproxy";
    let Some(case) = case(test, Path::TproxyNftables, &[Need::Strace]) else { return };
    // As the seccomp filters of containers answer, as kernels without it do, and as lockdown does.
    for (error, cure, code) in [
        ("EPERM", "CAP_BPF", NOT_PERMITTED),
        ("ENOSYS", "no bpf(2)", FAILURE),
        ("EACCES", "CAP_BPF", NOT_PERMITTED),
    ] {
        let fault = format!(" -e inject=bpf:error={error}");
        let instance = start_with(&case, "", &fault).unwrap();
        assert_serves(&case, &instance, "tproxy");
        let finished = instance.stop();
        let reason = reason(&finished.stderr).unwrap_or_default();
        // A kernel that has no bpf(2) says so before strace can.
        assert!(!Need::Bpf.is_met() || reason.contains(cure), "{error}: {cure:?} is missing: {finished}");
        if Need::Bpf.is_met() {
            assert_says(&start_with(&case, "--mode sk-lookup", &fault).unwrap_err(), code, &[cure]);
        }
    }
}

#[test]
fn want_of_the_capability_for_bpf_gets_tproxy() {
    let test = "want_of_the_capability_for_bpf_gets_tproxy";
    let Some(case) = case(test, Path::TproxyNftables, &[Need::Setpriv, Need::Bpf]) else { return };
    let setpriv = find_in_path("setpriv").unwrap();
    let through = format!("{} --inh-caps=-all --bounding-set=-all,+net_admin", setpriv.display());
    let instance = Launch::new(&case.server).arguments(PREFIX).through(&through).start();
    assert_serves(&case, &instance, "tproxy");
    let finished = instance.stop();
    assert!(reason(&finished.stderr).unwrap_or_default().contains("CAP_BPF"), "{finished}");
}

#[test]
fn want_of_bpffs_is_no_want() {
    let Some(case) = case("want_of_bpffs_is_no_want", Path::SkLookup, &[]) else { return };
    case.server.command("umount /sys/fs/bpf");
    let instance = case.start(PREFIX);
    assert_serves(&case, &instance, "sk-lookup");
    instance.stop();
}

#[test]
fn explanations_come_from_the_host_when_the_kernel_gives_none() {
    let test = "explanations_come_from_the_host_when_the_kernel_gives_none";
    let Some(case) = case(test, Path::SkLookup, &[Need::Strace]) else { return };
    let instance = case.start(PREFIX);
    let mut by_the_host = 0;
    // Some of these calls read counters. Whichever fails, the answer is right and says where it is from. 524: what the
    // kernel says of programs that it cannot run by themselves.
    for nth in 1..=4 {
        let fault = Fault::inject(&case.server, instance.pid(), "bpf", &format!("error=524:when={nth}"));
        let finished = Launch::new(&case.server).arguments("explain tcp 192.0.2.9:4443 --json").finish();
        let has_happened = fault.happened();
        assert_eq!(finished.code(), 0, "{finished}");
        assert!(finished.stdout.contains("\"outcome\":\"steered\""), "{finished}");
        if has_happened && finished.stdout.contains("\"decided_by\":\"host\"") {
            by_the_host += 1;
            assert!(finished.stdout.contains("\"not_asked\":\""), "{finished}");
        }
    }
    assert!(by_the_host > 0, "the kernel was never asked in vain");
}

/// Leaves no program of `names` where programs are looked for.
fn hide(case: &Case, names: &[&str]) {
    case.server.run(|| fs::create_dir("/run/sbin").unwrap());
    case.server.command("mount --bind /usr/sbin /run/sbin");
    case.server.command("mount -t tmpfs tmpfs /usr/sbin");
    case.server.run(|| {
        for entry in fs::read_dir("/run/sbin").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !names.iter().any(|hidden| name.starts_with(hidden)) {
                symlink(entry.path(), format!("/usr/sbin/{name}")).unwrap();
            }
        }
    });
}

#[test]
fn nft_alone_is_enough() {
    let Some(case) = case("nft_alone_is_enough", Path::TproxyNftables, &[]) else { return };
    hide(&case, &["iptables", "ip6tables", "xtables"]);
    let instance = Launch::new(&case.server).arguments(&format!("{PREFIX} --mode tproxy")).start();
    assert_serves(&case, &instance, "tproxy");
    let finished = instance.stop();
    assert!(finished.stderr.contains("firewall rules are in nftables"), "{finished}");
    let finished =
        Launch::new(&case.server).arguments(&format!("{PREFIX} --mode tproxy --firewall iptables")).finish();
    assert_says(&finished, FAILURE, &["apt install iptables"]);
}

fn iptables_alone_is_enough(test: &str, path: Path) {
    let Some(case) = case(test, path, &[]) else { return };
    hide(&case, &["nft"]);
    let instance = Launch::new(&case.server).arguments(&format!("{PREFIX} --mode tproxy")).start();
    assert_serves(&case, &instance, "tproxy");
    let finished = instance.stop();
    for words in ["firewall rules are in iptables", "apt install nftables"] {
        assert!(finished.stderr.contains(words), "{words:?} is missing: {finished}");
    }
}

#[test]
fn iptables_over_nftables_alone_is_enough() {
    iptables_alone_is_enough("iptables_over_nftables_alone_is_enough", Path::TproxyIptablesNft);
}

#[test]
fn legacy_iptables_alone_is_enough() {
    iptables_alone_is_enough("legacy_iptables_alone_is_enough", Path::TproxyIptablesLegacy);
}

#[test]
fn neither_firewall_names_both_cures() {
    let test = "neither_firewall_names_both_cures";
    if !require::met(test, &[Need::Netns, Need::Program]) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    hide(&case, &["nft", "iptables", "ip6tables", "xtables"]);
    let finished = Launch::new(&case.server).arguments(&format!("{PREFIX} --mode tproxy")).finish();
    assert_says(&finished, FAILURE, &["apt install nftables", "apt install iptables"]);
}

/// On a kernel that does without IPv6 altogether, and, where it does not, on one that lost it: system calls that ask for
/// such a socket fail.
#[test]
fn want_of_ipv6_is_explained_and_ipv4_is_served() {
    let test = "want_of_ipv6_is_explained_and_ipv4_is_served";
    if !require::met(test, &[Need::Netns, Need::Program]) {
        return;
    }
    let paths = [Path::SkLookup, Path::TproxyIptablesLegacy, Path::TproxyIptablesNft, Path::TproxyNftables];
    let possible = paths.into_iter().filter(|path| path.needs().iter().all(|need| need.is_met()));
    for path in possible {
        let case = Case::new(path, Family::V4);
        if Need::Ipv6.is_met() {
            case.server.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            case.server.sysctl("net/ipv6/conf/lo/disable_ipv6", "1");
        }
        let instance = case.start(PREFIX);
        assert_serves(&case, &instance, path.mode());
        instance.stop();
        let finished = case.launch(&format!("{PREFIX} --prefix 2001:db8::/64")).finish();
        let cure = if Need::Ipv6.is_met() { "disable_ipv6=0" } else { "ipv6.disable=1" };
        assert_says(&finished, FAILURE, &["ipv6", "IPv6", cure]);
    }
}
