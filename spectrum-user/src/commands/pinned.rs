//! The verbs that change what is pinned, under the lock of the namespace's registry, and say what became of it.

mod bindings_file;
mod registering;

use std::io::{self, Write as _};

use anyhow::{Context as _, anyhow, bail};
use nix::unistd::Group;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use self::bindings_file::{FileBindings, read, registered};
pub(super) use self::registering::{register, unregister, weigh};
use super::answer::print;
use crate::admin::{AdminServer, metrics_of};
use crate::cli::{
    BindArgs, BindingArgs, InstanceArgs, LoadArgs, LoadBindingsArgs, MetricsArgs, UnbindArgs, UnloadArgs,
};
use crate::config::Config;
use crate::confinement::take_up_capabilities;
use crate::instance::{LOCK_PATIENCE, leftovers, refuse_covered_addresses, require_net_admin};
use crate::model::{Binding, Force, ServiceName};
use crate::pinned::{PinnedError, PinnedPlace, PinnedState, PinnedView};
use crate::plan::{Bound, Plan, Policies};
use crate::registry::{Keeper, Registry, StartupLock, live_instances, run_dir};
use crate::view::View;
use spectrum_steering::host::{self, NamespaceId};

/// Pins program and maps, with the services of a file or none.
pub(super) fn load(args: &LoadArgs) -> anyhow::Result<()> {
    let FileBindings { services, policies, notes } = match &args.config {
        None => FileBindings::default(),
        Some(path) => registered(&Config::load(path)?, path)?,
    };
    let group = args.group.as_deref().map(group_of).transpose()?;
    let force = Force::from(args.force.force.clone());
    let lines = under_lock("load", args.netns.as_deref(), async |lock| {
        let namespace = lock.namespace();
        let lock = match PinnedState::open(lock).await? {
            Err(lock) => lock,
            Ok(state) if args.config.is_none() => {
                return Ok(vec![format!(
                    "already loaded into network namespace {namespace}: {}",
                    told(&state)
                )]);
            }
            Ok(state) => bail!(
                "load: network namespace {namespace} has something pinned: {} (load-bindings replaces its bindings by those of a file, \
                 unload removes it)",
                told(&state)
            ),
        };
        for left in leftovers(&lock).await? {
            tracing::info!("removed {left}");
        }
        let mut plan = plan_of(&services)?;
        plan.policies = policies.unwrap_or_default();
        refuse_covered_addresses(&plan, &force)?;
        let state = PinnedState::load(lock, services, plan, group).await?;
        let mut lines = vec![format!("loaded into network namespace {namespace}: {}", told(&state))];
        let barred = group.and_then(|_| PinnedPlace::of(namespace).barred());
        lines.extend(barred.map(|barred| format!("warning: {barred}")));
        lines.extend(notes);
        Ok(lines)
    })?;
    print_lines(&lines)
}

/// Takes away what is pinned.
pub(super) fn unload(args: &UnloadArgs) -> anyhow::Result<()> {
    let lines = under_lock("unload", args.netns.as_deref(), async |lock| {
        let namespace = lock.namespace();
        let opened = match PinnedState::open(lock).await {
            Err(error @ PinnedError::Held { .. }) => return Err(anyhow!(error).context("unload")),
            Err(error) if PinnedPlace::of(namespace).is_taken() => {
                // Whatever is wrong with it: it is to go.
                let lock = Registry::open(&run_dir(), namespace)?.lock(LOCK_PATIENCE)?;
                PinnedState::discard(&lock)?;
                let mut lines = vec![format!(
                    "unloaded from network namespace {namespace}, unread: {:#}",
                    anyhow::Error::from(error)
                )];
                lines.extend(leftovers(&lock).await?.iter().map(|left| format!("removed {left}")));
                return Ok(lines);
            }
            opened => opened?,
        };
        match opened {
            Ok(state) => {
                let told = told(&state);
                state.unload().await?;
                Ok(vec![format!("unloaded from network namespace {namespace}: {told}")])
            }
            Err(lock) => {
                let mut lines = vec![format!("nothing is pinned in network namespace {namespace}")];
                lines.extend(leftovers(&lock).await?.iter().map(|left| format!("removed {left}")));
                Ok(lines)
            }
        }
    })?;
    print_lines(&lines)
}

/// Adds bindings.
pub(super) fn bind(args: &BindArgs) -> anyhow::Result<()> {
    let BindingArgs { service: name, .. } = &args.binding;
    let force = Force::from(args.force.force.clone());
    let lines = change("bind", args.netns.as_deref(), &force, async |services, _policies| {
        let mut lines = Vec::new();
        for binding in args.binding.each() {
            match owner(services, &binding).map(|owner| &owner.name) {
                Some(owner) if owner == name => lines.push(format!("{binding} is bound to {name} already")),
                Some(owner) => bail!(
                    "bind {binding} to {name}: it is bound to {owner} (try: spectrum-user unbind {owner} {binding})"
                ),
                None => {
                    if !services.iter().any(|service| service.name == *name) {
                        lines.push(format!(
                            "{name} is new: what is bound to it is refused until it has a socket (spectrum-user register {name} \
                             --pid PID)"
                        ));
                        services.push(Bound { name: name.clone(), ..Bound::default() });
                    }
                    let service = services.iter_mut().find(|service| service.name == *name);
                    let service = service.context("bind")?;
                    service.bindings.push(binding);
                    lines.push(format!("bound {binding} to {name}"));
                }
            }
        }
        Ok(lines)
    })?;
    print_lines(&lines)
}

/// Removes bindings.
pub(super) fn unbind(args: &UnbindArgs) -> anyhow::Result<()> {
    let BindingArgs { service: name, .. } = &args.binding;
    let lines = change("unbind", args.netns.as_deref(), &Force::default(), async |services, _policies| {
        let mut lines = Vec::new();
        for binding in args.binding.each() {
            let owner = owner(services, &binding).map(|owner| owner.name.clone());
            let service = services.iter_mut().find(|service| service.name == *name);
            match (service, owner) {
                (None, _) => bail!("unbind {binding}: there is no service {name}; {}", all_of(services)),
                (Some(_), Some(owner)) if owner != *name => {
                    bail!("unbind {binding}: it is bound to {owner}, not to {name}")
                }
                (Some(service), None) => bail!(
                    "unbind {binding}: {name} has no such binding, but {}",
                    listed(service.bindings.iter().map(ToString::to_string))
                ),
                (Some(service), Some(_)) => {
                    service.bindings.retain(|other| *other != binding);
                    lines.push(format!("unbound {binding} from {name}"));
                }
            }
        }
        services.retain(|service| !service.bindings.is_empty());
        Ok(lines)
    })?;
    print_lines(&lines)
}

/// Replaces all bindings by those of a file.
pub(super) fn load_bindings(args: &LoadBindingsArgs) -> anyhow::Result<()> {
    let FileBindings { services: wanted, policies: next, notes } = read(&args.file)?;
    let force = Force::from(args.force.force.clone());
    let lines = change("load-bindings", args.netns.as_deref(), &force, async |services, policies| {
        let before = std::mem::replace(services, wanted);
        *policies = next;
        let all = |services: &[Bound]| -> Vec<(Binding, ServiceName)> {
            let of = |service: &Bound| {
                let name = service.name.clone();
                service.bindings.iter().map(move |binding| (*binding, name.clone())).collect::<Vec<_>>()
            };
            services.iter().flat_map(of).collect()
        };
        let (were, are) = (all(&before), all(services));
        let lines =
            |word: &'static str, these: &[(Binding, ServiceName)], others: &[(Binding, ServiceName)]| {
                let others: std::collections::HashSet<_> = others.iter().collect();
                let these = these.iter().filter(|one| !others.contains(one));
                these.map(|(binding, name)| format!("{word} {binding} {name}")).collect::<Vec<_>>()
            };
        Ok([lines("added", &are, &were), lines("removed", &were, &are), notes].concat())
    })?;
    print_lines(&lines)
}

/// Prints the metrics of what is pinned, or serves them until told to stop.
pub(super) fn metrics(args: &MetricsArgs) -> anyhow::Result<()> {
    if let Some(netns) = &args.netns {
        take_up_capabilities()?;
        host::enter_namespace(netns)?;
    }
    let namespace = NamespaceId::current()?.inode();
    let view = move || {
        let pinned = PinnedView::read(namespace)?.ok_or_else(|| nothing_pinned("metrics", namespace))?;
        pinned.view()
    };
    let Some(address) = args.listen else {
        let text = metrics_of(view()?).context("write the metrics")?;
        return print_lines(&[text.trim_end().to_owned()]);
    };
    // Who may not read it is told so now, and not whoever scrapes.
    view()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let op = "wait for signals";
        let mut stop = signal(SignalKind::terminate()).context(op)?;
        let mut interrupt = signal(SignalKind::interrupt()).context(op)?;
        // What is not pinned any more is not ready.
        let server = AdminServer::start(address, move |_scope| {
            view().unwrap_or_else(|error| View { unseen: vec![format!("{error:#}")], ..View::default() })
        })?;
        print_lines(&[format!("metrics and health: http://{}/", server.address())])?;
        tokio::select! {
            _ = stop.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

/// The version that the pinned program had, and the one that it has.
#[derive(serde::Serialize)]
struct PinnedUpgrade {
    from: String,
    to: &'static str,
    program: u32,
}

/// Puts this version's program in the place of the one that is pinned, and says so on one line.
pub(super) fn upgrade(args: &InstanceArgs) -> anyhow::Result<()> {
    let upgraded = under_lock("upgrade", args.netns.as_deref(), async |lock| {
        let namespace = lock.namespace();
        let from = PinnedView::read(namespace)?.map(|pinned| pinned.version().to_owned());
        let charter = PinnedState::upgrade(&lock)?.ok_or_else(|| nothing_pinned("upgrade", namespace))?;
        let to = env!("CARGO_PKG_VERSION");
        Ok(PinnedUpgrade { from: from.unwrap_or_default(), to, program: charter.program })
    })?;
    print("write what was done", &upgraded, args.json, |out| {
        let PinnedUpgrade { from, to, program } = &upgraded;
        writeln!(out, "upgraded pinned from={from} to={to} program={program}")
    })
}

/// Has `edit` change what is bound and whom that lets in, if it is to be others than before, and binds that. `edit` says what it did, a line
/// each.
fn change(
    op: &'static str,
    netns: Option<&str>,
    force: &Force,
    edit: impl AsyncFnOnce(&mut Vec<Bound>, &mut Option<Policies>) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<Vec<String>> {
    under_lock(op, netns, async |lock| {
        let namespace = lock.namespace();
        let Ok(mut state) = PinnedState::open(lock).await? else { return Err(nothing_pinned(op, namespace)) };
        let (mut services, mut policies) = (state.services().to_vec(), None);
        let lines = edit(&mut services, &mut policies).await?;
        let is_otherwise = policies.as_ref().is_some_and(|policies| *policies != state.plan().policies);
        if services != state.services() || is_otherwise {
            refuse_covered_addresses(&added(state.services(), &services)?, force)?;
            state.rebind(services, policies).await?;
        }
        Ok(lines)
    })
}

/// Carries out `act` in the network namespace that is meant, under the lock of its registry.
fn under_lock<T>(
    op: &'static str,
    netns: Option<&str>,
    act: impl AsyncFnOnce(StartupLock) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    take_up_capabilities()?;
    require_net_admin(op)?;
    if let Some(netns) = netns {
        host::enter_namespace(netns)?;
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let registry = Registry::open(&run_dir(), NamespaceId::current()?.inode())?;
        act(registry.lock(LOCK_PATIENCE)?).await
    })
}

/// The error where there is nothing to be changed.
pub(super) fn nothing_pinned(op: &str, namespace: u64) -> anyhow::Error {
    let instances = live_instances(&run_dir(), namespace).unwrap_or_default();
    let running = instances.iter().find(|instance| instance.keeper == Keeper::Process);
    let instead = running.map_or_else(String::new, |instance| {
        format!(
            "; process {} steers by its configuration: change that, then spectrum-user reload",
            instance.pid
        )
    });
    anyhow!("{op}: nothing is pinned in network namespace {namespace} (try: spectrum-user load){instead}")
}

/// The plan of `services` alone.
fn plan_of(services: &[Bound]) -> anyhow::Result<Plan> {
    let tied =
        |errors: Vec<_>| anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    Plan::of(services).map_err(tied)
}

/// The plan of what `after` binds and `before` does not.
fn added(before: &[Bound], after: &[Bound]) -> anyhow::Result<Plan> {
    let before: std::collections::HashSet<&Binding> =
        before.iter().flat_map(|service| &service.bindings).collect();
    let only_new = |service: &Bound| Bound {
        bindings: service.bindings.iter().filter(|binding| !before.contains(binding)).copied().collect(),
        ..service.clone()
    };
    plan_of(&after.iter().map(only_new).collect::<Vec<_>>())
}

/// The service that has `binding`.
fn owner<'a>(services: &'a [Bound], binding: &Binding) -> Option<&'a Bound> {
    services.iter().find(|service| service.bindings.contains(binding))
}

/// The services that there are, for who has named something else.
fn all_of(services: &[Bound]) -> String {
    if services.is_empty() {
        return "nothing is bound".to_owned();
    }
    format!("there are {}", listed(services.iter().map(|service| service.name.to_string())))
}

/// So many things are named.
const NAMED: usize = 8;

fn listed(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let shown = all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The pinned state, on one line.
fn told(state: &PinnedState) -> String {
    let bindings = state.plan().bindings.len();
    format!("services {}, bindings {bindings}, program {}", state.services().len(), state.charter().program)
}

/// The number of the group that is called `name`, or has that number.
fn group_of(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let group = Group::from_name(name).with_context(|| format!("look for the group {name}"))?;
    let group =
        group.with_context(|| format!("load: there is no group {name} (try: groupadd --system {name})"))?;
    Ok(group.gid.as_raw())
}

fn print_lines(lines: &[String]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match lines.iter().try_for_each(|line| writeln!(stdout, "{line}")) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write what was done"),
    }
}
