//! Names of origins to addresses: /etc/hosts first, then DNS by the servers configured or those of /etc/resolv.conf. Keeps
//! nothing: how long an answer is used is said with it, and `resolution` says what to make of a failure.

mod resolution;
mod system;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::config::ServerOrderingStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use crate::model::{OriginHost, ResolverOptions};
use resolution::Lookup;
pub(super) use resolution::{Fault, Resolution, ResolvedTarget};
use system::SystemFiles;

/// How often a query that nobody answered is repeated.
const ATTEMPTS: usize = 1;

/// How long what /etc/hosts says is used before it is read again.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// Why a name has no addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// An authority says that there are none.
    #[error("the name does not exist, or has no address")]
    Denied,
    /// Nobody said anything useful.
    #[error("no name server answered usefully: {0}")]
    Failed(NetError),
    /// What has to be read first could not be.
    #[error("{op}: {source}")]
    System {
        /// What we were doing.
        op: &'static str,
        /// What the system said.
        source: std::sync::Arc<io::Error>,
    },
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        if error.is_no_records_found() { Self::Denied } else { Self::Failed(error) }
    }
}

/// Who is asked. Must be used on the runtime that it is made on.
pub(super) struct Resolver {
    options: ResolverOptions,
    files: SystemFiles,
    hosts: Hosts,
    dns: Result<TokioResolver, LookupError>,
}

impl Resolver {
    pub(super) fn new(options: ResolverOptions) -> Self {
        let files = SystemFiles::now();
        let (hosts, dns) = (Hosts::from_system().unwrap_or_default(), dns(&options));
        Self { options, files, hosts, dns }
    }

    /// Whether somebody changed the files that it was made from, so that a new one would answer differently.
    pub(super) fn is_outdated(&self) -> bool {
        self.files != SystemFiles::now()
    }

    pub(super) fn options(&self) -> &ResolverOptions {
        &self.options
    }

    /// What is known of `host` now. Where a lookup fails, what `last` said still holds.
    pub(super) async fn resolve(&self, host: &OriginHost, last: Option<&Resolution>) -> Resolution {
        match host {
            OriginHost::Address(address) => Resolution::of_address(*address),
            OriginHost::Name(name) => Resolution::of_name(self.lookup_both(name).await, last, Instant::now()),
            OriginHost::Service(name) => match self.lookup_service(name).await {
                Ok((records, ttl)) => {
                    let mut targets = Vec::new();
                    for record in records {
                        let found = self.lookup_both(&record.name).await;
                        targets.push((record, found));
                    }
                    Resolution::of_service(targets, ttl, last, Instant::now())
                }
                Err(error) => Resolution::of_failed_service(&error, last, Instant::now()),
            },
        }
    }

    /// The IPv6 and the IPv4 addresses of a host.
    async fn lookup_both(&self, name: &str) -> [Result<Lookup, LookupError>; 2] {
        if let Some(found) = self.hosts_lookup(name) {
            return found.map(Ok);
        }
        let (v6, v4) = tokio::join!(self.lookup(name, RecordType::AAAA), self.lookup(name, RecordType::A));
        [v6, v4]
    }

    /// As everywhere, a name in /etc/hosts is not looked for elsewhere, in whichever family it is there.
    fn hosts_lookup(&self, name: &str) -> Option<[Lookup; 2]> {
        let name = Name::from_ascii(name).ok()?;
        let mut found = [RecordType::AAAA, RecordType::A].map(|kind| {
            let query = hickory_resolver::proto::op::Query::query(name.clone(), kind);
            let lookup = self.hosts.lookup_static_host(&query);
            let records = lookup.iter().flat_map(hickory_resolver::lookup::Lookup::answers);
            Lookup { addresses: records.filter_map(|record| address(&record.data)).collect(), ttl: HOSTS_TTL }
        });
        for lookup in &mut found {
            lookup.make_unique();
        }
        found.iter().any(|lookup| !lookup.addresses.is_empty()).then_some(found)
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, LookupError> {
        let answer = self.ask(name, kind).await?;
        let addresses = answer.answers().iter().filter_map(|record| address(&record.data)).collect();
        let mut lookup = Lookup { addresses, ttl: ttl(&answer) };
        lookup.make_unique();
        if lookup.addresses.is_empty() { Err(LookupError::Denied) } else { Ok(lookup) }
    }

    async fn lookup_service(&self, name: &str) -> Result<(Vec<ResolvedTarget>, Duration), LookupError> {
        let answer = self.ask(name, RecordType::SRV).await?;
        let targets = answer.answers().iter().filter_map(|record| match &record.data {
            // A target of "." says that there is no such service (RFC 2782).
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(ResolvedTarget {
                name: srv.target.to_ascii(),
                port: Some(srv.port),
                priority: srv.priority,
                weight: srv.weight,
                addresses: Vec::new(),
            }),
            _ => None,
        });
        let targets: Vec<ResolvedTarget> = targets.collect();
        if targets.is_empty() { Err(LookupError::Denied) } else { Ok((targets, ttl(&answer))) }
    }

    async fn ask(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<hickory_resolver::lookup::Lookup, LookupError> {
        let dns = self.dns.as_ref().map_err(Clone::clone)?;
        let name = Name::from_ascii(name).map_err(|error| LookupError::Failed(error.into()))?;
        Ok(dns.lookup(name, kind).await?)
    }
}

fn dns(options: &ResolverOptions) -> Result<TokioResolver, LookupError> {
    let (config, mut settings) = system::configuration(&options.servers)?;
    settings.timeout = options.timeout;
    settings.attempts = ATTEMPTS;
    // Who is named first is asked first.
    settings.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    // We keep answers ourselves, for as long as their origins are in use.
    settings.cache_size = 0;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    Ok(builder.with_options(settings).build()?)
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn ttl(answer: &hickory_resolver::lookup::Lookup) -> Duration {
    answer.valid_until().saturating_duration_since(Instant::now())
}
