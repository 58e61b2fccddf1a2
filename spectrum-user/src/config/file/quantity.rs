//! Values that are a number, a time, or yes or no. Does not know what they are for.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::key_path::KeyPath;
use super::section::{Typed, refuse, refuse_type, string};
use crate::config::error::Problems;
use crate::model::parse_address_and_port;

/// The word for a time without end.
const NONE: &str = "none";

/// A whole number of `range`.
pub(super) fn number<T>(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    range: &RangeInclusive<T>,
    problems: &mut Problems<'_>,
) -> Option<T>
where
    T: Copy + PartialOrd + TryFrom<i64> + std::fmt::Display,
{
    let DeValue::Integer(typed) = value.get_ref() else {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        refuse_type(value, path, &expected, problems);
        return None;
    };
    let number = i64::from_str_radix(typed.as_str(), typed.radix()).ok();
    let number = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
    if number.is_none() {
        let reason = format!("not a number from {} to {}", range.start(), range.end());
        refuse(value, path, reason, problems);
    }
    number
}

/// True or false.
pub(super) fn truth(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> Option<bool> {
    if let DeValue::Boolean(truth) = value.get_ref() {
        return Some(*truth);
    }
    refuse_type(value, path, "true or false", problems);
    None
}

/// An address with a port; `example` shows one.
pub(super) fn socket_address(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    example: &str,
    problems: &mut Problems<'_>,
) -> Option<SocketAddr> {
    let typed = string(value, path, &format!("an address with a port such as {example:?}"), problems)?;
    parse_address_and_port(typed).map_err(|error| refuse(value, path, error, problems)).ok()
}

/// A time of `range`, such as `"5s"`.
pub(super) fn time(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    range: &RangeInclusive<Duration>,
    problems: &mut Problems<'_>,
) -> Option<Duration> {
    time_written(value, path, "\"5s\", \"1m 30s\" or \"250ms\"", range, problems)
}

fn time_written(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    examples: &str,
    range: &RangeInclusive<Duration>,
    problems: &mut Problems<'_>,
) -> Option<Duration> {
    if let DeValue::Integer(number) = value.get_ref() {
        let meant = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| meant(number, range))
            .unwrap_or_default();
        let reason = format!("expected a time with its unit, such as \"5s\", found an integer{meant}");
        refuse(value, path, reason, problems);
        return None;
    }
    let typed = string(value, path, "a time such as \"5s\"", problems)?;
    let Ok(time) = humantime::parse_duration(typed) else {
        let meant = typed.parse().ok().and_then(|number| meant(number, range)).unwrap_or_default();
        refuse(value, path, format_args!("not a time; write it as in {examples}{meant}"), problems);
        return None;
    };
    if range.contains(&time) {
        return Some(time);
    }
    let (least, most) =
        (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    refuse(value, path, format_args!("not a time from {least} to {most}"), problems);
    None
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

/// Puts a time of `range`, or no end for `"none"`, into `place`, which stays as it is when the value is refused.
pub(super) fn time_or_none(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    range: &RangeInclusive<Duration>,
    place: &mut Option<Duration>,
    problems: &mut Problems<'_>,
) {
    if value.get_ref().as_str() == Some(NONE) {
        *place = None;
    } else if let Some(time) = time_written(value, path, "\"5s\", \"1m 30s\" or \"none\"", range, problems) {
        *place = Some(time);
    }
}

/// The table that `value` is; `expected` says what one looks like.
pub(super) fn table<'v, 't>(
    value: &'v Typed<'t>,
    path: KeyPath<'_>,
    expected: &str,
    problems: &mut Problems<'_>,
) -> Option<&'v DeTable<'t>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    refuse_type(value, path, expected, problems);
    None
}
