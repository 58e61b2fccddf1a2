//! A status as people read it. Leaves out what only machines need, such as the cookies of the sixtieth worker.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use humantime::format_duration;

use super::selection::Summary;
use crate::commands::columns::Columns;
use crate::confinement::WorkerReport;
use crate::view::{
    CheckView, DatagramsView, DestinationPlan, DestinationView, DrainingView, LastUpgradeView, LeavingView,
    OriginView, PacketCounts, RecordView, RunTimeView, ServicePlan, ServiceView, SessionsView, SocketView,
    UpgradesView, View, XdpView, policy_lines,
};
use spectrum_steering::dispatcher::AttachedProgram;

/// So many cookies of a listener are shown.
const COOKIES: usize = 4;

/// So many services of which something is wrong are named.
const WRONG: usize = 20;

/// So many files of a configuration are shown.
const FILES: usize = 8;

/// Writes `status` in sections.
pub(super) fn write(status: &View, out: &mut dyn Write) -> io::Result<()> {
    instance(status, out)?;
    services(status, out)?;
    origins(&status.services, out)?;
    registered(&status.services, out)?;

    writeln!(out, "\ndestinations: {}", status.destinations.len())?;
    destinations(&status.destinations, out)?;
    surroundings(status, out)
}

/// Writes the `summary` of its services in their place.
pub(super) fn write_summary(status: &View, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    instance(status, out)?;
    let Summary { services, open, total, origins, wrong } = summary;
    writeln!(out, "\nservices: {services}, with {open} open connections and {total} so far")?;
    writeln!(out, "  status SERVICE shows one, status --all each of them")?;
    if !origins.is_empty() {
        let count: usize = origins.values().sum();
        let conditions: Vec<String> = origins.iter().map(|(word, count)| format!("{count} {word}")).collect();
        writeln!(out, "origins: {count}, of which {}", conditions.join(", "))?;
    }
    writeln!(out, "destinations: {}", status.destinations.len())?;
    if !wrong.is_empty() {
        writeln!(
            out,
            "something is wrong with {} of the services (status --only-wrong shows them):",
            wrong.len()
        )?;
        writeln!(out, "  {}", some_of(wrong, WRONG))?;
    }
    surroundings(status, out)
}

/// Writes what is of no single service.
fn instance(status: &View, out: &mut dyn Write) -> io::Result<()> {
    let View { id, pid, state, namespace, generation, .. } = status;
    let id = id.as_ref().map_or_else(String::new, |id| format!(" {id}"));
    let mode = status.mode.map_or_else(|| "undecided".to_owned(), |mode| mode.to_string());
    let process = if *pid == 0 { "no process".to_owned() } else { format!("process {pid}") };
    writeln!(
        out,
        "instance{id} ({process}): {state}, mode {mode}, network namespace {namespace}, generation {generation}"
    )?;
    let UpgradesView { done, refused, last } = &status.upgrades;
    let version = &status.version;
    match last {
        None => writeln!(out, "version: {version}")?,
        Some(LastUpgradeView { at, from, failure: None }) => {
            writeln!(
                out,
                "version: {version}, upgraded from {from} at {at} ({done} upgrades, {refused} refused)"
            )?;
        }
        Some(LastUpgradeView { at, failure: Some(failure), .. }) => {
            writeln!(
                out,
                "version: {version}, not upgraded at {at} ({done} upgrades, {refused} refused): {failure}"
            )?;
        }
    }
    if !status.files.is_empty() {
        writeln!(out, "configuration: {}", some_of(&status.files, FILES))?;
    }
    if let Some(own) = &status.program {
        writeln!(out, "program: {}", program(own))?;
    }
    if let Some(pins) = &status.pins {
        let left =
            if *pid == 0 { "" } else { ": registered sockets are steered to also without this process" };
        writeln!(out, "pinned: {pins}{left}")?;
    }
    if let Some(WorkerReport { user, capabilities, system_calls, files, .. }) = &status.worker_process {
        let capabilities = if capabilities.is_empty() { "none".to_owned() } else { capabilities.join(" ") };
        writeln!(out, "worker process: {user}, capabilities {capabilities}")?;
        writeln!(out, "  system calls: {system_calls}\n  files: {files}")?;
    }
    for LeavingView { pid, cut_in_ms } in &status.leaving_workers {
        let left = format_duration(Duration::from_secs(cut_in_ms.div_ceil(1000)));
        writeln!(out, "former worker process {pid}: serves nothing new, what is open is cut in {left}")?;
    }
    for missing in &status.missing {
        writeln!(out, "missing: {missing}")?;
    }
    for unseen in &status.unseen {
        writeln!(out, "unknown: {unseen}")?;
    }
    if !status.firewall.is_empty() {
        writeln!(out, "firewall: {}", status.firewall.join(", "))?;
    }
    if let Some(table) = status.table {
        writeln!(out, "steering table: {} nodes, {} bytes", table.nodes, table.bytes)?;
    }

    if let Some(dropped) = status.dropped_early {
        let shown = |one: &XdpView| match one.mode {
            Some(mode) => format!("{} ({mode})", one.interface),
            None => format!("{} (not there)", one.interface),
        };
        let interfaces: Vec<String> = status.xdp.iter().map(shown).collect();
        writeln!(out, "XDP: {}, {dropped} packets dropped before the stack", interfaces.join(", "))?;
    }
    if let Some(admin) = status.admin {
        writeln!(out, "metrics and health: http://{admin}/")?;
    }
    announcements(status, out)?;
    run_time(&status.run_time, out)?;
    if let Some(whom) = &status.judged_after_accept {
        writeln!(out, "judged after accept, by the worker process: {whom}")?;
    }
    // What is pinned relays nothing.
    if *pid == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "descriptors for connections: {}, {} of them each service's own",
        status.descriptors, status.descriptors_of_each
    )
}

fn services(status: &View, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nservices: {}", status.services.len())?;
    let mut services = Columns::of(["NAME", "BINDINGS", "OPEN", "TOTAL", "TARGET"]);
    for service in &status.services {
        let ServiceView { plan, open, total, draining, denied, .. } = service;
        let ServicePlan { name, target, limits, timeouts, udp, bindings, .. } = plan;
        let removed = draining.map(|DrainingView { cut_in_ms }| {
            let left = format_duration(Duration::from_secs(cut_in_ms.div_ceil(1000)));
            format!("removed and draining: what is open is cut in {left}")
        });
        // What stands between semicolons gets a line of its own: some services have much to say.
        let mut lines = removed.iter().map(String::as_str).chain(target.split("; "));
        services.row([
            name,
            &bindings.to_string(),
            &open.to_string(),
            &total.to_string(),
            lines.next().unwrap_or_default(),
        ]);
        let mut policy = policy_lines(&limits.into(), &timeouts.into(), &udp.into());
        if !denied.is_empty() {
            let counts: Vec<String> =
                denied.iter().map(|(limit, count)| format!("{limit} {count}")).collect();
            policy.push(format!("denied so far: {}", counts.join(", ")));
        }
        policy.extend(losses(&status.sessions, name));
        for line in lines.chain(policy.iter().map(String::as_str)) {
            services.row(["", "", "", "", line]);
        }
    }
    services.write(out, "  ")
}

fn surroundings(status: &View, out: &mut dyn Write) -> io::Result<()> {
    let programs: Vec<String> = status.surroundings.other_programs.iter().map(program).collect();
    section(out, "other sk_lookup programs of the namespace", &programs)?;
    let conflicts: Vec<String> = status
        .surroundings
        .conflicts
        .iter()
        .map(|conflict| {
            let who = match (&conflict.command, conflict.pid) {
                (Some(command), Some(pid)) => format!(" of {command} (process {pid})"),
                _ => String::new(),
            };
            let extent = if conflict.wholly { "hidden" } else { "hidden in part" };
            let cure = if Some(conflict.address) == status.admin {
                "; give --admin or [admin] listen another address or port"
            } else {
                ""
            };
            format!("{} {}{who}: {extent} {}{cure}", conflict.protocol, conflict.address, conflict.hidden)
        })
        .collect();
    section(out, "conflicts with other listeners", &conflicts)?;
    section(out, "obstacles", &status.surroundings.obstacles)?;
    if !status.surroundings.unknown.is_empty() {
        section(out, "could not be looked at", &status.surroundings.unknown)?;
    }
    Ok(())
}

/// What is announced to routers, where anything is to be.
fn announcements(status: &View, out: &mut dyn Write) -> io::Result<()> {
    let device = status.announcing_device.as_ref().map_or_else(String::new, |device| format!(" by {device}"));
    for announcement in &status.announcements {
        let device = if announcement.announced { &device } else { "" };
        writeln!(out, "announcement: {} {}{device}", announcement.prefix, announcement.line())?;
    }
    let is_announced =
        |prefix: &str| status.announcements.iter().any(|one| one.prefix == prefix && one.announced);
    for daemon in &status.bgp_daemons {
        for line in daemon.lines(is_announced) {
            writeln!(out, "  {line}")?;
        }
    }
    if status.bgp_daemons.is_empty() && !status.announcements.is_empty() {
        writeln!(out, "  no BGP daemon runs here that could be asked (BIRD's or FRR's socket under /run)")?;
    }
    status.announcing_damage.iter().try_for_each(|damage| writeln!(out, "announcement: {damage}"))
}

/// What was said at run time of whom services let in, where anything was.
fn run_time(RunTimeView { denied, excepted, unsaved }: &RunTimeView, out: &mut dyn Write) -> io::Result<()> {
    if denied + excepted > 0 {
        writeln!(
            out,
            "at run time: {denied} prefixes denied, {excepted} excepted (spectrum-user denied lists them)"
        )?;
    }
    unsaved.iter().try_for_each(|unsaved| writeln!(out, "at run time: {unsaved}"))
}

/// `lost so far: 12 datagrams of clients and 3 of origins by full queues, 4 that could not be sent on`, if there are any.
fn losses(sessions: &[SessionsView], service: &str) -> Option<String> {
    let datagrams = sessions.iter().filter(|one| one.service == service).find_map(|one| one.datagrams)?;
    let DatagramsView { overflow_from_client, overflow_from_origin, lost, .. } = datagrams;
    let full = match (overflow_from_client, overflow_from_origin) {
        (0, 0) => None,
        (clients, 0) => Some(format!("{clients} datagrams of clients by full queues")),
        (0, origins) => Some(format!("{origins} datagrams of origins by full queues")),
        (clients, origins) => {
            Some(format!("{clients} datagrams of clients and {origins} of origins by full queues"))
        }
    };
    let unsent = (lost > 0).then(|| format!("{lost} datagrams that could not be sent on"));
    let parts: Vec<String> = full.into_iter().chain(unsent).collect();
    (!parts.is_empty()).then(|| format!("lost so far: {}", parts.join(", ")))
}

/// The addresses of origins, where there are any.
fn origins(services: &[ServiceView], out: &mut dyn Write) -> io::Result<()> {
    let count: usize = services.iter().map(|service| service.origins.len()).sum();
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "\norigins: {count}")?;
    let mut columns = Columns::of([
        "SERVICE",
        "ORIGIN",
        "ADDRESS",
        "ROLE",
        "WEIGHT",
        "OPEN",
        "TOTAL",
        "FAILED",
        "TO",
        "FROM",
        "CONDITION",
        "LAST CHECK",
        "LAST ERROR",
    ]);
    for service in services {
        let mut above = HashSet::new();
        for row in &service.origins {
            let OriginView { plan, address, last_check, last_error, .. } = row;
            let is_new = address.as_ref().is_none_or(|address| above.insert(address));
            let address = address.as_deref().unwrap_or("none");
            columns.row([
                &service.plan.name,
                &origin(row),
                &if is_new { address.to_owned() } else { format!("{address} (as above)") },
                &plan.role,
                &plan.weight.to_string(),
                &row.open.to_string(),
                &row.connections.to_string(),
                &row.failures.to_string(),
                &row.bytes_to_origin.to_string(),
                &row.bytes_from_origin.to_string(),
                &row.condition_line(),
                &last_check.as_ref().map_or("-".to_owned(), last),
                &last_error.as_ref().map_or("-".to_owned(), |last| {
                    format!(
                        "{}, {} ago",
                        last.error,
                        format_duration(Duration::from_secs(last.ago_ms / 1000))
                    )
                }),
            ]);
        }
    }
    columns.write(out, "  ")
}

/// The sockets of other programs, where they answer services.
fn registered(services: &[ServiceView], out: &mut dyn Write) -> io::Result<()> {
    let count: usize = services.iter().map(|service| service.sockets.len()).sum();
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "\nregistered sockets: {count}")?;
    let mut columns = Columns::of([
        "SERVICE",
        "PROTOCOL",
        "FAMILY",
        "ADDRESS",
        "PROCESS",
        "COOKIE",
        "WEIGHT",
        "STEERED",
        "WAITING",
        "CONDITION",
    ]);
    for service in services {
        for row in &service.sockets {
            let of = |text: fn(&SocketView) -> String| row.socket.as_ref().map_or("-".to_owned(), text);
            let waiting = row.waiting.zip(row.most_waiting);
            let weight = row.weight.map(|weight| (weight, row.percent.unwrap_or_default()));
            columns.row([
                &service.plan.name,
                &row.protocol.to_string(),
                &row.family.to_string(),
                &of(|socket| socket.address.to_string()),
                &of(|socket| format!("{} ({})", socket.command, socket.pid)),
                &of(|socket| format!("sk:{}", socket.cookie)),
                &weight.map_or("-".to_owned(), |(weight, percent)| format!("{weight} ({percent} %)")),
                &row.steered.map_or("-".to_owned(), |steered| steered.to_string()),
                &waiting.map_or("-".to_owned(), |(waiting, most)| format!("{waiting} of {most}")),
                &row.condition_line(),
            ]);
        }
    }
    columns.write(out, "  ")
}

/// As configured; of SRV records also what they say, as `dig` prints it: `_http._tcp.example.com 10 3 8080 a.example.com`.
fn origin(row: &OriginView) -> String {
    match &row.record {
        None => row.plan.origin.clone(),
        Some(RecordView { priority, weight, port, target }) => {
            format!("{} {priority} {weight} {port} {target}", row.plan.origin)
        }
    }
}

/// `connected in 312us, 3s ago`, or the error.
fn last(check: &CheckView) -> String {
    let ago = format_duration(Duration::from_secs(check.ago_ms / 1000));
    match (check.connected_us, &check.error) {
        (Some(micros), _) => {
            format!("connected in {}, {ago} ago", format_duration(Duration::from_micros(micros)))
        }
        (None, Some(error)) => format!("{error}, {ago} ago"),
        (None, None) => "-".to_owned(),
    }
}

/// The first few of a listener's cookies.
pub(super) fn cookies(cookies: &[String]) -> String {
    let shown: Vec<String> = cookies.iter().take(COOKIES).map(|cookie| format!("sk:{cookie}")).collect();
    match cookies.len().saturating_sub(COOKIES) {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

/// The first `few` of `all`.
fn some_of(all: &[String], few: usize) -> String {
    let shown = all.iter().take(few).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(few) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn destinations(destinations: &[DestinationView], out: &mut dyn Write) -> io::Result<()> {
    let mut columns = Columns::of([
        "ID", "SERVICE", "PROTOCOL", "FAMILY", "STEERED", "MISSED", "REFUSED", "DENIED", "LISTENER",
        "COOKIES",
    ]);
    let count = |counts: &Option<PacketCounts>, of: fn(&PacketCounts) -> String| {
        counts.as_ref().map_or("-".to_owned(), of)
    };
    for DestinationView { plan, listener, packets, denied } in destinations {
        let DestinationPlan { id, service, protocol, family } = plan;
        columns.row([
            &id.to_string(),
            service,
            &protocol.to_string(),
            &family.to_string(),
            &count(packets, |counts| counts.steered.to_string()),
            &count(packets, |counts| counts.missed.to_string()),
            &count(packets, refusals),
            &if denied.is_empty() { "-".to_owned() } else { denials(denied) },
            &listener.as_ref().map_or("none".to_owned(), |listener| listener.address.to_string()),
            &listener.as_ref().map_or(String::new(), |listener| cookies(&listener.cookies)),
        ]);
    }
    columns.write(out, "  ")
}

/// `0`, or how many of which: `3 EEXIST`.
fn refusals(counts: &PacketCounts) -> String {
    if counts.refused.is_empty() {
        return "0".to_owned();
    }
    let refused: Vec<String> =
        counts.refused.iter().map(|(errno, count)| format!("{count} {errno}")).collect();
    refused.join(", ")
}

/// `0`, or how many by which reason: `3 denied, 1 rate`.
fn denials(denied: &BTreeMap<String, u64>) -> String {
    let some = denied.iter().filter(|(_, count)| **count > 0);
    let some: Vec<String> = some.map(|(reason, count)| format!("{count} {reason}")).collect();
    if some.is_empty() { "0".to_owned() } else { some.join(", ") }
}

fn program(program: &AttachedProgram) -> String {
    match &program.name {
        Some(name) => format!("{} ({name})", program.id),
        None => program.id.to_string(),
    }
}

fn section(out: &mut dyn Write, title: &str, lines: &[impl fmt::Display]) -> io::Result<()> {
    if lines.is_empty() {
        return writeln!(out, "\n{title}: none");
    }
    writeln!(out, "\n{title}: {}", lines.len())?;
    lines.iter().try_for_each(|line| writeln!(out, "  {line}"))
}
