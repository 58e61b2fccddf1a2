//! The configuration file: what was typed, in TOML, becomes a [`Config`] or a list of everything that is wrong with it.
//! Pure but for [`Config::load`], so that starting, reloading and checking judge alike.

mod binding;
mod key_path;
mod loanwords;
mod log;
pub(crate) mod nearest;
mod origins;
mod policy;
mod quantity;
mod section;
mod service;
mod source;
mod ties;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::error::Problems;
use super::origin_places::{OriginPlace, OriginPlaces};
use super::{Config, ConfigError, FirewallChoice, ModeChoice, NatChoice};
use crate::model::{Force, Forced, LogOptions, RecordKeys, ResolverOptions, ServiceName};
use crate::plan::Plan;
use key_path::KeyPath;
use quantity::{number, socket_address, table, time};
use section::{Section, Typed, each, parsed, refuse_type, word};
use service::{DescribedService, ServicePlaces};

/// A million bindings, each on a line of its own with every key, have 27 million.
const MOST_TOKENS: usize = 40_000_000;

const NO_SERVICE: &str = "no service; add [[service]] with name, bindings, and origins or respond";

impl Config {
    /// The configuration that the file at `path` contains.
    ///
    /// # Errors
    /// The file cannot be read, or any of its problems.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes =
            source::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let mut problems = Problems::in_text(&text);
                problems.add(valid, "not UTF-8, which TOML is written in");
                Err(problems.into_error(path))
            }
        }
    }

    /// True if the file at `path` is gone once it was loaded, so that no reload can load it again.
    #[must_use]
    pub fn is_read_once(path: &Path) -> bool {
        source::is_read_once(path)
    }

    /// The configuration that `text` contains, which was read from `path`.
    ///
    /// # Errors
    /// Every problem there is; while the text is not TOML, every place where it is not.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut problems = Problems::in_text(text);
        if let Some(offset) = token_beyond(MOST_TOKENS, text) {
            let reason = format!(
                "more than {MOST_TOKENS} words and signs until here, the most that a configuration may have; if it is one, \
                 write neighbouring addresses as one prefix, or leave out comments and empty lines"
            );
            problems.add(offset, reason);
            return Err(problems.into_error(path));
        }
        // Editors of other systems put a byte order mark there; blanks keep every later byte in its place.
        let blanked = text.strip_prefix('\u{feff}').map(|rest| format!("   {rest}"));
        let (root, errors) = DeTable::parse_recoverable(blanked.as_deref().unwrap_or(text));
        let mut line = 0;
        for error in errors {
            let offset = error.span().map_or(text.len(), |span| span.start);
            // Further ones in the line are mostly about how the parser went on after the first.
            if std::mem::replace(&mut line, problems.line_of(offset)) != problems.line_of(offset) {
                problems.add(offset, format!("not TOML: {}", error.message()));
            }
        }
        // What the parser made of the rest after an error would be guesswork to judge.
        if problems.count() > 0 {
            return Err(problems.into_error(path));
        }
        let config = read(path, root.get_ref(), &mut problems);
        if problems.count() == 0 { Ok(config) } else { Err(problems.into_error(path)) }
    }
}

/// The offset of the first token beyond `limit`, if there are so many. The parser has 48 bytes of memory for each
/// before it looks at any, so that a file of nothing but line ends would take 12 GB, from a process that serves meanwhile.
fn token_beyond(limit: usize, text: &str) -> Option<usize> {
    // None is empty, so that most files need not be counted.
    if text.len() <= limit {
        return None;
    }
    let tokens = Source::new(text).lex().filter(|token| token.kind() != TokenKind::Eof);
    tokens.map(|token| token.span().start()).nth(limit)
}

/// The configuration as far as the file can be understood; sound if `problems` stays empty.
fn read(path: &Path, root: &DeTable<'_>, problems: &mut Problems<'_>) -> Config {
    let mut file = Section::new(root, KeyPath::File);
    let (mode, firewall, nat, force) =
        file.take("dispatcher").map(|value| dispatcher(value, problems)).unwrap_or_default();
    let admin = file.take("admin").and_then(|value| admin(value, problems));
    let resolver = file.take("resolver").map(|value| resolver(value, problems)).unwrap_or_default();
    let (format, general) = file
        .take("log")
        .map(|value| log::general(value, KeyPath::Key(&KeyPath::File, "log"), problems))
        .unwrap_or_default();
    let described = file.take("service").map(|value| services(value, problems));
    if described.is_none() && !file.misspells("service") {
        problems.add(0, NO_SERVICE);
    }
    file.finish(problems);

    let described = described.unwrap_or_default();
    refuse_shared_names(&described, problems);
    let own = described.iter().filter(|described| described.records != RecordKeys::default());
    let own = own.map(|described| (described.service.name.clone(), described.records)).collect();
    let log = LogOptions { format, general, services: own };
    let (services, places): (Vec<_>, Vec<_>) =
        described.into_iter().map(|described| (described.service, described.places)).unzip();
    if let Err(errors) = Plan::of(&services) {
        ties::explain(&errors, &places, problems);
    }
    let origin_places = OriginPlaces::in_file(path, located(&places, problems));
    Config { mode, firewall, nat, force, admin, log, resolver, services, origin_places }
}

/// The places of every service's origins.
fn located(services: &[ServicePlaces], problems: &Problems<'_>) -> Vec<Vec<OriginPlace>> {
    let each = services.iter().flat_map(|places| &places.each_origin);
    let mut offsets: Vec<usize> = each.map(|(offset, _)| *offset).collect();
    offsets.sort_unstable();
    let lines: HashMap<usize, (usize, usize)> =
        offsets.iter().copied().zip(problems.locate(&offsets)).collect();
    let place = |(offset, index): &(usize, Option<usize>)| {
        let (line, column) = lines.get(offset).copied().unwrap_or((1, 1));
        OriginPlace { line, column, index: *index }
    };
    services.iter().map(|places| places.each_origin.iter().map(place).collect()).collect()
}

fn dispatcher(
    value: &Typed<'_>,
    problems: &mut Problems<'_>,
) -> (ModeChoice, FirewallChoice, NatChoice, Force) {
    let path = KeyPath::Key(&KeyPath::File, "dispatcher");
    let DeValue::Table(table) = value.get_ref() else {
        refuse_type(value, path, "a table, [dispatcher]", problems);
        return Default::default();
    };
    let mut section = Section::new(table, path);
    let mode = section
        .take("mode")
        .and_then(|value| word(value, KeyPath::Key(&path, "mode"), ModeChoice::WORDS, problems));
    let firewall = section
        .take("firewall")
        .and_then(|value| word(value, KeyPath::Key(&path, "firewall"), FirewallChoice::WORDS, problems));
    let nat = section
        .take("nat")
        .and_then(|value| word(value, KeyPath::Key(&path, "nat"), NatChoice::WORDS, problems));
    let mut forced: Vec<Forced> = Vec::new();
    if let Some(value) = section.take("force") {
        let cure = "leave force out to force nothing";
        each(value, KeyPath::Key(&path, "force"), cure, problems, |value, path, _index, problems| {
            forced.extend(parsed::<Forced>(
                value,
                path,
                "a prefix such as \"203.0.113.10\", or \"all\"",
                problems,
            ));
        });
    }
    section.finish(problems);
    (mode.unwrap_or_default(), firewall.unwrap_or_default(), nat.unwrap_or_default(), forced.into())
}

fn admin(value: &Typed<'_>, problems: &mut Problems<'_>) -> Option<SocketAddr> {
    let path = KeyPath::Key(&KeyPath::File, "admin");
    let mut section = Section::new(table(value, path, "a table, [admin]", problems)?, path);
    let listen = section
        .take("listen")
        .and_then(|value| socket_address(value, KeyPath::Key(&path, "listen"), "127.0.0.1:9180", problems));
    section.finish(problems);
    listen
}

fn resolver(value: &Typed<'_>, problems: &mut Problems<'_>) -> ResolverOptions {
    let mut options = ResolverOptions::default();
    let path = KeyPath::Key(&KeyPath::File, "resolver");
    let Some(keys) = table(value, path, "a table, [resolver]", problems) else { return options };
    let mut section = Section::new(keys, path);
    if let Some(value) = section.take("servers") {
        let cure = "leave servers out to ask those of /etc/resolv.conf";
        each(value, KeyPath::Key(&path, "servers"), cure, problems, |value, path, _index, problems| {
            options.servers.extend(socket_address(value, path, "192.0.2.53:53", problems));
        });
    }
    if let Some(value) = section.take("timeout") {
        let range = Duration::from_millis(10)..=Duration::from_mins(1);
        if let Some(typed) = time(value, KeyPath::Key(&path, "timeout"), &range, problems) {
            options.timeout = typed;
        }
    }
    for (key, place) in [("addresses", &mut options.addresses), ("targets", &mut options.targets)] {
        if let Some(value) = section.take(key)
            && let Some(typed) = number(value, KeyPath::Key(&path, key), &(1..=1024), problems)
        {
            *place = typed;
        }
    }
    if let Some(value) = section.take("min-ttl") {
        let range = Duration::from_secs(1)..=Duration::from_mins(5);
        if let Some(typed) = time(value, KeyPath::Key(&path, "min-ttl"), &range, problems) {
            options.min_ttl = typed;
        }
    }
    section.finish(problems);
    options
}

fn services(value: &Typed<'_>, problems: &mut Problems<'_>) -> Vec<DescribedService> {
    let path = KeyPath::Key(&KeyPath::File, "service");
    let DeValue::Array(list) = value.get_ref() else {
        refuse_type(value, path, "a list of tables, each under [[service]]", problems);
        return Vec::new();
    };
    if list.is_empty() {
        problems.add(value.span().start, NO_SERVICE);
    }
    let mut services = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        match value.get_ref() {
            DeValue::Table(table) => {
                services.push(DescribedService::read(table, value.span().start, index, problems));
            }
            _ => refuse_type(value, KeyPath::Index(&path, index), "a table under [[service]]", problems),
        }
    }
    services
}

/// Refuses each service that has the name of an earlier one.
fn refuse_shared_names(services: &[DescribedService], problems: &mut Problems<'_>) {
    let mut taken: HashMap<&ServiceName, usize> = HashMap::new();
    for described in services {
        let Some(offset) = described.places.name else { continue };
        let name = &described.service.name;
        match taken.entry(name) {
            Entry::Vacant(free) => {
                free.insert(offset);
            }
            Entry::Occupied(first) => {
                let line = problems.line_of(*first.get());
                let name = name.as_str();
                problems.add_about(
                    offset,
                    format_args!("service {name:?} name"),
                    format_args!("{name:?}: line {line} has a service of this name; rename one"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_and_not_bytes() {
        let text = "mode = \"a long word\" # and a comment\n\n\n";
        // The key, the sign, the value, a comment, three blanks, three ends of lines.
        assert_eq!(token_beyond(10, text), None);
        assert_eq!(token_beyond(9, text), Some(text.len() - 1));
        assert_eq!(token_beyond(0, text), Some(0));
        assert_eq!(token_beyond(0, ""), None);
    }
}
