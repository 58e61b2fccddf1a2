//! One `[[service]]`: its name, its bindings, and what answers.

use toml::de::{DeTable, DeValue};

use super::binding::{BindingPlace, DescribedBindings};
use super::key_path::KeyPath;
use super::log;
use super::origins::{ADD_TARGET, OriginsKeys};
use super::policy::PolicyKeys;
use super::section::{Section, Typed, parsed, refuse, refuse_type, word};
use crate::config::error::Problems;
use crate::config::udp;
use crate::model::{Binding, Protocol, RecordKeys, Responder, Service, ServiceName, Target};

const ADD_NAME: &str = "missing; name the service, for instance name = \"games\"";
const ADD_BINDINGS: &str = "add at least one, for instance bindings = [{ prefix = \"192.0.2.0/24\" }]";

/// A service as far as it can be understood, and where its parts were typed.
#[derive(Debug)]
pub(super) struct DescribedService {
    /// With stand-ins for what was refused.
    pub(super) service: Service,
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
        problems: &mut Problems<'_>,
    ) -> Self {
        let typed_name = table.get("name").and_then(|value| value.get_ref().as_str());
        // A name that is none would only make messages longer.
        let path =
            KeyPath::Service { index, name: typed_name.filter(|name| name.parse::<ServiceName>().is_ok()) };
        let mut section = Section::new(table, path);
        let (name, bindings) = (section.take("name"), section.take("bindings"));
        let origins_keys = OriginsKeys::take(&mut section);
        let (origins, respond) = (origins_keys.origins, section.take("respond"));
        let policy_keys = PolicyKeys::take(&mut section);
        let log = section.take("log");
        let mut refuse_missing = |key: KeyPath<'_>, words: &[&str], cure: &str| {
            if !words.iter().any(|word| section.misspells(word)) {
                problems.add_about(offset, key, cure);
            }
        };
        if name.is_none() {
            refuse_missing(KeyPath::Key(&path, "name"), &["name"], ADD_NAME);
        }
        if bindings.is_none() {
            let cure = format!("missing; {ADD_BINDINGS}");
            refuse_missing(KeyPath::Key(&path, "bindings"), &["bindings"], &cure);
        }
        if origins.is_none() && respond.is_none() {
            let cure = format!("nothing answers; {ADD_TARGET}");
            refuse_missing(path, &["origins", "respond"], &cure);
        }
        section.finish(problems);

        let name_place = name.map(|value| value.span().start);
        let name = name.and_then(|value| parsed(value, KeyPath::Key(&path, "name"), "a string", problems));
        let DescribedBindings { bindings, places } = read_bindings(bindings, path, problems);
        let target = read_target(&origins_keys, respond, &bindings, path, problems);
        let policy = policy_keys.read(path, problems);
        let records =
            log.map(|value| log::of_service(value, KeyPath::Key(&path, "log"), problems)).unwrap_or_default();
        if let Some(Target::Origins(origins)) = &target {
            let trusted = &policy.trusted_proxies;
            origins_keys.refuse_other_family(origins, &bindings, trusted, path, problems);
        }
        if !bindings.is_empty() && bindings.iter().all(|binding| binding.protocol == Protocol::Udp) {
            for (key, value) in policy_keys.present() {
                let reason = "is about TCP, of which the service has no binding; remove it";
                refuse(value, KeyPath::Key(&path, key), reason, problems);
            }
        }
        if let (Some(target), Some(value)) = (&target, origins.or(respond))
            && let Err(error) = udp::require_answer(&bindings, target)
        {
            let key = if origins.is_some() { "origins" } else { "respond" };
            let cure = "give its UDP bindings to another service with respond = \"echo\" or \"discard\"";
            refuse(value, KeyPath::Key(&path, key), format_args!("{error}; {cure}"), problems);
        }
        Self {
            records,
            places: ServicePlaces {
                name: name_place.filter(|_| name.is_some()),
                origins: origins.map(|value| value.span().start),
                each_origin: origins_keys.places(),
                bindings: places,
            },
            service: Service {
                name: name.unwrap_or_default(),
                bindings,
                target: target.unwrap_or(Target::Respond(Responder::Discard)),
                policy,
            },
        }
    }
}

fn read_bindings(
    value: Option<&Typed<'_>>,
    path: KeyPath<'_>,
    problems: &mut Problems<'_>,
) -> DescribedBindings {
    let key = KeyPath::Key(&path, "bindings");
    let mut described = DescribedBindings::default();
    match value.map(|value| (value, value.get_ref())) {
        None => {}
        Some((value, DeValue::Array(list))) => {
            if list.is_empty() {
                refuse(value, key, format_args!("the list is empty; {ADD_BINDINGS}"), problems);
            }
            for (index, element) in list.iter().enumerate() {
                described.read(element, KeyPath::Index(&key, index), index, problems);
            }
        }
        Some((value, _)) => {
            refuse_type(value, key, "a list such as [{ prefix = \"192.0.2.0/24\" }]", problems);
        }
    }
    described
}

fn read_target(
    keys: &OriginsKeys<'_, '_>,
    respond: Option<&Typed<'_>>,
    bindings: &[Binding],
    path: KeyPath<'_>,
    problems: &mut Problems<'_>,
) -> Option<Target> {
    if keys.origins.is_none() {
        keys.refuse_without_origins(path, problems);
    }
    let origins = keys.read(bindings, path, problems).map(Target::Origins);
    let Some(respond) = respond else { return origins };
    let key = KeyPath::Key(&path, "respond");
    let responder = word(respond, key, Responder::WORDS, problems);
    if keys.origins.is_some() {
        refuse(respond, key, "a service has origins or respond, not both; remove one", problems);
        return None;
    }
    responder.map(Target::Respond)
}
