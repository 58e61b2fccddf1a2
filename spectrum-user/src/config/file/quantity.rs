//! Values that are a number, a time, or yes or no. Does not know what they are for.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::section::Typed;
use crate::model::parse_address_and_port;

/// The word for a time without end.
const NONE: &str = "none";

impl Typed<'_, '_> {
    /// A whole number of `range`.
    pub(super) fn number<T>(&self, range: &RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + TryFrom<i64> + std::fmt::Display,
    {
        let DeValue::Integer(typed) = self.value() else {
            self.refuse_type(&format!("a number from {} to {}", range.start(), range.end()));
            return None;
        };
        let number = i64::from_str_radix(typed.as_str(), typed.radix()).ok();
        let number =
            number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            self.refuse(format_args!("not a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// True or false.
    pub(super) fn truth(&self) -> Option<bool> {
        if let DeValue::Boolean(truth) = self.value() {
            return Some(*truth);
        }
        self.refuse_type("true or false");
        None
    }

    /// An address with a port; `example` shows one.
    pub(super) fn socket_address(&self, example: &str) -> Option<SocketAddr> {
        let typed = self.string(&format!("an address with a port such as {example:?}"))?;
        parse_address_and_port(typed).map_err(|error| self.refuse(error)).ok()
    }

    /// A time of `range`, such as `"5s"`.
    pub(super) fn time(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        self.time_written("\"5s\", \"1m 30s\" or \"250ms\"", range)
    }

    /// Puts a time of `range`, or no end for `"none"`, into `place`, which stays as it is when the value is refused.
    pub(super) fn time_or_none(&self, range: &RangeInclusive<Duration>, place: &mut Option<Duration>) {
        if self.value().as_str() == Some(NONE) {
            *place = None;
        } else if let Some(time) = self.time_written("\"5s\", \"1m 30s\" or \"none\"", range) {
            *place = Some(time);
        }
    }

    fn time_written(&self, examples: &str, range: &RangeInclusive<Duration>) -> Option<Duration> {
        if let DeValue::Integer(number) = self.value() {
            let meant = i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|number| meant(number, range))
                .unwrap_or_default();
            self.refuse(format_args!(
                "expected a time with its unit, such as \"5s\", found an integer{meant}"
            ));
            return None;
        }
        let typed = self.string("a time such as \"5s\"")?;
        let Ok(time) = humantime::parse_duration(typed) else {
            let meant = typed.parse().ok().and_then(|number| meant(number, range)).unwrap_or_default();
            self.refuse(format_args!("not a time; write it as in {examples}{meant}"));
            return None;
        };
        if range.contains(&time) {
            return Some(time);
        }
        let (least, most) =
            (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        self.refuse(format_args!("not a time from {least} to {most}"));
        None
    }
}

/// The quantity that a number without a unit may stand for, as HAProxy's are milliseconds and nginx's are seconds.
fn meant(number: i64, range: &RangeInclusive<Duration>) -> Option<String> {
    let number = u64::try_from(number).ok()?;
    let units = [("milliseconds", Duration::from_millis(number)), ("seconds", Duration::from_secs(number))];
    let meant: Vec<String> = units
        .into_iter()
        .filter(|(_, time)| range.contains(time))
        .map(|(unit, time)| format!("\"{}\" if {unit} are meant", humantime::format_duration(time)))
        .collect();
    (!meant.is_empty()).then(|| format!(": {}", meant.join(", ")))
}
