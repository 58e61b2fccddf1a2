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
    /// Loading eBPF programs of the type `sk_lookup`.
    Bpf,
    /// `bpftool`.
    Bpftool,
    /// `curl`.
    Curl,
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
    /// Making network and mount namespaces.
    Netns,
    /// nft, with the `tproxy` statement.
    Nftables,
    /// nginx with its stream module.
    Nginx,
    /// The eBPF object as a file.
    Object,
    /// `openssl`.
    Openssl,
    /// The built program under test.
    Program,
    /// `promtool`, which knows how metrics should look.
    Promtool,
    /// `setpriv`, to run with few capabilities.
    Setpriv,
    /// `sshd`, `ssh` and `ssh-keygen`.
    Ssh,
    /// `strace`, to make single system calls fail.
    Strace,
    /// Running a program of the type `sk_lookup` on a packet that nobody sent (Linux 5.13).
    TestRun,
}

/// The module's path in Debian.
pub const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Need {
    /// True if the machine has it.
    pub fn is_met(self) -> bool {
        static BPF: OnceLock<bool> = OnceLock::new();
        static LEGACY: OnceLock<bool> = OnceLock::new();
        static NETNS: OnceLock<bool> = OnceLock::new();
        static NFT: OnceLock<bool> = OnceLock::new();
        static NFTABLES: OnceLock<bool> = OnceLock::new();
        static TEST_RUN: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Bpf => *BPF.get_or_init(|| {
                aya::sys::is_program_supported(aya::programs::ProgramType::SkLookup).unwrap_or(false)
            }),
            Self::Bpftool => find_in_path("bpftool").is_some(),
            Self::Curl => find_in_path("curl").is_some(),
            Self::Haproxy => find_in_path("haproxy").is_some(),
            Self::Iperf3 => find_in_path("iperf3").is_some(),
            Self::IptablesLegacy => *LEGACY.get_or_init(|| takes_tproxy_rules(Path::TproxyIptablesLegacy)),
            Self::IptablesNft => *NFT.get_or_init(|| takes_tproxy_rules(Path::TproxyIptablesNft)),
            Self::Ipv6 => std::path::Path::new("/proc/net/if_inet6").exists(),
            Self::Netns => *NETNS.get_or_init(|| Netns::create().is_ok()),
            Self::Nftables => *NFTABLES.get_or_init(takes_tproxy_statements),
            Self::Nginx => find_in_path("nginx").is_some() && PathBuf::from(NGINX_STREAM_MODULE).is_file(),
            Self::Object => object().is_file(),
            Self::Openssl => find_in_path("openssl").is_some(),
            Self::Program => instance::program().is_some(),
            Self::Promtool => find_in_path("promtool").is_some(),
            Self::Setpriv => find_in_path("setpriv").is_some(),
            Self::Ssh => ["sshd", "ssh", "ssh-keygen"].into_iter().all(|name| find_in_path(name).is_some()),
            Self::Strace => find_in_path("strace").is_some(),
            Self::TestRun => *TEST_RUN.get_or_init(can_test_run),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "bpf",
            Self::Bpftool => "bpftool",
            Self::Curl => "curl",
            Self::Haproxy => "haproxy",
            Self::Iperf3 => "iperf3",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::Ipv6 => "ipv6",
            Self::Netns => "netns",
            Self::Nftables => "nftables",
            Self::Nginx => "nginx",
            Self::Object => "object",
            Self::Openssl => "openssl",
            Self::Program => "program",
            Self::Promtool => "promtool",
            Self::Setpriv => "setpriv",
            Self::Ssh => "ssh",
            Self::Strace => "strace",
            Self::TestRun => "test-run",
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

/// The families that the kernel has, as nft calls them.
fn families() -> &'static [&'static str] {
    if Need::Ipv6.is_met() { &["ip", "ip6"] } else { &["ip"] }
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
