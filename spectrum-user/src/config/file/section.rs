//! Reading the values of a parsed file: types, lists, and keys that do not exist. Does not know what values mean.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use spectrum_common::Either;
use strum::VariantNames;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key_path::KeyPath;
use super::loanwords;
use super::nearest::nearest;
use crate::config::error::Problems;

/// Longer values are cut where a message shows them.
const SHOWN_CHARACTERS: usize = 60;

/// Where times are that both protocols have.
const TIMES: &str = "timeouts of a service, for TCP, or udp of a service";

/// Keys that people put into the wrong table, and where they belong.
const HOMES: &[(&str, &str)] = &[
    ("allow", "[policy], or policy of a service"),
    ("announce-when", "[[service]]"),
    ("backup", "an element of origins, as in { origin = \"203.0.113.10\", backup = true }"),
    ("balance", "[[service]]"),
    ("bindings", "[[service]]"),
    ("connect", "timeouts of a service"),
    ("deny", "[policy], or policy of a service"),
    ("dial-on", "[[service]]"),
    ("drain", "[instance]"),
    ("ejection", "[[service]]"),
    ("empty", "[log], or log of a service"),
    ("expect", "health of a service"),
    ("firewall", "[dispatcher]"),
    ("format", "[log]"),
    ("health", "[[service]]"),
    ("hold", "[announce]"),
    ("idle", TIMES),
    ("include", "the top of the file, before its first table"),
    ("interfaces", "[policy], or policy of a service"),
    ("lame-duck", "[announce]"),
    ("lifetime", TIMES),
    ("limits", "[[service]]"),
    ("listen", "[admin]"),
    ("local-origins", "[[service]]"),
    ("min-ttl", "[resolver]"),
    ("mmdb", "[policy]"),
    ("mode", "[dispatcher]"),
    ("nat", "[dispatcher]"),
    ("netns", "[instance]"),
    ("on-deny", "[policy], or policy of a service"),
    ("opened", "[log], or log of a service"),
    ("origins", "[[service]]"),
    ("pin", "[instance]"),
    ("ports", "an element of bindings"),
    ("prefix", "an element of bindings"),
    ("protocol", "an element of bindings"),
    ("proxy-header", "[[service]]"),
    ("quic", "udp of a service"),
    ("records", "[log], or log of a service"),
    ("registered", "[[service]]"),
    ("repairs-per-minute", "[dispatcher]"),
    ("respond", "[[service]]"),
    ("responses", "udp of a service"),
    ("sample", "[log], or log of a service"),
    ("send", "health of a service"),
    ("servers", "[resolver]"),
    ("sessions", "udp of a service"),
    ("single-process", "[instance]"),
    ("sockets", "[[service]]"),
    ("source", "udp of a service"),
    ("template", "health of a service"),
    ("timeouts", "[[service]]"),
    ("transparent", "[[service]]"),
    ("trusted-proxies", "[[service]]"),
    ("udp", "[[service]]"),
    ("unique-id", "[[service]]"),
    ("user", "[instance]"),
    ("xdp", "[policy]"),
    ("weight", "an element of origins, as in { origin = \"203.0.113.10\", weight = 2 }"),
];

/// A value of the file, its path, and the problems that its own are added to.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a, 't> {
    value: &'a Spanned<DeValue<'t>>,
    path: KeyPath<'a>,
    problems: &'a Problems<'a>,
}

impl<'a, 't> Typed<'a, 't> {
    /// The value as the parser has it.
    pub(super) fn value(&self) -> &'a DeValue<'t> {
        self.value.get_ref()
    }

    /// The byte at which it stands.
    pub(super) fn offset(&self) -> usize {
        self.value.span().start
    }

    /// The place of the byte `offset`: its line, with the file if it is another one.
    pub(super) fn place_of(&self, offset: usize) -> String {
        self.problems.beside(offset, self.offset())
    }

    /// The line that it stands in.
    pub(super) fn line(&self) -> usize {
        self.problems.line_of(self.offset())
    }

    /// The file that it stands in.
    pub(super) fn file(&self) -> Option<&'a Path> {
        self.problems.path_of(self.offset())
    }

    /// Its path as messages have it.
    pub(super) fn path(&self) -> String {
        self.path.to_string()
    }

    /// The table that it is, if it is one.
    pub(super) fn table(&self) -> Option<Section<'a, 't>> {
        let DeValue::Table(table) = self.value() else { return None };
        Some(Section::new(table, self.path, self.problems))
    }

    /// Refuses `key` of the table that the value is, in the place of the byte `offset`.
    pub(super) fn refuse_at(&self, offset: usize, key: &str, reason: impl Display) {
        self.problems.add_about(offset, KeyPath::Key(&self.path, key), reason);
    }

    /// Refuses the value, shows it, and says why.
    pub(super) fn refuse(&self, reason: impl Display) {
        let shown = match self.value() {
            DeValue::String(text) => format!("{:?}", shortened(text)),
            DeValue::Integer(number) => shortened(&number.to_string()),
            DeValue::Float(number) => shortened(&number.to_string()),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(value) => value.to_string(),
            DeValue::Array(_) | DeValue::Table(_) => String::new(),
        };
        let reason = reason.to_string();
        if shown.is_empty() || quotes(&reason, &shown) {
            self.problems.add_about(self.offset(), self.path, reason);
        } else {
            self.problems.add_about(self.offset(), self.path, format_args!("{shown}: {reason}"));
        }
    }

    /// Refuses `key` of the table that the value is, in the value's place.
    pub(super) fn refuse_key(&self, key: &str, reason: impl Display) {
        Typed { path: KeyPath::Key(&self.path, key), ..*self }.refuse(reason);
    }

    /// Refuses the value for its type.
    pub(super) fn refuse_type(&self, expected: &str) {
        self.refuse(format_args!("expected {expected}, found {}", kind(self.value())));
    }

    /// Its text.
    pub(super) fn string(&self, expected: &str) -> Option<&'a str> {
        if let DeValue::String(text) = self.value() {
            return Some(text);
        }
        self.refuse_type(expected);
        None
    }

    /// The value that its text stands for.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, expected: &str) -> Option<T> {
        self.string(expected)?.parse().map_err(|error| self.refuse(error)).ok()
    }

    /// The value that its text stands for, which is one of its type's words.
    pub(super) fn word<T: FromStr + VariantNames>(&self) -> Option<T> {
        let words = T::VARIANTS;
        let DeValue::String(typed) = self.value() else {
            let bare = match self.value() {
                DeValue::Integer(number) => number.to_string(),
                DeValue::Boolean(truth) => truth.to_string(),
                _ => String::new(),
            };
            let cure =
                loanwords::value(&self.path, &bare).map_or_else(String::new, |cure| format!("; {cure}"));
            self.refuse(format_args!(
                "expected {}, found {}{cure}",
                loanwords::quoted(words),
                kind(self.value())
            ));
            return None;
        };
        let parsed = typed.parse().ok();
        if parsed.is_none() {
            let meant = || nearest(typed, words).map(|meant| format!("did you mean {meant}?"));
            let cure = loanwords::value(&self.path, typed).or_else(meant);
            let cure = cure.map_or_else(String::new, |cure| format!("; {cure}"));
            self.refuse(format_args!("expected {}{cure}", Either(words)));
        }
        parsed
    }

    /// The table that it is; `expected` says what one looks like.
    pub(super) fn section(&self, expected: &str) -> Option<Section<'a, 't>> {
        if let DeValue::Table(table) = self.value() {
            return Some(Section::new(table, self.path, self.problems));
        }
        self.refuse_type(expected);
        None
    }

    /// The elements of a list; `None` if it is none.
    pub(super) fn elements<'s>(&'s self) -> Option<impl ExactSizeIterator<Item = Typed<'s, 't>>> {
        let DeValue::Array(list) = self.value() else { return None };
        Some(list.iter().enumerate().map(|(index, value)| Typed {
            value,
            path: KeyPath::Index(&self.path, index),
            problems: self.problems,
        }))
    }

    /// The elements of a list, or the value itself where it stands alone; with each its number in a list. An empty list is
    /// refused with `cure`.
    pub(super) fn each<'s>(&'s self, cure: &str) -> impl Iterator<Item = (Typed<'s, 't>, Option<usize>)> {
        let elements = self.elements();
        let alone = if elements.is_none() { Some((*self, None)) } else { None };
        if elements.as_ref().is_some_and(|elements| elements.len() == 0) {
            self.refuse(format_args!("the list is empty; {cure}"));
        }
        let elements = elements.into_iter().flatten().enumerate();
        alone.into_iter().chain(elements.map(|(index, element)| (element, Some(index))))
    }
}

/// A table whose keys are taken one after the other. The keys that were asked for are the ones that exist.
pub(super) struct Section<'a, 't> {
    table: &'a DeTable<'t>,
    path: KeyPath<'a>,
    problems: &'a Problems<'a>,
    known: RefCell<Vec<&'static str>>,
    present: Cell<usize>,
}

impl<'a, 't> Section<'a, 't> {
    pub(super) fn new(table: &'a DeTable<'t>, path: KeyPath<'a>, problems: &'a Problems<'a>) -> Self {
        Self { table, path, problems, known: RefCell::new(Vec::with_capacity(4)), present: Cell::new(0) }
    }

    /// The problems that those of its values are added to.
    pub(super) fn problems(&self) -> &'a Problems<'a> {
        self.problems
    }

    /// The value of `key`, if it is there.
    pub(super) fn take<'s>(&'s self, key: &'static str) -> Option<Typed<'s, 't>> {
        let value = self.table.get(key);
        self.known.borrow_mut().push(key);
        self.present.set(self.present.get() + usize::from(value.is_some()));
        value.map(|value| Typed { value, path: KeyPath::Key(&self.path, key), problems: self.problems })
    }

    /// True if `key` is there, taken or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// True if a key that does not exist was probably meant to be `key`: one mistake, told once.
    pub(super) fn misspells(&self, key: &str) -> bool {
        let known = self.known.borrow();
        let unknown = self.table.keys().map(|typed| typed.get_ref().as_ref());
        self.present.get() < self.table.len()
            && unknown.filter(|typed| !known.contains(typed)).any(|typed| {
                let meant = loanwords::meant(&self.path, typed);
                meant.or_else(|| nearest(typed, &known)) == Some(key)
            })
    }

    /// Refuses that `key` is not there, in a table that stands at the byte `offset`.
    pub(super) fn refuse_missing(&self, offset: usize, key: &str, cure: impl Display) {
        self.problems.add_about(offset, KeyPath::Key(&self.path, key), cure);
    }

    /// Refuses every key that was not taken.
    pub(super) fn finish(&self) {
        if self.present.get() == self.table.len() {
            return;
        }
        let known = self.known.borrow();
        for key in self.table.keys() {
            let (typed, offset) = (key.get_ref().as_ref(), key.span().start);
            if known.contains(&typed) {
                continue;
            }
            let home = HOMES.iter().find(|(name, _)| *name == typed);
            let loanword = loanwords::key(&self.path, typed);
            let cure = match (loanword, nearest(typed, &known), home) {
                (Some(cure), ..) => cure.to_owned(),
                (None, Some(meant), _) => format!("did you mean {meant}?"),
                (None, None, Some((_, home))) => format!("it belongs in {home}"),
                (None, None, None) => format!("expected {}", Either(&known)),
            };
            let shown = shortened(typed);
            let path = KeyPath::Key(&self.path, &shown);
            self.problems.add_about(offset, path, format_args!("unknown key; {cure}"));
        }
    }
}

/// True if the value is in the reason already.
fn quotes(reason: &str, shown: &str) -> bool {
    reason.contains(&format!("\"{}\"", shown.trim_matches('"')))
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
