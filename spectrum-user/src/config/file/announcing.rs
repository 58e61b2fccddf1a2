//! `[announce]`, and what services say of announcing: which prefixes, and when. Announces nothing.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::section::{Section, Typed};
use crate::model::{AnnounceCondition, Announcing, Prefix, Service, Target};
use crate::plan::Plan;

/// From a blink to what nobody takes for a decision any more.
const TIMES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

const COVER: &str = "true, or a list of prefixes such as [\"192.0.2.0/24\"]";

const WHEN: &str = "a condition such as \"origins >= 1\"";

/// The keys of a service about announcing, as typed.
#[derive(Clone, Copy)]
pub(super) struct AnnounceKeys<'a, 't> {
    announce: Option<Typed<'a, 't>>,
    when: Option<Typed<'a, 't>>,
}

/// What a service says of announcing.
#[derive(Clone, Debug, Default)]
pub(super) struct DescribedAnnouncing {
    prefixes: Vec<Prefix>,
    /// The least number of origins, and the byte at which that stands.
    origins: Option<(u16, usize)>,
}

impl<'a, 't> AnnounceKeys<'a, 't> {
    pub(super) fn take(section: &'a Section<'_, 't>) -> Self {
        Self { announce: section.take("announce"), when: section.take("announce-when") }
    }

    /// What `service` says. Its target is known unless it was refused.
    pub(super) fn read(&self, service: &Service, target_is_known: bool) -> DescribedAnnouncing {
        let services = std::slice::from_ref(service);
        let prefixes = self.announce.map(|typed| covering(typed, services)).unwrap_or_default();
        let origins = self.when.and_then(|typed| Some((least(typed)?, typed)));
        let origins = origins.and_then(|(origins, typed)| {
            let there = match &service.target {
                Target::Origins(origins) => origins.list.len(),
                Target::Registered => {
                    typed.refuse("the service has no origins, other programs answer it; remove the key");
                    return None;
                }
                Target::Respond(_) if target_is_known => {
                    typed.refuse("the service has no origins, it answers by itself; remove the key");
                    return None;
                }
                Target::Respond(_) => return None,
            };
            if usize::from(origins) > there {
                typed.refuse(format_args!(
                    "so many origins it does not have, and would never be announced; ask for {there} at most"
                ));
                return None;
            }
            Some((origins, typed.offset()))
        });
        DescribedAnnouncing { prefixes, origins }
    }
}

/// What is announced of `services`, by what each says and by `[announce]`.
pub(super) fn read(
    table: Option<Typed<'_, '_>>,
    services: &[Service],
    described: &[DescribedAnnouncing],
    refuse: impl Fn(usize, &Service, &str),
) -> Announcing {
    let mut announcing = Announcing::default();
    let mut prefixes: Vec<Prefix> = Vec::new();
    if let Some(section) = table.and_then(|typed| typed.section("a table, [announce]")) {
        prefixes.extend(section.take("prefixes").into_iter().flat_map(|typed| covering(typed, services)));
        for (key, place) in
            [("rise", &mut announcing.rise), ("fall", &mut announcing.fall), ("hold", &mut announcing.hold)]
        {
            if let Some(time) = section.take(key).and_then(|typed| typed.time(&TIMES)) {
                *place = time;
            }
        }
        announcing.lame_duck = section.take("lame-duck").and_then(|typed| typed.time(&TIMES));
        section.finish();
    }
    prefixes.extend(described.iter().flat_map(|described| &described.prefixes));
    announcing.prefixes = prefixes.into_iter().map(|prefix| (prefix, Vec::new())).collect();
    for (service, described) in services.iter().zip(described) {
        let Some((origins, offset)) = described.origins else { continue };
        if !add_condition(&mut announcing.prefixes, service, origins) {
            refuse(
                offset,
                service,
                "nothing of the service is announced that could be withdrawn; add announce = true",
            );
        }
    }
    announcing
}

/// Has the prefixes that bindings of `service` are in depend on its origins. False if there is none.
fn add_condition(
    prefixes: &mut BTreeMap<Prefix, Vec<AnnounceCondition>>,
    service: &Service,
    origins: u16,
) -> bool {
    let mut any = false;
    for (prefix, conditions) in prefixes {
        if service.bindings.iter().any(|binding| binding.prefix.overlaps(prefix)) {
            conditions.push(AnnounceCondition { service: service.name.clone(), origins });
            any = true;
        }
    }
    any
}

/// The prefixes that `typed` says: of `true` those that cover the bindings of `services`.
fn covering(typed: Typed<'_, '_>, services: &[Service]) -> Vec<Prefix> {
    match typed.value() {
        DeValue::Boolean(false) => Vec::new(),
        DeValue::Boolean(true) => {
            // What is wrong with bindings is said elsewhere.
            let routes = Plan::of(services).map(|plan| plan.routes).unwrap_or_default();
            let bound = |prefix: &Prefix| prefix.length() == 0;
            let all = services.iter().flat_map(|service| &service.bindings).map(|binding| binding.prefix);
            if let Some(whole) = routes.iter().copied().chain(all).find(bound) {
                typed.refuse(format_args!(
                    "a binding has {whole}, and to announce that would bring the internet here; write the prefixes, as in \
                     [\"192.0.2.0/24\"]"
                ));
                return Vec::new();
            }
            if let Some(local) = routes.iter().find(|prefix| is_nowhere(prefix)) {
                typed.refuse(format_args!("bindings have {local}, and {NOWHERE}; write the prefixes"));
                return Vec::new();
            }
            routes
        }
        DeValue::Array(_) | DeValue::String(_) => {
            let mut prefixes: Vec<Prefix> = Vec::new();
            for (each, _) in typed.each("leave it out to announce nothing") {
                let Some(prefix) = each.parsed::<Prefix>("a prefix such as \"192.0.2.0/24\"") else {
                    continue;
                };
                if prefix.length() == 0 {
                    each.refuse("would bring the internet here; write the prefixes that are served");
                } else if is_nowhere(&prefix) {
                    each.refuse(NOWHERE);
                } else if prefixes.contains(&prefix) {
                    each.refuse("is there twice; remove one");
                } else if !is_bound(&prefix, services) {
                    each.refuse("no binding is in it, so that nobody would answer; bind it, or leave it out");
                } else {
                    prefixes.push(prefix);
                }
            }
            prefixes
        }
        _ => {
            typed.refuse_type(COVER);
            Vec::new()
        }
    }
}

const NOWHERE: &str = "no router may pass that on";

/// True for loopback, link-local and multicast addresses.
fn is_nowhere(prefix: &Prefix) -> bool {
    ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8"]
        .into_iter()
        .filter_map(|text| text.parse::<Prefix>().ok())
        .any(|other| other.overlaps(prefix))
}

fn is_bound(prefix: &Prefix, services: &[Service]) -> bool {
    services.iter().flat_map(|service| &service.bindings).any(|binding| binding.prefix.overlaps(prefix))
}

/// The number of `origins >= N`.
fn least(typed: Typed<'_, '_>) -> Option<u16> {
    let text = typed.string(WHEN)?;
    let number = text.trim().strip_prefix("origins").and_then(|rest| rest.trim_start().strip_prefix(">="));
    let number = number.and_then(|number| number.trim().parse().ok()).filter(|number| *number > 0);
    if number.is_none() {
        typed.refuse(format_args!("not {WHEN}, with a number from 1 on"));
    }
    number
}
