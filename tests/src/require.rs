//! What a test needs of the machine, and what happens when it is not there: a line that says so, or a failure where
//! skips are not accepted. Installs nothing.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::instance;
use crate::netns::Netns;
use crate::path::Path;

/// Something without which a test proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// `bird` and `birdc`, version 2.
    Bird,
    /// Loading eBPF programs of the type `sk_lookup`.
    Bpf,
    /// `bpftool`.
    Bpftool,
    /// `turnserver` and what comes with it.
    Coturn,
    /// `curl`.
    Curl,
    /// `dnsdist`.
    Dnsdist,
    /// `fail2ban-server`, with the filters that come with it.
    Fail2ban,
    /// FRR: `zebra`, `bgpd` and `vtysh`.
    Frr,
    /// `haproxy`.
    Haproxy,
    /// `iperf3`.
    Iperf3,
    /// iptables and ip6tables over the legacy interface, with the TPROXY target.
    IptablesLegacy,
    /// iptables and ip6tables over nftables, with the TPROXY target.
    IptablesNft,
    /// IPv6.
    Ipv6,
    /// `kdig`.
    Kdig,
    /// `knotd`.
    Knot,
    /// Landlock, of any version, switched on (Linux 5.13).
    Landlock,
    /// Making network and mount namespaces.
    Netns,
    /// nft, with the `tproxy` statement.
    Nftables,
    /// nginx with its stream module.
    Nginx,
    /// `gtlsserver` and `gtlsclient` of ngtcp2.
    Ngtcp2,
    /// The eBPF object as a file.
    Object,
    /// `openssl`.
    Openssl,
    /// The built program under test.
    Program,
    /// `promtool`, which knows how metrics should look.
    Promtool,
    /// `pdns_recursor`.
    Recursor,
    /// Groups of next hops that keep what flows through those that stay (Linux 5.13).
    Resilient,
    /// Filters of system calls.
    Seccomp,
    /// `setpriv`, to run with few capabilities.
    Setpriv,
    /// `sipp`.
    Sipp,
    /// `sshd`, `ssh` and `ssh-keygen`.
    Ssh,
    /// `strace`, to make single system calls fail.
    Strace,
    /// Running a program of the type `sk_lookup` on a packet that nobody sent (Linux 5.13).
    TestRun,
    /// The tun device.
    Tun,
    /// `unbound`.
    Unbound,
    /// `wg`, `wireguard-go` and the tun device.
    Wireguard,
}

/// The module's path in Debian.
pub const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Where Debian has FRR's daemons.
pub const FRR: &str = "/usr/lib/frr";

/// The device by which others are made.
const TUN: &str = "/dev/net/tun";

impl Need {
    /// True if the machine has it.
    pub fn is_met(self) -> bool {
        static BPF: OnceLock<bool> = OnceLock::new();
        static LEGACY: OnceLock<bool> = OnceLock::new();
        static NETNS: OnceLock<bool> = OnceLock::new();
        static NFT: OnceLock<bool> = OnceLock::new();
        static NFTABLES: OnceLock<bool> = OnceLock::new();
        static RESILIENT: OnceLock<bool> = OnceLock::new();
        static TEST_RUN: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Bird => ["bird", "birdc"].into_iter().all(is_there),
            Self::Bpf => *BPF.get_or_init(|| {
                aya::sys::is_program_supported(aya::programs::ProgramType::SkLookup).unwrap_or(false)
            }),
            Self::Bpftool => is_there("bpftool"),
            Self::Coturn => {
                ["turnserver", "turnutils_stunclient", "turnutils_uclient"].into_iter().all(is_there)
            }
            Self::Curl => is_there("curl"),
            Self::Dnsdist => is_there("dnsdist"),
            Self::Fail2ban => {
                is_there("fail2ban-server") && PathBuf::from("/etc/fail2ban/filter.d/sshd.conf").is_file()
            }
            Self::Frr => {
                is_there("vtysh")
                    && ["bgpd", "zebra"].iter().all(|daemon| PathBuf::from(FRR).join(daemon).is_file())
            }
            Self::Haproxy => is_there("haproxy"),
            Self::Iperf3 => is_there("iperf3"),
            Self::IptablesLegacy => *LEGACY.get_or_init(|| takes_tproxy_rules(Path::TproxyIptablesLegacy)),
            Self::IptablesNft => *NFT.get_or_init(|| takes_tproxy_rules(Path::TproxyIptablesNft)),
            Self::Ipv6 => std::path::Path::new("/proc/net/if_inet6").exists(),
            Self::Kdig => is_there("kdig"),
            Self::Knot => is_there("knotd"),
            Self::Landlock => has_landlock(),
            Self::Netns => *NETNS.get_or_init(|| Netns::create().is_ok()),
            Self::Nftables => *NFTABLES.get_or_init(takes_tproxy_statements),
            Self::Nginx => is_there("nginx") && PathBuf::from(NGINX_STREAM_MODULE).is_file(),
            Self::Ngtcp2 => ["gtlsserver", "gtlsclient"].into_iter().all(is_there),
            Self::Object => object().is_file(),
            Self::Openssl => is_there("openssl"),
            Self::Program => instance::program().is_some(),
            Self::Promtool => is_there("promtool"),
            Self::Recursor => is_there("pdns_recursor"),
            Self::Resilient => *RESILIENT.get_or_init(has_resilient_groups),
            Self::Seccomp => std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            Self::Setpriv => is_there("setpriv"),
            Self::Sipp => is_there("sipp"),
            Self::Ssh => ["sshd", "ssh", "ssh-keygen"].into_iter().all(is_there),
            Self::Strace => is_there("strace"),
            Self::TestRun => *TEST_RUN.get_or_init(can_test_run),
            Self::Tun => PathBuf::from(TUN).exists(),
            Self::Unbound => is_there("unbound"),
            Self::Wireguard => {
                ["wg", "wireguard-go"].into_iter().all(is_there) && PathBuf::from(TUN).exists()
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bird => "bird2",
            Self::Bpf => "bpf",
            Self::Bpftool => "bpftool",
            Self::Coturn => "coturn",
            Self::Curl => "curl",
            Self::Dnsdist => "dnsdist",
            Self::Fail2ban => "fail2ban",
            Self::Frr => "frr",
            Self::Haproxy => "haproxy",
            Self::Iperf3 => "iperf3",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::Ipv6 => "ipv6",
            Self::Kdig => "kdig",
            Self::Knot => "knot",
            Self::Landlock => "landlock",
            Self::Netns => "netns",
            Self::Nftables => "nftables",
            Self::Nginx => "nginx",
            Self::Ngtcp2 => "ngtcp2",
            Self::Object => "object",
            Self::Openssl => "openssl",
            Self::Program => "program",
            Self::Promtool => "promtool",
            Self::Recursor => "pdns-recursor",
            Self::Resilient => "resilient-next-hops",
            Self::Seccomp => "seccomp",
            Self::Setpriv => "setpriv",
            Self::Sipp => "sipp",
            Self::Ssh => "ssh",
            Self::Strace => "strace",
            Self::TestRun => "test-run",
            Self::Tun => "tun",
            Self::Unbound => "unbound",
            Self::Wireguard => "wireguard",
        })
    }
}

/// True if the test may run. Otherwise prints `SKIP <test>: needs <x>`, or panics when `SPECTRUM_TEST_REQUIRE` lists
/// the need or says `all`.
pub fn met(test: &str, needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find(|need| !need.is_met()) else { return true };
    let required = std::env::var("SPECTRUM_TEST_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|word| word == "all" || word == missing.to_string());
    assert!(
        !is_required,
        "{test} needs {missing}, and SPECTRUM_TEST_REQUIRE={required} accepts no skip of it"
    );
    // Not `println!`: libtest captures that, and a skip must be seen when the test passes.
    writeln!(io::stdout(), "SKIP {test}: needs {missing}").expect("write to stdout");
    false
}

/// The path of the eBPF object: `SPECTRUM_EBPF_OBJECT`, else where `cargo xtask build-ebpf` leaves it.
pub fn object() -> PathBuf {
    std::env::var_os("SPECTRUM_EBPF_OBJECT")
        .map_or_else(|| instance::workspace().join("target/bpf/spectrum.o"), PathBuf::from)
}

/// The full path of an executable of the search path or of the administrator's directories.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn is_there(program: &str) -> bool {
    find_in_path(program).is_some()
}

/// By asking for the least of it.
fn has_landlock() -> bool {
    use landlock::{AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::ReadFile).and_then(Ruleset::create).is_ok()
}

/// The families that the kernel has, as nft calls them.
fn families() -> &'static [&'static str] {
    if Need::Ipv6.is_met() { &["ip", "ip6"] } else { &["ip"] }
}

/// By making one of a next hop that leads nowhere.
fn has_resilient_groups() -> bool {
    let Ok(netns) = Netns::create() else { return false };
    ["ip nexthop add id 1 dev lo", "ip nexthop add id 2 group 1 type resilient buckets 8"]
        .iter()
        .all(|line| netns.output(line).status.success())
}

/// By the kernel's own list of its functions: asking for a run takes a program that is loaded.
fn can_test_run() -> bool {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.contains(" bpf_prog_test_run_sk_lookup\n")
}

fn takes_tproxy_rules(path: Path) -> bool {
    let Ok(netns) = Netns::create() else { return false };
    path.install(&netns) && families().iter().map(|family| format!("{family}tables")).all(|tool| {
        let address = if tool.starts_with("ipt") { "127.0.0.1" } else { "::1" };
        let rule = format!(
            "{tool} -w -t mangle -A PREROUTING -p tcp -j TPROXY --on-ip {address} --on-port 9 --tproxy-mark 0"
        );
        netns.run(|| path.command(&rule).output()).is_ok_and(|output| output.status.success())
    })
}

fn takes_tproxy_statements() -> bool {
    let path = Path::TproxyNftables;
    let Ok(netns) = Netns::create() else { return false };
    path.install(&netns)
        && families().iter().all(|family| {
            let chain = format!("{family} t c {{ type filter hook prerouting priority mangle ; }}");
            [
                format!("nft add table {family} t"),
                format!("nft add chain {chain}"),
                format!("nft add rule {family} t c meta l4proto tcp tproxy to :9"),
            ]
            .iter()
            .all(|line| netns.run(|| path.command(line).output()).is_ok_and(|output| output.status.success()))
        })
}
