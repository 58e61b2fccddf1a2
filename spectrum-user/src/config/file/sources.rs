//! Whom services let in: `[policy]`, and `policy` of a service, with the lists that they name. Lets nobody in itself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::Path;

use spectrum_common::Interfaces;
use toml::de::DeTable;

use super::databases::{Database, Databases};
use super::section::Typed;
use super::source;
use super::xdp::DescribedXdp;
use crate::config::error::Problems;
use crate::config::policy_places::{EntryPlace, PolicyPlaces, ReadDatabase};
use crate::model::{
    InterfaceName, OnDeny, ParsePrefixError, Prefix, ServiceName, SourceEntry, SourceGroup, SourcePolicy,
    SourceRate, SourceRule, SourceTie,
};
use crate::plan::{OwnPolicy, Policies};

/// Of more mistakes in one list the rest is counted.
const MOST_MISTAKES: usize = 10;

const IDLE: &str = "has no effect, since nobody is denied; add deny = [\"0.0.0.0/0\", \"::/0\"] to let in these alone, or \
                    remove it";

const RATE: &str = "a rate such as \"50/s burst 100 per /32 /64\"";

const INTERFACE: &str = "the name of an interface such as \"eth0\"";

const PREFIX: &str = "a prefix such as \"203.0.113.0/24\", or { file = \"denied.txt\" }";

/// The lists and databases of a configuration: how one is read, and where the entries of all stand.
pub(super) struct Lists {
    read: ReadList,
    databases: RefCell<Databases>,
    places: RefCell<PolicyPlaces>,
}

/// How a list or a database is read; where a text alone is understood, none is.
pub(super) type ReadList = fn(&Path) -> io::Result<Option<Vec<u8>>>;

impl Lists {
    /// Those of the file that is `root`.
    pub(super) fn read_by(read: ReadList, root: &DeTable<'_>) -> Self {
        let databases = RefCell::new(Databases::wanted_by(root));
        Self { read, databases, places: RefCell::default() }
    }

    pub(super) fn into_places(self) -> PolicyPlaces {
        self.places.into_inner()
    }

    /// Reads the databases that `typed` names.
    fn read_databases(&self, typed: Typed<'_, '_>) {
        let (mut databases, mut places) = (self.databases.borrow_mut(), self.places.borrow_mut());
        databases.read(typed, self.read);
        for Database { path, walked } in databases.all() {
            places.watch(path);
            places.add_database(ReadDatabase {
                path: path.as_path().into(),
                kind: walked.kind.clone(),
                built: walked.built,
                groups: BTreeMap::new(),
            });
        }
    }
}

/// The list or database at `path`.
pub(super) fn read_list(path: &Path) -> io::Result<Option<Vec<u8>>> {
    source::read(path, 0).map(|read| Some(read.bytes))
}

/// The one that a policy is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Whose {
    /// All services.
    All,
    /// One.
    One,
}

/// A policy as typed.
#[derive(Debug, Default)]
pub(super) struct DescribedSources {
    policy: SourcePolicy,
    /// Where its entries stand, in any order.
    places: Vec<(SourceEntry, EntryPlace)>,
    on_deny: Option<OnDeny>,
    rate: Option<SourceRate>,
    interfaces: BTreeSet<InterfaceName>,
    xdp: Option<DescribedXdp>,
    /// The byte at which `allow` stands, and its path.
    allow: Option<(usize, String)>,
    has_deny: bool,
}

/// An entry, where it stands, and where the element of the configuration stands that has it.
#[derive(Clone, Copy, Debug)]
struct DescribedEntry {
    entry: SourceEntry,
    place: EntryPlace,
    offset: usize,
}

impl DescribedSources {
    /// Reads the table that is `typed`.
    pub(super) fn read(typed: Typed<'_, '_>, lists: &Lists, whose: Whose) -> Self {
        let mut described = Self::default();
        let expected = "a table such as { deny = [\"203.0.113.0/24\", { file = \"denied.txt\" }] }";
        let Some(section) = typed.section(expected) else { return described };
        described.on_deny = section.take("on-deny").and_then(|typed| typed.word::<OnDeny>());
        described.rate = section.take("rate").and_then(|typed| typed.parsed(RATE));
        if let Some(typed) = section.take("interfaces") {
            for (element, _) in typed.each("leave it out to let in by all") {
                described.interfaces.extend(element.parsed::<InterfaceName>(INTERFACE));
            }
            if described.interfaces.len() > Interfaces::MOST {
                typed.refuse(format_args!(
                    "names {} interfaces, and {} are the most; leave it out to let in by all",
                    described.interfaces.len(),
                    Interfaces::MOST
                ));
            }
        }
        if whose == Whose::All {
            described.xdp = section.take("xdp").map(DescribedXdp::read);
            if let Some(typed) = section.take("mmdb") {
                lists.read_databases(typed);
            }
        }
        let mut entries = Vec::new();
        for (key, rule) in [("allow", SourceRule::Allow), ("deny", SourceRule::Deny)] {
            let Some(typed) = section.take(key) else { continue };
            match rule {
                SourceRule::Allow => described.allow = Some((typed.offset(), typed.path())),
                SourceRule::Deny => described.has_deny = true,
            }
            for (element, _) in typed.each("leave it out to name nobody") {
                if let Some(table) = element.table() {
                    if let Some(path) = table.take("file").and_then(|typed| typed.string("a path")) {
                        read_listed(element, path, rule, lists, &mut entries);
                    } else if !table.misspells("file") && !table.has("file") {
                        element.refuse("names no file; write { file = \"denied.txt\" }");
                    }
                    table.finish();
                } else if let Some(group) = element.value().as_str().and_then(SourceGroup::typed) {
                    match group {
                        Ok(group) => look_up(element, group, rule, lists, &mut entries),
                        Err(error) => element.refuse(error),
                    }
                } else if let Some(prefix) = element.parsed(PREFIX) {
                    let file = element.file().map_or(0, |path| lists.places.borrow_mut().file(path));
                    let line = u32::try_from(element.line()).unwrap_or(u32::MAX);
                    let entry = SourceEntry { prefix, rule };
                    let place = EntryPlace::Line { file, line };
                    entries.push(DescribedEntry { entry, place, offset: element.offset() });
                }
            }
        }
        section.finish();
        prefer_systems(&mut entries);
        let bare: Vec<SourceEntry> = entries.iter().map(|described| described.entry).collect();
        match SourcePolicy::of(&bare) {
            Ok(policy) => described.policy = policy,
            Err(ties) => {
                for tie in ties.iter().take(MOST_MISTAKES) {
                    let (Some(allowed), Some(denied)) = (entries.get(tie.allowed), entries.get(tie.denied))
                    else {
                        continue;
                    };
                    let places = lists.places.borrow();
                    let shown = |one: &DescribedEntry| places.shown(one.place).unwrap_or_default();
                    let (prefix, cure) = (tie.prefix, cure(tie, [allowed.place, denied.place]));
                    let (allowed, by) = (shown(allowed), shown(denied));
                    typed.refuse_at(
                        denied.offset,
                        "deny",
                        format_args!("{prefix} is allowed {allowed} and denied {by}; {cure}"),
                    );
                }
            }
        }
        described.places = entries.into_iter().map(|described| (described.entry, described.place)).collect();
        described
    }

    /// The interfaces where XDP is asked for.
    pub(super) fn xdp(&mut self) -> Option<DescribedXdp> {
        self.xdp.take()
    }
}

/// Adds the networks of `group`, which `element` names.
fn look_up(
    element: Typed<'_, '_>,
    group: SourceGroup,
    rule: SourceRule,
    lists: &Lists,
    entries: &mut Vec<DescribedEntry>,
) {
    let databases = lists.databases.borrow();
    let Some((number, networks)) = databases.networks(element, group) else { return };
    let database = u32::try_from(number).unwrap_or(u32::MAX);
    lists.places.borrow_mut().add_group(database, group, networks.len());
    let place = EntryPlace::Network { database, group };
    let offset = element.offset();
    entries.extend(networks.iter().map(|prefix| DescribedEntry {
        entry: SourceEntry { prefix: *prefix, rule },
        place,
        offset,
    }));
}

/// Where a country and an autonomous system have the very same network, and one is allowed and the other denied, the system is the
/// narrower word: nobody could mend what two databases say.
fn prefer_systems(entries: &mut Vec<DescribedEntry>) {
    let is_of = |described: &DescribedEntry, is_system: bool| match described.place {
        EntryPlace::Line { .. } => false,
        EntryPlace::Network { group, .. } => matches!(group, SourceGroup::AutonomousSystem(_)) == is_system,
    };
    let systems: HashSet<Prefix> =
        entries.iter().filter(|one| is_of(one, true)).map(|one| one.entry.prefix).collect();
    if !systems.is_empty() {
        entries.retain(|one| !is_of(one, false) || !systems.contains(&one.entry.prefix));
    }
}

/// What to do about a prefix that is allowed and denied at these places. A network of a database cannot be removed.
fn cure(tie: &SourceTie, places: [EntryPlace; 2]) -> String {
    let is_line = |place: &EntryPlace| matches!(place, EntryPlace::Line { .. });
    let longest = if tie.prefix.address().is_ipv4() { 32 } else { 128 };
    if places.iter().all(is_line) || !places.iter().any(is_line) || tie.prefix.length() == longest {
        return "remove one of them".to_owned();
    }
    let half = Prefix::containing(tie.prefix.address(), tie.prefix.length() + 1);
    let half = half.map_or_else(|_longest| String::new(), |half| half.to_string());
    format!(
        "remove one of them, or write the two halves of the prefix, {half} and the other, which then decide"
    )
}

/// Adds what the list at `path` has, which `element` names.
fn read_listed(
    element: Typed<'_, '_>,
    path: &str,
    rule: SourceRule,
    lists: &Lists,
    entries: &mut Vec<DescribedEntry>,
) {
    let directory = element.file().and_then(Path::parent).unwrap_or(Path::new(""));
    let path = directory.join(path);
    let shown = path.display();
    let bytes = match (lists.read)(&path) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) => {
            let cure = match error.kind() {
                io::ErrorKind::NotFound => "; make it, or take it out",
                io::ErrorKind::PermissionDenied => "; let who runs spectrum-user read it",
                _ => "",
            };
            return element.refuse_key("file", format_args!("read {shown}: {error}{cure}"));
        }
    };
    let file = lists.places.borrow_mut().list(&path);
    let mut mistakes = 0_usize;
    for (number, bytes) in (1_u32..).zip(bytes.split(|byte| *byte == b'\n')) {
        let text = String::from_utf8_lossy(bytes);
        // Public lists have comments of either kind, also behind an entry.
        let typed = text.split(['#', ';']).next().unwrap_or_default().trim();
        if typed.is_empty() {
            continue;
        }
        match parsed(typed) {
            Ok(prefix) => entries.push(DescribedEntry {
                entry: SourceEntry { prefix, rule },
                place: EntryPlace::Line { file, line: number },
                offset: element.offset(),
            }),
            Err(error) => {
                mistakes += 1;
                if mistakes <= MOST_MISTAKES {
                    let shown_entry: String = typed.chars().take(60).collect();
                    element.refuse_key("file", format_args!("{shown}:{number}: {shown_entry:?}: {error}"));
                }
            }
        }
    }
    if let Some(more) = mistakes.checked_sub(MOST_MISTAKES).filter(|more| *more > 0) {
        element.refuse_key("file", format_args!("{shown}: and {more} more lines that are no prefixes"));
    }
}

/// What all services have, and each of them, as policies. Refuses what says nothing.
pub(super) fn policies(
    common: Option<DescribedSources>,
    own: Vec<(ServiceName, DescribedSources)>,
    lists: &Lists,
    problems: &Problems<'_>,
) -> Policies {
    let denies = common.as_ref().is_some_and(|sources| sources.has_deny);
    let any_denies = denies || own.iter().any(|(_, sources)| sources.has_deny);
    let take = |service: Option<&ServiceName>, sources: DescribedSources, denies: bool| {
        if let (Some((offset, path)), false) = (&sources.allow, denies) {
            problems.add_about(*offset, path, IDLE);
        }
        if !sources.policy.is_empty() {
            lists.places.borrow_mut().add(service, &sources.policy, sources.places);
        }
        OwnPolicy {
            sources: sources.policy,
            on_deny: sources.on_deny,
            rate: sources.rate,
            interfaces: sources.interfaces,
        }
    };
    let mut policies = Policies::default();
    if let Some(sources) = common {
        let OwnPolicy { sources, on_deny, rate, interfaces } = take(None, sources, any_denies);
        let on_deny = on_deny.unwrap_or_default();
        policies = Policies { common: sources, on_deny, rate, interfaces, own: BTreeMap::new() };
    }
    for (name, sources) in own {
        let denies = denies || sources.has_deny;
        let own = take(Some(&name), sources, denies);
        policies.own.insert(name, own);
    }
    policies
}

/// A prefix of a list. Lists of what must not come in have multicast in them, which never does.
fn parsed(typed: &str) -> Result<Prefix, ParsePrefixError> {
    typed.parse().or_else(|error| match (error, typed.split_once('/')) {
        (ParsePrefixError::Multicast, Some((address, length))) => {
            let parts = address.parse().ok().zip(length.parse().ok());
            let (address, length) = parts.ok_or(ParsePrefixError::Multicast)?;
            Prefix::containing(address, length)
        }
        (ParsePrefixError::Multicast, None) => {
            typed.parse().ok().map(Prefix::host).ok_or(ParsePrefixError::Multicast)
        }
        (error, _) => Err(error),
    })
}
