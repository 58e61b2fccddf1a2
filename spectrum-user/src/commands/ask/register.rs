//! The verbs about sockets of other programs: takes copies of them out of a process, or makes them for one that is about to be started, and hands
//! these to the instance. What becomes of them is the instance's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use super::activation::{self, FIRST, PassedSockets, Successor, passer};
use super::{OP, ask, find, overlapping, pinned};
use crate::cli::{InstanceArgs, RegisterArgs, UnregisterArgs, WeightArgs, misused};
use crate::commands::answer::print;
use crate::control::{
    BindingsQuery, MOST_FILES, OfferedSocket, RegisterAnswer, RegisterQuery, Request, UnregisterQuery,
    WeightQuery, ask_with,
};
use crate::view::DestinationPlan;
use spectrum_steering::host::{
    ForeignSocket, NamespaceId, ProcessSockets, UnfitSocket, descendants_of, processes_of_unit,
    sockets_of_process,
};

/// The ways to say whose sockets are meant.
const WHOSE: &str = "say whose sockets: by --pid, --pidfile or --unit; by -- and the command that is to have them; or have systemd pass them to this \
                     very process, which a unit with Sockets= does (LISTEN_FDS is not set)";

/// So many descriptors that do not fit are named.
const NAMED: usize = 8;

/// Prints which sockets were registered, a line each.
pub(in crate::commands) fn register(args: &RegisterArgs) -> anyhow::Result<()> {
    let op = || format!("register {}", args.service);
    // Before anything is taken out of anybody.
    let is_pinned = pinned(&args.instance)?.is_some();
    let socket = if is_pinned { None } else { Some(find(&args.instance)?) };
    let namespace = namespace(&args.instance)?;
    let successor = Successor::of(&args.command).with_context(op)?;
    let Taken { taken, made } = taken(args, namespace, successor.as_ref()).with_context(op)?;
    let offered = offered(args, &taken).with_context(op)?;
    // What it prints is the successor's affair.
    let told = |answer: &dyn Fn(&mut dyn Write) -> io::Result<()>| answer(&mut io::stderr()).context(OP);
    let Some(socket) = socket else {
        let netns = args.instance.netns.as_deref();
        let answer = crate::commands::pinned::register(netns, &args.service, &offered, args.weight)?;
        let Some(successor) = successor else {
            return print(OP, &answer, args.instance.json, |out| write(&answer, "gets", out));
        };
        told(&|out| write(&answer, "gets", out))?;
        return Err(successor.take_over(&args.service, &made).context(op()));
    };
    let files: Vec<BorrowedFd<'_>> = offered.iter().map(|(_, socket)| socket.as_fd()).collect();
    let sockets = offered.iter().map(|(offered, _)| offered.clone()).collect();
    let request =
        Request::Register(RegisterQuery { service: args.service.clone(), sockets, weight: args.weight });
    let answer: RegisterAnswer = ask_with(&socket.path, &request, &files)?;
    let Some(successor) = successor else {
        return print(OP, &answer, args.instance.json, |out| write(&answer, "gets", out));
    };
    told(&|out| write(&answer, "gets", out))?;
    Err(successor.take_over(&args.service, &made).context(op()))
}

/// The sockets among which those that are offered are.
struct Taken {
    taken: Vec<ProcessSockets>,
    /// Those that were made, for the process that is to have them.
    made: Vec<OwnedFd>,
}

/// Takes sockets out of the process that is named, or else those that were passed to this one, or makes them for its successor.
fn taken(
    args: &RegisterArgs,
    namespace: NamespaceId,
    successor: Option<&Successor>,
) -> anyhow::Result<Taken> {
    let of = |taken| Taken { taken, made: Vec::new() };
    let all = |processes: Vec<u32>| -> anyhow::Result<Vec<ProcessSockets>> {
        Ok(processes.into_iter().map(|pid| sockets_of_process(pid, namespace)).collect::<Result<_, _>>()?)
    };
    match (args.pid, &args.pidfile, &args.unit) {
        (Some(pid), _, _) => return Ok(of(all(vec![pid])?)),
        (None, Some(path), _) => {
            let pid = written_in(path)?;
            let own = all(vec![pid])?;
            // Some leave their sockets to those that they have started.
            let is_there = own.iter().any(|process| process.fit.iter().any(|(_, one)| is_meant(args, one)));
            return Ok(of(if is_there {
                own
            } else {
                own.into_iter().chain(started_by(pid, namespace)).collect()
            }));
        }
        (None, None, Some(unit)) => return Ok(of(all(processes_of_unit(unit)?)?)),
        (None, None, None) => {}
    }
    if let Some(passed) = PassedSockets::of_environment()? {
        let mut sockets = passed.sockets(&args.service, namespace)?;
        // Whoever keeps them: what this process becomes, or else whoever has passed them.
        (sockets.pid, sockets.command) =
            successor.map_or_else(passer, |successor| (std::process::id(), successor.name()));
        return Ok(of(vec![sockets]));
    }
    let Some(successor) = successor else {
        let why = PassedSockets::of_another_process().unwrap_or_else(|| WHOSE.to_owned());
        return Err(misused("register", why).into());
    };
    let bindings = overlapping(&args.instance, BindingsQuery::default())?;
    let made = activation::made(&args.service, &bindings, args.protocol, args.address)?;
    let (mut fit, mut files) = (Vec::new(), Vec::new());
    for (number, socket) in (FIRST..).zip(made) {
        let copy = socket.try_clone().context("copy a socket")?;
        let told = |why| anyhow!("make a socket: it is {why}");
        fit.push((number, ForeignSocket::of(copy.into(), namespace).map_err(told)?));
        files.push(socket.into());
    }
    let (pid, command) = (std::process::id(), successor.name());
    Ok(Taken { taken: vec![ProcessSockets { pid, command, fit, unfit: Vec::new() }], made: files })
}

/// The sockets of those that process `pid` has started, as far as they are still there.
fn started_by(pid: u32, namespace: NamespaceId) -> Vec<ProcessSockets> {
    let started = descendants_of(pid).into_iter();
    started.filter_map(|pid| sockets_of_process(pid, namespace).ok()).collect()
}

fn is_meant(args: &RegisterArgs, socket: &ForeignSocket) -> bool {
    // What was made is where it was to be, whatever its port.
    args.protocol.is_none_or(|protocol| socket.protocol() == protocol)
        && args.address.is_none_or(|address| socket.address() == address)
}

/// Prints which sockets were let go of, a line each.
pub(in crate::commands) fn unregister(args: &UnregisterArgs) -> anyhow::Result<()> {
    let UnregisterArgs { service, address, protocol, instance } = args;
    let query = UnregisterQuery { service: service.clone(), protocol: *protocol, address: *address };
    if pinned(instance)?.is_some() {
        let answer = crate::commands::pinned::unregister(instance.netns.as_deref(), &query)?;
        return print(OP, &answer, instance.json, |out| write(&answer, "gets no more", out));
    }
    let answer: RegisterAnswer = ask(instance, &Request::Unregister(query))?;
    print(OP, &answer, instance.json, |out| write(&answer, "gets no more", out))
}

/// Prints which sockets have another weight now, a line each.
pub(in crate::commands) fn weight(args: &WeightArgs) -> anyhow::Result<()> {
    let WeightArgs { service, weight, address, protocol, instance } = args;
    let sockets = UnregisterQuery { service: service.clone(), protocol: *protocol, address: *address };
    let query = WeightQuery { sockets, weight: *weight };
    let answer: RegisterAnswer = if pinned(instance)?.is_some() {
        crate::commands::pinned::weigh(instance.netns.as_deref(), &query)?
    } else {
        ask(instance, &Request::Weight(query))?
    };
    let verb = format!("has weight {} in", weight.get());
    print(OP, &answer, instance.json, |out| write(&answer, &verb, out))
}

fn write(answer: &RegisterAnswer, verb: &str, out: &mut dyn Write) -> io::Result<()> {
    for (DestinationPlan { service, protocol, family, .. }, socket) in &answer.sockets {
        writeln!(out, "{socket} {verb} what is for {service} {protocol} {family}")?;
    }
    answer.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
}

/// The namespace in which the instance works.
fn namespace(args: &InstanceArgs) -> anyhow::Result<NamespaceId> {
    Ok(match &args.netns {
        Some(name) => NamespaceId::named(name)?,
        None => NamespaceId::current()?,
    })
}

fn written_in(path: &Path) -> anyhow::Result<u32> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let first = text.split_whitespace().next().unwrap_or_default();
    let is_one = |pid: &u32| *pid > 0;
    first.parse().ok().filter(is_one).ok_or_else(|| {
        let shown: String = first.chars().take(20).collect();
        anyhow!("read {}: expected the id of a process, found {shown:?}", path.display())
    })
}

/// The sockets to be offered: of those that `taken` processes have, the ones that were asked for, each once.
fn offered<'a>(
    args: &RegisterArgs,
    taken: &'a [ProcessSockets],
) -> anyhow::Result<Vec<(OfferedSocket, &'a ForeignSocket)>> {
    let mut known = BTreeSet::new();
    let mut offered = Vec::new();
    for ProcessSockets { pid, command, fit, .. } in taken {
        for (descriptor, socket) in fit {
            if is_meant(args, socket) && known.insert(socket.cookie()) {
                let named = OfferedSocket { pid: *pid, command: command.clone(), descriptor: *descriptor };
                offered.push((named, socket));
            }
        }
    }
    match offered.len() {
        0 => Err(nothing(args, taken)),
        count if count > MOST_FILES => {
            bail!("{count} sockets fit, more than {MOST_FILES}; say which by ADDR:PORT")
        }
        _ => Ok(offered),
    }
}

/// The reason why nothing that was `taken` can be offered.
fn nothing(args: &RegisterArgs, taken: &[ProcessSockets]) -> anyhow::Error {
    let whose: Vec<String> = taken
        .iter()
        .map(|ProcessSockets { pid, command, .. }| format!("process {pid} ({command})"))
        .collect();
    let whose = match whose.as_slice() {
        [one] => format!("{one} has"),
        several => format!("{} have", several.join(", ")),
    };
    let there: Vec<String> =
        taken.iter().flat_map(|process| &process.fit).map(|(_, socket)| socket.to_string()).collect();
    if !there.is_empty() {
        let protocol = args.protocol.map_or_else(String::new, |protocol| format!(" {protocol}"));
        let address = args.address.map_or_else(String::new, |address| format!(" {address}"));
        return anyhow!("{whose} no{protocol} socket{address}, but {}", there.join(", "));
    }
    // Of a server that is at work most are connections.
    let mut reasons: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (descriptor, why) in taken.iter().flat_map(|process| &process.unfit) {
        let reason = match why {
            UnfitSocket::NotASocket => continue,
            UnfitSocket::Connected { protocol, .. } => format!("a connected {protocol} socket"),
            why => why.to_string(),
        };
        reasons.entry(reason).or_default().push(*descriptor);
    }
    let named: Vec<String> = reasons
        .into_iter()
        .map(|(reason, descriptors)| {
            let shown: Vec<String> = descriptors.iter().take(NAMED).map(ToString::to_string).collect();
            let more = if descriptors.len() > NAMED { ", …" } else { "" };
            format!("descriptor {}{more} is {reason}", shown.join(", "))
        })
        .collect();
    let named = if named.is_empty() { "no socket at all".to_owned() } else { named.join("; ") };
    anyhow!("{whose} no listening TCP and no unconnected UDP socket: {named}")
}
