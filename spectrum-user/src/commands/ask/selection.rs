//! The part of a status that somebody asked for: of some services, or of what is wrong. Asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::nearest;
use crate::model::Protocol;
use crate::view::{OriginView, ServiceView, View};
use spectrum_proxy::OriginCondition;

/// More services than this are not listed unless somebody asks for them.
pub(super) const LISTED: usize = 200;

/// The services that are shown.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct ShownServices {
    /// These; none: all.
    pub(super) names: Vec<String>,
    /// Those with a binding of this protocol.
    pub(super) protocol: Option<Protocol>,
    /// Those that are known to bind what was asked for.
    pub(super) binding: Option<BTreeSet<String>>,
    /// Those of which something is wrong.
    pub(super) only_wrong: bool,
}

/// A name that no service has.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no service {name:?}{}", .nearest.as_ref().map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
pub(super) struct NoService {
    name: String,
    nearest: Option<String>,
}

impl ShownServices {
    /// Leaves in `view` what is selected.
    ///
    /// # Errors
    /// The first name that no service has.
    pub(super) fn apply(&self, view: &mut View) -> Result<(), NoService> {
        for name in &self.names {
            if !view.services.iter().any(|service| service.plan.name == *name) {
                let names: Vec<&str> =
                    view.services.iter().map(|service| service.plan.name.as_str()).collect();
                let nearest = nearest(name, &names).map(ToOwned::to_owned);
                return Err(NoService { name: name.clone(), nearest });
            }
        }
        let View { services, sessions, destinations, .. } = view;
        if let Some(protocol) = self.protocol {
            let having: BTreeSet<String> = destinations
                .iter()
                .filter(|destination| destination.plan.protocol == protocol)
                .map(|destination| destination.plan.service.clone())
                .collect();
            services.retain(|service| having.contains(&service.plan.name));
            destinations.retain(|destination| destination.plan.protocol == protocol);
            sessions.retain(|sessions| sessions.protocol == protocol);
        }
        services.retain(|service| {
            let name = &service.plan.name;
            (self.names.is_empty() || self.names.contains(name))
                && self.binding.as_ref().is_none_or(|binding| binding.contains(name))
                && (!self.only_wrong || is_wrong(service))
        });
        if self.only_wrong {
            for service in services.iter_mut() {
                service.origins.retain(is_wrong_origin);
            }
        }
        let left: BTreeSet<&str> = services.iter().map(|service| service.plan.name.as_str()).collect();
        sessions.retain(|sessions| left.contains(sessions.service.as_str()));
        destinations.retain(|destination| left.contains(destination.plan.service.as_str()));
        Ok(())
    }

    /// True if nothing is left out.
    pub(super) fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// Very many services in a few lines.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Summary {
    pub(super) services: usize,
    /// Connections and sessions that are open, and all there were.
    pub(super) open: u64,
    pub(super) total: u64,
    /// Origins, each address one, by their condition.
    pub(super) origins: BTreeMap<String, usize>,
    /// The services of which something is wrong.
    pub(super) wrong: Vec<String>,
}

impl Summary {
    /// Of all services of `view`.
    pub(super) fn of(view: &View) -> Self {
        let mut summary = Self { services: view.services.len(), ..Self::default() };
        for service in &view.services {
            summary.open += service.open;
            summary.total += service.total;
            for origin in &service.origins {
                *summary.origins.entry(origin.condition.to_string()).or_default() += 1;
            }
            if is_wrong(service) {
                summary.wrong.push(service.plan.name.clone());
            }
        }
        summary
    }
}

/// True if somebody should look at it: connections were denied or lose their time, or an origin is not as it should be.
pub(super) fn is_wrong(service: &ServiceView) -> bool {
    !service.denied.is_empty()
        || service.draining.is_some()
        || service.origins.iter().any(is_wrong_origin)
        || service.sockets.iter().any(|socket| !socket.is_right())
}

/// True of what gets no connections, unless that was said.
fn is_wrong_origin(origin: &OriginView) -> bool {
    use OriginCondition::{Down, Ejected, Loop, Refused, Unresolved};
    matches!(origin.condition, Down | Ejected | Loop | Refused | Unresolved)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> View {
        let origin = |address: &str, condition: &str| {
            json!({
                "origin": address, "role": "primary", "weight": 1, "address": address, "condition": condition, "open": 0,
                "connections": 0, "failures": 0, "failures_in_row": 0, "bytes_to_origin": 0, "bytes_from_origin": 0,
            })
        };
        let service = |name: &str, origins: Vec<serde_json::Value>| json!({ "name": name, "bindings": 1, "target": "", "open": 2, "total": 5, "origins": origins });
        let destination = |id: u32, service: &str, protocol: &str| json!({ "id": id, "service": service, "protocol": protocol, "family": "ipv4", "listener": null });
        let mut view = serde_json::to_value(View::default()).unwrap();
        view["services"] = json!([
            service("web", vec![origin("10.0.0.1", "up"), origin("10.0.0.2", "down")]),
            service("games", vec![origin("10.0.0.3", "up"), origin("10.0.0.4", "drained")]),
        ]);
        view["destinations"] = json!([
            destination(0, "web", "tcp"),
            destination(1, "games", "udp"),
            destination(2, "games", "tcp")
        ]);
        serde_json::from_value(view).unwrap()
    }

    fn left(selection: &ShownServices) -> (Vec<String>, usize, usize) {
        let mut view = view();
        selection.apply(&mut view).unwrap();
        let names = view.services.iter().map(|service| service.plan.name.clone()).collect();
        (names, view.services.iter().map(|service| service.origins.len()).sum(), view.destinations.len())
    }

    #[test]
    fn what_is_selected_is_left_with_its_parts() {
        let all = ShownServices::default();
        assert!(all.is_all());
        let both = vec!["web".to_owned(), "games".to_owned()];
        assert_eq!(left(&all), (both.clone(), 4, 3));
        let named = ShownServices { names: vec!["games".to_owned()], ..ShownServices::default() };
        assert_eq!(left(&named), (vec!["games".to_owned()], 2, 2));
        let of_udp = ShownServices { protocol: Some(Protocol::Udp), ..ShownServices::default() };
        assert_eq!(left(&of_udp), (vec!["games".to_owned()], 2, 1));
        let wrong = ShownServices { only_wrong: true, ..ShownServices::default() };
        assert_eq!(left(&wrong), (vec!["web".to_owned()], 1, 1));
        let bound = ShownServices { binding: Some(["web".to_owned()].into()), ..ShownServices::default() };
        assert_eq!(left(&bound), (vec!["web".to_owned()], 2, 1));
    }

    #[test]
    fn a_name_that_no_service_has_is_told_with_the_nearest() {
        let selection = ShownServices { names: vec!["game".to_owned()], ..ShownServices::default() };
        let error = selection.apply(&mut view()).unwrap_err();
        assert_eq!(error.to_string(), "there is no service \"game\"; did you mean \"games\"?");
    }

    #[test]
    fn a_summary_counts_and_names_what_is_wrong() {
        let Summary { services, open, total, origins, wrong } = Summary::of(&view());
        assert_eq!((services, open, total, wrong), (2, 4, 10, vec!["web".to_owned()]));
        assert_eq!(
            origins.into_iter().collect::<Vec<_>>(),
            [("down".into(), 1), ("drained".into(), 1), ("up".into(), 2)]
        );
    }
}
