//! What a configuration says, key by key, as it was typed and where: for people who ask what is in force, and what another
//! configuration would change. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::key_list::{self, Holds};

/// All keys that were said.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Keys {
    /// Those that are of no service, by path: `dispatcher.mode`.
    pub general: BTreeMap<String, SaidKey>,
    /// Those of each service, in the order of the services.
    pub services: Vec<ServiceKeys>,
}

/// The keys that a service says, or that are said for it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceKeys {
    /// Its name.
    pub service: String,
    /// By path: `timeouts.idle`.
    pub keys: BTreeMap<String, SaidKey>,
    /// True if a binding of it is for TCP.
    pub tcp: bool,
    /// True if a binding of it is for UDP.
    pub udp: bool,
}

/// A value, and who says it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SaidKey {
    /// The value as TOML has it.
    pub value: String,
    /// Who says it.
    pub said: SaidBy,
}

/// Who says a key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaidBy {
    /// Nobody: it holds where nothing is said.
    BuiltIn,
    /// `[defaults]`, at this place.
    Defaults(String),
    /// A file, at this place.
    File(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for SaidBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Defaults(place) => write!(f, "[defaults], {place}"),
            Self::File(place) => f.write_str(place),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Keys {
    /// Has the flag `flag` say `key`.
    pub fn override_by(&mut self, flag: &str, key: &str, value: String) {
        self.general.insert(key.to_owned(), SaidKey { value, said: SaidBy::Flag(flag.to_owned()) });
    }

    /// These, and for every key that nobody says what holds without it, where something does.
    #[must_use]
    pub fn filled(mut self) -> Self {
        for spec in key_list::KEYS {
            let Some(value) = spec.default else { continue };
            let built_in = || SaidKey { value: value.to_owned(), said: SaidBy::BuiltIn };
            match spec.table.strip_prefix("service") {
                None => {
                    self.general.entry(joined(spec.table, spec.key)).or_insert_with(built_in);
                }
                Some(below) => {
                    let path = joined(below.trim_start_matches('.'), spec.key);
                    for service in self.services.iter_mut().filter(|service| service.has_room(spec.holds)) {
                        service.keys.entry(path.clone()).or_insert_with(built_in);
                    }
                }
            }
        }
        self
    }

    /// The configuration as a file that says all of it, each key with who says it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut table = "";
        for (path, said) in &self.general {
            let (own, key) = path.split_once('.').unwrap_or(("", path));
            if own != table {
                let gap = if text.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{own}]");
                table = own;
            }
            write_key(&mut text, key, said);
        }
        for service in &self.services {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[[service]]");
            let first = ["name", "bindings", "origins", "registered", "respond", "sockets"];
            let begin = first.iter().filter_map(|key| Some((*key, service.keys.get(*key)?)));
            for (key, said) in begin {
                write_key(&mut text, key, said);
            }
            for (key, said) in service.keys.iter().filter(|(key, _)| !first.contains(&key.as_str())) {
                if !is_filled(&service.keys, key, said) {
                    write_key(&mut text, key, said);
                }
            }
        }
        text
    }
}

impl ServiceKeys {
    fn has_room(&self, holds: Holds) -> bool {
        let said = |key: &str| self.keys.contains_key(key);
        let says_of = |table: &str| {
            let path = format!("{table}.");
            said(table) || self.keys.keys().any(|key| key.starts_with(&path))
        };
        let asks = said("health.template") || said("health.send");
        match holds {
            Holds::Always => true,
            Holds::Tcp => self.tcp && !said("registered") && !said("sockets"),
            Holds::Udp => self.udp && !said("registered") && !said("sockets"),
            Holds::Origins => said("origins"),
            Holds::TcpOrigins => self.tcp && said("origins"),
            Holds::Checks => says_of("health"),
            Holds::TcpChecks => says_of("health") && !asks,
            Holds::Ejection => says_of("ejection"),
            Holds::LimitsOfSources => said("limits.connections-per-source") || said("limits.rate-per-source"),
            Holds::InAnElement => false,
        }
    }
}

fn joined(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// True of the empty table that others fill.
fn is_filled(keys: &BTreeMap<String, SaidKey>, key: &str, said: &SaidKey) -> bool {
    let path = format!("{key}.");
    said.value == "{}" && keys.keys().any(|key| key.starts_with(&path))
}

fn write_key(text: &mut String, key: &str, said: &SaidKey) {
    let SaidKey { value, said } = said;
    let _ = writeln!(text, "{key} = {value}  # {said}");
}

/// What one configuration says otherwise than another.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// What it was; none: nothing was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// What it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// Who says so, if anybody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: {} -> {}", self.key, shown(&self.was), shown(&self.is))?;
        self.said.as_ref().map_or(Ok(()), |said| write!(f, "  ({said})"))
    }
}

/// The keys that differ.
#[must_use]
pub fn changes(before: &BTreeMap<String, SaidKey>, after: &BTreeMap<String, SaidKey>) -> Vec<KeyChange> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes = paths.into_iter().filter_map(|path| {
        let (was, is) = (before.get(path), after.get(path));
        let value = |said: Option<&SaidKey>| said.map(|said| said.value.clone());
        let is_filled = [(before, was), (after, is)]
            .into_iter()
            .any(|(keys, said)| said.is_some_and(|said| is_filled(keys, path, said)));
        (value(was) != value(is) && !is_filled).then(|| KeyChange {
            key: path.clone(),
            was: value(was),
            is: value(is),
            said: is.map(|said| said.said.to_string()),
        })
    });
    changes.collect()
}
