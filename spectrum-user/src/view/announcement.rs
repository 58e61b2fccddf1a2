//! An announced prefix in the view. Announces none.

use serde::{Deserialize, Serialize};

use super::making::millis;
use crate::model::Announcing;

/// What is announced, as configured.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AnnouncingPlan {
    /// The prefixes, each with its conditions in words.
    pub prefixes: Vec<AnnouncedPlan>,
    /// So long a condition must hold before a prefix is announced again.
    pub rise_ms: u64,
    /// So long it must not hold before a prefix is withdrawn.
    pub fall_ms: u64,
    /// So long a withdrawn one stays so.
    pub hold_ms: u64,
    /// The time for which everything is served after it was withdrawn because of the end.
    pub lame_duck_ms: u64,
}

/// An announced prefix as configured.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AnnouncedPlan {
    /// The prefix.
    pub prefix: String,
    /// The conditions, such as `web: origins >= 1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<String>,
}

impl AnnouncingPlan {
    pub(super) fn of(announcing: &Announcing) -> Self {
        let prefixes = announcing.prefixes.iter().map(|(prefix, conditions)| AnnouncedPlan {
            prefix: prefix.to_string(),
            when: conditions
                .iter()
                .map(|one| format!("{}: origins >= {}", one.service, one.origins))
                .collect(),
        });
        Self {
            prefixes: prefixes.collect(),
            rise_ms: millis(announcing.rise),
            fall_ms: millis(announcing.fall),
            hold_ms: millis(announcing.hold),
            lame_duck_ms: millis(announcing.lame_duck()),
        }
    }

    /// True if it announces nothing.
    pub(super) fn is_nothing(&self) -> bool {
        self.prefixes.is_empty()
    }
}

/// A prefix that is to be announced, and whether it is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AnnouncementView {
    /// The prefix.
    pub prefix: String,
    /// True if its route is there, for daemons to pass on.
    pub announced: bool,
    /// True if it was withdrawn by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// The reasons for which it is not announced, or soon will not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl AnnouncementView {
    /// `announced`, or `withdrawn: why`.
    #[must_use]
    pub fn line(&self) -> String {
        let reasons = self.reasons.join("; ");
        match (self.announced, reasons.is_empty()) {
            (true, true) => "announced".to_owned(),
            (true, false) => format!("announced, although {reasons}"),
            (false, _) => format!("withdrawn: {reasons}"),
        }
    }
}
