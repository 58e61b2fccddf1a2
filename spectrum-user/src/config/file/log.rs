//! `[log]` and the `log` of a service: which connections are written down, and how.

use super::section::{Section, Typed};
use crate::model::{LogFormat, RecordKeys};

/// The keys of `[log]`.
pub(super) fn general(log: Typed<'_, '_>) -> (Option<LogFormat>, RecordKeys) {
    let Some(section) = log.section("a table, [log]") else { return Default::default() };
    let format = section.take("format").and_then(|typed| typed.word());
    let keys = record_keys(&section);
    section.finish();
    (format, keys)
}

/// The keys of a service's `log`.
pub(super) fn of_service(log: Typed<'_, '_>) -> RecordKeys {
    let section = log.section("a table such as { records = \"failures\" }");
    section.map_or_else(RecordKeys::default, |section| {
        let keys = record_keys(&section);
        section.finish();
        keys
    })
}

fn record_keys(section: &Section<'_, '_>) -> RecordKeys {
    RecordKeys {
        records: section.take("records").and_then(|typed| typed.word()),
        sample: section.take("sample").and_then(|typed| typed.parsed("a text such as \"1/100\"")),
        opened: section.take("opened").and_then(|typed| typed.truth()),
        empty: section.take("empty").and_then(|typed| typed.truth()),
    }
}
