//! Why services cannot be planned, told by the lines that their bindings stand in.

use std::collections::HashSet;

use super::key_path::KeyPath;
use super::service::ServicePlaces;
use crate::config::error::Problems;
use crate::plan::{BindingIndex, PlanError, ServicesError};

/// Adds the errors to `problems`, a tie at the later of its bindings. `places` are those of every service.
pub(super) fn explain(errors: &[ServicesError], places: &[ServicePlaces], problems: &Problems<'_>) {
    let mut told = HashSet::new();
    for error in errors {
        if let ServicesError::Loop { at, service: name, origin, port } = error {
            let Some(offset) = places.get(*at).and_then(|places| places.origins) else { continue };
            let this = service(places, BindingIndex { service: *at, binding: 0 }, name);
            let path = KeyPath::Key(&this, "origins");
            problems.add_about(
                offset,
                path,
                format_args!(
                    "{origin} is bound by the service itself, on port {port} for one: connections would come back \
                     without end; name an address or a port that it does not bind"
                ),
            );
            continue;
        }
        if let ServicesError::Circle { at, .. } = error {
            let offset = places.get(*at).and_then(|places| places.origins).unwrap_or(0);
            problems.add(offset, error.to_string());
            continue;
        }
        let ServicesError::Bindings(PlanError::Tie {
            first,
            first_at,
            first_service,
            second,
            second_at,
            second_service,
        }) = error
        else {
            problems.add(0, error.to_string());
            continue;
        };
        let place = |at: &BindingIndex| places.get(at.service)?.bindings.get(at.binding);
        let (Some(first_place), Some(second_place)) = (place(first_at), place(second_at)) else { continue };
        // Two elements that bind both protocols tie twice, for one reason.
        if !told.insert((first_place.offset, first.ports, second_place.offset, second.ports)) {
            continue;
        }
        let other = service(places, *first_at, first_service);
        let beside = problems.beside(first_place.offset, second_place.offset);
        let message = if first.ports == second.ports {
            format!("{other} binds the same in {beside}; remove one")
        } else {
            format!(
                "overlaps with ports {} of {other} in {beside}; one range must be narrower and lie within the \
                 other",
                first.ports
            )
        };
        let this = service(places, *second_at, second_service);
        let bindings = KeyPath::Key(&this, "bindings");
        let element = KeyPath::Index(&bindings, second_place.element);
        let list = KeyPath::Key(&element, "prefix");
        let path = second_place.prefix.map_or(list, |index| KeyPath::Index(&list, index));
        problems.add_about(second_place.offset, path, format_args!("{second}: {message}"));
    }
}

/// By its name, unless that is a stand-in.
fn service<'a>(places: &[ServicePlaces], at: BindingIndex, name: &'a str) -> KeyPath<'a> {
    let named = places.get(at.service).is_some_and(|places| places.name.is_some());
    KeyPath::Service { index: at.service, name: named.then_some(name) }
}
