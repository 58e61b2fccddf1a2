//! The configuration file: what was typed, in TOML, becomes a [`Config`] or a list of everything that is wrong with it.
//! Pure but for [`Config::load`], so that starting, reloading and checking judge alike.

mod announcing;
mod binding;
mod databases;
mod defaults;
mod file_set;
mod health;
mod key_path;
mod loanwords;
mod log;
mod merged;
pub(crate) mod nearest;
mod origins;
mod pattern;
mod policy;
mod quantity;
mod said;
mod section;
mod service;
mod source;
mod sources;
mod ties;
mod udp;
mod xdp;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::error::{Found, Problems, TextPlace};
use super::origin_places::{OriginPlace, OriginPlaces};
use super::texts::Texts;
use super::{
    Config, ConfigError, ConfigText, FirewallChoice, InstanceKeys, Keys, ModeChoice, NatChoice, Planned,
    RepairLimit,
};
use crate::model::{Force, Forced, LogOptions, RecordKeys, ResolverOptions, ServiceName};
use crate::plan::{self, Plan};
use file_set::FileSet;
use key_path::KeyPath;
use section::{Section, Typed};
use service::{DescribedService, ServicePlaces};
use sources::{DescribedSources, Lists, ReadList, Whose};

/// A million bindings, each on a line of its own with every key, have 27 million.
const MOST_TOKENS: usize = 40_000_000;

/// So many elements of a list are kept for who asks what is in force; a service may have a million.
const SHOWN_ELEMENTS: usize = 16;

/// A repair that takes place so often is one that is never over.
const MOST_REPAIRS: u32 = 6_000;

const NO_SERVICE: &str = "no service; add [[service]] with name, bindings, and origins or respond";

impl Config {
    /// The configuration that the file at `path` contains, or those of the directory, and the files that they include.
    ///
    /// # Errors
    /// A file cannot be read, or any of their problems.
    pub fn load(path: &Path) -> Result<Planned, ConfigError> {
        let FileSet { texts, found } = file_set::read(path)?;
        understood(&texts, found, SHOWN_ELEMENTS, sources::read_list)
    }

    /// The same, with all elements of all lists in its keys, however many there are.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_whole(path: &Path) -> Result<Planned, ConfigError> {
        let FileSet { texts, found } = file_set::read(path)?;
        understood(&texts, found, usize::MAX, sources::read_list)
    }

    /// True if the file at `path` is gone once it was loaded, so that no reload can load it again.
    #[must_use]
    pub fn is_read_once(path: &Path) -> bool {
        source::is_read_once(path)
    }

    /// The configuration that `texts` contain, each of a file, as they were read before: no file is read but lists of
    /// prefixes and databases.
    ///
    /// # Errors
    /// Any of their problems.
    pub fn parse_again(texts: &[ConfigText]) -> Result<Planned, ConfigError> {
        understood_again(texts)
    }

    /// The configuration that `text` contains, which was read from `path`. What it includes is not read, nor
    /// lists of prefixes and databases.
    ///
    /// # Errors
    /// Every problem there is; while the text is not TOML, every place where it is not.
    pub fn parse(path: &Path, text: &str) -> Result<Planned, ConfigError> {
        understood(&Texts::begin(path, text), Vec::new(), SHOWN_ELEMENTS, |_| Ok(None))
    }
}

/// The configuration that all of `texts` contain, as somebody has read it before.
fn understood_again(texts: &[ConfigText]) -> Result<Planned, ConfigError> {
    let mut all = texts.iter();
    let first = all.next().map_or_else(
        || Texts::begin(Path::new(""), ""),
        |first| Texts::begin(&first.path, first.text.as_str()),
    );
    let texts = all.fold(first, |mut texts, next| {
        texts.push(&next.path, next.text.as_str());
        texts
    });
    understood(&texts, Vec::new(), SHOWN_ELEMENTS, sources::read_list)
}

/// The configuration that `texts` contain, in which problems were `found` before.
fn understood(
    texts: &Texts<'_>,
    found: Vec<Found>,
    shown: usize,
    lists: ReadList,
) -> Result<Planned, ConfigError> {
    let problems = Problems::in_texts(texts);
    problems.extend(found);
    refuse_too_many_tokens(texts, &problems);
    if problems.count() > 0 {
        return Err(problems.into_error());
    }
    let blanked: Vec<_> = texts.each().iter().map(|text| without_mark(&text.content)).collect();
    let mut root = DeTable::new();
    for (text, blanked) in texts.each().iter().zip(&blanked) {
        let (table, errors) = DeTable::parse_recoverable(blanked.as_deref().unwrap_or(&text.content));
        let mut line = 0;
        for error in errors {
            let offset = text.base + error.span().map_or(text.content.len(), |span| span.start);
            // Further ones in the line are mostly about how the parser went on after the first.
            if std::mem::replace(&mut line, problems.line_of(offset)) != problems.line_of(offset) {
                problems.add(offset, format!("not TOML: {}", error.message()));
            }
        }
        if text.base == 0 {
            root = table.into_inner();
        } else if problems.count() == 0 {
            merged::add(&mut root, table.into_inner(), text.base, &problems);
        }
    }
    // What the parser made of the rest after an error would be guesswork to judge.
    if problems.count() > 0 {
        return Err(problems.into_error());
    }
    if let Some(typed) = Section::new(&root, KeyPath::File, &problems).take("defaults") {
        defaults::judge(typed);
    }
    // Wrong ones would be told once more for each service.
    if problems.count() == 0 {
        defaults::apply(&mut root);
    }
    let mut planned = read(texts, &root, &problems, lists);
    if problems.count() > 0 {
        return Err(problems.into_error());
    }
    let all = texts.each().iter();
    planned.config.texts = all
        .map(|text| ConfigText { path: text.path.to_path_buf(), text: text.content.to_string() })
        .collect();
    planned.config.keys = said::keys(&root, &planned.config.services, shown, &problems);
    Ok(planned)
}

/// The text without the byte order mark that editors of other systems put there, if there is one; blanks keep every later byte in
/// its place.
fn without_mark(text: &str) -> Option<String> {
    text.strip_prefix('\u{feff}').map(|rest| format!("   {rest}"))
}

/// Refuses what iptables cannot carry.
fn refuse_registered(described: &[DescribedService], problems: &Problems<'_>) {
    for one in described {
        if let Some(offset) = one.places.registered {
            let about = format_args!("service {:?} registered", one.service.name.as_str()).to_string();
            let why = "true: iptables cannot refuse the clients of a server that has ended; write firewall = \"nftables\" under [dispatcher], or \
                       mode = \"sk-lookup\"";
            problems.add_about(offset, about, why);
        }
    }
}

/// Refuses what is more than any configuration, all files together.
fn refuse_too_many_tokens(texts: &Texts<'_>, problems: &Problems<'_>) {
    let length: usize = texts.each().iter().map(|text| text.content.len()).sum();
    if length <= MOST_TOKENS {
        return;
    }
    let mut left = MOST_TOKENS;
    for text in texts.each() {
        if let Some(offset) = token_beyond(left, &text.content) {
            let reason = format!(
                "more than {MOST_TOKENS} words and signs until here, the most that a configuration may have; if it is one, \
                 write neighbouring addresses as one prefix, or leave out comments and empty lines"
            );
            return problems.add(text.base + offset, reason);
        }
        if texts.each().len() > 1 {
            left -= tokens(&text.content).count().min(left);
        }
    }
}

/// The offset of the first token beyond `limit`, if there are so many. The parser has 48 bytes of memory for each
/// before it looks at any, so that a file of nothing but line ends would take 12 GB, from a process that serves meanwhile.
fn token_beyond(limit: usize, text: &str) -> Option<usize> {
    // None is empty, so that most files need not be counted.
    if text.len() <= limit {
        return None;
    }
    tokens(text).nth(limit)
}

/// The offsets of the tokens of `text`.
fn tokens(text: &str) -> impl Iterator<Item = usize> {
    let tokens = Source::new(text).lex().filter(|token| token.kind() != TokenKind::Eof);
    tokens.map(|token| token.span().start())
}

/// The configuration as far as the file can be understood; sound if `problems` stays empty.
fn read(texts: &Texts<'_>, root: &DeTable<'_>, problems: &Problems<'_>, read_list: ReadList) -> Planned {
    let file = Section::new(root, KeyPath::File, problems);
    let (mode, firewall, nat, repairs, force) = file.take("dispatcher").map(dispatcher).unwrap_or_default();
    let admin = file.take("admin").and_then(admin);
    let resolver = file.take("resolver").map(resolver).unwrap_or_default();
    let instance = file.take("instance").map(|typed| instance(typed, mode)).unwrap_or_default();
    let defaults = file.take("defaults").and_then(|typed| typed.section("a table, [defaults]"));
    let of_all = defaults.as_ref().and_then(|section| section.take("log"));
    let log = file.take("log");
    let (format, general) = log.map(log::general).unwrap_or_default();
    let general = general.or(of_all.map(|typed| defaults::records(typed, log)).unwrap_or_default());
    if let Some(typed) = file.take("include") {
        include(typed);
    }
    let lists = Lists::read_by(read_list, root);
    let mut common = file.take("policy").map(|typed| DescribedSources::read(typed, &lists, Whose::All));
    let xdp = common.as_mut().and_then(DescribedSources::xdp);
    let announce = file.take("announce");
    let described = file.take("service").map(|typed| services(typed, &lists, problems));
    if described.is_none() && !file.misspells("service") {
        problems.add(0, NO_SERVICE);
    }
    file.finish();

    let mut described = described.unwrap_or_default();
    refuse_shared_names(&described, problems);
    if mode == ModeChoice::Tproxy && firewall == FirewallChoice::Iptables {
        refuse_registered(&described, problems);
    }
    let own = described.iter().filter(|described| described.records != RecordKeys::default());
    let own = own.map(|described| (described.service.name.clone(), described.records)).collect();
    let log = LogOptions { format, general, services: own };
    let looked_for =
        described.iter_mut().map(|one| (one.service.name.clone(), std::mem::take(&mut one.socket_sources)));
    let socket_sources = looked_for.filter(|(_, sources)| !sources.is_empty()).collect();
    let named = |one: &mut DescribedService| Some((one.service.name.clone(), one.sources.take()?));
    let policies =
        sources::policies(common, described.iter_mut().filter_map(named).collect(), &lists, problems);
    let mut announced = Vec::with_capacity(described.len());
    let (services, places): (Vec<_>, Vec<_>) = described
        .into_iter()
        .map(|described| {
            announced.push(described.announcing);
            (described.service, described.places)
        })
        .unzip();
    let announcing = announcing::read(announce, &services, &announced, |offset, service, reason| {
        let about = format_args!("service {:?} announce-when", service.name.as_str()).to_string();
        problems.add_about(offset, about, reason);
    });
    let mut plan = plan::of(&services).unwrap_or_else(|errors| {
        ties::explain(&errors, &places, problems);
        Plan::default()
    });
    plan.policies = policies;
    let xdp = xdp.map(|xdp| xdp.judged(mode, &plan, problems)).unwrap_or_default();
    let policy_places = lists.into_places();
    let origin_places = OriginPlaces::in_files(located(&places, problems));
    let (files, texts) = (texts.paths(), Arc::default());
    let config = Config {
        instance,
        mode,
        firewall,
        nat,
        repairs,
        force,
        admin,
        log,
        resolver,
        announcing,
        xdp,
        services,
        socket_sources,
        origin_places,
        policy_places,
        files,
        texts,
        keys: Keys::default(),
    };
    Planned { config, plan }
}

/// The places of every service's origins.
fn located(services: &[ServicePlaces], problems: &Problems<'_>) -> Vec<Vec<OriginPlace>> {
    let each = services.iter().flat_map(|places| &places.each_origin);
    let mut offsets: Vec<usize> = each.map(|(offset, _)| *offset).collect();
    offsets.sort_unstable();
    let places: HashMap<usize, TextPlace> = offsets.iter().copied().zip(problems.locate(&offsets)).collect();
    let place = |(offset, index): &(usize, Option<usize>)| {
        Some(OriginPlace { at: places.get(offset)?.clone(), index: *index })
    };
    services.iter().map(|places| places.each_origin.iter().filter_map(place).collect()).collect()
}

/// Refuses what is no pattern. What the patterns stand for is read before anything is understood.
fn include(typed: Typed<'_, '_>) {
    let each = typed.each("leave include out to include nothing");
    for (typed, _) in each {
        if typed.string("a path such as \"conf.d/*.toml\"").is_some_and(str::is_empty) {
            typed.refuse("a path is missing; write one such as \"conf.d/*.toml\"");
        }
    }
}

fn instance(typed: Typed<'_, '_>, mode: ModeChoice) -> InstanceKeys {
    let mut keys = InstanceKeys::default();
    let Some(section) = typed.section("a table, [instance]") else { return keys };
    keys.drain =
        section.take("drain").and_then(|typed| typed.time(&(Duration::ZERO..=InstanceKeys::LONGEST_DRAIN)));
    let workers = section.take("workers");
    let workers = workers
        .and_then(|typed| typed.number(&(1..=u32::try_from(InstanceKeys::MOST_WORKERS).unwrap_or(u32::MAX))));
    keys.workers = workers.and_then(|count| NonZeroUsize::new(usize::try_from(count).unwrap_or_default()));
    let named = |typed: Typed<'_, '_>, expected: &str| {
        let text = typed.string(expected)?;
        if text.is_empty() {
            typed.refuse("is empty; name one, or leave it out");
        }
        Some(text.to_owned())
    };
    keys.user = section.take("user").and_then(|typed| named(typed, "a name or number such as \"spectrum\""));
    keys.netns = section.take("netns").and_then(|typed| named(typed, "a name or path such as \"blue\""));
    keys.single_process = section.take("single-process").and_then(|typed| typed.truth());
    if let (Some(_), Some(true)) = (&keys.user, keys.single_process) {
        typed.refuse_key("user", "there is no worker process with single-process = true; remove one of them");
    }
    keys.pin = section.take("pin").and_then(|typed| typed.truth());
    if keys.pin == Some(true) && mode == ModeChoice::Tproxy {
        typed.refuse_key(
            "pin",
            "only sk_lookup can be pinned: rules need nobody to live, but the end of a server must be noticed; leave pin or mode = \"tproxy\" out",
        );
    }
    section.finish();
    keys
}

fn dispatcher(typed: Typed<'_, '_>) -> (ModeChoice, FirewallChoice, NatChoice, RepairLimit, Force) {
    let Some(section) = typed.section("a table, [dispatcher]") else { return Default::default() };
    let mode = section.take("mode").and_then(|typed| typed.word());
    let firewall = section.take("firewall").and_then(|typed| typed.word());
    let nat = section.take("nat").and_then(|typed| typed.word());
    let repairs = section.take("repairs-per-minute").and_then(|typed| typed.number(&(0..=MOST_REPAIRS)));
    let mut forced: Vec<Forced> = Vec::new();
    if let Some(typed) = section.take("force") {
        let each = typed.each("leave force out to force nothing");
        forced.extend(each.filter_map(|(typed, _)| {
            typed.parsed::<Forced>("a prefix such as \"203.0.113.10\", or \"all\"")
        }));
    }
    section.finish();
    let repairs = repairs.map_or_else(RepairLimit::default, |per_minute| RepairLimit { per_minute });
    (mode.unwrap_or_default(), firewall.unwrap_or_default(), nat.unwrap_or_default(), repairs, forced.into())
}

fn admin(typed: Typed<'_, '_>) -> Option<SocketAddr> {
    let section = typed.section("a table, [admin]")?;
    let listen = section.take("listen").and_then(|typed| typed.socket_address("127.0.0.1:9180"));
    section.finish();
    listen
}

fn resolver(typed: Typed<'_, '_>) -> ResolverOptions {
    let mut options = ResolverOptions::default();
    let Some(section) = typed.section("a table, [resolver]") else { return options };
    if let Some(typed) = section.take("servers") {
        let each = typed.each("leave servers out to ask those of /etc/resolv.conf");
        options.servers.extend(each.filter_map(|(typed, _)| typed.socket_address("192.0.2.53:53")));
    }
    for (key, place, range) in [
        ("timeout", &mut options.timeout, Duration::from_millis(10)..=Duration::from_mins(1)),
        ("min-ttl", &mut options.min_ttl, Duration::from_secs(1)..=Duration::from_mins(5)),
    ] {
        if let Some(time) = section.take(key).and_then(|typed| typed.time(&range)) {
            *place = time;
        }
    }
    for (key, place) in [("addresses", &mut options.addresses), ("targets", &mut options.targets)] {
        if let Some(number) = section.take(key).and_then(|typed| typed.number(&(1..=1024))) {
            *place = number;
        }
    }
    section.finish();
    options
}

fn services(typed: Typed<'_, '_>, lists: &Lists, problems: &Problems<'_>) -> Vec<DescribedService> {
    let Some(elements) = typed.elements() else {
        typed.refuse_type("a list of tables, each under [[service]]");
        return Vec::new();
    };
    if elements.len() == 0 {
        problems.add(typed.offset(), NO_SERVICE);
    }
    let mut services = Vec::with_capacity(elements.len());
    for (index, element) in elements.enumerate() {
        match element.value() {
            DeValue::Table(table) => {
                services.push(DescribedService::read(table, element.offset(), index, lists, problems));
            }
            _ => element.refuse_type("a table under [[service]]"),
        }
    }
    services
}

/// Refuses each service that has the name of an earlier one.
fn refuse_shared_names(services: &[DescribedService], problems: &Problems<'_>) {
    let mut taken: HashMap<&ServiceName, usize> = HashMap::new();
    for described in services {
        let Some(offset) = described.places.name else { continue };
        let name = &described.service.name;
        match taken.entry(name) {
            Entry::Vacant(free) => {
                free.insert(offset);
            }
            Entry::Occupied(first) => {
                let beside = problems.beside(*first.get(), offset);
                let name = name.as_str();
                problems.add_about(
                    offset,
                    format_args!("service {name:?} name"),
                    format_args!("{name:?}: {beside} has a service of this name; rename one"),
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
