//! The list of what each purpose needs, how to tell that it is there, and what adds it. Runs no installer.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::ebpf::toolchain::{BPF_LINKER_VERSION, LLVM_PREFIX, Missing, Toolchain, on_path, tool_root};
use crate::musl;
use crate::shell;
use crate::workspace;

/// The keys with which apt verifies the suites that we fetch kernels from.
pub const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The cargo-deny that set-up installs; it is for developers, so its version is not the user's concern.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// The cargo-fuzz that set-up installs.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// A purpose to make the machine ready for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Benchmarks.
    Bench,
    /// Building the eBPF object and the host crates.
    Build,
    /// A clean Debian in namespaces of its own.
    Fresh,
    /// Fuzzing. The compiler is that of `Build`.
    Fuzz,
    /// Compiling the kernels that nobody packages.
    Kernels,
    /// Judging the Debian package.
    Judge,
    /// Lint.
    Lint,
    /// Making the Debian package.
    Package,
    /// Running the program in a network namespace, and looking at it.
    Run,
    /// Linking the program statically, with musl. The compiler is that of `Build`.
    Static,
    /// The privileged tests.
    Test,
    /// The privileged tests on other kernels, beyond what they need on this one.
    Vmtest,
}

/// One thing that a purpose needs.
pub(super) struct Need {
    /// Its name for a person.
    pub(super) name: &'static str,
    /// True if it is there: files and programs only, in milliseconds.
    pub(super) is_met: fn() -> bool,
    /// The cure that adds it.
    pub(super) cure: Cure,
}

/// A cure that adds a missing thing.
pub(super) enum Cure {
    /// Debian packages.
    Apt(&'static [&'static str]),
    /// Debian packages of servers, and the services that they would run on this host and must not.
    AptServers(&'static [&'static str], &'static [&'static str]),
    /// Debian packages, then a command.
    AptThen(&'static [&'static str], fn() -> Command),
    /// A command.
    Run(fn() -> Command),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.name)?;
        let (packages, command): (&[&str], _) = match &self.cure {
            Cure::Apt(packages) | Cure::AptServers(packages, _) => (packages, None),
            Cure::AptThen(packages, command) => (packages, Some(command())),
            Cure::Run(command) => (&[], Some(command())),
        };
        if !packages.is_empty() {
            write!(f, "apt-get install {}", packages.join(" "))?;
        }
        if let Some(command) = command {
            let then = if packages.is_empty() { "" } else { ", then " };
            write!(f, "{then}{}", shell::line(&command))?;
        }
        f.write_str(")")
    }
}

impl Purpose {
    /// The things that it takes.
    pub(super) fn needs(self) -> Vec<Need> {
        let ip = || program("ip and ss", || has("ip") && has("ss"), &["iproute2"]);
        let iptables = || program("iptables, nft and legacy", has_iptables, &["iptables"]);
        let bpftool = || program("bpftool", || has("bpftool"), &["bpftool"]);
        match self {
            Self::Build => vec![
                program(
                    "a Rust compiler for BPF",
                    || !Toolchain::lacks(Missing::Compiler),
                    &["rustc-web", "cargo-web", "rust-web-src"],
                ),
                Need {
                    name: "bpf-linker",
                    is_met: || !Toolchain::lacks(Missing::Linker),
                    cure: Cure::AptThen(&["llvm-22-dev", "g++"], install_bpf_linker),
                },
                program("llvm-objcopy", || !Toolchain::lacks(Missing::Objcopy), &["llvm-22"]),
            ],
            Self::Fresh => vec![
                program("debootstrap", || has("debootstrap"), &["debootstrap"]),
                program("unshare and setpriv", || has("unshare") && has("setpriv"), &["util-linux"]),
                program("git", || has("git"), &["git"]),
                ip(),
                debian_keys(),
            ],
            Self::Fuzz => vec![
                program("a C++ compiler", || has("c++"), &["g++"]),
                Need {
                    name: "cargo-fuzz",
                    is_met: || cargo_fuzz().is_some_and(|fuzz| fuzz.is_file()),
                    cure: Cure::Run(install_cargo_fuzz),
                },
            ],
            Self::Judge => for_judging(),
            Self::Package => vec![
                program("debhelper", || has("dh"), &["debhelper"]),
                program("dpkg-shlibdeps", || has("dpkg-shlibdeps"), &["dpkg-dev"]),
                program("git", || has("git"), &["git"]),
            ],
            Self::Run => vec![ip(), iptables(), bpftool()],
            Self::Static => for_static(),
            Self::Test => vec![
                ip(),
                iptables(),
                bpftool(),
                program("nft", || has("nft"), &["nftables"]),
                program("setpriv and prlimit", || has("setpriv") && has("prlimit"), &["util-linux"]),
                program("strace", || has("strace"), &["strace"]),
                haproxy(),
                nginx(),
                nginx_stream(),
                server("sshd", || has("sshd"), &["openssh-server"], &["ssh"]),
                server("ssh", || has("ssh"), &["openssh-client"], &["ssh"]),
                server("fail2ban-server", || has("fail2ban-server"), &["fail2ban"], &["fail2ban"]),
                server("promtool", || has("promtool"), &["prometheus"], &["prometheus"]),
                server("iperf3", || has("iperf3"), &["iperf3"], &["iperf3"]),
                program("curl and openssl", || has("curl") && has("openssl"), &["curl", "openssl"]),
                server("dnsdist", || has("dnsdist"), &["dnsdist"], &["dnsdist"]),
                server("knotd", || has("knotd"), &["knot"], &["knot"]),
                program("kdig", || has("kdig"), &["knot-dnsutils"]),
                server("unbound", || has("unbound"), &["unbound"], &["unbound", "unbound-resolvconf"]),
                server("pdns_recursor", || has("pdns_recursor"), &["pdns-recursor"], &["pdns-recursor"]),
                server("turnserver", || has("turnserver"), &["coturn"], &["coturn"]),
                server(
                    "gtlsclient and gtlsserver",
                    has_ngtcp2,
                    &["ngtcp2-client", "ngtcp2-server"],
                    &["ngtcp2d"],
                ),
                program("sipp", || has("sipp"), &["sip-tester"]),
                server("bird and birdc", || has("bird") && has("birdc"), &["bird2"], &["bird"]),
                server("bgpd, zebra and vtysh", has_frr, &["frr"], &["frr"]),
                program("wg and wireguard-go", has_wireguard, &["wireguard-go", "wireguard-tools"]),
            ],
            Self::Vmtest => vec![
                program("prlimit", || has("prlimit"), &["util-linux"]),
                program("qemu-system-x86_64", || has("qemu-system-x86_64"), &["qemu-system-x86"]),
                program("busybox, linked statically", || has("busybox"), &["busybox-static"]),
                program("cpio", || has("cpio"), &["cpio"]),
                program("depmod and modprobe", || has("depmod") && has("modprobe"), &["kmod"]),
                program("strip", || has("strip"), &["binutils"]),
                program("xz", || has("xz"), &["xz-utils"]),
                debian_keys(),
            ],
            Self::Kernels => vec![program(
                "what compiles a kernel",
                has_kernel_tools,
                &["bc", "bison", "flex", "gcc", "libc6-dev", "libelf-dev", "libssl-dev", "make"],
            )],
            Self::Bench => for_benchmarks(vec![ip(), iptables()]),
            Self::Lint => vec![
                Need { name: "clippy and rustfmt", is_met: host_lints, cure: host_lints_cure() },
                program("clippy for BPF", ebpf_clippy, &["rust-web-clippy"]),
                Need {
                    name: "cargo-deny",
                    is_met: || cargo_deny().is_some_and(|deny| deny.is_file()),
                    cure: Cure::Run(install_cargo_deny),
                },
            ],
        }
    }
}

fn for_benchmarks(mut needs: Vec<Need>) -> Vec<Need> {
    needs.extend([
        program("nft", || has("nft"), &["nftables"]),
        program("ipset", || has("ipset"), &["ipset"]),
        haproxy(),
        nginx(),
        nginx_stream(),
    ]);
    needs
}

/// Nothing, where rustup brings it all.
fn for_static() -> Vec<Need> {
    if musl::is_with_rustup() {
        return Vec::new();
    }
    let has_unwinder = || musl::unwinder().join("libunwind.a").is_file();
    vec![
        program("musl", || musl::musl().join("libc.a").is_file(), &["musl-dev"]),
        program("a C compiler", || has("cc"), &["gcc"]),
        Need { name: "an unwinder for musl", is_met: has_unwinder, cure: Cure::Run(musl::fetch_unwinder) },
    ]
}

fn for_judging() -> Vec<Need> {
    vec![
        program("lintian", || has("lintian"), &["lintian"]),
        program("man", || has("man"), &["man-db"]),
        program("systemd-analyze", || has("systemd-analyze"), &["systemd"]),
        program("fish and zsh", || has("fish") && has("zsh"), &["fish", "zsh"]),
        program("bash-completion", has_bash_completion, &["bash-completion"]),
        server("promtool", || has("promtool"), &["prometheus"], &["prometheus"]),
    ]
}

/// cargo-deny where set-up puts it.
#[must_use]
pub fn cargo_deny() -> Option<std::path::PathBuf> {
    tool_root("cargo-deny", CARGO_DENY_VERSION).map(|root| root.join("bin/cargo-deny"))
}

/// cargo-fuzz where set-up puts it.
#[must_use]
pub fn cargo_fuzz() -> Option<std::path::PathBuf> {
    tool_root("cargo-fuzz", CARGO_FUZZ_VERSION).map(|root| root.join("bin/cargo-fuzz"))
}

fn program(name: &'static str, is_met: fn() -> bool, packages: &'static [&'static str]) -> Need {
    Need { name, is_met, cure: Cure::Apt(packages) }
}

/// A server that tests and benchmarks start themselves.
fn server(
    name: &'static str,
    is_met: fn() -> bool,
    packages: &'static [&'static str],
    services: &'static [&'static str],
) -> Need {
    Need { name, is_met, cure: Cure::AptServers(packages, services) }
}

fn haproxy() -> Need {
    server("haproxy", || has("haproxy"), &["haproxy"], &["haproxy"])
}

fn nginx() -> Need {
    server("nginx", || has("nginx"), &["nginx-light"], &["nginx"])
}

/// The module alone: a host may have an nginx with other ones.
fn nginx_stream() -> Need {
    let is_met = || Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").is_file();
    server("nginx's stream module", is_met, &["libnginx-mod-stream"], &["nginx"])
}

fn debian_keys() -> Need {
    let is_met = || Path::new(DEBIAN_KEYRING).is_file();
    program("the keys of Debian's archive", is_met, &["debian-archive-keyring"])
}

fn has(program: &str) -> bool {
    on_path(program).is_some()
}

fn has_bash_completion() -> bool {
    Path::new("/usr/share/bash-completion/bash_completion").is_file()
}

/// Its daemons are no programs of the search path.
fn has_frr() -> bool {
    has("vtysh") && ["bgpd", "zebra"].iter().all(|daemon| Path::new("/usr/lib/frr").join(daemon).is_file())
}

fn has_ngtcp2() -> bool {
    ["gtlsclient", "gtlsserver"].into_iter().all(has)
}

/// The one that is a process: kernels need not have theirs.
fn has_wireguard() -> bool {
    ["wg", "wireguard-go"].into_iter().all(has)
}

fn has_iptables() -> bool {
    ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"].into_iter().all(has)
}

fn has_kernel_tools() -> bool {
    let headers =
        ["gelf.h", "openssl/ssl.h"].iter().all(|header| Path::new("/usr/include").join(header).is_file());
    headers && ["bc", "bison", "flex", "gcc", "make"].into_iter().all(has)
}

/// True if `name` stands beside the cargo that runs us: a component of the same toolchain.
fn beside_cargo(name: &str) -> bool {
    workspace::cargo_path().with_file_name(name).is_file()
}

fn host_lints() -> bool {
    ["cargo-clippy", "clippy-driver", "cargo-fmt", "rustfmt"].into_iter().all(beside_cargo)
}

fn host_lints_cure() -> Cure {
    if workspace::cargo_path().parent() == Some(Path::new("/usr/bin")) {
        Cure::Apt(&["rust-web-clippy", "rustfmt-web"])
    } else {
        Cure::Run(|| {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "clippy", "rustfmt"]);
            rustup
        })
    }
}

fn ebpf_clippy() -> bool {
    // Without a toolchain there is nothing to stand beside; the purpose `Build` comes first and says so.
    Toolchain::find().map_or_else(
        |_| Path::new("/usr/bin/cargo-clippy").is_file(),
        |toolchain| toolchain.compiler.bin.join("cargo-clippy").is_file(),
    )
}

fn install_bpf_linker() -> Command {
    let mut cargo = cargo_install("bpf-linker", BPF_LINKER_VERSION);
    cargo.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", LLVM_PREFIX);
    cargo
}

fn install_cargo_deny() -> Command {
    let mut cargo = cargo_install("cargo-deny", CARGO_DENY_VERSION);
    cargo.arg("--no-default-features");
    compile_quickly(&mut cargo);
    cargo
}

fn install_cargo_fuzz() -> Command {
    let mut cargo = cargo_install("cargo-fuzz", CARGO_FUZZ_VERSION);
    compile_quickly(&mut cargo);
    cargo
}

/// Its own profile costs minutes for a program that runs for a second.
fn compile_quickly(cargo: &mut Command) {
    cargo.envs([
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ]);
}

fn cargo_install(name: &str, version: &str) -> Command {
    let mut cargo = workspace::cargo(["install", "--quiet", "--locked", name, "--version", version]);
    if let Some(root) = tool_root(name, version) {
        cargo.arg("--root").arg(root);
    }
    cargo
}
