//! Names of origins to addresses: /etc/hosts first, then DNS by the servers configured or those of /etc/resolv.conf. Keeps
//! nothing: how long an answer is used is said with it, and `resolution` says what to make of a failure.

mod host_file;
mod resolution;
mod system;

pub use host_file::HostFile;

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt as _};
use hickory_resolver::config::ServerOrderingStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{timeout, timeout_at};

use crate::model::{OriginHost, ResolverOptions};
use resolution::{AnswerBounds, Lookup};
pub(super) use resolution::{Resolution, ResolvedTarget, Unused};
use system::SystemFiles;

/// The number of times that a query is repeated that nobody answered.
const ATTEMPTS: usize = 1;

/// The number of hosts looked up at once, each in both families; and of those at once of those that were not answered the
/// last time, so that they never keep the others waiting.
const AT_ONCE: (usize, usize) = (64, 32);

/// The number of these that one name's SRV records may take.
const TARGETS_AT_ONCE: usize = 16;

/// The time that each target of very many has at first, so that those that nobody answers for do not keep the others
/// waiting: they are asked for again when all others have been.
const FIRST_ROUND: Duration = Duration::from_millis(300);

/// The time that the addresses of one family wait for those of the other (RFC 8305, section 3).
const HEAD_START: Duration = Duration::from_millis(50);

/// What is found of a host: its IPv6 and its IPv4 addresses.
type Found = [Result<Lookup, LookupError>; 2];

/// The multiple of one server's time that a name may take in all, with all of its SRV records, search domains and
/// servers.
const TIMES: u32 = 10;

/// The time that /etc/hosts is used before it is read again.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// A reason for which a name has no addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// An authority says that there are none.
    #[error("the name does not exist, or has no address")]
    Denied,
    /// Nobody said anything useful.
    #[error("no name server answered usefully: {0}")]
    Failed(NetError),
    /// A file that has to be read first could not be.
    #[error("{op}: {source}")]
    System {
        /// The operation that failed.
        op: &'static str,
        /// The system's own error.
        source: Arc<io::Error>,
    },
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        if error.is_no_records_found() { Self::Denied } else { Self::Failed(error) }
    }
}

/// Whose turn it is to be looked up, first come, first served.
#[derive(Clone)]
pub(super) struct Turns {
    usual: Arc<Semaphore>,
    failing: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { usual: Arc::new(Semaphore::new(AT_ONCE.0)), failing: Arc::new(Semaphore::new(AT_ONCE.1)) }
    }
}

/// The servers that are asked. Must be used on the runtime that it is made on.
pub(super) struct Resolver {
    turns: Turns,
    options: ResolverOptions,
    files: SystemFiles,
    hosts: Hosts,
    dns: Result<TokioResolver, LookupError>,
}

impl Resolver {
    pub(super) fn new(options: ResolverOptions, turns: Turns) -> Self {
        let files = SystemFiles::now();
        let (hosts, dns) = (system::hosts(), dns(&options));
        Self { turns, options, files, hosts, dns }
    }

    /// True if somebody changed the files that it was made from, so that a new one would answer differently.
    pub(super) fn is_outdated(&self) -> bool {
        self.files != SystemFiles::now()
    }

    pub(super) fn options(&self) -> &ResolverOptions {
        &self.options
    }

    /// Another one, as the host resolves names now.
    pub(super) fn with(&self, options: ResolverOptions) -> Self {
        Self::new(options, self.turns.clone())
    }

    /// The resolution of `host` now. Where a lookup fails, what `last` said still holds. `so_far` is told what is known before
    /// all is, which leads somewhere already.
    pub(super) async fn resolve(
        &self,
        host: &OriginHost,
        last: Option<&Resolution>,
        so_far: impl Fn(Resolution),
    ) -> Resolution {
        let bounds = &AnswerBounds::from(&self.options);
        let turns = match last {
            Some(last) if last.failures() > 0 => &self.turns.failing,
            _ => &self.turns.usual,
        };
        let show = |resolution: Resolution| {
            if !resolution.is_empty() {
                so_far(resolution.interim(last));
            }
        };
        match host {
            OriginHost::Address(address) => Resolution::of_address(*address),
            OriginHost::Name(name) => {
                let resolution = |found| Resolution::of_name(found, last, bounds, Instant::now());
                let one = |found| show(resolution(found));
                resolution(self.lookup_both(name, turns, self.longest(), one).await)
            }
            OriginHost::Service(name) => match self.lookup_service(name, turns).await {
                Ok((mut records, ttl)) => {
                    let unused = records.len().saturating_sub(bounds.targets);
                    records.truncate(bounds.targets);
                    let resolution = |found: &[Found]| {
                        let targets = records.iter().cloned().zip(found.iter().cloned()).collect();
                        Resolution::of_service(targets, unused, ttl, last, bounds, Instant::now())
                    };
                    let found = self.lookup_targets(&records, turns, |found| show(resolution(found)));
                    resolution(&found.await)
                }
                Err(error) => Resolution::of_failed_service(&error, last, bounds, Instant::now()),
            },
        }
    }

    /// The addresses of each target, a few at a time, and not for ever. `so_far` is told whenever more of them are known.
    async fn lookup_targets(
        &self,
        records: &[ResolvedTarget],
        turns: &Semaphore,
        so_far: impl Fn(&[Found]),
    ) -> Vec<Found> {
        let (longest, deadline) = (self.longest(), Instant::now() + self.longest());
        let all = RefCell::new(vec![unanswered(); records.len()]);
        let note = |index: usize, found: &Found| {
            if let Some(known) = all.borrow_mut().get_mut(index) {
                for (known, found) in known.iter_mut().zip(found).filter(|(_, found)| !is_unanswered(found)) {
                    known.clone_from(found);
                }
            }
        };
        let mut left: Vec<(usize, &str)> =
            records.iter().map(|record| record.name.as_str()).enumerate().collect();
        let rounds = if left.len() > TARGETS_AT_ONCE { &[FIRST_ROUND, longest][..] } else { &[longest] };
        for patience in rounds {
            let lookups = std::mem::take(&mut left).into_iter().map(async |(index, name)| {
                let one = |found| {
                    note(index, &found);
                    so_far(&all.borrow());
                };
                let lookup = timeout_at(deadline.into(), self.lookup_both(name, turns, *patience, one));
                (index, name, lookup.await.unwrap_or_else(|_elapsed| unanswered()))
            });
            let mut lookups = stream::iter(lookups).buffer_unordered(TARGETS_AT_ONCE).ready_chunks(AT_ONCE.0);
            while let Some(chunk) = lookups.next().await {
                let is_news = chunk.iter().any(|(.., found)| found.iter().any(Result::is_ok));
                for (index, name, found) in chunk {
                    note(index, &found);
                    if found.iter().any(is_unanswered) {
                        left.push((index, name));
                    }
                }
                if is_news {
                    so_far(&all.borrow());
                }
            }
        }
        all.into_inner()
    }

    fn longest(&self) -> Duration {
        self.options.timeout * TIMES
    }

    /// The IPv6 and the IPv4 addresses of a host, as far as they are known `patience` after its turn has come. `one` is told
    /// of those of one family where the other is long in coming.
    async fn lookup_both(
        &self,
        name: &str,
        turns: &Semaphore,
        patience: Duration,
        one: impl FnOnce(Found),
    ) -> Found {
        if let Some(found) = self.hosts_lookup(name) {
            return found.map(Ok);
        }
        let _turn = turn(turns).await;
        let lookup = async |kind| {
            let lookup = timeout(patience, self.lookup(name, kind)).await;
            lookup.unwrap_or_else(|_elapsed| Err(NetError::Timeout.into()))
        };
        let (v6, v4) = (pin!(lookup(RecordType::AAAA)), pin!(lookup(RecordType::A)));
        match select(v6, v4).await {
            Either::Left((v6, rest)) => {
                let v4 = after_head_start(rest, || one([v6.clone(), Err(NetError::Timeout.into())])).await;
                [v6, v4]
            }
            Either::Right((v4, rest)) => {
                let v6 = after_head_start(rest, || one([Err(NetError::Timeout.into()), v4.clone()])).await;
                [v6, v4]
            }
        }
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
            lookup.put_in_order();
        }
        found.iter().any(|lookup| !lookup.addresses.is_empty()).then_some(found)
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, LookupError> {
        let answer = self.ask(name, kind).await?;
        let addresses = answer.answers().iter().filter_map(|record| address(&record.data)).collect();
        let mut lookup = Lookup { addresses, ttl: ttl(&answer) };
        lookup.put_in_order();
        if lookup.addresses.is_empty() { Err(LookupError::Denied) } else { Ok(lookup) }
    }

    async fn lookup_service(
        &self,
        name: &str,
        turns: &Semaphore,
    ) -> Result<(Vec<ResolvedTarget>, Duration), LookupError> {
        let turn = turn(turns).await;
        let answer = timeout(self.longest(), self.ask(name, RecordType::SRV)).await;
        drop(turn);
        let answer = answer.unwrap_or_else(|_elapsed| Err(NetError::Timeout.into()))?;
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
        let mut targets: Vec<ResolvedTarget> = targets.collect();
        // In an order that is not the server's, and with those first that are kept where there are too many.
        targets.sort_unstable_by(|a, b| {
            (a.priority, &a.name, a.port, a.weight).cmp(&(b.priority, &b.name, b.port, b.weight))
        });
        targets.dedup();
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

/// The result of `rest`; where that takes its time, `meanwhile` is called once.
async fn after_head_start<T>(mut rest: impl Future<Output = T> + Unpin, meanwhile: impl FnOnce()) -> T {
    match timeout(HEAD_START, &mut rest).await {
        Ok(result) => result,
        Err(_elapsed) => {
            meanwhile();
            rest.await
        }
    }
}

/// A turn, once there is one.
async fn turn(turns: &Semaphore) -> Option<SemaphorePermit<'_>> {
    // Never closed, so this does not fail.
    turns.acquire().await.ok()
}

/// The state of a target before there is an answer: what was known of it still holds.
fn unanswered() -> Found {
    [(); 2].map(|()| Err(NetError::Timeout.into()))
}

fn is_unanswered(lookup: &Result<Lookup, LookupError>) -> bool {
    matches!(lookup, Err(LookupError::Failed(NetError::Timeout)))
}

fn dns(options: &ResolverOptions) -> Result<TokioResolver, LookupError> {
    let (config, mut settings) = system::configuration(&options.servers)?;
    settings.timeout = options.timeout;
    settings.attempts = ATTEMPTS;
    // Who is named first is asked first.
    settings.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    // We keep answers ourselves, for as long as their origins are in use.
    settings.cache_size = 0;
    // Ours is the bound; over TCP one more than this one would be an error.
    settings.max_active_requests = 2 * (AT_ONCE.0 + AT_ONCE.1);
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
