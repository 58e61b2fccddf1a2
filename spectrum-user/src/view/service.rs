//! A service in the view: as planned, and how it fares. Counts nothing itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::making::{micros, millis};
use super::target::described;
use super::{LimitsView, OriginView, RegisteredView, TimeoutsView, UdpView};
use crate::config::Config;
use crate::model::{
    DialSource, HealthProbe, LocalOrigins, Protocol, RecordKeys, Sample, Service, ServiceName, Target,
    UniqueIds,
};
use crate::observe::{Bounds, DIAL, Histogram, SESSION, Totals};
use spectrum_proxy::{End, TrafficCount};

/// A service as the configuration has it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ServicePlan {
    /// Its name.
    pub name: String,
    /// The number of its bindings.
    pub bindings: usize,
    /// The target that answers, in words.
    pub target: String,
    /// The choice among its origins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// The checks of its origins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthPlan>,
    /// When an origin is not dialled for a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionPlan>,
    /// When an origin is dialled.
    pub dial_on: Option<String>,
    /// The header that tells origins who the client is, by its word in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_header: Option<String>,
    /// True if that has a unique id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<bool>,
    /// True if origins are dialled from clients' addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transparent: Option<bool>,
    /// True if origins may be addresses of this host that names mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_origins: Option<bool>,
    /// The built-in answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<String>,
    /// True if other programs answer, by sockets that are registered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub registered: bool,
    /// The sockets that are looked for to be registered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub looked_for: Vec<String>,
    /// The limits of its connections.
    pub limits: LimitsView,
    /// Their time limits.
    pub timeouts: TimeoutsView,
    /// The rules for its sessions of UDP.
    pub udp: UdpView,
    /// The prefixes that sessions of UDP are dialled from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<String>,
    /// Whose PROXY headers are believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// The records that its connections leave.
    pub log: RecordsPlan,
}

/// The health checks of a service's origins.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HealthPlan {
    /// The time between two.
    pub interval_ms: u64,
    /// The time that one may take.
    pub timeout_ms: u64,
    /// So many good ones in a row, and it is up.
    pub rise: u16,
    /// So many bad ones in a row, and it is down.
    pub fall: u16,
    /// The port that is dialled, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The way of closing.
    pub close: String,
    /// What is asked by UDP: a template, or the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
}

/// The ejection of a service's origins.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EjectionPlan {
    /// After so many failures in a row.
    pub failures: u16,
    /// For so long.
    pub time_ms: u64,
}

/// The keys about records in force, said or not.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RecordsPlan {
    /// The connections that leave one.
    pub records: String,
    /// The share of them.
    pub sample: String,
    /// True if there is another one when bytes begin to flow.
    pub opened: bool,
    /// True if what ended without a byte leaves one. Without it, only what was reset before an origin was dialled is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<bool>,
}

/// A service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceView {
    /// The service as the configuration has it.
    #[serde(flatten)]
    pub plan: ServicePlan,
    /// Connections and UDP sessions that are open.
    pub open: u64,
    /// All there were.
    pub total: u64,
    /// Those of them that were reset since a limit was reached, by what was over it: a key of `limits`, `descriptors` or
    /// `descriptor-share`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<String, u64>,
    /// When what it has open is cut, where the configuration has it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<DrainingView>,
    /// The addresses that its connections can go to, in the order configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<OriginView>,
    /// The sockets of other programs that answer, one for each of its destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<RegisteredView>,
}

/// Of a service that was removed: the rest of its time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DrainingView {
    /// Until its connections are cut.
    pub cut_in_ms: u64,
}

/// The connections, or UDP sessions, of a service so far.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionsView {
    /// The service.
    pub service: String,
    /// Their protocol.
    pub protocol: Protocol,
    /// All there were.
    pub opened: u64,
    /// Those that are open.
    pub open: u64,
    /// Those that are over.
    pub ended: Vec<EndedView>,
    /// Bytes received from clients, by open ones too.
    pub bytes_from_client: u64,
    /// Bytes handed to clients.
    pub bytes_to_client: u64,
    /// The datagrams of UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<DatagramsView>,
    /// The time that connecting to an origin took, of those that are over.
    pub dials: SpreadView,
    /// From accept to end.
    pub durations: SpreadView,
}

/// The datagrams of UDP sessions.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DatagramsView {
    /// Received from clients.
    pub from_client: u64,
    /// Handed to the system for clients.
    pub to_client: u64,
    /// Those of clients and origins that came and could not be sent on.
    pub lost: u64,
    /// Those of clients, or trains of them, that the system threw away since the queue was full in which they wait for the program.
    #[serde(default)]
    pub overflow_from_client: u64,
    /// Those of origins.
    #[serde(default)]
    pub overflow_from_origin: u64,
    /// Times that a client of QUIC had another address, and its session followed.
    #[serde(default)]
    pub followed: u64,
    /// Answers of origins that lacked the header of their session, and were not passed on.
    pub headerless: u64,
    /// Clients that were told by ICMP that nobody is there.
    pub told_unreachable: u64,
    /// Those of which a client was told by ICMP that they are too big.
    pub told_too_big: u64,
    /// Messages of ICMP of either kind that were not sent.
    pub withheld: u64,
}

/// The word for sessions that were open when the process that had them ended.
const ABANDONED: &str = "abandoned";

/// Connections that are over and ended alike.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndedView {
    /// The word for it.
    pub end: String,
    /// The status that stands for it.
    pub status: u16,
    /// The number of them.
    pub count: u64,
}

/// How durations are spread.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SpreadView {
    /// For each bound in microseconds, the last none, the number of those that are not above it but above the one before.
    pub buckets: Vec<(Option<u64>, u64)>,
    /// All of them together.
    pub sum_us: u64,
}

impl ServicePlan {
    /// The part that `config` tells of `service`, which has so many bindings; of its origins `named` are named in its target.
    pub(super) fn of(config: &Config, service: &Service, bindings: usize, named: usize) -> Self {
        let (origins, respond) = match &service.target {
            Target::Origins(origins) => (Some(origins), None),
            Target::Registered => (None, None),
            Target::Respond(responder) => (None, Some(responder.to_string())),
        };
        Self {
            name: service.name.to_string(),
            bindings,
            target: described(service, config.socket_sources.get(&service.name), named),
            balance: origins.map(|origins| origins.balance.to_string()),
            health: origins.and_then(|origins| origins.health.as_ref()).map(|health| HealthPlan {
                interval_ms: millis(health.interval),
                timeout_ms: millis(health.timeout),
                rise: health.rise,
                fall: health.fall,
                port: health.port,
                close: health.close.to_string(),
                asks: match &health.probe {
                    HealthProbe::Connect => None,
                    HealthProbe::Datagram(probe) => Some(probe.question.to_string()),
                },
            }),
            ejection: origins
                .and_then(|origins| origins.ejection)
                .map(|ejection| EjectionPlan { failures: ejection.failures, time_ms: millis(ejection.time) }),
            dial_on: origins.map(|origins| origins.dial_on.to_string()),
            proxy_header: origins.and_then(|origins| {
                let version = origins.header.map(|version| version.to_string());
                version.or_else(|| origins.datagram_header.map(|header| header.to_string()))
            }),
            unique_id: origins.map(|origins| origins.unique_ids == UniqueIds::Made),
            transparent: origins.map(|origins| origins.source == DialSource::Client),
            local_origins: origins.map(|origins| origins.local == LocalOrigins::Dialled),
            respond,
            registered: service.target == Target::Registered,
            looked_for: config
                .socket_sources
                .get(&service.name)
                .map_or_else(Vec::new, |sources| sources.iter().map(ToString::to_string).collect()),
            limits: (&service.policy.limits).into(),
            timeouts: (&service.policy.timeouts).into(),
            udp: (&service.policy.udp).into(),
            source: origins
                .map_or_else(Vec::new, |origins| origins.sources.iter().map(ToString::to_string).collect()),
            trusted_proxies: service
                .policy
                .trusted_proxies
                .prefixes
                .iter()
                .map(ToString::to_string)
                .collect(),
            log: config.log.of(&service.name).into(),
        }
    }
}

impl From<RecordKeys> for RecordsPlan {
    fn from(keys: RecordKeys) -> Self {
        Self {
            records: keys.records.unwrap_or_default().to_string(),
            sample: keys.sample.unwrap_or(Sample::WHOLE).to_string(),
            opened: keys.opened.unwrap_or_default(),
            empty: keys.empty,
        }
    }
}

impl SessionsView {
    pub(super) fn of(service: &ServiceName, protocol: Protocol, totals: &Totals) -> Self {
        let ended = totals.ends.iter().map(|(end, count)| EndedView {
            end: end.word().to_owned(),
            status: end.status(),
            count: *count,
        });
        let abandoned = (totals.abandoned > 0).then(|| EndedView {
            end: ABANDONED.to_owned(),
            status: End::Cut.status(),
            count: totals.abandoned,
        });
        Self {
            service: service.to_string(),
            protocol,
            opened: totals.opened,
            open: totals.open,
            ended: ended.chain(abandoned).collect(),
            bytes_from_client: totals.traffic(TrafficCount::BytesFromClient),
            bytes_to_client: totals.traffic(TrafficCount::BytesToClient),
            datagrams: (protocol == Protocol::Udp).then_some(DatagramsView {
                from_client: totals.traffic(TrafficCount::DatagramsFromClient),
                to_client: totals.traffic(TrafficCount::DatagramsToClient),
                lost: totals.traffic(TrafficCount::DatagramsLost),
                overflow_from_client: totals.traffic(TrafficCount::OverflowFromClient),
                overflow_from_origin: totals.traffic(TrafficCount::OverflowFromOrigin),
                followed: totals.traffic(TrafficCount::Followed),
                headerless: totals.traffic(TrafficCount::HeaderlessAnswers),
                told_unreachable: totals.traffic(TrafficCount::ToldUnreachable),
                told_too_big: totals.traffic(TrafficCount::ToldTooBig),
                withheld: totals.traffic(TrafficCount::Withheld),
            }),
            dials: SpreadView::of(&totals.dials, &DIAL),
            durations: SpreadView::of(&totals.durations, &SESSION),
        }
    }
}

impl SpreadView {
    fn of(histogram: &Histogram, bounds: &Bounds) -> Self {
        let buckets = histogram.buckets(bounds).map(|(bound, count)| (bound.map(micros), count));
        Self { buckets: buckets.collect(), sum_us: micros(histogram.sum()) }
    }

    /// The number of all of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}
