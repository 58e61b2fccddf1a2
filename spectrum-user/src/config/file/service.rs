//! One `[[service]]`: its name, its bindings, and what answers.

use toml::de::{DeTable, DeValue};

use super::announcing::{AnnounceKeys, DescribedAnnouncing};
use super::binding::{BindingPlace, DescribedBindings};
use super::key_path::KeyPath;
use super::log;
use super::origins::{ADD_TARGET, OriginsKeys};
use super::policy::PolicyKeys;
use super::section::{Section, Typed};
use super::sources::{DescribedSources, Lists, Whose};
use super::udp::UdpKeys;
use crate::config::error::Problems;
use crate::config::udp::{self, BoundProtocols};
use crate::model::{Binding, Policy, RecordKeys, Responder, Service, ServiceName, SocketSource, Target};

const ADD_NAME: &str = "missing; name the service, for instance name = \"games\"";
const OTHERS_ANSWER: &str =
    "means nothing where other programs answer (registered = true), since no connection passes us; remove it";
const ADD_BINDINGS: &str = "add at least one, for instance bindings = [{ prefix = \"192.0.2.0/24\" }]";

/// A service as far as it can be understood, and where its parts were typed.
#[derive(Debug)]
pub(super) struct DescribedService {
    /// With stand-ins for what was refused.
    pub(super) service: Service,
    /// Whom it lets in, where it says so.
    pub(super) sources: Option<DescribedSources>,
    /// The sockets that are looked for.
    pub(super) socket_sources: Vec<SocketSource>,
    /// What it says of announcing.
    pub(super) announcing: DescribedAnnouncing,
    /// The keys about its records.
    pub(super) records: RecordKeys,
    /// Of the service's parts.
    pub(super) places: ServicePlaces,
}

/// The places of a service's parts in the file.
#[derive(Debug)]
pub(super) struct ServicePlaces {
    /// The byte at which the name stands, if it is one.
    pub(super) name: Option<usize>,
    /// The byte at which the value of `origins` stands.
    pub(super) origins: Option<usize>,
    /// The byte at which that of `registered` stands, if it is true.
    pub(super) registered: Option<usize>,
    /// For each origin the byte at which it stands, and its number in a list.
    pub(super) each_origin: Vec<(usize, Option<usize>)>,
    /// For each of the service's bindings.
    pub(super) bindings: Vec<BindingPlace>,
}

impl DescribedService {
    /// Reads the service `index` of the file from `table`, which stands at the byte `offset`.
    pub(super) fn read(
        table: &DeTable<'_>,
        offset: usize,
        index: usize,
        lists: &Lists,
        problems: &Problems<'_>,
    ) -> Self {
        let typed_name = table.get("name").and_then(|value| value.get_ref().as_str());
        // A name that is none would only make messages longer.
        let path =
            KeyPath::Service { index, name: typed_name.filter(|name| name.parse::<ServiceName>().is_ok()) };
        let section = Section::new(table, path, problems);
        let (name, bindings) = (section.take("name"), section.take("bindings"));
        let origins_keys = OriginsKeys::take(&section);
        let (origins, respond) = (origins_keys.origins, section.take("respond"));
        let (registered, sockets) = (section.take("registered"), section.take("sockets"));
        let policy_keys = PolicyKeys::take(&section);
        let sources = section.take("policy").map(|typed| DescribedSources::read(typed, lists, Whose::One));
        let announce_keys = AnnounceKeys::take(&section);
        let udp_keys = section.take("udp");
        let log = section.take("log");
        let misspells = |words: &[&str]| words.iter().any(|word| section.misspells(word));
        if name.is_none() && !misspells(&["name"]) {
            section.refuse_missing(offset, "name", ADD_NAME);
        }
        if bindings.is_none() && !misspells(&["bindings"]) {
            section.refuse_missing(offset, "bindings", format_args!("missing; {ADD_BINDINGS}"));
        }
        if let (Some(typed), Some(false)) = (sockets, registered.and_then(|typed| typed.truth())) {
            typed.refuse("are looked for to be registered, and registered = false; remove one of them");
        }
        let registered = registered.filter(|typed| !matches!(typed.value(), DeValue::Boolean(false)));
        let registered = registered.or(sockets);
        let is_registered = registered.is_some();
        if origins.is_none()
            && respond.is_none()
            && !is_registered
            && !misspells(&["origins", "respond", "registered", "sockets"])
        {
            problems.add_about(offset, path, format_args!("nothing answers; {ADD_TARGET}"));
        }
        section.finish();

        let name_place = name.map(|typed| typed.offset());
        let name = name.and_then(|typed| typed.parsed("a string"));
        let is_named = name.is_some();
        let DescribedBindings { bindings, places } = bindings.map(read_bindings).unwrap_or_default();
        let bound = BoundProtocols::of(&bindings);
        let mut target = read_target(&origins_keys, respond, registered, &bindings);
        if registered.is_some() {
            let others = [udp_keys, log].into_iter().flatten();
            policy_keys.each().chain(others).for_each(|typed| typed.refuse(OTHERS_ANSWER));
        }
        let (udp_keys, log) = if registered.is_some() { (None, None) } else { (udp_keys, log) };
        // Whether it has origins is not known where they were refused.
        let udp_keys = udp_keys.filter(|_| target.is_some() || origins.is_none());
        let udp_keys = udp_keys.map(|typed| UdpKeys::read(typed, bound, target.as_ref()));
        let UdpKeys { policy: udp_policy, sources: dial_sources } = udp_keys.unwrap_or_default();
        if let Some(Target::Origins(origins)) = &mut target {
            origins.sources = dial_sources;
        }
        let policy = if registered.is_some() { Policy::default() } else { policy_keys.read(udp_policy) };
        if registered.is_none() {
            policy_keys.refuse_for(bound);
        }
        let records = log.map(log::of_service).unwrap_or_default();
        if let Some(Target::Origins(origins)) = &target {
            origins_keys.refuse_other_family(origins, &bindings, &policy.trusted_proxies);
        }
        if let (Some(target), Some(typed)) = (&target, origins.or(respond))
            && let Err(error) = udp::require_answer(&bindings, target)
        {
            let cure =
                "write origins in its place, or give the UDP bindings to a service with respond = \"echo\"";
            typed.refuse(format_args!("{error}; {cure}"));
        }
        let target_is_known = target.is_some();
        let service = Service {
            name: name.unwrap_or_default(),
            bindings,
            target: target.unwrap_or(Target::Respond(Responder::Discard)),
            policy,
        };
        Self {
            socket_sources: sockets.map(read_sockets).unwrap_or_default(),
            announcing: announce_keys.read(&service, target_is_known),
            records,
            sources,
            places: ServicePlaces {
                name: name_place.filter(|_| is_named),
                origins: origins.map(|typed| typed.offset()),
                registered: registered.map(|typed| typed.offset()),
                each_origin: origins_keys.places(),
                bindings: places,
            },
            service,
        }
    }
}

fn read_sockets(typed: Typed<'_, '_>) -> Vec<SocketSource> {
    let each = typed.each("write registered = true to register sockets by hand");
    let mut all: Vec<SocketSource> = Vec::new();
    for (typed, _) in each {
        let Some(source) = typed.parsed::<SocketSource>("a string such as \"nginx.service tcp 443\"") else {
            continue;
        };
        match all.iter().find(|one| one.is_same_server(&source)) {
            Some(one) => typed
                .refuse(format_args!("is looked for already, as {:?}; remove one of them", one.to_string())),
            None => all.push(source),
        }
    }
    all
}

fn read_bindings(typed: Typed<'_, '_>) -> DescribedBindings {
    let mut described = DescribedBindings::default();
    match typed.elements() {
        None => typed.refuse_type("a list such as [{ prefix = \"192.0.2.0/24\" }]"),
        Some(elements) => {
            if elements.len() == 0 {
                typed.refuse(format_args!("the list is empty; {ADD_BINDINGS}"));
            }
            for (index, element) in elements.enumerate() {
                described.read(element, index);
            }
        }
    }
    described
}

fn read_target(
    keys: &OriginsKeys<'_, '_>,
    respond: Option<Typed<'_, '_>>,
    registered: Option<Typed<'_, '_>>,
    bindings: &[Binding],
) -> Option<Target> {
    if keys.origins.is_none() {
        keys.refuse_without_origins();
    }
    let origins = keys.read(bindings).map(Target::Origins);
    if let Some(registered) = registered {
        if keys.origins.is_some() || respond.is_some() {
            registered.refuse(
                "a service has origins, respond or registered sockets, one of them; remove the others",
            );
            return None;
        }
        return Some(Target::Registered);
    }
    let Some(respond) = respond else { return origins };
    let responder = respond.word();
    if keys.origins.is_some() {
        respond.refuse("a service has origins or respond, not both; remove one");
        return None;
    }
    responder.map(Target::Respond)
}
