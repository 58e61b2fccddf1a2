//! `check`: judges a configuration file and prints what the kernel would be told. Touches nothing, needs no privileges, and asks
//! no name server unless it is told to.

use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::{Serialize, Serializer};
use tokio::runtime;

use super::lookups::{Numbered, look_up, origins_of};
use super::own_bindings::own_bindings;
use super::run::joined;
use super::target::{described, policy_lines};
use crate::cli::CheckArgs;
use crate::config::{Config, FirewallChoice, ModeChoice};
use crate::control::{LimitsAnswer, TimeoutsAnswer};
use crate::model::{
    DialSource, Family, LocalOrigins, LogFormat, Origin, Policy, PortRange, Prefix, Protocol, RecordKeys,
    Sample, Target, UniqueIds, VisibleWriter,
};
use crate::plan::table::Table;
use crate::plan::{self, Plan};
use spectrum_proxy::{OriginWatch, ResolveError};

/// The time that looking up all names together may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the plan of a good configuration; a bad one is the error.
pub(super) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let plan =
        plan::of(&config.services).map_err(|errors| joined(errors.into_iter().map(anyhow::Error::from)))?;
    let table = Table::compile(&plan.bindings)?;
    if args.resolve {
        refuse_unresolved(&config, &plan)?;
    }
    let checked = Checked::of(&config, &plan, &table);
    let mut stdout = BufWriter::new(io::stdout().lock());
    let written = if args.json {
        checked.write_json(&mut stdout)
    } else {
        checked.write_text(&mut VisibleWriter::new(&mut stdout))
    };
    match written.and_then(|()| stdout.flush()) {
        // The reader has seen enough: a million bindings are more than a screen.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write the plan"),
    }
}

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

/// The output of `check`.
#[derive(Serialize)]
struct Checked<'a> {
    #[serde(serialize_with = "as_text")]
    mode: ModeChoice,
    #[serde(serialize_with = "as_text")]
    firewall: FirewallChoice,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<SocketAddr>,
    /// The bindings that hide the whole of it, so that a start refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_hidden: Option<String>,
    log: CheckedLog,
    resolver: CheckedResolver<'a>,
    services: Vec<CheckedService<'a>>,
    destinations: Vec<CheckedDestination<'a>>,
    /// In the order of precedence.
    bindings: Vec<CheckedBinding<'a>>,
    #[serde(serialize_with = "as_texts")]
    routes: &'a [Prefix],
    table: CheckedTable,
}

#[derive(Serialize)]
struct CheckedLog {
    format: String,
    #[serde(flatten)]
    records: CheckedRecords,
    #[serde(skip)]
    keys: RecordKeys,
}

/// The keys in force, said or not.
#[derive(Serialize)]
struct CheckedRecords {
    records: String,
    sample: String,
    opened: bool,
    /// Without it, only what was reset before an origin was dialled is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    empty: Option<bool>,
}

impl From<RecordKeys> for CheckedRecords {
    fn from(keys: RecordKeys) -> Self {
        Self {
            records: keys.records.unwrap_or_default().to_string(),
            sample: keys.sample.unwrap_or(Sample::WHOLE).to_string(),
            opened: keys.opened.unwrap_or_default(),
            empty: keys.empty,
        }
    }
}

#[derive(Serialize)]
struct CheckedResolver<'a> {
    /// None are those of the host.
    servers: &'a [SocketAddr],
    timeout_ms: u128,
    addresses: u16,
    targets: u16,
    min_ttl_ms: u128,
}

#[derive(Serialize)]
struct CheckedService<'a> {
    name: &'a str,
    bindings: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    origins: Vec<CheckedOrigin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<CheckedHealth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ejection: Option<CheckedEjection>,
    dial_on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_id: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transparent: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_origins: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    respond: Option<String>,
    limits: LimitsAnswer,
    timeouts: TimeoutsAnswer,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_texts")]
    trusted_proxies: &'a [Prefix],
    log: CheckedRecords,
    /// The keys about its records that it has itself.
    #[serde(skip)]
    own_log: RecordKeys,
    /// All of it, in words.
    #[serde(skip)]
    answer: String,
    #[serde(skip)]
    policy: &'a Policy,
}

#[derive(Serialize)]
struct CheckedOrigin {
    origin: String,
    role: &'static str,
    weight: u16,
}

#[derive(Serialize)]
struct CheckedHealth {
    interval_ms: u128,
    timeout_ms: u128,
    rise: u16,
    fall: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    close: String,
}

#[derive(Serialize)]
struct CheckedEjection {
    failures: u16,
    time_ms: u128,
}

#[derive(Serialize)]
struct CheckedDestination<'a> {
    id: usize,
    service: &'a str,
    protocol: Protocol,
    family: Family,
}

#[derive(Serialize)]
struct CheckedBinding<'a> {
    protocol: Protocol,
    #[serde(serialize_with = "as_text")]
    prefix: Prefix,
    #[serde(serialize_with = "as_text")]
    ports: PortRange,
    service: &'a str,
}

#[derive(Serialize)]
struct CheckedTable {
    nodes: usize,
    bytes: usize,
}

impl<'a> Checked<'a> {
    fn of(config: &'a Config, plan: &'a Plan, table: &Table) -> Self {
        let services = config.services.iter().map(|service| {
            let (origins, respond) = match &service.target {
                Target::Origins(origins) => (Some(origins), None),
                Target::Respond(responder) => (None, Some(responder.to_string())),
            };
            let health = origins.and_then(|origins| origins.health);
            let ejection = origins.and_then(|origins| origins.ejection);
            CheckedService {
                name: service.name.as_str(),
                bindings: service.bindings.len(),
                origins: origins.map_or_else(Vec::new, |origins| checked_origins(&origins.list)),
                balance: origins.map(|origins| origins.balance.to_string()),
                health: health.map(|health| CheckedHealth {
                    interval_ms: health.interval.as_millis(),
                    timeout_ms: health.timeout.as_millis(),
                    rise: health.rise,
                    fall: health.fall,
                    port: health.port,
                    close: health.close.to_string(),
                }),
                ejection: ejection.map(|ejection| CheckedEjection {
                    failures: ejection.failures,
                    time_ms: ejection.time.as_millis(),
                }),
                dial_on: origins.map(|origins| origins.dial_on.to_string()),
                proxy_header: origins.and_then(|origins| origins.header).map(|version| version.to_string()),
                unique_id: origins.map(|origins| origins.unique_ids == UniqueIds::Made),
                transparent: origins.map(|origins| origins.source == DialSource::Client),
                local_origins: origins.map(|origins| origins.local == LocalOrigins::Dialled),
                respond,
                limits: (&service.policy.limits).into(),
                timeouts: (&service.policy.timeouts).into(),
                trusted_proxies: &service.policy.trusted_proxies.prefixes,
                log: config.log.of(&service.name).into(),
                own_log: config.log.services.get(&service.name).copied().unwrap_or_default(),
                answer: described(service, usize::MAX),
                policy: &service.policy,
            }
        });
        let destinations = plan.destinations.iter().map(|(id, destination)| CheckedDestination {
            id: id.0 as usize,
            service: destination.service.as_str(),
            protocol: destination.protocol,
            family: destination.family,
        });
        let bindings = plan.bindings.iter().map(|planned| CheckedBinding {
            protocol: planned.binding.protocol,
            prefix: planned.binding.prefix,
            ports: planned.binding.ports,
            service: plan
                .destination(planned.destination)
                .map_or("", |destination| destination.service.as_str()),
        });
        Self {
            mode: config.mode,
            firewall: config.firewall,
            admin: config.admin,
            admin_hidden: config.admin.and_then(|admin| plan.hiding_admin(admin)),
            log: CheckedLog {
                format: config.log.format.unwrap_or_default().to_string(),
                records: config.log.general.into(),
                keys: config.log.general.unusual(),
            },
            resolver: CheckedResolver {
                servers: &config.resolver.servers,
                timeout_ms: config.resolver.timeout.as_millis(),
                addresses: config.resolver.addresses,
                targets: config.resolver.targets,
                min_ttl_ms: config.resolver.min_ttl.as_millis(),
            },
            services: services.collect(),
            destinations: destinations.collect(),
            bindings: bindings.collect(),
            routes: &plan.routes,
            table: CheckedTable { nodes: table.nodes().len(), bytes: table.bytes() },
        }
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self).map_err(io::Error::from)?;
        writeln!(out)
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "mode: {}", self.mode)?;
        writeln!(out, "firewall: {}", self.firewall)?;
        if let Some(admin) = self.admin {
            let hidden = self.admin_hidden.as_ref().map_or_else(String::new, |hiding| {
                format!(" (hidden {hiding}: refused at the start without --force)")
            });
            writeln!(out, "metrics and health: http://{admin}/{hidden}")?;
        }
        let unusual = self.log.keys.to_string();
        let format = (self.log.format != LogFormat::default().to_string()).then_some(&self.log.format);
        let log: Vec<&String> =
            format.into_iter().chain(Some(&unusual).filter(|keys| !keys.is_empty())).collect();
        if !log.is_empty() {
            writeln!(out, "log: {}", log.into_iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
        }
        if !self.resolver.servers.is_empty() {
            let servers: Vec<String> = self.resolver.servers.iter().map(ToString::to_string).collect();
            writeln!(out, "name servers: {}", servers.join(", "))?;
        }

        writeln!(out, "\nservices: {}", self.services.len())?;
        let name = width(self.services.iter().map(|service| service.name));
        for service in &self.services {
            let CheckedService { name: service, bindings, answer, policy, own_log, .. } = service;
            writeln!(out, "  {service:name$}  bindings {bindings}, {answer}")?;
            for line in policy_lines(&policy.limits, &policy.timeouts) {
                writeln!(out, "  {:name$}  {line}", "")?;
            }
            if *own_log != RecordKeys::default() {
                writeln!(out, "  {:name$}  log: {own_log}", "")?;
            }
        }

        writeln!(out, "\ndestinations: {}", self.destinations.len())?;
        for destination in &self.destinations {
            let CheckedDestination { id, service, protocol, family } = destination;
            writeln!(out, "  {id:>4}  {service:name$}  {protocol}  {family}")?;
        }

        writeln!(out, "\nbindings in the order of precedence: {}", self.bindings.len())?;
        let prefix_width = width(self.bindings.iter().map(|binding| binding.prefix));
        for binding in &self.bindings {
            let CheckedBinding { protocol, prefix, ports, service } = binding;
            // Prefixes and ranges do not pad themselves.
            let (prefix, ports) = (prefix.to_string(), ports.to_string());
            writeln!(out, "  {protocol}  {prefix:prefix_width$}  {ports:11}  {service}")?;
        }

        writeln!(out, "\nlocal routes: {}", self.routes.len())?;
        for route in self.routes {
            // See `host::routes`.
            let none = if route.length() == 0 {
                " (none is made: it is for addresses that the host has)"
            } else {
                ""
            };
            writeln!(out, "  {route}{none}")?;
        }

        writeln!(out, "\nsteering table: {} nodes, {} bytes", self.table.nodes, self.table.bytes)
    }
}

fn checked_origins(origins: &[Origin]) -> Vec<CheckedOrigin> {
    let checked = origins.iter().map(|origin| CheckedOrigin {
        origin: origin.to_string(),
        role: origin.role.as_str(),
        weight: origin.weight.get(),
    });
    checked.collect()
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

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_texts<S: Serializer>(values: &&[impl fmt::Display], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}
