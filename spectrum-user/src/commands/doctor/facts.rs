//! Reads what the doctor judges, from where each fact is. A fact that cannot be read is told with the reason.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use socket2::{Domain, Socket, Type};
use tokio::runtime;

use super::announcing;
use super::trial::{self, Trials};
use super::workers;
use crate::config::{Config, ModeChoice};
use crate::control::{self, Request};
use crate::doctor::{
    BindingsSource, Confinement, Conntrack, HostFacts, Rights, Subject, SystemRefusal, Unknown,
};
use crate::instance::capabilities;
use crate::model::{Binding, Family, Policy, PortRange, Protocol, Responder, Service, Target};
use crate::plan::ReplyNeeds;
use crate::plan::{self, Listing, Plan};
use crate::registry::{
    ControlSocket, Instance, Keeper, Leftovers, Mode, control_sockets, live_instances, run_dir, taken,
};
use crate::view::View;
use spectrum_steering::dispatcher::{self, AttachedProgram};
use spectrum_steering::host::{self, LocalRoutes, NamespaceId, ReplyRoutes};
use spectrum_steering::tproxy;

/// The time that an instance has to say how it fares.
const PATIENCE: Duration = Duration::from_secs(5);

/// All facts about the namespace of the calling thread. `jit` is what the first namespace said of the compiler.
pub(super) fn read(wanted: Option<(Config, Plan)>, jit: Option<u64>) -> anyhow::Result<HostFacts> {
    let live = live_instances(&run_dir(), NamespaceId::current()?.inode());
    let replies = wanted.as_ref().map(|(config, _)| ReplyNeeds::of(&config.services));
    let admin = wanted.as_ref().and_then(|(config, _)| config.admin);
    let announced = wanted.as_ref().map(|(config, _)| config.announcing.prefixes.keys().copied().collect());
    let (mode, firewall, wanted) = match wanted {
        Some((config, plan)) => (config.mode, config.firewall, Some(plan)),
        None => Default::default(),
    };
    let Trials { program, firewalls, reply_mark } = trial::all(wanted.as_ref());
    let attached = attached();
    let covered = match &wanted {
        Some(plan) => covered(plan),
        None => Ok(Vec::new()),
    };
    let claimed = match (&wanted, &live) {
        (Some(plan), Ok(live)) => {
            // A start over sk_lookup takes over what is pinned.
            let is_in_the_way = |one: &&Instance| one.keeper == Keeper::Process || mode == ModeChoice::Tproxy;
            let others: Vec<Instance> = live.iter().filter(is_in_the_way).cloned().collect();
            Ok(taken(&plan.routes, &others).into_iter().map(|error| error.to_string()).collect())
        }
        (Some(_), Err(error)) => Err(Unknown(error.to_string())),
        (None, _) => Ok(Vec::new()),
    };
    let subject = match wanted {
        Some(plan) => Some(Subject { plan, from: BindingsSource::Configuration }),
        None => live
            .as_deref()
            .ok()
            .and_then(plan_of_claims)
            .map(|plan| Subject { plan, from: BindingsSource::Instances }),
    };
    let instances = instances();
    let by_sk_lookup = |instance: &&Instance| instance.mode == Some(Mode::SkLookup);
    Ok(HostFacts {
        kernel: kernel(),
        mode,
        firewall,
        subject,
        bpf: attached.as_ref().map(drop).map_err(SystemRefusal::from),
        sk_lookup: dispatcher::knows_sk_lookup().map_err(|error| unknown(&error)),
        program,
        jit,
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        bpffs: statfs("/sys/fs/bpf").is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC),
        unprivileged_bpf_disabled: host::setting("kernel/unprivileged_bpf_disabled"),
        rights: capabilities().map(Rights::of).ok_or_else(|| Unknown("there is no /proc".to_owned())),
        confinement: confinement(),
        open_files: getrlimit(Resource::RLIMIT_NOFILE)
            .map(|(_, hard)| hard)
            .map_err(|errno| unknown(&errno.into())),
        firewalls,
        reply_mark,
        replies,
        loopback: host::loopback_families().map_err(why),
        ipv6: host::has_ipv6(),
        strict_rp_filter: host::strict_rp_filter(),
        bridged_to_rules: [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .filter_map(|family| Some((family, host::bridged_to_rules(family)?)))
            .collect(),
        syncookies: host::setting("net/ipv4/tcp_syncookies"),
        syn_backlog: host::setting("net/ipv4/tcp_max_syn_backlog"),
        device_backlog: host::setting("net/core/netdev_max_backlog"),
        somaxconn: host::setting("net/core/somaxconn"),
        rmem_max: rmem_max(),
        wmem_max: wmem_max(),
        without_gro: host::interfaces_without_gro().map_err(why),
        conntrack: host::setting("net/netfilter/nf_conntrack_count")
            .map(|count| Conntrack { count, limit: host::setting("net/netfilter/nf_conntrack_max") }),
        listings: listings(),
        leftovers: leftovers(live.as_deref().map_err(ToString::to_string))?,
        missing: missing(&instances),
        workers: workers::bounds(&instances),
        other_programs: others(attached),
        sk_lookup_instances: live.iter().flatten().filter(by_sk_lookup).count(),
        admin,
        claimed,
        covered,
        announcing: announcing::read(announced, &instances),
    })
}

fn why(error: impl Into<anyhow::Error>) -> Unknown {
    Unknown(format!("{:#}", error.into()))
}

fn unknown(error: &io::Error) -> Unknown {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Unknown(format!("{error} (try sudo)")),
        _ => Unknown(error.to_string()),
    }
}

/// More than any setting allows.
const TOO_MUCH: usize = 1 << 30;

/// The most bytes that a socket's queue gets for the asking: asked of a socket, since older kernels show the setting in the first
/// namespace alone.
fn rmem_max() -> Option<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).ok()?;
    socket.set_recv_buffer_size(TOO_MUCH).ok()?;
    // The kernel gives twice as much, for what it needs itself.
    u64::try_from(socket.recv_buffer_size().ok()? / 2).ok()
}

/// The same of what a socket sends.
fn wmem_max() -> Option<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).ok()?;
    socket.set_send_buffer_size(TOO_MUCH).ok()?;
    u64::try_from(socket.send_buffer_size().ok()? / 2).ok()
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

fn confinement() -> Confinement {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map_or("0", str::trim);
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = ["0", "0", "4294967295"];
    // The mode in force stands in brackets: `none [integrity] confidentiality`.
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").ok();
    Confinement {
        seccomp: seccomp != "0",
        user_namespace: !map.is_empty() && !map.split_whitespace().eq(everybody),
        lockdown: lockdown.and_then(|modes| Some(modes.split_once('[')?.1.split_once(']')?.0.to_owned())),
    }
}

fn attached() -> io::Result<Vec<AttachedProgram>> {
    dispatcher::attached_programs(File::open("/proc/thread-self/ns/net")?)
}

fn others(attached: io::Result<Vec<AttachedProgram>>) -> Result<Vec<AttachedProgram>, Unknown> {
    match attached {
        Ok(attached) => Ok(attached),
        // A kernel without bpf(2), or without sk_lookup, has none.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(Vec::new()),
        Err(error) => Err(unknown(&error)),
    }
}

fn listings() -> Result<Vec<Listing>, Unknown> {
    let (listings, errors) = tproxy::listings();
    // A rule that is not seen may be the one that matters.
    if errors.is_empty() {
        return Ok(listings);
    }
    Err(Unknown(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
}

/// The leftovers: what bears our marks and no live instance claims.
fn leftovers(live: Result<&[Instance], String>) -> anyhow::Result<Result<Vec<String>, Unknown>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    Ok(runtime.block_on(async {
        let live = live.map_err(Unknown)?;
        let routes = LocalRoutes::open().map_err(why)?.list_ours().await.map_err(why)?;
        let chains = tproxy::list_ours().map_err(why)?;
        let tables = ReplyRoutes::open().map_err(why)?.list_ours().await.map_err(why)?;
        Ok(Leftovers::among(routes, chains, tables, live).lines())
    }))
}

/// The live instances as each sees itself. One that says nothing is busy, or starting.
fn instances() -> Vec<(String, View)> {
    let Ok(namespace) = NamespaceId::current() else { return Vec::new() };
    let sockets = control_sockets(&run_dir(), namespace.inode()).unwrap_or_default();
    let each = sockets.into_iter().filter_map(|ControlSocket { id, path }| {
        let view = control::ask_within::<View>(&path, &Request::Status, PATIENCE).ok()?;
        Some((id.to_string(), view))
    });
    each.collect()
}

/// The things that they lack.
fn missing(instances: &[(String, View)]) -> Vec<String> {
    let each = instances
        .iter()
        .flat_map(|(id, view)| view.missing.iter().map(move |missing| format!("instance {id}: {missing}")));
    each.collect()
}

fn covered(plan: &Plan) -> Result<Vec<String>, Unknown> {
    let addresses = host::interface_addresses().map_err(why)?;
    let listeners = host::listening_sockets().map_err(why)?;
    let listeners: Vec<_> = listeners.iter().map(|socket| (socket.protocol, socket.address)).collect();
    let covered = host::covered_addresses(&plan.routes, &addresses).into_iter();
    let cut = covered.filter(|covered| !plan.cut(covered.address, &listeners).is_empty());
    Ok(cut.map(|covered| covered.to_string()).collect())
}

/// A plan of what live instances have claimed, on any port.
fn plan_of_claims(live: &[Instance]) -> Option<Plan> {
    let bindings: Vec<Binding> = live
        .iter()
        .flat_map(|instance| &instance.prefixes)
        .flat_map(|prefix| {
            [Protocol::Tcp, Protocol::Udp].map(|protocol| Binding {
                protocol,
                prefix: *prefix,
                ports: PortRange::ALL,
            })
        })
        .collect();
    if bindings.is_empty() {
        return None;
    }
    let name = "claimed".parse().ok()?;
    let (target, policy) = (Target::Respond(Responder::Discard), Policy::default());
    plan::of(&[Service { name, bindings, target, policy }]).ok()
}
