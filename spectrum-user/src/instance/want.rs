//! What a plan asks for. Raises nothing.

use std::collections::BTreeSet;

use crate::config::{Config, NatChoice};
use crate::model::{Resource, registered};
use crate::plan::{Plan, ReplyNeeds};
use crate::registry::Mode;

/// The things that an instance has when it serves `config` by `plan`, the configuration `revision`, in `mode`.
#[must_use]
pub fn want(config: &Config, plan: &Plan, mode: Mode, revision: u32) -> BTreeSet<Resource> {
    let needs = ReplyNeeds::of(&config.services);
    let mut want =
        BTreeSet::from([Resource::Claim, Resource::Control, Resource::Workers, Resource::Rules(revision)]);
    want.extend(config.admin.map(|_| Resource::Admin));
    want.extend(plan.routes.iter().map(|prefix| Resource::Route(*prefix)));
    want.extend(needs.families.iter().map(|family| Resource::Reply(*family)));
    want.extend(needs.mark().then_some(Resource::Mark));
    want.extend((config.nat != NatChoice::Heed).then_some(Resource::Exemption));
    let registered = registered(&config.services);
    for destination in plan.destinations.values() {
        if registered.contains(&destination.service) {
            // All of it is with other programs, but for the place in the map.
            continue;
        }
        let service = destination.service.clone();
        want.insert(Resource::Connections(service, destination.family, destination.protocol));
        want.insert(Resource::Listener(destination.clone()));
        want.insert(Resource::Serving(destination.clone()));
    }
    if mode == Mode::SkLookup {
        want.insert(Resource::Attachment);
        want.extend(plan.silent().into_iter().map(|(protocol, family)| Resource::Silent(protocol, family)));
        want.extend(plan.destinations.keys().map(|id| Resource::Registration(*id)));
        want.extend(config.xdp.iter().cloned().map(Resource::Xdp));
        want.extend(config.instance.pin.unwrap_or_default().then_some(Resource::Pins));
    }
    want
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Planned;
    use crate::model::ResourceKind;

    #[test]
    fn of_what_other_programs_answer_only_the_places_in_the_map_are_wanted() {
        let text =
            "[[service]]\nname = \"web\"\nregistered = true\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";
        let Planned { config, plan } = Config::parse(std::path::Path::new("x.toml"), text).unwrap();
        let kinds = |mode| want(&config, &plan, mode, 0).iter().map(Resource::kind).collect::<Vec<_>>();
        assert_eq!(
            kinds(Mode::SkLookup),
            [
                ResourceKind::Claim,
                ResourceKind::Control,
                ResourceKind::Attachment,
                ResourceKind::Route,
                ResourceKind::Workers,
                ResourceKind::Registration,
                ResourceKind::Exemption,
                ResourceKind::Rules
            ]
        );
        let others = [ResourceKind::Attachment, ResourceKind::Registration];
        let of_tproxy = kinds(Mode::SkLookup).into_iter().filter(|kind| !others.contains(kind));
        assert_eq!(kinds(Mode::Tproxy), of_tproxy.collect::<Vec<_>>());
    }

    #[test]
    fn pins_are_wanted_where_there_is_something_to_pin() {
        let text = "[instance]\npin = true\n[[service]]\nname = \"web\"\nregistered = true\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";
        let Planned { config, plan } = Config::parse(std::path::Path::new("x.toml"), text).unwrap();
        assert!(want(&config, &plan, Mode::SkLookup, 0).contains(&Resource::Pins));
        assert!(!want(&config, &plan, Mode::Tproxy, 0).contains(&Resource::Pins));
    }

    #[test]
    fn a_path_wants_what_it_steers_by_and_no_more() {
        let text = "policy = { on-deny = \"silent\", xdp = [\"eth0\", \"eth1\"] }\n[[service]]\nname = \"games\"\nrespond = \"echo\"\n\
                    bindings = [{ prefix = [\"192.0.2.0/24\", \"2001:db8::/64\"], protocol = \"both\" }]\n";
        let Planned { config, plan } = Config::parse(std::path::Path::new("x.toml"), text).unwrap();
        let count =
            |mode, kind| want(&config, &plan, mode, 7).iter().filter(|one| one.kind() == kind).count();
        for mode in [Mode::SkLookup, Mode::Tproxy] {
            let registered = if mode == Mode::SkLookup { 4 } else { 0 };
            assert_eq!(count(mode, ResourceKind::Registration), registered);
            assert_eq!(count(mode, ResourceKind::Attachment), registered / 4);
            assert_eq!(count(mode, ResourceKind::Xdp), registered / 2);
            assert_eq!(count(mode, ResourceKind::Listener), 4);
            assert_eq!(count(mode, ResourceKind::Serving), 4);
            assert_eq!(count(mode, ResourceKind::Connections), 4);
            assert_eq!(count(mode, ResourceKind::Route), 2);
            assert_eq!(count(mode, ResourceKind::Reply) + count(mode, ResourceKind::Mark), 0);
            assert_eq!(want(&config, &plan, mode, 7).last(), Some(&Resource::Rules(7)));
        }
    }
}
