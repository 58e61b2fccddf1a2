//! Reading the values of a parsed file: types, lists, and keys that do not exist. Does not know what values mean.

use std::fmt::Display;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key_path::KeyPath;
use super::loanwords;
use super::nearest::{either, nearest};
use crate::config::error::Problems;

/// A value and its place.
pub(super) type Typed<'t> = Spanned<DeValue<'t>>;

/// Longer values are cut where a message shows them.
const SHOWN_CHARACTERS: usize = 60;

/// Keys that people put into the wrong table, and where they belong.
const HOMES: &[(&str, &str)] = &[
    ("backup", "an element of origins, as in { origin = \"203.0.113.10\", backup = true }"),
    ("balance", "[[service]]"),
    ("bindings", "[[service]]"),
    ("connect", "timeouts of a service"),
    ("dial-on", "[[service]]"),
    ("ejection", "[[service]]"),
    ("empty", "[log], or log of a service"),
    ("firewall", "[dispatcher]"),
    ("format", "[log]"),
    ("health", "[[service]]"),
    ("idle", "timeouts of a service"),
    ("limits", "[[service]]"),
    ("listen", "[admin]"),
    ("local-origins", "[[service]]"),
    ("min-ttl", "[resolver]"),
    ("mode", "[dispatcher]"),
    ("nat", "[dispatcher]"),
    ("opened", "[log], or log of a service"),
    ("origins", "[[service]]"),
    ("ports", "an element of bindings"),
    ("prefix", "an element of bindings"),
    ("protocol", "an element of bindings"),
    ("proxy-header", "[[service]]"),
    ("records", "[log], or log of a service"),
    ("respond", "[[service]]"),
    ("sample", "[log], or log of a service"),
    ("servers", "[resolver]"),
    ("timeouts", "[[service]]"),
    ("transparent", "[[service]]"),
    ("trusted-proxies", "[[service]]"),
    ("unique-id", "[[service]]"),
    ("weight", "an element of origins, as in { origin = \"203.0.113.10\", weight = 2 }"),
];

/// A table whose keys are taken one after the other. The keys that were asked for are the ones that exist.
pub(super) struct Section<'a, 't> {
    table: &'a DeTable<'t>,
    path: KeyPath<'a>,
    known: Vec<&'static str>,
    present: usize,
}

impl<'a, 't> Section<'a, 't> {
    pub(super) fn new(table: &'a DeTable<'t>, path: KeyPath<'a>) -> Self {
        Self { table, path, known: Vec::with_capacity(4), present: 0 }
    }

    /// The value of `key`, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Typed<'t>> {
        let value = self.table.get(key);
        self.known.push(key);
        self.present += usize::from(value.is_some());
        value
    }

    /// True if a key that does not exist was probably meant to be `key`: one mistake, told once.
    pub(super) fn misspells(&self, key: &str) -> bool {
        let unknown = self.table.keys().map(|typed| typed.get_ref().as_ref());
        self.present < self.table.len()
            && unknown.filter(|typed| !self.known.contains(typed)).any(|typed| {
                let meant = loanwords::meant(&self.path, typed);
                meant.or_else(|| nearest(typed, &self.known)) == Some(key)
            })
    }

    /// Refuses every key that was not taken.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        if self.present == self.table.len() {
            return;
        }
        for key in self.table.keys() {
            let (typed, offset) = (key.get_ref().as_ref(), key.span().start);
            if self.known.contains(&typed) {
                continue;
            }
            let home = HOMES.iter().find(|(name, _)| *name == typed);
            let loanword = loanwords::key(&self.path, typed);
            let cure = match (loanword, nearest(typed, &self.known), home) {
                (Some(cure), ..) => cure.to_owned(),
                (None, Some(meant), _) => format!("did you mean {meant}?"),
                (None, None, Some((_, home))) => format!("it belongs in {home}"),
                (None, None, None) => format!("expected {}", either(&self.known)),
            };
            let shown = shortened(typed);
            let path = KeyPath::Key(&self.path, &shown);
            problems.add_about(offset, path, format_args!("unknown key; {cure}"));
        }
    }
}

/// Refuses `value`, shows it, and says why.
pub(super) fn refuse(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    reason: impl Display,
    problems: &mut Problems<'_>,
) {
    let shown = match value.get_ref() {
        DeValue::String(text) => format!("{:?}", shortened(text)),
        DeValue::Integer(number) => shortened(&number.to_string()),
        DeValue::Float(number) => shortened(&number.to_string()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => String::new(),
    };
    let reason = reason.to_string();
    if shown.is_empty() || quotes(&reason, &shown) {
        problems.add_about(value.span().start, path, reason);
    } else {
        problems.add_about(value.span().start, path, format_args!("{shown}: {reason}"));
    }
}

/// True if the value is in the reason already.
fn quotes(reason: &str, shown: &str) -> bool {
    reason.contains(&format!("\"{}\"", shown.trim_matches('"')))
}

/// Refuses `value` for its type.
pub(super) fn refuse_type(value: &Typed<'_>, path: KeyPath<'_>, expected: &str, problems: &mut Problems<'_>) {
    refuse(value, path, format_args!("expected {expected}, found {}", kind(value.get_ref())), problems);
}

/// The text of `value`.
pub(super) fn string<'v>(
    value: &'v Typed<'_>,
    path: KeyPath<'_>,
    expected: &str,
    problems: &mut Problems<'_>,
) -> Option<&'v str> {
    if let DeValue::String(text) = value.get_ref() {
        return Some(text);
    }
    refuse_type(value, path, expected, problems);
    None
}

/// The value that the text of `value` stands for.
pub(super) fn parsed<T: FromStr<Err: Display>>(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    expected: &str,
    problems: &mut Problems<'_>,
) -> Option<T> {
    let parsed = string(value, path, expected, problems)?.parse();
    parsed.map_err(|error| refuse(value, path, error, problems)).ok()
}

/// The value that the text of `value` stands for, which is one of `words`.
pub(super) fn word<T: FromStr>(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    words: &[&str],
    problems: &mut Problems<'_>,
) -> Option<T> {
    let DeValue::String(typed) = value.get_ref() else {
        let bare = match value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            _ => String::new(),
        };
        let cure = loanwords::value(&path, &bare).map_or_else(String::new, |cure| format!("; {cure}"));
        let reason = format!("expected {}, found {}{cure}", loanwords::quoted(words), kind(value.get_ref()));
        refuse(value, path, reason, problems);
        return None;
    };
    let parsed = typed.parse().ok();
    if parsed.is_none() {
        let meant = || nearest(typed, words).map(|meant| format!("did you mean {meant}?"));
        let cure = loanwords::value(&path, typed).or_else(meant);
        let cure = cure.map_or_else(String::new, |cure| format!("; {cure}"));
        refuse(value, path, format_args!("expected {}{cure}", either(words)), problems);
    }
    parsed
}

/// Calls `element` for each element of a list, or for a value that stands alone. An empty list is refused with `cure`.
pub(super) fn each<'v, 't, 'm>(
    value: &'v Typed<'t>,
    path: KeyPath<'_>,
    cure: &str,
    problems: &mut Problems<'m>,
    mut element: impl FnMut(&'v Typed<'t>, KeyPath<'_>, Option<usize>, &mut Problems<'m>),
) {
    let DeValue::Array(list) = value.get_ref() else {
        element(value, path, None, problems);
        return;
    };
    if list.is_empty() {
        refuse(value, path, format_args!("the list is empty; {cure}"), problems);
    }
    for (index, value) in list.iter().enumerate() {
        element(value, KeyPath::Index(&path, index), Some(index), problems);
    }
}

/// The kind of `value`, with an article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Float(_) => "a float",
        DeValue::Integer(_) => "an integer",
        DeValue::String(_) => "a string",
        DeValue::Table(_) => "a table",
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text.to_owned(),
    }
}
