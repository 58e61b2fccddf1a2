//! Whom services let in: `[policy]`, and `policy` of a service, with the lists that they name. Lets nobody in itself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use spectrum_common::Interfaces;

use super::section::Typed;
use super::source;
use super::xdp::DescribedXdp;
use crate::config::error::Problems;
use crate::config::policy_places::{EntryPlace, PolicyPlaces};
use crate::model::{
    InterfaceName, OnDeny, ParsePrefixError, Prefix, ServiceName, SourceEntry, SourcePolicy, SourceRate,
    SourceRule,
};
use crate::plan::{OwnPolicy, Policies};

/// Of more mistakes in one list the rest is counted.
const MOST_MISTAKES: usize = 10;

const IDLE: &str = "has no effect, since nobody is denied; add deny = [\"0.0.0.0/0\", \"::/0\"] to let in these alone, or \
                    remove it";

const RATE: &str = "a rate such as \"50/s burst 100 per /32 /64\"";

const INTERFACE: &str = "the name of an interface such as \"eth0\"";

const PREFIX: &str = "a prefix such as \"203.0.113.0/24\", or { file = \"denied.txt\" }";

/// The lists of a configuration: how one is read, and where the entries of all stand.
pub(super) struct Lists {
    read: ReadList,
    places: RefCell<PolicyPlaces>,
}

/// How a list is read; where a text alone is understood, none is.
pub(super) type ReadList = fn(&Path) -> io::Result<Vec<u8>>;

impl Lists {
    pub(super) fn read_by(read: ReadList) -> Self {
        Self { read, places: RefCell::default() }
    }

    pub(super) fn into_places(self) -> PolicyPlaces {
        self.places.into_inner()
    }
}

/// The list at `path`.
pub(super) fn read_list(path: &Path) -> io::Result<Vec<u8>> {
    source::read(path, 0).map(|read| read.bytes)
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
                } else if let Some(prefix) = element.parsed(PREFIX) {
                    let file = element.file().map_or(0, |path| lists.places.borrow_mut().file(path));
                    let line = u32::try_from(element.line()).unwrap_or(u32::MAX);
                    let entry = SourceEntry { prefix, rule };
                    let place = EntryPlace { file, line };
                    entries.push(DescribedEntry { entry, place, offset: element.offset() });
                }
            }
        }
        section.finish();
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
                    let (allowed, by) = (shown(allowed), shown(denied));
                    typed.refuse_at(
                        denied.offset,
                        "deny",
                        format_args!(
                            "{} is allowed in {allowed} and denied in {by}; remove one of them",
                            tie.prefix
                        ),
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
        Ok(bytes) => bytes,
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
                place: EntryPlace { file, line: number },
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
