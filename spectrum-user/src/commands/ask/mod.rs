//! The verbs that ask a running instance. They find it, ask it one thing and print its answer; the answers are made by
//! the instance itself.

mod activation;
mod candidates;
mod completion;
mod denials;
mod explanation;
mod register;
mod selection;
mod set_origin;
mod status;
mod top_sources;
mod upgrade;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;

use anyhow::{anyhow, bail};
use serde::de::DeserializeOwned;

use self::candidates::listed;
pub(super) use self::completion::complete;
pub(super) use self::denials::{allow, denied, denied_by_running, deny};
pub(super) use self::register::{register, unregister, weight};
use self::selection::{LISTED, ShownServices, Summary};
pub(super) use self::top_sources::top_sources;
pub(super) use self::upgrade::upgrade;
use super::answer::print;
use super::columns::Columns;
use super::pinned::nothing_pinned;
use crate::bgp;
use crate::cli::{
    AnnounceArgs, BindingsArgs, ExplainArgs, InstanceArgs, OriginArgs, ReloadArgs, StatusArgs, WithdrawArgs,
    misused,
};
use crate::control::{
    self, AnnounceAnswer, AnnounceQuery, BindingsQuery, ExplainQuery, Explanation, ReloadQuery, Request,
    RunningConfiguration, SetOriginAnswer,
};
use crate::instance::Reloaded;
use crate::pinned::PinnedView;
use crate::registry::{ControlSocket, InstanceName, Keeper, control_sockets, live_instances, run_dir};
use crate::view::{BindingView, View};
use spectrum_steering::dispatcher;
use spectrum_steering::host::NamespaceId;

/// What is done with an answer, in errors.
const OP: &str = "write the answer";

/// Prints the bindings that overlap what was typed.
pub(super) fn bindings(args: &BindingsArgs) -> anyhow::Result<()> {
    let bindings = overlapping(&args.instance, args.query()?)?;
    print(OP, &bindings, args.instance.json, |out| {
        if bindings.is_empty() {
            return writeln!(out, "nothing is bound there");
        }
        let mut columns = Columns::of(["PROTOCOL", "PREFIX", "PORTS", "SERVICE"]);
        for binding in &bindings {
            let BindingView { protocol, prefix, ports, service, destination: _ } = binding;
            columns.row(
                [protocol.to_string(), prefix.to_string(), ports.to_string(), service.to_string()]
                    .each_ref()
                    .map(String::as_str),
            );
        }
        columns.write(out, "")
    })
}

/// Has what was withdrawn announced, and prints what came of it.
pub(super) fn announce(args: &AnnounceArgs) -> anyhow::Result<()> {
    let query = AnnounceQuery { prefix: args.prefix.map(|prefix| prefix.to_string()), why: None };
    print_announcements(&ask(&args.instance, &Request::Announce(query))?, &args.instance)
}

/// Has something withdrawn, and prints what came of it.
pub(super) fn withdraw(args: &WithdrawArgs) -> anyhow::Result<()> {
    let WithdrawArgs { prefix, why, instance } = args;
    let query = AnnounceQuery { prefix: prefix.map(|prefix| prefix.to_string()), why: why.clone() };
    print_announcements(&ask(instance, &Request::Withdraw(query))?, instance)
}

fn print_announcements(answer: &AnnounceAnswer, args: &InstanceArgs) -> anyhow::Result<()> {
    print(OP, answer, args.json, |out| {
        for announcement in &answer.announcements {
            writeln!(out, "{} {}", announcement.prefix, announcement.line())?;
        }
        answer.unsaved.iter().try_for_each(|unsaved| writeln!(out, "{unsaved}"))
    })
}

/// Prints where a packet goes, and why.
pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let query = ExplainQuery { protocol: args.protocol, dialled: args.dialled, from: args.from };
    let explanation: Explanation = ask(&args.instance, &Request::Explain(query))?;
    print(OP, &explanation, args.instance.json, |out| explanation::write(&explanation, out))
}

/// Prints what an origin came to, a line for each of its addresses.
pub(super) fn origin(args: &OriginArgs) -> anyhow::Result<()> {
    let answer: SetOriginAnswer = ask(&args.instance, &Request::Origin(args.query()?))?;
    print(OP, &answer, args.instance.json, |out| set_origin::write(&answer, out))
}

/// Prints what a reload came to, on one line.
pub(super) fn reload(args: &ReloadArgs) -> anyhow::Result<()> {
    let ReloadArgs { force, instance: args } = args;
    let query = ReloadQuery { force: force.iter().map(ToString::to_string).collect() };
    let reloaded: Reloaded = ask(args, &Request::Reload(query))?;
    print(OP, &reloaded, args.json, |out| {
        let Reloaded { revision, services, bindings, added, removed, switched } = reloaded;
        writeln!(
            out,
            "reloaded revision={revision} services={services} bindings={bindings} added={added} removed={removed} switched={switched}"
        )
    })
}

/// Prints what the instance is and how it fares.
pub(super) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let StatusArgs { services, protocol, prefix, only_wrong, all, instance } = args;
    let binding = match prefix {
        None => None,
        Some(prefix) => {
            let prefix = Some(prefix.to_string());
            let query = BindingsQuery { protocol: *protocol, prefix, ports: None };
            let bindings = overlapping(instance, query)?;
            Some(bindings.iter().map(|binding| binding.service.to_string()).collect())
        }
    };
    let selection =
        ShownServices { names: services.clone(), protocol: *protocol, binding, only_wrong: *only_wrong };
    let mut view = match pinned(instance)? {
        Some(pinned) => pinned.view()?,
        None => ask(instance, &Request::Status)?,
    };
    name_programs(&mut view);
    ask_bgp_daemons(&mut view);
    let is_short = selection.is_all() && !all && view.services.len() > LISTED;
    let summary = is_short.then(|| Summary::of(&view));
    selection.apply(&mut view)?;
    print(OP, &view, instance.json, |out| match &summary {
        Some(summary) => status::write_summary(&view, summary, out),
        None => status::write(&view, out),
    })
}

/// The configuration of the instance that is meant.
pub(super) fn running_configuration(args: &InstanceArgs) -> anyhow::Result<RunningConfiguration> {
    ask(args, &Request::Configuration)
}

/// Names the programs that the instance may not ask the names of.
fn name_programs(view: &mut View) {
    let programs = view.program.iter_mut().chain(&mut view.surroundings.other_programs);
    let mut nameless = programs.filter(|program| program.name.is_none()).peekable();
    if nameless.peek().is_some() {
        let mut names = dispatcher::program_names();
        nameless.for_each(|program| program.name = names.remove(&program.id));
    }
}

/// Has the daemons of this host say what they do with what is announced.
fn ask_bgp_daemons(view: &mut View) {
    let prefixes =
        view.announcements.iter().filter_map(|one| one.prefix.parse().ok()).collect::<BTreeSet<_>>();
    if !prefixes.is_empty() {
        view.bgp_daemons = bgp::ask_daemons(&prefixes);
    }
}

fn ask<T: DeserializeOwned>(args: &InstanceArgs, request: &Request) -> anyhow::Result<T> {
    Ok(control::ask(&find(args)?.path, request)?)
}

/// The bindings that overlap what is asked for, of the instance that is meant, or of what is pinned.
fn overlapping(args: &InstanceArgs, query: BindingsQuery) -> anyhow::Result<Vec<BindingView>> {
    match pinned(args)? {
        Some(pinned) => {
            let overlap = query.overlap().map_err(|why| misused("bindings", why))?;
            Ok(pinned.bindings(&overlap))
        }
        None => ask(args, &Request::Bindings(query)),
    }
}

/// What is pinned, if that is meant: it is named, or nothing else is there. What an instance that runs has pinned is its own affair: that is
/// to be asked.
fn pinned(args: &InstanceArgs) -> anyhow::Result<Option<PinnedView>> {
    let namespace = namespace_of(args)?;
    if !matches!(args.instance, None | Some(InstanceName::Pinned)) {
        return Ok(None);
    }
    // Who may not see instances may yet see what is pinned.
    let mut live = live_sockets(namespace);
    match (PinnedView::read(namespace.inode()), args.instance) {
        (Ok(Some(pinned)), _) if holder(&pinned, &live).is_some() => Ok(None),
        (pinned, Some(_)) => {
            let nothing = || nothing_pinned("find instance pinned", namespace.inode());
            pinned?.map(Some).ok_or_else(nothing)
        }
        (Ok(None), None) => Ok(None),
        (Ok(pinned), None) if live.is_empty() => Ok(pinned),
        (Err(error), None) if live.is_empty() => Err(error.into()),
        _ => {
            live.sort();
            bail!(
                "find the instance: there are several, say which by --instance: {}, {}",
                InstanceName::Pinned,
                candidates(&live)
            )
        }
    }
}

fn live_sockets(namespace: NamespaceId) -> Vec<ControlSocket> {
    let sockets = control_sockets(&run_dir(), namespace.inode()).unwrap_or_default();
    sockets.into_iter().filter(is_live).collect()
}

/// The instance among those that are `live` whose `pinned` is.
fn holder<'a>(pinned: &PinnedView, live: &'a [ControlSocket]) -> Option<&'a ControlSocket> {
    let own = pinned.instance()?;
    live.iter().find(|socket| socket.id.to_string() == own)
}

fn namespace_of(args: &InstanceArgs) -> anyhow::Result<NamespaceId> {
    Ok(match &args.netns {
        Some(name) => NamespaceId::named(name)?,
        None => NamespaceId::current()?,
    })
}

/// The instance that is meant.
fn find(args: &InstanceArgs) -> anyhow::Result<ControlSocket> {
    let namespace = namespace_of(args)?;
    let sockets = control_sockets(&run_dir(), namespace.inode())?;
    if args.instance == Some(InstanceName::Pinned)
        && let Ok(Some(pinned)) = PinnedView::read(namespace.inode())
        && let Some(holder) = holder(&pinned, &live_sockets(namespace))
    {
        return Ok(holder.clone());
    }
    let is_meant = |socket: &ControlSocket| args.instance.is_none_or(|name| socket.is_called(name));
    let (mut meant, mut others): (Vec<_>, Vec<_>) = sockets.into_iter().partition(is_meant);
    if meant.len() != 1 {
        // A killed instance leaves its socket behind.
        meant.retain(is_live);
        others.retain(is_live);
    }
    match (args.instance, meant.as_slice(), others.as_slice()) {
        (Some(InstanceName::Pinned), ..) => {
            bail!(
                "ask what is pinned: it has no process that could answer (status, bindings and metrics can be asked for)"
            )
        }
        (_, [_], _) => Ok(meant.swap_remove(0)),
        (_, [_, ..], _) => {
            bail!("find the instance: there are several, say which by --instance: {}", candidates(&meant))
        }
        (Some(name), [], [_, ..]) => bail!(
            "find instance {name}: it does not run in network namespace {namespace}, but these do: {}",
            candidates(&others)
        ),
        (wanted, [], _) => Err(nobody(wanted, namespace)),
    }
}

fn is_live(socket: &ControlSocket) -> bool {
    let refused = UnixStream::connect(&socket.path).err().map(|error| error.kind());
    refused != Some(io::ErrorKind::ConnectionRefused)
}

fn candidates(sockets: &[ControlSocket]) -> String {
    listed(&sockets.iter().map(|socket| (socket.id, socket.claimed())).collect::<Vec<_>>())
}

/// Why there is no instance that could be asked.
fn nobody(wanted: Option<InstanceName>, namespace: NamespaceId) -> anyhow::Error {
    let what = wanted.map_or_else(|| "the instance".to_owned(), |id| format!("instance {id}"));
    if let Some(pids) = silent(namespace.inode()) {
        return anyhow!(
            "find {what}: process {pids} in network namespace {namespace} answers no such question, since it is just \
             starting or ending (its log, and /readyz where --admin serves it, say which)"
        );
    }
    let cure = match wanted {
        Some(_) => "name its namespace by --netns",
        None => "start one, or name its namespace by --netns",
    };
    anyhow!("find {what}: none runs in network namespace {namespace} ({cure})")
}

/// The processes whose claims hold but who do not listen for requests, if who asks may read that.
fn silent(namespace: u64) -> Option<String> {
    let mut live = live_instances(&run_dir(), namespace).ok()?;
    live.retain(|instance| instance.keeper == Keeper::Process);
    (!live.is_empty()).then_some(())?;
    Some(live.iter().map(|instance| instance.pid.to_string()).collect::<Vec<_>>().join(", "))
}
