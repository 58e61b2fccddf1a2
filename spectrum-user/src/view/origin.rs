//! An origin in the view: as configured, and how it fares. Judges none.

use serde::{Deserialize, Serialize};

use super::making::{micros, millis};
use crate::model::Origin;
use crate::model::ServiceName;
use crate::worker_process::WorkersLook;
use spectrum_proxy::{OriginCondition, OriginState, RecordState};

/// An origin as configured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OriginPlan {
    /// As it is typed.
    pub origin: String,
    /// `primary` or `backup`.
    pub role: String,
    /// Its share.
    pub weight: u16,
}

/// One address of an origin, or an origin that has none.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OriginView {
    /// The origin, and the share that it has now.
    #[serde(flatten)]
    pub plan: OriginPlan,
    /// Its address, with its port unless that is the dialled one.
    pub address: Option<String>,
    /// True if its share was set by `spectrum-user origin`, and is not as configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// Its use, or why there is none.
    pub condition: OriginCondition,
    /// Of one that is unresolved, refused or unused: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The outcome of its last health check, if it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckView>,
    /// Its open connections.
    pub open: u64,
    /// All connections to it so far.
    pub connections: u64,
    /// Both of the next two.
    pub failures: u64,
    /// Dials that failed so far.
    #[serde(default)]
    pub failed_dials: u64,
    /// Connections that it broke off so far.
    #[serde(default)]
    pub broken_connections: u64,
    /// Dials in a row that failed.
    pub failures_in_row: u32,
    /// Bytes that clients of its connections have sent.
    pub bytes_to_origin: u64,
    /// Bytes that they were handed.
    pub bytes_from_origin: u64,
    /// The last of the failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorView>,
    /// The SRV record that names it, where the origin is asked for such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordView>,
    /// Of a loop: the services that a connection would pass, this one first, until it came to one of them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub way: Vec<String>,
}

/// An SRV record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RecordView {
    /// The lowest that can be reached is used.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// The host's port.
    pub port: u16,
    /// The host.
    pub target: String,
}

/// The outcome of a health check: one of `connected_us` and `error` is there.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CheckView {
    /// The milliseconds since it ended.
    pub ago_ms: u64,
    /// The microseconds that connecting took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_us: Option<u64>,
    /// Why it did not connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The last error of an origin, not as its checks but as its connections found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ErrorView {
    /// The system's error of a dial, or the end of a connection.
    pub error: String,
    /// The milliseconds since then.
    pub ago_ms: u64,
}

impl From<&Origin> for OriginPlan {
    fn from(origin: &Origin) -> Self {
        Self {
            origin: origin.to_string(),
            role: origin.role.as_str().to_owned(),
            weight: origin.weight.get(),
        }
    }
}

impl From<OriginState> for OriginView {
    fn from(state: OriginState) -> Self {
        let plan =
            OriginPlan { origin: state.origin, role: state.role.as_str().to_owned(), weight: state.weight };
        Self {
            plan,
            address: state.address,
            by_hand: state.is_by_hand,
            condition: state.condition,
            reason: state.reason,
            last_check: state.last_check.map(|check| CheckView {
                ago_ms: millis(check.ago),
                connected_us: check.outcome.as_ref().ok().copied().map(micros),
                error: check.outcome.err(),
            }),
            open: state.open,
            connections: state.connections,
            failures: state.failed_dials + state.broken,
            failed_dials: state.failed_dials,
            broken_connections: state.broken,
            failures_in_row: state.failures_in_row,
            bytes_to_origin: state.bytes_to,
            bytes_from_origin: state.bytes_from,
            last_error: state.last_error.map(|(error, ago)| ErrorView { error, ago_ms: millis(ago) }),
            record: state.record.map(|RecordState { priority, weight, port, target }| RecordView {
                priority,
                weight,
                port,
                target,
            }),
            way: state.way.iter().map(ToString::to_string).collect(),
        }
    }
}

impl OriginView {
    /// The addresses that connections of `service` can go to, as `look` saw them.
    pub(crate) fn all(look: &WorkersLook, service: &ServiceName) -> Vec<Self> {
        look.origins.get(service).into_iter().flatten().cloned().map(Into::into).collect()
    }

    /// True if it gets connections.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.condition == OriginCondition::Up
    }

    /// True if its name means what no name may mean.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.condition == OriginCondition::Refused
    }

    /// True if it is none that could be dialled: refused, unresolved or unused.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        use OriginCondition::{Refused, Unresolved, Unused};
        matches!(self.condition, Refused | Unresolved | Unused)
    }

    /// `up`, `loop: a -> b -> a`, `unresolved: why`, `drained by hand`, `down, weight by hand`.
    #[must_use]
    pub fn condition_line(&self) -> String {
        let Self { plan, condition, reason, way, by_hand, .. } = self;
        let mut text = condition.to_string();
        if let Some(reason) = reason {
            text = format!("{text}: {reason}");
        }
        if !way.is_empty() {
            text = format!("{text}: {}", way.join(" -> "));
        }
        let is_drained = plan.weight == 0;
        if is_drained && *condition != OriginCondition::Drained {
            text.push_str(", drained");
        }
        match (by_hand, is_drained) {
            (true, true) => text.push_str(" by hand"),
            (true, false) => text.push_str(", weight by hand"),
            (false, _) => {}
        }
        text
    }
}

#[cfg(test)]
impl OriginView {
    /// The address of an origin by the name `web.example:80` that is up and has not been dialled.
    pub(crate) fn up_at(address: &str) -> Self {
        let plan = OriginPlan { origin: "web.example:80".into(), role: "primary".into(), weight: 1 };
        Self {
            plan,
            address: Some(address.into()),
            by_hand: false,
            condition: OriginCondition::Up,
            reason: None,
            last_check: None,
            open: 0,
            connections: 0,
            failures: 0,
            failed_dials: 0,
            broken_connections: 0,
            failures_in_row: 0,
            bytes_to_origin: 0,
            bytes_from_origin: 0,
            last_error: None,
            record: None,
            way: Vec::new(),
        }
    }
}
