//! What was said at run time of whom services let in, in the view. Judges nobody.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use serde::{Deserialize, Serialize};

use crate::model::{HeldDenial, ServiceName, SharedDenials, SourceRule};
use crate::plan::{EntrySource, Policies, PolicyScope, RunTimeSources};

/// The words said at run time, as whoever changes the instance has left it.
#[derive(Clone, Debug, Default)]
pub struct RunTimePresent {
    /// The words that the kernel judges by.
    pub sources: Arc<RunTimeSources>,
    /// The words that hold, and until when.
    pub denials: SharedDenials,
    /// The reason for which some of it may be forgotten.
    pub damage: Damage,
}

/// The reason why something that holds may be forgotten, as several threads see it; none: it is not.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<Mutex<Option<String>>>);

impl Damage {
    /// The reason now.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.lock().clone()
    }

    /// From now on it is `damage`. True if that is another reason.
    #[must_use]
    pub fn set(&self, damage: Option<String>) -> bool {
        let mut now = self.lock();
        let is_new = damage.is_some() && *now != damage;
        *now = damage;
        is_new
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of what was said at run time and holds.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RunTimeView {
    /// The prefixes that are denied.
    pub denied: usize,
    /// Those that are let in as exceptions.
    pub excepted: usize,
    /// The reason for which some of it may be forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved: Option<String>,
}

impl RunTimeView {
    /// True if there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The words that hold of one prefix.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeniedView {
    /// The service; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The clients.
    pub prefix: String,
    /// `deny`, or `except` of who may come in all the same.
    pub word: String,
    /// The moment of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// In how many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// The moment at which it was said.
    pub since: String,
    /// The user that said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The packets of its clients that were turned away by it, as far as samples tell; none where there are none, or it turns nobody away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// The first moment that RFC 3339 cannot write.
const YEAR_10000: Duration = Duration::from_hours(70_389_528);

/// The time as RFC 3339 has it.
pub(super) fn written(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let last = YEAR_10000.saturating_sub(Duration::from_secs(1));
    format_rfc3339_seconds(UNIX_EPOCH + since.min(last)).to_string()
}

fn end_of(denial: &HeldDenial) -> Option<(String, Duration)> {
    let left = denial.until?.saturating_duration_since(Instant::now());
    let end = SystemTime::now().checked_add(left).unwrap_or(UNIX_EPOCH + YEAR_10000);
    Some((written(end), left))
}

impl RunTimePresent {
    /// The numbers of what holds.
    #[must_use]
    pub fn view(&self) -> RunTimeView {
        let (denied, excepted) = self.denials.lock().counts();
        RunTimeView { denied, excepted, unsaved: self.damage.get() }
    }

    /// All that holds, with how many packets each turned away if that `is_sampled`.
    #[must_use]
    pub fn listed(&self, is_sampled: bool) -> Vec<DeniedView> {
        let held: Vec<_> = self.denials.lock().iter().map(|(key, denial)| (key.clone(), *denial)).collect();
        let view = |((service, prefix), denial): (crate::model::DenialKey, HeldDenial)| {
            let (until, left) = end_of(&denial).unzip();
            DeniedView {
                service: service.map(|service| service.to_string()),
                prefix: prefix.to_string(),
                word: if denial.rule == SourceRule::Deny { "deny" } else { "except" }.to_owned(),
                until,
                left_ms: left.map(super::making::millis),
                since: written(denial.since),
                uid: denial.uid,
                packets: (is_sampled && denial.rule == SourceRule::Deny).then_some(denial.packets),
            }
        };
        held.into_iter().map(view).collect()
    }

    /// So many packets of `source` to `service` were turned away as denied: counts them for what was said at run time, where that did it.
    pub fn count(&self, policies: &Policies, service: &ServiceName, source: IpAddr, packets: u64) {
        if !self.sources.is_in_use {
            return;
        }
        let Some((EntrySource::RunTime, scope, entry)) = self.sources.decisive(policies, service, source)
        else {
            return;
        };
        if entry.rule == SourceRule::Deny {
            let name = (scope == PolicyScope::Own).then(|| service.clone());
            self.denials.lock().count(&(name, entry.prefix), packets);
        }
    }

    /// The command that decides on clients of `service` at `source`, with when that ends; none where what `policies` say decides.
    #[must_use]
    pub fn command(&self, policies: &Policies, service: &ServiceName, source: IpAddr) -> Option<String> {
        let (of, scope, entry) = self.sources.decisive(policies, service, source)?;
        if of == EntrySource::Configured {
            return None;
        }
        let name = (scope == PolicyScope::Own).then(|| service.clone());
        let verb = if entry.rule == SourceRule::Deny { "deny" } else { "allow --except" };
        let named = name.as_ref().map_or_else(String::new, |name| format!("{name} "));
        let denials = self.denials.lock();
        let end = denials.get(&(name, entry.prefix)).and_then(end_of);
        let until = end.map_or_else(String::new, |(until, _)| format!(" until {until}"));
        Some(format!("at run time{until} by `{verb} {named}{}`", entry.prefix))
    }
}
