//! `check`: judges a configuration file and prints what the kernel would be told. Touches nothing, needs no privileges, and asks
//! no name server unless it is told to.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use humantime::format_duration;
use serde::Serialize;
use tokio::runtime;

use super::answer::print;
use super::ask::running_configuration;
use super::difference::Difference;
use super::exit;
use super::held_denials::HeldDenials;
use crate::cli::CheckArgs;
use crate::config::{Config, Planned};
use crate::instance::{Numbered, code, look_up, origins_of, own_bindings};
use crate::model::{LogFormat, RecordKeys};
use crate::plan::Plan;
use crate::plan::table::Table;
use crate::view::{
    AnnouncedPlan, AnnouncingPlan, BindingView, CheckedService, DestinationPlan, PlanView, ServicePlan,
    policy_lines,
};
use spectrum_proxy::{OriginWatch, ResolveError};

/// The time that looking up all names together may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A plan, and what a running instance holds beside it.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    plan: PlanView,
    #[serde(skip_serializing_if = "HeldDenials::is_empty")]
    at_run_time: HeldDenials,
}

/// Prints the plan of a good configuration; a bad one is the error.
pub(super) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let Planned { config, plan } = Config::load(&args.config)?;
    let table = Table::of(&plan)?;
    if args.resolve {
        refuse_unresolved(&config, &plan)?;
    }
    let view = Checked {
        plan: PlanView::of(&config, &plan, &table),
        at_run_time: HeldDenials::beside(&config, &args.instance),
    };
    print("write the plan", &view, args.instance.json, |mut out| {
        write(&view.plan, &config, &mut out)?;
        view.at_run_time.write(out)
    })
}

/// Prints what a reload would change of a running instance, and says by the exit code whether anything.
pub(super) fn difference(args: &CheckArgs) -> ExitCode {
    let found = || {
        let planned = Config::load(&args.config)?;
        let at_run_time = HeldDenials::beside(&planned.config, &args.instance);
        let difference = Difference::of(running_configuration(&args.instance)?, planned);
        let difference = Difference { at_run_time, ..difference };
        print("write the difference", &difference, args.instance.json, |out| difference.write(out))?;
        anyhow::Ok(difference.is_none())
    };
    let error = match found() {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::from(DIFFERENT),
        Err(error) => error,
    };
    let _ = if args.instance.json { exit::refusal(&error) } else { exit::failure(&error, LogFormat::Text) };
    ExitCode::from(code(&error).max(TROUBLE))
}

/// The exit codes of diff(1).
const DIFFERENT: u8 = 1;
const TROUBLE: u8 = 2;

/// Refuses origins whose names have no address, a line each. That may be a mistake in the file or the fault of the
/// network, so it is no error of the configuration.
fn refuse_unresolved(config: &Config, plan: &Plan) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().build().context("start the runtime")?;
    let watch = OriginWatch::start(config.resolver.clone())?;
    let own = own_bindings(vec![Arc::new(plan.clone())])?;
    let unresolved = runtime.block_on(async {
        watch.avoid(own).await?;
        look_up(&watch, config, PATIENCE).unresolved().await
    })?;
    if unresolved.is_empty() {
        return Ok(());
    }
    let origins: Vec<_> = origins_of(config).collect();
    let lines = unresolved.iter().filter_map(|ResolveError { index, reason, cure, .. }| {
        let Numbered { service, name, index, origin, .. } = origins.get(*index)?;
        let called = config.origin_places.called(*service, name, *index, origin);
        Some(format!("{called}: {reason}; {cure}"))
    });
    Err(anyhow!(lines.collect::<Vec<_>>().join("\n")))
}

/// Writes `view`, which is of `config`, in sections.
fn write(view: &PlanView, config: &Config, out: &mut impl Write) -> io::Result<()> {
    if view.files.len() > 1 {
        writeln!(out, "files: {}", view.files.join(", "))?;
    }
    writeln!(out, "mode: {}", view.mode)?;
    writeln!(out, "firewall: {}", view.firewall)?;
    if let Some(admin) = view.admin {
        let hidden = view.admin_hidden.as_ref().map_or_else(String::new, |hiding| {
            format!(" (hidden {hiding}: refused at the start without --force)")
        });
        writeln!(out, "metrics and health: http://{admin}/{hidden}")?;
    }
    let unusual = config.log.general.unusual().to_string();
    let format = (view.log.format != LogFormat::default().to_string()).then_some(&view.log.format);
    let log: Vec<&String> =
        format.into_iter().chain(Some(&unusual).filter(|keys| !keys.is_empty())).collect();
    if !log.is_empty() {
        writeln!(out, "log: {}", log.into_iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
    }
    if !view.resolver.servers.is_empty() {
        let servers: Vec<String> = view.resolver.servers.iter().map(ToString::to_string).collect();
        writeln!(out, "name servers: {}", servers.join(", "))?;
    }

    writeln!(out, "\nservices: {}", view.services.len())?;
    let name = width(view.services.iter().map(|service| &service.plan.name));
    for (CheckedService { plan, notes, .. }, service) in view.services.iter().zip(&config.services) {
        let ServicePlan { name: called, bindings, target, limits, timeouts, udp, .. } = plan;
        writeln!(out, "  {called:name$}  bindings {bindings}, {target}")?;
        for line in policy_lines(&limits.into(), &timeouts.into(), &udp.into()) {
            writeln!(out, "  {:name$}  {line}", "")?;
        }
        for note in notes {
            writeln!(out, "  {:name$}  note: {note}", "")?;
        }
        if let Some(own) = config.log.services.get(&service.name).filter(|own| **own != RecordKeys::default())
        {
            writeln!(out, "  {:name$}  log: {own}", "")?;
        }
    }

    if !view.policies.is_empty() {
        writeln!(out, "\npolicies: {}", view.policies.len())?;
        for policy in &view.policies {
            writeln!(out, "  {:name$}  {}", policy.service.as_deref().unwrap_or("all"), policy.line())?;
        }
        for judged in &view.policies_judged {
            writeln!(out, "  judged over {judged}")?;
        }
        for database in &view.databases {
            writeln!(out, "  by {}", database.line())?;
        }
    }

    writeln!(out, "\ndestinations: {}", view.destinations.len())?;
    for destination in &view.destinations {
        let DestinationPlan { id, service, protocol, family } = destination;
        writeln!(out, "  {id:>4}  {service:name$}  {protocol}  {family}")?;
    }

    writeln!(out, "\nbindings in the order of precedence: {}", view.bindings.len())?;
    let prefix_width = width(view.bindings.iter().map(|binding| binding.prefix));
    for binding in &view.bindings {
        let BindingView { protocol, prefix, ports, service, destination: _ } = binding;
        // Prefixes and ranges do not pad themselves.
        let (prefix, ports) = (prefix.to_string(), ports.to_string());
        writeln!(out, "  {protocol}  {prefix:prefix_width$}  {ports:11}  {service}")?;
    }

    writeln!(out, "\nlocal routes: {}", view.routes.len())?;
    for route in &view.routes {
        // See `host::routes`.
        let none =
            if route.length() == 0 { " (none is made: it is for addresses that the host has)" } else { "" };
        writeln!(out, "  {route}{none}")?;
    }
    announcing(&view.announcing, out)?;

    writeln!(out, "\nsteering table: {} nodes, {} bytes", view.table.nodes, view.table.bytes)
}

/// What is announced, where anything is.
fn announcing(plan: &AnnouncingPlan, out: &mut impl Write) -> io::Result<()> {
    let AnnouncingPlan { prefixes, lame_duck_ms, .. } = plan;
    if prefixes.is_empty() {
        return Ok(());
    }
    let lame_duck = format_duration(Duration::from_millis(*lame_duck_ms));
    writeln!(
        out,
        "\nannounced by a tun device (/dev/net/tun), and served for {lame_duck} after that is withdrawn: {}",
        prefixes.len()
    )?;
    for AnnouncedPlan { prefix, when } in prefixes {
        let when = when.join(", ");
        writeln!(out, "  {prefix}{}{when}", if when.is_empty() { "" } else { "  while " })?;
    }
    Ok(())
}

/// The width of the widest, as text.
fn width<T: fmt::Display>(values: impl Iterator<Item = T>) -> usize {
    let mut text = String::new();
    values.fold(0, |widest, value| {
        text.clear();
        // Writing to a String cannot fail.
        let _ = write!(text, "{value}");
        widest.max(text.len())
    })
}
