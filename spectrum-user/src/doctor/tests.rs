//! Hosts as they are found, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::{FirewallChoice, ModeChoice};
use crate::confinement::Measure;
use crate::model::{Binding, Family, Protocol, parse_port_ranges};
use crate::plan::{Bound, Listing, OriginsPlace, Plan, ReplyNeeds};
use spectrum_steering::dispatcher::AttachedProgram;

/// The plan of bindings such as `tcp 192.0.2.0/24 80,443`, all of one service.
fn plan(texts: &[&str]) -> Plan {
    let bindings = texts.iter().flat_map(|text| {
        let [protocol, prefix, ports] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        let prefix = prefix.parse().unwrap();
        parse_port_ranges(ports).unwrap().into_iter().map(move |ports| Binding { protocol, prefix, ports })
    });
    Plan::of(&[Bound { name: "s".parse().unwrap(), bindings: bindings.collect(), policy: None }]).unwrap()
}

/// The listing of the plain iptables.
fn iptables_listing(text: &str) -> Listing {
    Listing::Iptables { program: "iptables".to_owned(), family: Family::Ipv4, text: text.to_owned() }
}

/// A host that lacks nothing.
fn host() -> HostFacts {
    let trial = |program: &str, family, carrier| FirewallTrial {
        program: program.to_owned(),
        family,
        carrier,
        outcome: Ok(()),
    };
    HostFacts {
        kernel: "Linux 6.1.0".to_owned(),
        mode: ModeChoice::Auto,
        firewall: FirewallChoice::Auto,
        subject: None,
        bpf: Ok(()),
        sk_lookup: Ok(true),
        program: Ok(Program {
            machine_code: Some(2_000),
            verified: Some(20_000),
            filled: Ok(()),
            attached: Ok(Ok(())),
            test_run: Ok(()),
        }),
        jit: Some(1),
        btf: true,
        bpffs: true,
        unprivileged_bpf_disabled: Some(2),
        rights: Ok(Rights::of(u64::MAX)),
        confinement: Confinement::default(),
        open_files: Ok(1_048_576),
        firewalls: Ok(vec![
            trial("nft", Family::Ipv4, Carrier::Nftables),
            trial("nft", Family::Ipv6, Carrier::Nftables),
            trial("iptables (nft)", Family::Ipv4, Carrier::Iptables),
            trial("iptables (legacy)", Family::Ipv4, Carrier::None),
            trial("ip6tables (nft)", Family::Ipv6, Carrier::Iptables),
        ]),
        reply_mark: Ok(Ok(())),
        replies: None,
        loopback: Ok(BTreeSet::from([Family::Ipv4, Family::Ipv6])),
        ipv6: true,
        strict_rp_filter: Vec::new(),
        bridged_to_rules: BTreeMap::new(),
        syncookies: Some(1),
        syn_backlog: Some(4_096),
        device_backlog: Some(1_000),
        somaxconn: Some(4_096),
        rmem_max: Some(212_992),
        wmem_max: Some(212_992),
        without_gro: Ok(Vec::new()),
        conntrack: None,
        listings: Ok(Vec::new()),
        leftovers: Ok(Vec::new()),
        missing: Vec::new(),
        workers: Ok(Vec::new()),
        other_programs: Ok(Vec::new()),
        sk_lookup_instances: 0,
        admin: None,
        claimed: Ok(Vec::new()),
        covered: Ok(Vec::new()),
        announcing: None,
    }
}

fn refused(errno: i32) -> SystemRefusal {
    SystemRefusal { message: "load: refused".to_owned(), errno: Some(errno) }
}

fn unknown<T>() -> Result<T, Unknown> {
    Err(Unknown("Operation not permitted".to_owned()))
}

fn configured(bindings: &[&str]) -> Subject {
    Subject { plan: plan(bindings), from: BindingsSource::Configuration }
}

/// Nobody takes the rules, as far as `fails` says.
fn firewalls(fails: impl Fn(&FirewallTrial) -> bool) -> Vec<FirewallTrial> {
    let mut trials = host().firewalls.unwrap();
    for trial in trials.iter_mut().filter(|trial| fails(trial)) {
        trial.outcome = Err(SystemRefusal { message: "no such thing".to_owned(), errno: None });
    }
    trials
}

/// The only finding about `check`.
fn found(facts: &HostFacts, check: &str) -> Finding {
    let findings = diagnose(facts).findings;
    let of: Vec<&Finding> = findings.iter().filter(|finding| finding.check == check).collect();
    let [only] = of[..] else { panic!("{} findings of {check}: {findings:#?}", of.len()) };
    only.clone()
}

/// The checks that are not well, with their verdicts.
fn complaints(facts: &HostFacts) -> Vec<String> {
    let findings = diagnose(facts).findings.into_iter();
    findings
        .filter(|finding| finding.verdict != FindingVerdict::Ok)
        .map(|finding| format!("{} {}", finding.verdict, finding.check))
        .collect()
}

fn path(facts: &HostFacts) -> (Option<&'static str>, Option<&'static str>, Vec<Family>) {
    let Choice { mode, firewall, families, .. } = diagnose(facts).path;
    (mode, firewall, families.into_iter().collect())
}

const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

#[test]
fn a_host_that_lacks_nothing_takes_sk_lookup_without_a_complaint() {
    assert_eq!(complaints(&host()), [""; 0]);
    assert_eq!(path(&host()), (Some("sk-lookup"), None, BOTH.to_vec()));
    assert_eq!(diagnose(&host()).unknown, [""; 0]);
}

#[test]
fn every_complaint_names_a_cure() {
    let bad = HostFacts {
        bpf: Err(refused(libc::ENOSYS)),
        sk_lookup: Ok(false),
        program: Err(refused(libc::EPERM)),
        rights: Ok(Rights::default()),
        open_files: Ok(20),
        firewalls: Ok(firewalls(|_| true)),
        reply_mark: Ok(Err(refused(libc::ENOENT))),
        loopback: Ok(BTreeSet::new()),
        strict_rp_filter: vec!["wan".to_owned()],
        syncookies: Some(0),
        syn_backlog: Some(128),
        device_backlog: Some(300),
        somaxconn: Some(128),
        leftovers: Ok(vec!["local route 192.0.2.0/24".to_owned()]),
        other_programs: Ok(vec![AttachedProgram { id: 7, name: Some("other".to_owned()) }]),
        covered: Ok(vec!["prefix 192.0.2.0/24 covers 192.0.2.7, an address of eth0".to_owned()]),
        subject: Some(configured(&["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"])),
        ..host()
    };
    let findings = diagnose(&bad).findings;
    assert!(
        findings.iter().filter(|finding| finding.verdict != FindingVerdict::Ok).count() > 14,
        "{findings:#?}"
    );
    for finding in findings {
        assert_eq!(finding.cure.is_some(), finding.verdict != FindingVerdict::Ok, "{finding:?}");
    }
    assert_eq!(path(&bad), (None, None, Vec::new()));
}

#[test]
fn without_sk_lookup_auto_takes_nftables_then_iptables_and_says_why() {
    let old = HostFacts { program: Err(refused(libc::EINVAL)), sk_lookup: Ok(false), ..host() };
    assert_eq!(path(&old), (Some("tproxy"), Some("nftables"), BOTH.to_vec()));
    assert_eq!(
        diagnose(&old).path.why,
        "sk_lookup is not possible: load: refused; nftables takes the rules of TPROXY"
    );
    let older =
        HostFacts { firewalls: Ok(firewalls(|trial| trial.carrier == Carrier::Nftables)), ..old.clone() };
    assert_eq!(path(&older), (Some("tproxy"), Some("iptables"), BOTH.to_vec()));
    assert_eq!(
        complaints(&older),
        ["missing sk_lookup", "missing program", "missing nft ipv4", "missing nft ipv6"]
    );
    let oldest = HostFacts { firewalls: Ok(firewalls(|_| true)), ..old };
    assert_eq!(path(&oldest), (None, None, Vec::new()));
}

#[test]
fn the_reply_mark_matters_as_the_configuration_needs_it() {
    let needs = |origins| ReplyNeeds { families: BTreeSet::from([Family::Ipv4]), origins };
    for (replies, expected) in [
        (None, &["warning reply mark"][..]),
        (Some(ReplyNeeds::default()), &[]),
        (Some(needs(OriginsPlace::Loopback)), &[]),
        (Some(needs(OriginsPlace::Elsewhere)), &["missing reply mark"]),
    ] {
        let without = HostFacts { reply_mark: Ok(Err(refused(libc::ENOENT))), replies, ..host() };
        assert_eq!(complaints(&without), expected, "{:?}", without.replies);
        let with = HostFacts { reply_mark: Ok(Ok(())), ..without };
        assert_eq!(complaints(&with), Vec::<String>::new(), "{:?}", with.replies);
    }
}

#[test]
fn what_is_asked_for_decides_which_paths_count() {
    let asked = |mode, firewall| HostFacts { mode, firewall, ..host() };
    let none = (None, None, Vec::new());
    assert_eq!(path(&asked(ModeChoice::Tproxy, FirewallChoice::Auto)).1, Some("nftables"));
    assert_eq!(path(&asked(ModeChoice::Tproxy, FirewallChoice::Iptables)).1, Some("iptables"));
    let insisting = HostFacts {
        program: Err(refused(libc::ENOSYS)),
        ..asked(ModeChoice::SkLookup, FirewallChoice::Auto)
    };
    assert_eq!(path(&insisting), none);
    let insisting = HostFacts {
        firewalls: Ok(firewalls(|trial| trial.carrier == Carrier::Nftables)),
        ..asked(ModeChoice::Tproxy, FirewallChoice::Nftables)
    };
    assert_eq!(path(&insisting), none);
}

#[test]
fn a_path_for_one_family_is_one_unless_the_configuration_has_both() {
    let half = HostFacts {
        program: Err(refused(libc::EINVAL)),
        firewalls: Ok(firewalls(|trial| trial.family == Family::Ipv6)),
        ..host()
    };
    assert_eq!(path(&half), (Some("tproxy"), Some("nftables"), vec![Family::Ipv4]));
    let both = HostFacts {
        subject: Some(configured(&["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"])),
        ..half.clone()
    };
    assert_eq!(path(&both).0, None);
    let one = HostFacts { subject: Some(configured(&["tcp 192.0.2.0/24 80"])), ..half };
    assert_eq!(path(&one), (Some("tproxy"), Some("nftables"), vec![Family::Ipv4]));
    assert_eq!(found(&one, "nft ipv6").verdict, FindingVerdict::Ok, "IPv6 is of no matter to it");
}

#[test]
fn without_loopback_nothing_works() {
    let down = HostFacts { loopback: Ok(BTreeSet::new()), ..host() };
    assert_eq!(path(&down).0, None);
    assert_eq!(complaints(&down), ["missing lo"]);
    let no_v6 = HostFacts { loopback: Ok(BTreeSet::from([Family::Ipv4])), ..host() };
    assert_eq!(path(&no_v6), (Some("sk-lookup"), None, vec![Family::Ipv4]));
    assert!(found(&no_v6, "lo").cure.unwrap().contains("disable_ipv6"));
    let kernel = HostFacts { loopback: Ok(BTreeSet::from([Family::Ipv4])), ipv6: false, ..host() };
    assert_eq!(complaints(&kernel), [""; 0], "nobody has asked for IPv6");
    let wanted = HostFacts { subject: Some(configured(&["tcp 2001:db8::/64 80"])), ..kernel };
    assert_eq!(complaints(&wanted), ["missing lo", "missing IPv6"]);
    assert_eq!(path(&wanted).0, None);
}

#[test]
fn a_refusal_is_told_from_a_lack() {
    let plain = HostFacts {
        bpf: Err(refused(libc::EPERM)),
        sk_lookup: unknown(),
        program: Err(refused(libc::EPERM)),
        rights: Ok(Rights::default()),
        firewalls: unknown(),
        listings: unknown(),
        leftovers: unknown(),
        other_programs: unknown(),
        ..host()
    };
    let diagnosis = diagnose(&plain);
    assert_eq!(
        diagnosis.unknown,
        ["sk_lookup", "firewall", "leftovers", "other programs"]
            .map(|check| format!("{check}: Operation not permitted"))
    );
    assert!(found(&plain, "program").cure.unwrap().contains("as root"));
    assert!(diagnosis.path.why.contains("TPROXY was not tried"), "{}", diagnosis.path.why);
    // With the rights and refused all the same, it is something else.
    let confined = HostFacts {
        rights: Ok(Rights::of(u64::MAX)),
        confinement: Confinement { seccomp: true, ..Confinement::default() },
        ..plain
    };
    assert!(found(&confined, "program").cure.unwrap().contains("seccomp"));
    assert_eq!(found(&confined, "confinement").verdict, FindingVerdict::Warning);
}

#[test]
fn what_is_loaded_may_still_be_of_no_use() {
    let program = |change: fn(&mut Program)| {
        let mut facts = host();
        facts.program.as_mut().map(change).unwrap();
        facts
    };
    let refusing = [
        program(|program| program.filled = Err(refused(libc::EINVAL))),
        program(|program| program.attached = Ok(Err(refused(libc::E2BIG)))),
        HostFacts { other_programs: Ok(vec![AttachedProgram { id: 1, name: None }; 64]), ..host() },
    ];
    for facts in refusing {
        assert_eq!(path(&facts).0, Some("tproxy"), "{facts:#?}");
        assert!(!complaints(&facts).is_empty());
    }
    let untested = program(|program| program.test_run = Err(refused(libc::EINVAL)));
    assert_eq!(
        (path(&untested).0, complaints(&untested)),
        (Some("sk-lookup"), vec!["warning test run".into()])
    );
    let interpreted = program(|program| program.machine_code = Some(0));
    assert_eq!(complaints(&interpreted), ["warning JIT"]);
    let untried = program(|program| program.attached = unknown());
    assert_eq!((path(&untried).0, complaints(&untried)), (Some("sk-lookup"), Vec::new()));
    assert_eq!(diagnose(&untried).unknown, ["program: Operation not permitted"]);
}

#[test]
fn each_missing_capability_costs_what_needs_it() {
    let with = |held: &[&'static str]| HostFacts {
        rights: Ok(Rights { held: held.iter().copied().collect() }),
        ..host()
    };
    let verdict = |held: &[&'static str]| found(&with(held), "capabilities").verdict;
    assert_eq!(verdict(&["CAP_BPF", "CAP_NET_RAW", "CAP_PERFMON"]), FindingVerdict::Missing);
    assert_eq!(verdict(&["CAP_NET_ADMIN", "CAP_NET_RAW"]), FindingVerdict::Warning);
    assert_eq!(verdict(&["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]), FindingVerdict::Warning);
    assert_eq!(verdict(&["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON"]), FindingVerdict::Ok);
    assert_eq!(verdict(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"]), FindingVerdict::Ok);
}

#[test]
fn programs_of_live_instances_are_not_others() {
    let program = |id, name: Option<&str>| AttachedProgram { id, name: name.map(str::to_owned) };
    let facts = |programs: &[AttachedProgram], instances| HostFacts {
        other_programs: Ok(programs.to_vec()),
        sk_lookup_instances: instances,
        ..host()
    };
    let named = [program(7, Some("spectrum")), program(9, Some("tubular"))];
    assert_eq!(found(&facts(&named, 1), "other programs").value, "9 (tubular)");
    assert_eq!(complaints(&facts(&named[..1], 1)), [""; 0]);
    assert_eq!(complaints(&facts(&[program(7, None)], 1)), [""; 0]);
    assert_eq!(found(&facts(&[program(7, None), program(9, None)], 1), "other programs").value, "7, 9");
}

#[test]
fn conntrack_matters_where_it_tracks_what_is_served() {
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m state --state ESTABLISHED -j ACCEPT\nCOMMIT\n";
    let tracking = HostFacts {
        conntrack: Some(Conntrack { count: 5, limit: Some(1_000) }),
        listings: Ok(vec![iptables_listing(rules)]),
        ..host()
    };
    assert_eq!(complaints(&tracking), [""; 0], "nobody has said what is served");
    let served = HostFacts { subject: Some(configured(&["tcp 192.0.2.0/24 80"])), ..tracking.clone() };
    let finding = found(&served, "conntrack");
    assert_eq!((finding.verdict, finding.value.as_str()), (FindingVerdict::Warning, "5 of 1000 entries"));
    assert!(finding.cure.unwrap().contains("-d 192.0.2.0/24 -j CT --notrack"));
    let other = HostFacts { subject: Some(configured(&["tcp 2001:db8::/64 80"])), ..tracking };
    assert_eq!(complaints(&other), [""; 0]);
}

#[test]
fn what_a_configuration_runs_into_is_found() {
    let rules = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n";
    let facts = HostFacts {
        subject: Some(configured(&["tcp 192.0.2.0/24 80"])),
        listings: Ok(vec![iptables_listing(rules)]),
        covered: Ok(vec!["prefix 192.0.2.0/24 covers 192.0.2.7, an address of eth0".to_owned()]),
        ..host()
    };
    assert_eq!(complaints(&facts), ["missing addresses", "warning obstacle"]);
    let claimed = Ok(vec!["claim prefix 192.0.2.0/24: process 7 has 192.0.2.0/25".to_owned()]);
    let claimed = HostFacts { claimed, ..facts.clone() };
    assert_eq!(complaints(&claimed), ["missing claims", "missing addresses", "warning obstacle"]);
    let hidden = |admin: &str| HostFacts { admin: admin.parse().ok(), ..facts.clone() };
    assert_eq!(
        complaints(&hidden("192.0.2.7:80")),
        ["missing addresses", "missing admin", "warning obstacle"]
    );
    assert_eq!(complaints(&hidden("127.0.0.1:80")), ["missing addresses", "warning obstacle"]);
    // A running instance says of its obstacles itself, and knows better: claims have no ports.
    let claimed = HostFacts {
        subject: Some(Subject { plan: plan(&["tcp 192.0.2.0/24 80"]), from: BindingsSource::Instances }),
        ..facts
    };
    assert_eq!(complaints(&claimed), [""; 0]);
}

#[test]
fn a_cure_that_is_a_command_is_one_to_a_shell() {
    let everything = HostFacts {
        program: Ok(Program { machine_code: Some(0), ..host().program.unwrap() }),
        jit: Some(0),
        firewalls: Ok(host()
            .firewalls
            .unwrap()
            .into_iter()
            .map(|trial| FirewallTrial { outcome: Err(refused(libc::ENOENT)), ..trial })
            .collect()),
        reply_mark: Ok(Err(refused(libc::ENOENT))),
        loopback: Ok([].into()),
        strict_rp_filter: vec!["eth0.100".to_owned(), "it's $(reboot)".to_owned()],
        syncookies: Some(0),
        somaxconn: Some(128),
        leftovers: Ok(vec!["local route 192.0.2.0/24".to_owned()]),
        ..host()
    };
    let without_ipv6 = HostFacts { loopback: Ok([Family::Ipv4].into()), jit: None, ..everything.clone() };
    let findings = [everything, without_ipv6].map(|facts| diagnose(&facts).findings);
    let cures: Vec<String> = findings.into_iter().flatten().filter_map(|finding| finding.cure).collect();
    let commands = ["apt", "ip", "iptables", "modprobe", "spectrum-user", "sysctl"];
    let mut seen = std::collections::BTreeSet::new();
    for cure in &cures {
        let first = cure.split(' ').next().unwrap();
        if commands.contains(&first) {
            seen.insert(first);
            let parsed = std::process::Command::new("sh").args(["-n", "-c", cure]).output().unwrap();
            assert!(parsed.status.success(), "{cure}: {}", String::from_utf8_lossy(&parsed.stderr));
        }
    }
    assert!(
        ["apt", "ip", "spectrum-user", "sysctl"].iter().all(|command| seen.contains(command)),
        "{cures:?}"
    );
    let loosening = cures.iter().find(|cure| cure.contains("rp_filter")).unwrap();
    assert_eq!(
        loosening,
        "sysctl -w net/ipv4/conf/eth0.100/rp_filter=2 'net/ipv4/conf/it'\\''s $(reboot)/rp_filter=2'"
    );
}

#[test]
fn bridges_that_show_rules_their_packets_are_in_the_way_of_tproxy_alone() {
    let bridged_to_rules = BTreeMap::from([(Family::Ipv4, "net/bridge/bridge-nf-call-iptables")]);
    let by_sk_lookup = HostFacts { bridged_to_rules, ..host() };
    assert_eq!(found(&by_sk_lookup, "bridges").verdict, FindingVerdict::Ok);
    let by_tproxy = HostFacts { mode: ModeChoice::Tproxy, ..by_sk_lookup };
    let finding = found(&by_tproxy, "bridges");
    assert_eq!((finding.verdict, &finding.value[..]), (FindingVerdict::Warning, "bridge-nf-call-iptables 1"));
    assert!(finding.cure.unwrap().starts_with("sysctl -w net/bridge/bridge-nf-call-iptables=0 #"));
    let other_family = HostFacts { subject: Some(configured(&["tcp 2001:db8::/64 80"])), ..by_tproxy };
    assert_eq!(found(&other_family, "bridges").value, "meet no rules");
}

#[test]
fn buffers_of_udp_matter_where_udp_is_served_by_who_may_not_take_more() {
    let serving = |binding, rights, buffer| HostFacts {
        subject: Some(configured(&[binding])),
        rights: Ok(Rights::of(rights)),
        rmem_max: Some(buffer),
        wmem_max: Some(buffer),
        ..host()
    };
    let of = |facts: &HostFacts| {
        let findings = diagnose(facts).findings.into_iter();
        findings
            .filter(|finding| ["rmem_max", "wmem_max"].contains(&&finding.check[..]))
            .map(|finding| finding.verdict)
            .collect::<Vec<_>>()
    };
    let (warned, good) = ([FindingVerdict::Warning; 2], [FindingVerdict::Ok; 2]);
    assert_eq!(of(&serving("udp 192.0.2.0/24 53", 0, 212_992)), warned);
    assert_eq!(of(&serving("udp 192.0.2.0/24 53", 0, 4 << 20)), good);
    assert_eq!(of(&serving("udp 192.0.2.0/24 53", u64::MAX, 212_992)), good);
    assert_eq!(of(&serving("tcp 192.0.2.0/24 53", 0, 212_992)), []);
}

#[test]
fn short_queues_of_floods_are_told_where_nothing_else_helps() {
    let verdicts = |syncookies, syn_backlog, device_backlog| {
        let host = HostFacts {
            syncookies: Some(syncookies),
            syn_backlog: Some(syn_backlog),
            device_backlog: Some(device_backlog),
            ..host()
        };
        ["tcp_max_syn_backlog", "netdev_max_backlog"].map(|check| found(&host, check).verdict)
    };
    assert_eq!(verdicts(1, 128, 1_000), [FindingVerdict::Ok; 2], "cookies need no queue");
    assert_eq!(verdicts(0, 128, 999), [FindingVerdict::Warning; 2]);
    assert_eq!(verdicts(0, 1_024, 1_000), [FindingVerdict::Ok; 2]);
}

#[test]
fn interfaces_that_take_trains_apart_are_named() {
    let without_gro = Ok(vec!["wan".to_owned(), "a b".to_owned()]);
    let subject = Some(configured(&["udp 192.0.2.0/24 53"]));
    let finding = found(&HostFacts { subject: subject.clone(), without_gro, ..host() }, "GRO");
    assert_eq!((finding.verdict, &finding.value[..]), (FindingVerdict::Warning, "off on wan, a b"));
    assert_eq!(finding.cure.unwrap(), "ethtool -K wan gro on; ethtool -K 'a b' gro on");
    assert_eq!(found(&HostFacts { subject, ..host() }, "GRO").verdict, FindingVerdict::Ok);
}

#[test]
fn what_a_worker_process_is_not_kept_from_is_told_with_the_cure() {
    let bound = WorkerBounds {
        instance: "3fa2c1".to_owned(),
        pid: 4711,
        user: 999,
        is_filtered: true,
        gains_nothing: true,
        capabilities: Vec::new(),
        files: Measure::Whole,
    };
    let of = |worker: &WorkerBounds| HostFacts { workers: Ok(vec![worker.clone()]), ..host() };
    let told = diagnose(&of(&bound));
    let row = told.findings.iter().find(|finding| finding.check == "worker process 4711").unwrap();
    assert_eq!(row.verdict, FindingVerdict::Ok);
    assert_eq!(row.value, "user 999, seccomp, no new privileges, landlock, no capability");
    for (worker, why, cure) in [
        (WorkerBounds { user: 0, ..bound.clone() }, "it is root", "--user"),
        (WorkerBounds { is_filtered: false, ..bound.clone() }, "not filtered", "CONFIG_SECCOMP_FILTER"),
        (WorkerBounds { gains_nothing: false, ..bound.clone() }, "gain privileges", "restart"),
        (
            WorkerBounds { files: Measure::Lacking("no landlock".to_owned()), ..bound.clone() },
            "modes alone",
            "lsm=",
        ),
    ] {
        let facts = of(&worker);
        assert_eq!(complaints(&facts), ["warning worker process 4711"]);
        let told = diagnose(&facts);
        let row = told.findings.iter().find(|finding| finding.check == "worker process 4711").unwrap();
        assert!(row.meaning.contains(why) && row.cure.as_ref().unwrap().contains(cure), "{row:?}");
    }
}

#[test]
fn what_is_announced_is_passed_on_or_it_is_said_why_not() {
    use FindingVerdict::{Ok as Good, Warning};

    use crate::model::{BgpDaemon, PassedOn};
    let prefix = "192.0.2.0/24";
    let verdicts = |mtu_probing, established, learned, exported, is_announced: bool| {
        let passed_on = PassedOn { prefix: prefix.to_owned(), learned, exported };
        let daemon = BgpDaemon {
            name: "bird".to_owned(),
            established,
            sessions: 2,
            prefixes: vec![passed_on],
            ..BgpDaemon::default()
        };
        let announcing = AnnouncingFacts {
            prefixes: [(prefix.to_owned(), Some(is_announced))].into(),
            tun: Ok(()),
            mtu_probing: Some(mtu_probing),
            wayless: BTreeSet::new(),
            daemons: vec![daemon],
        };
        let findings = diagnose(&HostFacts { announcing: Some(announcing), ..host() }).findings;
        let of = |check: &str, value: &str| {
            findings.iter().find(|one| one.check == check && one.value.contains(value)).unwrap().clone()
        };
        let passed_on = of("BGP daemon bird", prefix);
        (
            of("path MTU", "").verdict,
            of("BGP daemon bird", "sessions").verdict,
            passed_on.verdict,
            passed_on.meaning,
        )
    };
    assert_eq!(
        verdicts(1, 2, true, 2, true),
        (Good, Good, Good, "learned, and passed on to 2 of 2 established sessions".to_owned())
    );
    assert_eq!(verdicts(0, 1, false, 0, true), (Warning, Warning, Warning, "not learned".to_owned()));
    assert_eq!(verdicts(1, 0, true, 0, true).3, "learned, but none of 2 sessions is established");
    assert_eq!(verdicts(1, 2, true, 0, true).3, "learned, but passed on to none of 2 established sessions");
    assert_eq!(verdicts(1, 2, false, 0, false), (Good, Good, Good, "not passed on".to_owned()));
    let after_all = verdicts(1, 2, true, 2, false);
    assert!(after_all.2 == Warning && after_all.3.ends_with("although it is withdrawn"), "{after_all:?}");
}

#[test]
fn routers_miss_a_dead_host_by_bfd_or_late() {
    use crate::model::BgpDaemon;
    let told = |name: &str, established, watched, hold| {
        let daemon = BgpDaemon {
            name: name.to_owned(),
            established,
            sessions: 2,
            watched,
            hold,
            ..BgpDaemon::default()
        };
        let announcing = AnnouncingFacts {
            prefixes: BTreeMap::new(),
            tun: Ok(()),
            mtu_probing: Some(1),
            wayless: BTreeSet::new(),
            daemons: vec![daemon],
        };
        let findings = diagnose(&HostFacts { announcing: Some(announcing), ..host() }).findings;
        let row = findings.into_iter().find(|finding| finding.value.starts_with("BFD"));
        row.map(|row| (row.verdict, row.value, row.meaning, row.cure.unwrap_or_default()))
    };
    assert_eq!(told("bird", 0, 0, None), None, "there is no session");
    assert_eq!(told("bird", 2, 0, None), None, "it says nothing of its hold times");
    let (verdict, value, ..) = told("bird", 2, 2, None).unwrap();
    assert_eq!((verdict, value.as_str()), (FindingVerdict::Ok, "BFD on 2 of 2 established"));
    let (verdict, value, meaning, cure) = told("bird", 2, 1, Some(240)).unwrap();
    assert_eq!((verdict, value.as_str()), (FindingVerdict::Warning, "BFD on 1 of 2 established"));
    assert!(meaning.ends_with("240 s") && cure.contains("bfd graceful"), "{meaning}; {cure}");
    assert!(told("frr", 1, 0, Some(9)).unwrap().3.contains("bfdd=yes"));
}

#[test]
fn who_is_to_announce_needs_the_tun_device_a_daemon_and_a_way_back() {
    let announcing = AnnouncingFacts {
        prefixes: [("192.0.2.0/24".to_owned(), None)].into(),
        tun: Err(refused(libc::ENOENT)),
        mtu_probing: None,
        wayless: [Family::Ipv4].into(),
        daemons: Vec::new(),
    };
    let facts = HostFacts { announcing: Some(announcing), ..host() };
    assert_eq!(found(&facts, "tun device").verdict, FindingVerdict::Missing);
    assert_eq!(found(&facts, "BGP daemon").value, "none");
    assert_eq!(found(&facts, "way back").value, "no default route of ipv4");
    assert!(diagnose(&host()).findings.iter().all(|finding| finding.check != "tun device"));
}
