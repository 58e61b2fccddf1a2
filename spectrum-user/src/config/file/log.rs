//! `[log]` and the `log` of a service: which connections are written down, and how.

use super::key_path::KeyPath;
use super::quantity::{table, truth};
use super::section::{Section, Typed, parsed, word};
use crate::config::error::Problems;
use crate::model::{LogFormat, RecordKeys, Records};

/// The keys of `[log]`.
pub(super) fn general(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems<'_>,
) -> (Option<LogFormat>, RecordKeys) {
    let Some(keys) = table(value, path, "a table, [log]", problems) else { return Default::default() };
    let mut section = Section::new(keys, path);
    let format = section
        .take("format")
        .and_then(|value| word(value, KeyPath::Key(&path, "format"), LogFormat::WORDS, problems));
    let keys = record_keys(&mut section, path, problems);
    section.finish(problems);
    (format, keys)
}

/// The keys of a service's `log`.
pub(super) fn of_service(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> RecordKeys {
    let expected = "a table such as { records = \"failures\" }";
    let Some(keys) = table(value, path, expected, problems) else { return RecordKeys::default() };
    let mut section = Section::new(keys, path);
    let keys = record_keys(&mut section, path, problems);
    section.finish(problems);
    keys
}

fn record_keys(section: &mut Section<'_, '_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> RecordKeys {
    let key = |key| KeyPath::Key(&path, key);
    RecordKeys {
        records: section
            .take("records")
            .and_then(|value| word(value, key("records"), Records::WORDS, problems)),
        sample: section
            .take("sample")
            .and_then(|value| parsed(value, key("sample"), "a text such as \"1/100\"", problems)),
        opened: section.take("opened").and_then(|value| truth(value, key("opened"), problems)),
        empty: section.take("empty").and_then(|value| truth(value, key("empty"), problems)),
    }
}
