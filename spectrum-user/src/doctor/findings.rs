//! The list that findings are put on, and the words by which they are. Judges nothing.

use super::host_facts::Unknown;
use super::{Finding, FindingVerdict};

/// Findings in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Findings {
    made: Vec<Finding>,
    unknown: Vec<String>,
}

impl Findings {
    /// Nothing is to be done about `check`.
    pub(super) fn ok(&mut self, check: impl Into<String>, value: impl Into<String>, meaning: &str) {
        self.add(check, FindingVerdict::Ok, value, meaning, None);
    }

    /// It could be better.
    pub(super) fn warn(
        &mut self,
        check: impl Into<String>,
        value: impl Into<String>,
        meaning: &str,
        cure: &str,
    ) {
        self.add(check, FindingVerdict::Warning, value, meaning, Some(cure));
    }

    /// Something cannot work.
    pub(super) fn miss(
        &mut self,
        check: impl Into<String>,
        value: impl Into<String>,
        meaning: &str,
        cure: &str,
    ) {
        self.add(check, FindingVerdict::Missing, value, meaning, Some(cure));
    }

    /// Whatever the verdict is.
    pub(super) fn add(
        &mut self,
        check: impl Into<String>,
        verdict: FindingVerdict,
        value: impl Into<String>,
        meaning: &str,
        cure: Option<&str>,
    ) {
        self.made.push(Finding {
            check: check.into(),
            verdict,
            value: value.into(),
            meaning: meaning.to_owned(),
            cure: cure.map(str::to_owned),
        });
    }

    /// The value of `fact`, or `None` after noting why it is not known.
    pub(super) fn known<'a, T>(&mut self, check: &str, fact: &'a Result<T, Unknown>) -> Option<&'a T> {
        match fact {
            Ok(known) => Some(known),
            Err(Unknown(why)) => {
                self.unknown.push(format!("{check}: {why}"));
                None
            }
        }
    }

    pub(super) fn into_parts(self) -> (Vec<Finding>, Vec<String>) {
        (self.made, self.unknown)
    }
}
