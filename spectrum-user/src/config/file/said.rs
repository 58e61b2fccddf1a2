//! What was typed, key by key, with its places. Judges nothing: it has been.

use std::collections::{BTreeMap, HashSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::error::Problems;
use crate::config::keys::{Keys, SaidBy, SaidKey, ServiceKeys};
use crate::model::{Protocol, Service};

/// The tables that are not those of the instance itself.
const OTHERS: [&str; 3] = ["defaults", "include", "service"];

/// The keys of `root`, whose services are `services`; of lists at most `most` elements.
pub(super) fn keys(root: &DeTable<'_>, services: &[Service], most: usize, problems: &Problems<'_>) -> Keys {
    let mut defaults = HashSet::new();
    if let Some(table) = root.get("defaults") {
        collect(table, &mut defaults);
    }
    let saying = Saying { most, defaults, problems };
    let mut keys = Keys::default();
    for (key, value) in root.iter().filter(|(key, _)| !OTHERS.contains(&key.get_ref().as_ref())) {
        // A header with nothing under it says nothing of the instance.
        if !value.get_ref().as_table().is_some_and(DeTable::is_empty) {
            saying.flatten(key.get_ref(), value, &mut keys.general);
        }
    }
    let tables = root.get("service").and_then(|value| value.get_ref().as_array());
    let tables = tables.into_iter().flat_map(|list| list.iter().map(|element| element.get_ref().as_table()));
    for (table, service) in tables.zip(services) {
        let binds = |protocol| service.bindings.iter().any(|binding| binding.protocol == protocol);
        let mut said = ServiceKeys {
            service: service.name.to_string(),
            keys: BTreeMap::new(),
            tcp: binds(Protocol::Tcp),
            udp: binds(Protocol::Udp),
        };
        for (key, value) in table.into_iter().flat_map(|table| table.iter()) {
            saying.flatten(key.get_ref(), value, &mut said.keys);
        }
        keys.services.push(said);
    }
    keys
}

/// The places of all values within `value`.
fn collect(value: &Spanned<DeValue<'_>>, places: &mut HashSet<usize>) {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().for_each(|(_, value)| collect(value, places)),
        _ => {
            places.insert(value.span().start);
        }
    }
}

/// The making of them.
struct Saying<'a> {
    most: usize,
    /// The places of values that defaults have.
    defaults: HashSet<usize>,
    problems: &'a Problems<'a>,
}

impl Saying<'_> {
    fn flatten(&self, path: &str, value: &Spanned<DeValue<'_>>, into: &mut BTreeMap<String, SaidKey>) {
        match value.get_ref() {
            DeValue::Table(table) if !table.is_empty() => {
                for (key, value) in table {
                    self.flatten(&format!("{path}.{}", key.get_ref()), value, into);
                }
            }
            _ => {
                let offset = value.span().start;
                let place = self.problems.place(offset);
                let is_default = self.defaults.contains(&offset);
                let said = if is_default { SaidBy::Defaults(place) } else { SaidBy::File(place) };
                let mut text = String::new();
                self.write(value.get_ref(), &mut text);
                into.insert(path.to_owned(), SaidKey { value: text, said });
            }
        }
    }

    /// The value as TOML has it on one line.
    fn write(&self, value: &DeValue<'_>, text: &mut String) {
        match value {
            DeValue::String(string) => quote(string, text),
            DeValue::Integer(number) => {
                let decimal = i64::from_str_radix(number.as_str(), number.radix());
                text.push_str(&decimal.map_or_else(|_| number.to_string(), |decimal| decimal.to_string()));
            }
            DeValue::Float(number) => text.push_str(&number.to_string()),
            DeValue::Boolean(truth) => text.push_str(if *truth { "true" } else { "false" }),
            DeValue::Datetime(time) => text.push_str(&time.to_string()),
            DeValue::Array(list) => {
                text.push('[');
                for (index, element) in list.iter().take(self.most).enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    self.write(element.get_ref(), text);
                }
                if let Some(more) = list.len().checked_sub(self.most).filter(|more| *more > 0) {
                    text.push_str(", and ");
                    text.push_str(&more.to_string());
                    text.push_str(" more");
                }
                text.push(']');
            }
            DeValue::Table(table) if table.is_empty() => text.push_str("{}"),
            DeValue::Table(table) => {
                text.push_str("{ ");
                for (index, (key, value)) in table.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    text.push_str(key.get_ref());
                    text.push_str(" = ");
                    self.write(value.get_ref(), text);
                }
                text.push_str(" }");
            }
        }
    }
}

/// A basic string of TOML, whose escapes are those of JSON.
fn quote(string: &str, text: &mut String) {
    text.push_str(&serde_json::to_string(string).unwrap_or_default());
}
