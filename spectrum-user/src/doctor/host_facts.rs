//! What a doctor is told: values that somebody else has read from a host. Judges none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::announcing::AnnouncingFacts;
use super::workers::WorkerBounds;
use crate::config::{FirewallChoice, ModeChoice};
use crate::model::Family;
use crate::plan::ReplyNeeds;
use crate::plan::{Listing, Plan};
use spectrum_steering::dispatcher::AttachedProgram;

/// The reason for which something could not be looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unknown(pub String);

/// The refusal of the kernel or a program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SystemRefusal {
    /// In words.
    pub message: String,
    /// The errno, where there was one.
    pub errno: Option<i32>,
}

impl SystemRefusal {
    /// True if it was for want of a right, and not of the thing.
    #[must_use]
    pub fn is_of_rights(&self) -> bool {
        matches!(self.errno, Some(libc::EPERM | libc::EACCES))
    }
}

impl From<&io::Error> for SystemRefusal {
    fn from(error: &io::Error) -> Self {
        Self { message: error.to_string(), errno: error.raw_os_error() }
    }
}

impl fmt::Display for SystemRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.message)
    }
}

/// Everything about a host, a network namespace and this process that matters to us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostFacts {
    /// The release, as `uname -r` prints it.
    pub kernel: String,
    /// The path that is wanted.
    pub mode: ModeChoice,
    /// The firewall that is wanted.
    pub firewall: FirewallChoice,
    /// The services to be served, if they are known.
    pub subject: Option<Subject>,

    /// The answer of bpf(2).
    pub bpf: Result<(), SystemRefusal>,
    /// True if it knows programs of the type sk_lookup.
    pub sk_lookup: Result<bool, Unknown>,
    /// The fate of our program.
    pub program: Result<Program, SystemRefusal>,
    /// `net.core.bpf_jit_enable`, which only the first namespace shows.
    pub jit: Option<u64>,
    /// True if the kernel describes its own types.
    pub btf: bool,
    /// True if a bpffs is mounted where everybody expects it.
    pub bpffs: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u64>,

    /// The rights of this process.
    pub rights: Result<Rights, Unknown>,
    /// The restrictions on them.
    pub confinement: Confinement,
    /// The hard limit of open files.
    pub open_files: Result<u64, Unknown>,

    /// The trials of the rules with every program of the firewall there is.
    pub firewalls: Result<Vec<FirewallTrial>, Unknown>,
    /// The outcome of having nft mark origins' answers to clients' addresses.
    pub reply_mark: Result<Result<(), SystemRefusal>, Unknown>,
    /// The configuration's needs for bringing such answers back, if there is one.
    pub replies: Option<ReplyNeeds>,

    /// The families of which `lo` has its address, and is up.
    pub loopback: Result<BTreeSet<Family>, Unknown>,
    /// True if the kernel has IPv6 at all.
    pub ipv6: bool,
    /// The interfaces whose reverse-path filter is strict.
    pub strict_rp_filter: Vec<String>,
    /// The settings by which packets on bridges meet the rules of IP, of each family for which they do.
    pub bridged_to_rules: BTreeMap<Family, &'static str>,
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub syn_backlog: Option<u64>,
    /// `net.core.netdev_max_backlog`, which is shown in the first network namespace alone.
    pub device_backlog: Option<u64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.core.rmem_max`, in bytes.
    pub rmem_max: Option<u64>,
    /// `net.core.wmem_max`, in bytes.
    pub wmem_max: Option<u64>,
    /// The interfaces that are up and make no trains of what comes.
    pub without_gro: Result<Vec<String>, Unknown>,
    /// The connections that conntrack follows, where it is loaded.
    pub conntrack: Option<Conntrack>,
    /// The firewall's rules, whoever made them.
    pub listings: Result<Vec<Listing>, Unknown>,

    /// Local routes and firewall chains that bear our marks and that no live instance claims.
    pub leftovers: Result<Vec<String>, Unknown>,
    /// The things that live instances lack since others removed them.
    pub missing: Vec<String>,
    /// The bounds of their worker processes.
    pub workers: Result<Vec<WorkerBounds>, Unknown>,
    /// The sk_lookup programs of the namespace.
    pub other_programs: Result<Vec<AttachedProgram>, Unknown>,
    /// The live instances that steer by sk_lookup, so that so many of the programs are ours.
    pub sk_lookup_instances: usize,
    /// The address to serve metrics and health at, if there is a configuration that says so.
    pub admin: Option<SocketAddr>,
    /// Prefixes that are to be served and that a live instance has claimed, in words.
    pub claimed: Result<Vec<String>, Unknown>,
    /// Addresses of the host that what is to be served covers, in words.
    pub covered: Result<Vec<String>, Unknown>,
    /// What was found out about announcing, where anything is to be announced.
    pub announcing: Option<AnnouncingFacts>,
}

impl HostFacts {
    /// The families that a path has to work for: those of the configuration, else any that the kernel has.
    #[must_use]
    pub fn families(&self) -> Families {
        match &self.subject {
            Some(Subject { plan, from: BindingsSource::Configuration }) => {
                Families::All(plan.bindings.iter().map(|planned| planned.binding.family()).collect())
            }
            _ if self.ipv6 => Families::Any(BTreeSet::from([Family::Ipv4, Family::Ipv6])),
            _ => Families::Any(BTreeSet::from([Family::Ipv4])),
        }
    }
}

/// The families that a path has to work for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Families {
    /// Each of them.
    All(BTreeSet<Family>),
    /// At least one of them: nobody has said what is to be served.
    Any(BTreeSet<Family>),
}

impl Families {
    /// Which they are.
    #[must_use]
    pub fn set(&self) -> &BTreeSet<Family> {
        match self {
            Self::All(set) | Self::Any(set) => set,
        }
    }

    /// Of these what `able` can be used for; empty when it is of no use.
    #[must_use]
    pub fn served_by(&self, able: &BTreeSet<Family>) -> BTreeSet<Family> {
        match self {
            Self::All(needed) if !needed.is_subset(able) => BTreeSet::new(),
            Self::All(needed) | Self::Any(needed) => needed & able,
        }
    }
}

/// The services to be served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    /// Its bindings.
    pub plan: Plan,
    /// Their source.
    pub from: BindingsSource,
}

/// The source of bindings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindingsSource {
    /// A configuration, which says all.
    Configuration,
    /// The claims of running instances, which name prefixes and no ports.
    Instances,
}

/// The fate of our program where nobody uses it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Bytes of machine code that the kernel made of it; without a JIT compiler, none.
    pub machine_code: Option<u64>,
    /// Instructions that the verifier walked through, where the kernel says so.
    pub verified: Option<u32>,
    /// The outcome of publishing a table and registering listeners of both protocols.
    pub filled: Result<(), SystemRefusal>,
    /// The outcome of attaching it.
    pub attached: Result<Result<(), SystemRefusal>, Unknown>,
    /// The outcome of a test run that looks for the listener.
    pub test_run: Result<(), SystemRefusal>,
}

/// Capabilities that something of ours needs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// The names of those that are effective, `CAP_NET_ADMIN`.
    pub held: BTreeSet<&'static str>,
}

impl Rights {
    /// Those that are asked for, with their numbers.
    pub const ALL: [(&'static str, u32); 6] = [
        ("CAP_BPF", 39),
        ("CAP_NET_ADMIN", 12),
        ("CAP_NET_RAW", 13),
        ("CAP_PERFMON", 38),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_SYS_PTRACE", 19),
    ];

    /// The rights that `mask` has, a bit for each capability.
    #[must_use]
    pub fn of(mask: u64) -> Self {
        let held = Self::ALL.into_iter().filter(|(_, number)| mask & (1 << number) != 0);
        Self { held: held.map(|(name, _)| name).collect() }
    }

    /// True if the process may what `name` allows. CAP_SYS_ADMIN is the older name of what CAP_BPF and CAP_PERFMON
    /// allow since Linux 5.8 (capabilities(7)).
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        self.held.contains(name)
            || ["CAP_BPF", "CAP_PERFMON"].contains(&name) && self.held.contains("CAP_SYS_ADMIN")
    }
}

/// The restrictions that take rights away which capabilities would give.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Confinement {
    /// True if a filter of system calls is in force (seccomp).
    pub seccomp: bool,
    /// True if the process is in a user namespace of its own, where capabilities do not reach bpf(2).
    pub user_namespace: bool,
    /// The mode of kernel lockdown, if it is there: `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
}

/// The trial of our rules with one program, for one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FirewallTrial {
    /// The program, and its variant.
    pub program: String,
    /// Which rules.
    pub family: Family,
    /// The carrier that would use it.
    pub carrier: Carrier,
    /// The outcome of applying the rules.
    pub outcome: Result<(), SystemRefusal>,
}

/// A carrier that uses a program of the firewall.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carrier {
    /// A start with `--firewall iptables`.
    Iptables,
    /// A start with `--firewall nftables`.
    Nftables,
    /// No start: iptables stands for the other variant here.
    None,
}

/// The work of conntrack in the namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conntrack {
    /// Connections that it follows.
    pub count: u64,
    /// As many as it can.
    pub limit: Option<u64>,
}
