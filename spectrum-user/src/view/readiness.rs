//! Whether an instance, or one service of it, is ready, in the words of the view. Answers nobody.

use super::{InstanceState, OriginView, RegisteredView, View};

/// So many origins are named with what keeps a service from being ready.
const REASONS: usize = 16;

/// The readiness to take traffic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// It is ready; what nobody could look at is told.
    Ready(Vec<String>),
    /// It is not, because of these.
    Not(Vec<String>),
    /// There is no such service.
    Unknown,
}

impl View {
    /// The readiness of the instance, or of one service: connections come to an origin of it, or are answered here.
    #[must_use]
    pub fn readiness(&self, service: Option<&str>) -> Readiness {
        if matches!(self.state, InstanceState::Starting | InstanceState::LameDuck | InstanceState::Draining) {
            return Readiness::Not(vec![self.state.to_string()]);
        }
        if !self.hindrances.is_empty() {
            return Readiness::Not(self.hindrances.clone());
        }
        let Some(service) = service else { return Readiness::Ready(self.unseen.clone()) };
        let mut configured = self.services.iter().filter(|service| service.draining.is_none());
        let Some(service) = configured.find(|one| one.plan.name == service) else {
            return Readiness::Unknown;
        };
        if service.plan.registered {
            // Of those that share the clients of one destination it takes one.
            let is_served = |of: &RegisteredView| {
                let alike = |one: &&RegisteredView| (one.protocol, one.family) == (of.protocol, of.family);
                service.sockets.iter().filter(alike).any(RegisteredView::is_up)
            };
            let down = service.sockets.iter().filter(|socket| !is_served(socket)).take(REASONS);
            let reasons: Vec<String> = down
                .map(|one| {
                    format!("registered socket of {} {}: {}", one.protocol, one.family, one.condition_line())
                })
                .collect();
            return if reasons.is_empty() {
                Readiness::Ready(self.unseen.clone())
            } else {
                Readiness::Not(reasons)
            };
        }
        if service.origins.is_empty() || service.origins.iter().any(OriginView::is_up) {
            return Readiness::Ready(self.unseen.clone());
        }
        let reasons = service.origins.iter().take(REASONS).map(|row| {
            let origin = &row.plan.origin;
            let address = row.address.as_ref().filter(|address| *address != origin);
            let address = address.map_or_else(String::new, |address| format!(" ({address})"));
            format!("origin {origin}{address} is {}", row.condition_line())
        });
        Readiness::Not(reasons.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{OriginPlan, ServicePlan, ServiceView};
    use spectrum_proxy::OriginCondition;

    fn origin(origin: &str, condition: OriginCondition, reason: Option<&str>) -> OriginView {
        let plan = OriginPlan { origin: origin.to_owned(), role: "primary".to_owned(), weight: 1 };
        OriginView { plan, condition, reason: reason.map(str::to_owned), ..OriginView::up_at("192.0.2.1:80") }
    }

    fn service(name: &str, origins: Vec<OriginView>) -> ServiceView {
        let plan = ServicePlan { name: name.to_owned(), ..ServicePlan::default() };
        ServiceView { plan, origins, ..ServiceView::default() }
    }

    fn view() -> View {
        let dead = origin("web.example:80", OriginCondition::Unresolved, Some("no such name"));
        let services = vec![
            service("echo", Vec::new()),
            service("dead", vec![dead.clone()]),
            service("half", vec![dead, OriginView::up_at("192.0.2.1:80")]),
        ];
        View { state: InstanceState::Ready, services, ..View::default() }
    }

    #[test]
    fn a_service_is_ready_if_it_has_an_origin_or_answers_by_itself() {
        let view = view();
        for service in [None, Some("echo"), Some("half")] {
            assert_eq!(view.readiness(service), Readiness::Ready(Vec::new()), "{service:?}");
        }
        let reason = "origin web.example:80 (192.0.2.1:80) is unresolved: no such name".to_owned();
        assert_eq!(view.readiness(Some("dead")), Readiness::Not(vec![reason]));
        assert_eq!(view.readiness(Some("nobody")), Readiness::Unknown);
        let removed = crate::view::DrainingView { cut_in_ms: 1 };
        let mut gone = view.clone();
        gone.services[0].draining = Some(removed);
        assert_eq!(gone.readiness(Some("echo")), Readiness::Unknown);
    }

    #[test]
    fn nothing_is_ready_while_the_instance_is_not_and_the_words_are_those_of_the_view() {
        for service in [None, Some("echo"), Some("nobody")] {
            for state in [InstanceState::Starting, InstanceState::LameDuck, InstanceState::Draining] {
                let view = View { state, ..view() };
                assert_eq!(view.readiness(service), Readiness::Not(vec![state.to_string()]));
            }
            let missing = vec!["local route 192.0.2.0/24 missing".to_owned()];
            let view = View { hindrances: missing.clone(), ..view() };
            assert_eq!(view.readiness(service), Readiness::Not(missing));
        }
        let reloading = View { state: InstanceState::Reloading, ..view() };
        assert_eq!(reloading.readiness(None), Readiness::Ready(Vec::new()));
    }

    #[test]
    fn things_that_clients_can_do_without_and_looks_that_failed_are_no_reason() {
        let missing = vec!["the state file missing".to_owned()];
        let unseen = vec!["the firewall rules that steer: run nft: timed out".to_owned()];
        let view = View { missing, unseen: unseen.clone(), ..view() };
        assert_eq!(view.readiness(None), Readiness::Ready(unseen));
    }
}
