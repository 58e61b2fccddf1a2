//! Which connections are written down, and how. Writes nothing.

use spectrum_common::UnknownWord;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use strum::{Display, EnumString, VariantNames};

use super::ServiceName;

/// The form of log lines and records.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<LogFormat>)]
pub enum LogFormat {
    /// `key=value` pairs on one line; the origin is `-` where there is none.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The connections that leave a record when they are over.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<Records>)]
pub enum Records {
    /// All of them.
    #[default]
    All,
    /// Those whose end has another status than 200.
    Failures,
    /// None.
    None,
}

/// One record of so many connections. Prints as it is typed, `1/100`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sample(NonZeroU32);

impl Sample {
    /// Every one.
    pub const WHOLE: Self = Self(NonZeroU32::MIN);

    /// One of how many.
    #[must_use]
    pub fn of(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for Sample {
    type Err = ParseSampleError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let of = typed.strip_prefix("1/").filter(|of| of.bytes().all(|byte| byte.is_ascii_digit()));
        of.and_then(|of| of.parse().ok()).map(Self).ok_or(ParseSampleError)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("1/{}", self.0))
    }
}

/// The error of a text that is not a [`Sample`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a share such as \"1/100\", which is one record of a hundred")]
pub struct ParseSampleError;

/// The keys about the records of a service, or of all; `None` where nothing is said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordKeys {
    /// Which connections leave one.
    pub records: Option<Records>,
    /// Of those that did not fail, how many do.
    pub sample: Option<Sample>,
    /// True if there is another one when a connection begins to carry bytes.
    pub opened: Option<bool>,
    /// True if a connection that its client ended before a byte came leaves one.
    pub empty: Option<bool>,
}

impl RecordKeys {
    /// These, and where they say nothing, `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            records: self.records.or(others.records),
            sample: self.sample.or(others.sample),
            opened: self.opened.or(others.opened),
            empty: self.empty.or(others.empty),
        }
    }
}

impl RecordKeys {
    /// The same without what holds where nothing is said.
    #[must_use]
    pub fn unusual(self) -> Self {
        Self {
            records: self.records.filter(|records| *records != Records::default()),
            sample: self.sample.filter(|sample| *sample != Sample::WHOLE),
            opened: self.opened.filter(|opened| *opened),
            empty: self.empty,
        }
    }
}

impl fmt::Display for RecordKeys {
    /// The keys that are there; nothing without any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, sample, opened, empty } = self;
        let keys = [
            records.map(|records| format!("records {records}")),
            sample.map(|sample| format!("sample {sample}")),
            opened.map(|opened| format!("opened {opened}")),
            empty.map(|empty| format!("empty {empty}")),
        ];
        f.pad(&keys.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// The options of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogOptions {
    /// The form of its lines; `None`: nothing is said.
    pub format: Option<LogFormat>,
    /// The keys for records of all services that say nothing else.
    pub general: RecordKeys,
    /// The keys of those services that have some of their own.
    pub services: HashMap<ServiceName, RecordKeys>,
}

impl LogOptions {
    /// The keys for the records of `service`, its own before the general ones.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> RecordKeys {
        self.services.get(service).copied().unwrap_or_default().or(self.general)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_of_a_number() {
        assert_eq!("1/100".parse::<Sample>().map(Sample::of), Ok(100));
        assert_eq!("1/1".parse(), Ok(Sample::WHOLE));
        for typed in ["1/0", "1/", "1", "2/100", "0.01", "1/+5", "1/-5", "1/4294967296", ""] {
            assert_eq!(typed.parse::<Sample>(), Err(ParseSampleError), "{typed}");
        }
    }

    #[test]
    fn a_service_says_what_is_not_to_be_as_in_general() {
        let name: ServiceName = "a".parse().unwrap();
        let general =
            RecordKeys { records: Some(Records::Failures), opened: Some(true), ..RecordKeys::default() };
        let own = RecordKeys { records: Some(Records::All), empty: Some(false), ..RecordKeys::default() };
        let options = LogOptions { general, services: [(name.clone(), own)].into(), ..LogOptions::default() };
        assert_eq!(options.of(&name).to_string(), "records all, opened true, empty false");
        assert_eq!(options.of(&ServiceName::default()), general);
    }
}
