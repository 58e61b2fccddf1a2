//! Databases of networks in MaxMind's format (MMDB), which a user brings: the networks of the countries and autonomous systems that
//! policies name. Each is walked once for all of them. Fetches none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::de::DeTable;

use super::section::Typed;
use super::sources::ReadList;
use crate::model::{Prefix, SourceGroup};

/// So many ends of its tree a database may have, those without data and the other names of IPv4 among them. One of cities has some
/// fifteen million.
const MOST_NETWORKS: usize = 64_000_000;

/// IPv6 networks whose addresses stand for IPv4 ones: a database repeats there what it says of those.
const ALIASES: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// The databases of a configuration.
#[derive(Debug, Default)]
pub(super) struct Databases {
    /// The groups that any policy names.
    wanted: BTreeSet<SourceGroup>,
    /// A policy names one, rightly or not.
    is_wanted: bool,
    all: Vec<Database>,
    /// One was named, readable or not.
    is_any_named: bool,
    /// One was named that nobody could read, or was to.
    is_any_unread: bool,
}

/// One of them, as far as it was asked.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) walked: Walked,
}

/// The outcome of a walk.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Its type, as it says itself.
    pub(super) kind: String,
    /// The time at which it was made, in seconds since 1970.
    pub(super) built: u64,
    /// Any record says a country.
    has_countries: bool,
    /// Any record says an autonomous system.
    has_systems: bool,
    networks: BTreeMap<SourceGroup, Vec<Prefix>>,
}

impl Databases {
    /// Those of a file that is `root`, of which none is read yet.
    pub(super) fn wanted_by(root: &DeTable<'_>) -> Self {
        let services = root.get("service").and_then(|value| value.get_ref().as_array());
        let services = services.into_iter().flatten().filter_map(|service| service.get_ref().as_table());
        let policies = std::iter::once(root)
            .chain(services)
            .filter_map(|table| table.get("policy")?.get_ref().as_table());
        let lists =
            policies.flat_map(|policy| ["allow", "deny"].into_iter().filter_map(|key| policy.get(key)));
        let mut databases = Self::default();
        for list in lists {
            let elements = match list.get_ref().as_array() {
                Some(elements) => elements.iter().collect(),
                None => vec![list],
            };
            let typed =
                elements.into_iter().filter_map(|element| SourceGroup::typed(element.get_ref().as_str()?));
            for group in typed {
                databases.is_wanted = true;
                databases.wanted.extend(group);
            }
        }
        databases
    }

    /// Reads those that `typed` names, whose paths are seen from its file.
    pub(super) fn read(&mut self, typed: Typed<'_, '_>, read: ReadList) {
        self.is_any_named = true;
        if !self.is_wanted {
            return typed.refuse(
                "has no effect, since no policy names a country or an AS; add deny = [\"country:KP\"], or remove it",
            );
        }
        for (element, _) in typed.each("leave it out where no country and no AS is named") {
            let path = element.string("a path such as \"/var/lib/GeoIP/GeoLite2-Country.mmdb\"");
            let directory = element.file().and_then(Path::parent).unwrap_or(Path::new(""));
            let Some(path) = path.map(|path| directory.join(path)) else {
                self.is_any_unread = true;
                continue;
            };
            if self.all.iter().any(|other| other.path == path) {
                element.refuse("is named twice; remove one of them");
                continue;
            }
            match walked(&path, &self.wanted, read) {
                Ok(Some(walked)) => self.all.push(Database { path, walked }),
                Ok(None) => self.is_any_unread = true,
                Err(reason) => {
                    self.is_any_unread = true;
                    element.refuse(reason);
                }
            }
        }
        // An empty list is told already.
        self.is_any_unread |= self.all.is_empty();
    }

    /// The number of the database that knows of such groups, and the networks of `group`: none where that is a mistake, which is told of
    /// `element`, or where nobody has read it.
    pub(super) fn networks(&self, element: Typed<'_, '_>, group: SourceGroup) -> Option<(usize, &[Prefix])> {
        let kind = group.kind();
        if !self.is_any_named {
            let example = match group {
                SourceGroup::AutonomousSystem(_) => "ASN",
                SourceGroup::Country(_) => "Country",
            };
            element.refuse(format_args!(
                "no database says the networks of {kind}; add mmdb = \"/var/lib/GeoIP/GeoLite2-{example}.mmdb\" to [policy]"
            ));
            return None;
        }
        let known = self.all.iter().position(|database| database.walked.knows(group));
        if known.is_none() && !self.is_any_unread {
            let shown =
                |database: &Database| format!("{} ({})", database.path.display(), database.walked.kind);
            let all: Vec<String> = self.all.iter().map(shown).collect();
            element.refuse(format_args!(
                "none of mmdb of [policy] says anything of {kind}: {}; add a database that does",
                all.join(", ")
            ));
        }
        let number = known?;
        let networks = self.all.get(number).and_then(|database| database.walked.networks.get(&group));
        Some((number, networks.map_or(&[], Vec::as_slice)))
    }

    /// All that were read.
    pub(super) fn all(&self) -> &[Database] {
        &self.all
    }
}

impl Walked {
    fn knows(&self, group: SourceGroup) -> bool {
        match group {
            SourceGroup::AutonomousSystem(_) => self.has_systems,
            SourceGroup::Country(_) => self.has_countries,
        }
    }
}

/// The networks of the groups that are `wanted` in the database at `path`; none where none is to be read.
fn walked(path: &Path, wanted: &BTreeSet<SourceGroup>, read: ReadList) -> Result<Option<Walked>, String> {
    let shown = path.display();
    let bytes = read(path).map_err(|error| {
        let cure = match error.kind() {
            io::ErrorKind::NotFound => "; fetch it, or take it out",
            io::ErrorKind::PermissionDenied => "; let who runs spectrum-user read it",
            _ => "",
        };
        format!("read {shown}: {error}{cure}")
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let unsound = |error: MaxMindDbError| {
        format!("read {shown}: it is no sound database in MaxMind's format: {error}; fetch it again")
    };
    walk(&bytes, wanted, MOST_NETWORKS).map_err(unsound).map(Some)
}

/// A record, as far as it says where a network belongs: as MaxMind and DB-IP write it, and with the bare keys of others.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country: Option<Country<'a>>,
    #[serde(borrow, default)]
    country_code: Option<&'a str>,
    #[serde(borrow, default)]
    registered_country: Option<Country<'a>>,
    #[serde(default)]
    autonomous_system_number: Option<u32>,
    #[serde(borrow, default)]
    asn: Option<System<'a>>,
    #[serde(default)]
    traits: Option<Traits>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Country<'a> {
    Code(&'a str),
    Table {
        #[serde(borrow, default)]
        iso_code: Option<&'a str>,
    },
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum System<'a> {
    Number(u32),
    Text(&'a str),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Traits {
    #[serde(default)]
    autonomous_system_number: Option<u32>,
}

impl Record<'_> {
    fn country(&self) -> Option<SourceGroup> {
        let of = |country: &Option<Country<'_>>| match country {
            Some(Country::Code(code) | Country::Table { iso_code: Some(code) }) => SourceGroup::country(code),
            Some(Country::Table { iso_code: None } | Country::Other(_)) | None => None,
        };
        of(&self.country)
            .or_else(|| self.country_code.and_then(SourceGroup::country))
            .or_else(|| of(&self.registered_country))
    }

    fn system(&self) -> Option<SourceGroup> {
        let number = self.autonomous_system_number.or(match &self.asn {
            Some(System::Number(number)) => Some(*number),
            Some(System::Text(text)) => text.strip_prefix("AS").unwrap_or(text).parse().ok(),
            Some(System::Other(_)) | None => None,
        });
        let number = number.or(self.traits.as_ref().and_then(|traits| traits.autonomous_system_number));
        number.map(SourceGroup::AutonomousSystem)
    }
}

/// Walks the database that is `bytes` once.
fn walk(bytes: &[u8], wanted: &BTreeSet<SourceGroup>, most: usize) -> Result<Walked, MaxMindDbError> {
    let reader = Reader::from_source(bytes)?;
    let metadata = reader.metadata();
    let mut walked =
        Walked { kind: metadata.database_type.clone(), built: metadata.build_epoch, ..Walked::default() };
    // Many networks have one record.
    let mut known: HashMap<usize, [Option<SourceGroup>; 2]> = HashMap::new();
    // All ends are gone to, whatever they say, so that each is counted: a damaged tree may have more than anybody can wait for.
    let all = WithinOptions::default().include_aliased_networks().include_networks_without_data();
    for (found, number) in reader.networks(all)?.zip(0_usize..) {
        if number >= most {
            return Err(MaxMindDbError::invalid_database(format!("its tree has more than {most} networks")));
        }
        let found = found?;
        let Some(offset) = found.offset() else { continue };
        let groups = if let Some(groups) = known.get(&offset) {
            *groups
        } else {
            let record = found.decode::<Record<'_>>()?;
            let country = record.as_ref().and_then(Record::country);
            let system = record.as_ref().and_then(Record::system);
            walked.has_countries |= country.is_some();
            walked.has_systems |= system.is_some();
            let groups = [country, system].map(|group| group.filter(|group| wanted.contains(group)));
            known.insert(offset, groups);
            groups
        };
        if groups == [None, None] {
            continue;
        }
        let network = found.network()?;
        let Ok(prefix) = Prefix::containing(network.ip(), network.prefix()) else { continue };
        if is_alias(prefix) {
            continue;
        }
        for group in groups.into_iter().flatten() {
            walked.networks.entry(group).or_default().push(prefix);
        }
    }
    Ok(walked)
}

/// True of IPv6 addresses that stand for IPv4 ones. Clients of IPv4 are judged as such; these are judged by what else contains them.
fn is_alias(prefix: Prefix) -> bool {
    ALIASES.iter().any(|(address, length)| {
        let alias = Prefix::containing(IpAddr::V6(*address), *length);
        alias.is_ok_and(|alias| alias.length() <= prefix.length() && alias.contains(prefix.address()))
    })
}

#[cfg(test)]
mod tests;
