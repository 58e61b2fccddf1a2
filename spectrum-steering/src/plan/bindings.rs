//! A configuration's services, brought into the order in which the kernel decides. The slow scan over this order is
//! the definition of every other answer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use spectrum_common::names;

use super::{OwnPolicy, Policies};
use crate::model::{Binding, Destination, DestinationId, Prefix, Protocol, ServiceName};

/// Something that binds: a service, whatever answers behind it.
pub trait Binds {
    /// Its name, which no other has.
    fn name(&self) -> &ServiceName;

    /// Its bindings, in the order configured.
    fn bindings(&self) -> &[Binding];

    /// True if it answers as `before`, of the same name, did. Otherwise it keeps its listeners only where its bindings are as
    /// they were, so that these and what answers behind them change together.
    fn answers_like(&self, before: &Self) -> bool;

    /// Whom it lets in, where it says so itself.
    fn own_policy(&self) -> Option<&OwnPolicy> {
        None
    }

    /// True if its sockets are other programs': then they are its own alone, and handed on to no other service.
    fn is_registered(&self) -> bool {
        false
    }
}

/// A name with bindings, and nothing that steering would have to tell apart behind it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bound {
    /// Unique among those that are planned together.
    pub name: ServiceName,
    /// In the order configured.
    pub bindings: Vec<Binding>,
    /// Whom it lets in, where it says so itself.
    pub policy: Option<OwnPolicy>,
}

impl Binds for Bound {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    fn answers_like(&self, _before: &Self) -> bool {
        true
    }

    fn own_policy(&self) -> Option<&OwnPolicy> {
        self.policy.as_ref()
    }
}

/// The content that the kernel must have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Every destination that a binding leads to.
    pub destinations: BTreeMap<DestinationId, Destination>,
    /// Every binding, in the order of precedence.
    pub bindings: Vec<PlannedBinding>,
    /// The fewest prefixes that cover the addresses of all bindings, and no others: those must be local.
    pub routes: Vec<Prefix>,
    /// Whom the services let in.
    pub policies: Policies,
}

/// A binding and where it leads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PlannedBinding {
    /// The binding that is steered.
    pub binding: Binding,
    /// The destination that it leads to.
    pub destination: DestinationId,
}

/// The place of a binding among those of all services.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BindingIndex {
    /// The number of the service, the first is 0.
    pub service: usize,
    /// The number of its binding, the first is 0.
    pub binding: usize,
}

/// A reason for which services cannot be planned.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// For some packets neither of two bindings would win.
    #[error(
        "bindings tie: {first} (service {first_service}) and {second} (service {second_service}); one range must be \
         narrower and lie within the other"
    )]
    Tie {
        /// The one that is configured first.
        first: Binding,
        /// Which that is.
        first_at: BindingIndex,
        /// The service that has it.
        first_service: String,
        /// The other.
        second: Binding,
        /// Which that is.
        second_at: BindingIndex,
        /// The service that has it.
        second_service: String,
    },
    /// More destinations than there may be.
    #[error(
        "{count} destinations (service, protocol, family) are more than {limit}; make one service of those that differ in their \
         port alone: with a range of ports, and an origin without a port or with a range as long"
    )]
    TooManyDestinations {
        /// The number that there would be.
        count: usize,
        /// The highest number possible.
        limit: usize,
    },
}

impl Plan {
    /// The plan of a first configuration: brings the bindings into the order of precedence, and numbers the destinations.
    ///
    /// # Errors
    /// Every pair of neighbouring bindings that tie, and a number of destinations that the maps cannot hold.
    pub fn of<S: Binds>(services: &[S]) -> Result<Self, Vec<PlanError>> {
        let mut numbering = Numbering::default();
        let mut plan = Self::default();
        let mut configured = Vec::new();
        for (service_index, service) in services.iter().enumerate() {
            for (binding_index, binding) in service.bindings().iter().enumerate() {
                let id = numbering.id(service, binding, &mut plan.destinations);
                let at = BindingIndex { service: service_index, binding: binding_index };
                configured.push((PlannedBinding { binding: *binding, destination: id }, at));
            }
        }
        configured.sort_unstable_by(|(a, _), (b, _)| a.binding.precedence(&b.binding));

        let mut errors = ties(&configured, services);
        let count = plan.destinations.len();
        if count > names::MOST_DESTINATIONS {
            errors.push(PlanError::TooManyDestinations { count, limit: names::MOST_DESTINATIONS });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        plan.bindings = configured.into_iter().map(|(binding, _)| binding).collect();
        let owns = services.iter().filter_map(|service| Some((service.name(), service.own_policy()?)));
        plan.policies.own = owns.map(|(name, own)| (name.clone(), own.clone())).collect();
        plan.routes = aggregated(plan.bindings.iter().map(|planned| planned.binding.prefix));
        Ok(plan)
    }

    #[doc(hidden)]
    /// The plan of `services` when this one, made of `before`, is in force: [`Plan::of`] them, and [`Plan::after`] this one.
    ///
    /// # Errors
    /// As for [`Plan::of`].
    pub fn following<S: Binds>(
        &self,
        before: &[S],
        services: &[S],
        revision: u32,
    ) -> Result<Self, Vec<PlanError>> {
        Ok(Self::of(services)?.after(self, before, services, revision))
    }

    #[doc(hidden)]
    /// This plan of a first configuration, `services`, numbered to follow `in_force`, which is made of `before`. Destinations
    /// of services that answer as before keep their ids, and those whose bindings are the very same hand theirs on to what answers
    /// there now, by another service perhaps; no other id that is in use now is given away, so that both plans can be prepared
    /// for at once. What is new is of `revision`, which must be unlike any before. Nothing is sorted again.
    #[must_use]
    pub fn after<'a, S: Binds>(
        mut self,
        in_force: &Self,
        before: &'a [S],
        services: &'a [S],
        revision: u32,
    ) -> Self {
        let mut kept = self.kept_as_before(in_force, before, services);
        let mut places = self.kept_in_place(in_force, &kept);
        let registered = |services: &'a [S]| -> HashSet<&'a ServiceName> {
            services.iter().filter(|service| service.is_registered()).map(Binds::name).collect()
        };
        let (were_registered, are_registered) = (registered(before), registered(services));
        places.retain(|first, id| {
            let (was, is) = (in_force.destination(*id), self.destination(*first));
            !was.is_some_and(|was| were_registered.contains(&was.service))
                && !is.is_some_and(|is| are_registered.contains(&is.service))
        });
        kept.extend(places.into_iter().filter_map(|(first, id)| {
            let (was, is) = (in_force.destination(id)?, self.destination(first)?);
            // Sessions of datagrams are known by their service: those of one must not be taken for another's.
            let revision = if was.service == is.service {
                was.revision
            } else if is.protocol == Protocol::Tcp {
                revision
            } else {
                return None;
            };
            Some((first, (id, revision)))
        }));
        let mut free = (0..).map(DestinationId).filter(|id| !in_force.destinations.contains_key(id));
        let mut numbers = BTreeMap::new();
        let mut destinations = BTreeMap::new();
        // In the order in which they occur, as they were numbered.
        for (first, destination) in std::mem::take(&mut self.destinations) {
            // One that was gone for a while is another one, even of a service that never changed: the listeners of the
            // former may still be retiring, and must not be taken for those of the latter.
            let as_before = kept.get(&first).copied();
            let Some((id, revision)) = as_before.or_else(|| Some((free.next()?, revision))) else { continue };
            numbers.insert(first, id);
            destinations.insert(id, Destination { revision, ..destination });
        }
        for planned in &mut self.bindings {
            planned.destination = numbers.get(&planned.destination).copied().unwrap_or(planned.destination);
        }
        self.destinations = destinations;
        self
    }

    #[doc(hidden)]
    /// This plan of a first configuration, in which what `known` has of the same service, protocol and family has the id that it has there. No
    /// other id of `known` is given away.
    #[must_use]
    pub fn numbered_as(mut self, known: &BTreeMap<DestinationId, Destination>) -> Self {
        let ids: HashMap<_, _> =
            known.iter().map(|(id, one)| ((&one.service, one.family, one.protocol), *id)).collect();
        let mut free = (0..).map(DestinationId).filter(|id| !known.contains_key(id));
        let (mut numbers, mut destinations) = (BTreeMap::new(), BTreeMap::new());
        for (first, destination) in std::mem::take(&mut self.destinations) {
            let as_before = ids.get(&(&destination.service, destination.family, destination.protocol));
            let Some(id) = as_before.copied().or_else(|| free.next()) else { continue };
            numbers.insert(first, id);
            destinations.insert(id, destination);
        }
        for planned in &mut self.bindings {
            planned.destination = numbers.get(&planned.destination).copied().unwrap_or(planned.destination);
        }
        self.destinations = destinations;
        self
    }

    /// The destinations of services that answer as they did, whatever their bindings are now: by which ids and since which
    /// revisions they are known.
    fn kept_as_before<'a, S: Binds>(
        &self,
        in_force: &Self,
        before: &'a [S],
        services: &'a [S],
    ) -> HashMap<DestinationId, (DestinationId, u32)> {
        let known: HashMap<_, _> = in_force
            .destinations
            .iter()
            .map(|(id, one)| ((&one.service, one.family, one.protocol), (*id, one.revision)))
            .collect();
        let by_name = |services: &'a [S]| {
            services.iter().map(|service| (service.name(), service)).collect::<HashMap<_, _>>()
        };
        let (were, are) = (by_name(before), by_name(services));
        let answers_as_before = |name: &ServiceName| {
            are.get(name).zip(were.get(name)).is_some_and(|(is, was)| is.answers_like(was))
        };
        let kept = self.destinations.iter().filter_map(|(first, one)| {
            let known = known.get(&(&one.service, one.family, one.protocol))?;
            answers_as_before(&one.service).then_some((*first, *known))
        });
        kept.collect()
    }

    /// The destinations, none of them of `kept`, to which the very packets come that one of `in_force` gets which is given up: by
    /// the very same bindings. Their listeners stay, since the last packet of a handshake must find those that answered its first.
    fn kept_in_place(
        &self,
        in_force: &Self,
        kept: &HashMap<DestinationId, (DestinationId, u32)>,
    ) -> HashMap<DestinationId, DestinationId> {
        let taken: HashSet<DestinationId> = kept.values().map(|(id, _)| *id).collect();
        let mut sizes = HashMap::<DestinationId, usize>::new();
        let given_up: HashMap<&Binding, DestinationId> = in_force
            .bindings
            .iter()
            .filter(|planned| !taken.contains(&planned.destination))
            .inspect(|planned| *sizes.entry(planned.destination).or_default() += 1)
            .map(|planned| (&planned.binding, planned.destination))
            .collect();
        // Of each: the destination that all of its bindings had so far, and how many these are.
        let mut places = HashMap::<DestinationId, Option<(DestinationId, usize)>>::new();
        for PlannedBinding { binding, destination } in &self.bindings {
            if !kept.contains_key(destination) {
                let place = given_up.get(binding).copied();
                let so_far = places.entry(*destination).or_insert(place.map(|id| (id, 0)));
                *so_far = so_far.filter(|(id, _)| place == Some(*id)).map(|(id, count)| (id, count + 1));
            }
        }
        let whole = places.into_iter().filter_map(|(first, place)| Some((first, place?)));
        let whole = whole.filter(|(_, (id, count))| sizes.get(id) == Some(count));
        let mut places: HashMap<_, _> = whole.map(|(first, (id, _))| (first, id)).collect();
        // Where another binding hides less or more of it than before, answers must change together with what is steered.
        let moved = self.moved_from(in_force, &places.values().copied().collect());
        places.retain(|_, id| !moved.contains(id));
        places
    }

    /// Those destinations of `in_force` that are `asked` for to which other packets come by this plan, since a binding comes or
    /// goes that hides some of theirs.
    fn moved_from(&self, in_force: &Self, asked: &HashSet<DestinationId>) -> HashSet<DestinationId> {
        let mut moved = HashSet::new();
        if asked.is_empty() {
            return moved;
        }
        let bindings = |plan: &Self| plan.bindings.iter().map(|planned| planned.binding).collect();
        let (was, is): (HashSet<Binding>, HashSet<Binding>) = (bindings(in_force), bindings(self));
        let mut outer = HashMap::<(Protocol, Prefix), Vec<PlannedBinding>>::new();
        let mut lengths = BTreeSet::new();
        for planned in in_force.bindings.iter().filter(|planned| asked.contains(&planned.destination)) {
            let Binding { protocol, prefix, .. } = planned.binding;
            outer.entry((protocol, prefix)).or_default().push(*planned);
            lengths.insert(prefix.length());
        }
        for change in was.symmetric_difference(&is) {
            for length in lengths.range(..=change.prefix.length()) {
                let Ok(prefix) = Prefix::containing(change.prefix.address(), *length) else { continue };
                let hidden = outer.get(&(change.protocol, prefix)).into_iter().flatten().filter(|planned| {
                    planned.binding.ports.overlaps(&change.ports)
                        && change.precedence(&planned.binding).is_lt()
                });
                moved.extend(hidden.map(|planned| planned.destination));
            }
        }
        moved
    }

    #[doc(hidden)]
    /// The number of destinations that the kernel's maps must have room for: one more than the highest id.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.destinations.keys().next_back().map_or(0, |last| last.0 as usize + 1)
    }

    /// The binding that decides on a packet to `address` and `port`: the obvious scan, which says what every faster
    /// answer must be.
    #[must_use]
    pub fn winner(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<&PlannedBinding> {
        self.bindings.iter().find(|planned| planned.binding.matches(protocol, address, port))
    }

    #[doc(hidden)]
    /// The destination with this id.
    #[must_use]
    pub fn destination(&self, id: DestinationId) -> Option<&Destination> {
        self.destinations.get(&id)
    }
}

/// Gives destinations their ids, in the order in which they occur.
#[derive(Default)]
struct Numbering {
    /// The ids of the service that was asked for last.
    latest: Vec<(Destination, DestinationId)>,
}

impl Numbering {
    /// The id of the destination that `binding` of `service` leads to, added to `destinations` when it is new there.
    fn id<S: Binds>(
        &mut self,
        service: &S,
        binding: &Binding,
        destinations: &mut BTreeMap<DestinationId, Destination>,
    ) -> DestinationId {
        let known = self.latest.iter().find(|(known, _)| {
            known.family == binding.family()
                && known.protocol == binding.protocol
                && known.service == *service.name()
        });
        if let Some((_, id)) = known {
            return *id;
        }
        let id = DestinationId(u32::try_from(destinations.len()).unwrap_or(u32::MAX));
        let destination = Destination {
            service: service.name().clone(),
            revision: 0,
            family: binding.family(),
            protocol: binding.protocol,
        };
        destinations.insert(id, destination.clone());
        self.latest.retain(|(known, _)| known.service == *service.name());
        self.latest.push((destination, id));
        id
    }
}

/// Ties among bindings in the order of precedence, where those of one prefix follow each other. Ranges that nest form a
/// tree, so each need only be compared with the innermost one that it begins in.
fn ties<S: Binds>(sorted: &[(PlannedBinding, BindingIndex)], services: &[S]) -> Vec<PlanError> {
    let name = |at: BindingIndex| {
        services.get(at.service).map_or_else(String::new, |service| service.name().to_string())
    };
    let mut errors = Vec::new();
    for run in sorted.chunk_by(|(a, _), (b, _)| {
        a.binding.protocol == b.binding.protocol && a.binding.prefix == b.binding.prefix
    }) {
        if run.len() == 1 {
            continue;
        }
        let mut run: Vec<(Binding, BindingIndex)> =
            run.iter().map(|(planned, at)| (planned.binding, *at)).collect();
        run.sort_unstable_by_key(|(binding, at)| (binding.ports.first(), Reverse(binding.ports.last()), *at));
        let mut open: Vec<(Binding, BindingIndex)> = Vec::new();
        for (binding, at) in run {
            while open.last().is_some_and(|(outer, _)| outer.ports.last() < binding.ports.first()) {
                open.pop();
            }
            if let Some((outer, outer_at)) = open.last()
                && outer.ties(&binding)
            {
                let mut both = [(*outer, *outer_at), (binding, at)];
                both.sort_unstable_by_key(|(_, at)| *at);
                let [(first, first_at), (second, second_at)] = both;
                errors.push(PlanError::Tie {
                    first,
                    first_at,
                    first_service: name(first_at),
                    second,
                    second_at,
                    second_service: name(second_at),
                });
            }
            open.push((binding, at));
        }
    }
    errors
}

/// The fewest prefixes that have the same addresses as `prefixes` together, sorted: none lies in another, and two halves
/// of one are that one. A million neighbouring hosts need a handful of routes then, not a million. A prefix of length 0
/// makes nothing local, so it stays beside those within it.
fn aggregated(prefixes: impl Iterator<Item = Prefix>) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = prefixes.collect();
    prefixes.sort_unstable_by_key(|prefix| (prefix.address(), prefix.length()));
    let mut aggregated: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        let is_covered =
            |last: &Prefix| *last == prefix || last.length() > 0 && last.contains(prefix.address());
        if aggregated.last().is_some_and(is_covered) {
            continue;
        }
        let mut whole = prefix;
        while let (Some(last), Some(parent)) = (aggregated.last(), whole.parent())
            && last.length() == whole.length()
            && last.parent() == Some(parent)
            // Which would be no route at all: everything would be local.
            && parent.length() > 0
        {
            aggregated.pop();
            whole = parent;
        }
        aggregated.push(whole);
    }
    aggregated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{Answering, answering};

    fn service(name: &str, bindings: &[&str]) -> Answering {
        answering(name, bindings)
    }

    fn winner(plan: &Plan, address: &str, port: u16) -> Option<String> {
        let winner = plan.winner(Protocol::Tcp, address.parse().unwrap(), port)?;
        Some(winner.binding.to_string())
    }

    #[test]
    fn a_longer_prefix_hides_only_the_ports_it_binds() {
        let plan = Plan::of(&[service("a", &["tcp 192.0.2.0/24 1-65535", "tcp 192.0.2.7/32 80"])]).unwrap();
        assert_eq!(winner(&plan, "192.0.2.7", 80).unwrap(), "tcp 192.0.2.7/32 80");
        assert_eq!(winner(&plan, "192.0.2.7", 81).unwrap(), "tcp 192.0.2.0/24 1-65535");
        assert_eq!(winner(&plan, "192.0.3.7", 81), None);
    }

    #[test]
    fn ties_name_both_bindings_and_services() {
        let errors = Plan::of(&[
            service("a", &["tcp 192.0.2.0/24 1-100"]),
            service("b", &["tcp 192.0.2.0/24 50-200", "udp 192.0.2.0/24 1-100"]),
        ])
        .unwrap_err();
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "bindings tie: tcp 192.0.2.0/24 1-100 (service a) and tcp 192.0.2.0/24 50-200 (service b); one range \
              must be narrower and lie within the other"
            ]
        );
    }

    #[test]
    fn a_tie_with_a_range_beyond_an_enclosing_one_is_found() {
        let errors = Plan::of(&[service(
            "a",
            &["tcp 192.0.2.0/24 10-14", "tcp 192.0.2.0/24 5-30", "tcp 192.0.2.0/24 15-65535"],
        )])
        .unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    fn destinations(plan: &Plan) -> Vec<String> {
        plan.destinations
            .iter()
            .map(|(id, destination)| format!("{id} {destination} r{}", destination.revision))
            .collect()
    }

    #[test]
    fn what_answers_as_before_keeps_its_destinations() {
        let before = [
            service("a", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"]),
            service("b", &["tcp 192.0.2.0/24 443"]),
        ];
        let first = Plan::of(&before).unwrap();
        assert_eq!(destinations(&first), ["0 a tcp ipv4 r0", "1 a tcp ipv6 r0", "2 b tcp ipv4 r0"]);

        // a changes its answer and its bindings, b only its bindings, c is new.
        let mut a = service("a", &["tcp 192.0.2.0/24 81"]);
        a.answer += 1;
        let after = [service("c", &["udp 192.0.2.0/24 53"]), a, service("b", &["tcp 192.0.2.0/24 8443"])];
        let second = first.following(&before, &after, 1).unwrap();
        assert_eq!(destinations(&second), ["2 b tcp ipv4 r0", "3 c udp ipv4 r1", "4 a tcp ipv4 r1"]);

        // What was given up is free again, one generation later.
        let third = second.following(&after, &before, 2).unwrap();
        assert_eq!(destinations(&third), ["0 a tcp ipv4 r2", "1 a tcp ipv6 r2", "2 b tcp ipv4 r0"]);
    }

    #[test]
    fn what_is_numbered_anew_is_what_it_was_but_for_the_ids() {
        let before = [service("a", &["tcp 192.0.2.0/24 80"]), service("b", &["tcp 192.0.2.7 443"])];
        let after = [before[1].clone(), service("c", &["tcp 192.0.2.0/25 1-100", "udp 192.0.2.0/24 53"])];
        let in_force = Plan::of(&before).unwrap();
        let fresh = Plan::of(&after).unwrap();
        let numbered = fresh.clone().after(&in_force, &before, &after, 1);
        assert_eq!(destinations(&numbered), ["1 b tcp ipv4 r0", "2 c tcp ipv4 r1", "3 c udp ipv4 r1"]);
        assert_eq!(numbered.routes, fresh.routes);
        assert_eq!(numbered.bindings.len(), fresh.bindings.len());
        for (numbered_as, planned) in numbered.bindings.iter().zip(&fresh.bindings) {
            assert_eq!(numbered_as.binding, planned.binding, "the order is as it was");
            let service = |plan: &Plan, id| plan.destination(id).unwrap().service.clone();
            assert_eq!(
                service(&numbered, numbered_as.destination),
                service(&fresh, planned.destination),
                "{}",
                planned.binding
            );
        }
    }

    #[test]
    fn what_is_bound_as_before_keeps_its_listeners_whatever_answers() {
        let bindings = ["tcp 192.0.2.0/24 80,443", "tcp 2001:db8::/64 80", "udp 192.0.2.0/24 53"];
        let before = [service("a", &bindings), service("b", &["tcp 192.0.2.0/24 22", "udp 192.0.2.0/24 54"])];
        let first = Plan::of(&before).unwrap();
        let mut after = before.clone();
        after[0].answer += 1;
        after[1].answer += 1;
        assert_eq!(first.following(&before, &after, 1).unwrap().destinations, first.destinations);

        // Another service in its place, and one that has only some of what it had.
        let after = [service("c", &bindings), service("b", &["tcp 192.0.2.0/24 22", "udp 192.0.2.0/24 54"])];
        assert_eq!(
            destinations(&first.following(&before, &after, 1).unwrap()),
            ["0 c tcp ipv4 r1", "1 c tcp ipv6 r1", "3 b tcp ipv4 r0", "4 b udp ipv4 r0", "5 c udp ipv4 r1"]
        );
        let mut after = [service("a", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80,81"])];
        after[0].answer += 1;
        assert_eq!(
            destinations(&first.following(&before, &after, 1).unwrap()),
            ["5 a tcp ipv4 r1", "6 a tcp ipv6 r1"]
        );

        // One of whose packets another takes a part, or no longer does.
        let mut hidden = before.to_vec();
        hidden[0].answer += 1;
        hidden.push(service(
            "d",
            &["tcp 192.0.2.7 80-90", "tcp 2001:db8::/64 1-65535", "udp 192.0.2.0/24 53-60"],
        ));
        let second = first.following(&before, &hidden, 1).unwrap();
        let kept =
            ["1 a tcp ipv6 r0", "2 a udp ipv4 r0", "3 b tcp ipv4 r0", "4 b udp ipv4 r0", "5 a tcp ipv4 r1"];
        assert_eq!(destinations(&second)[..5], kept);
        let third = second.following(&hidden, &before, 2).unwrap();
        assert_eq!(
            destinations(&third),
            ["0 a tcp ipv4 r2", "1 a tcp ipv6 r0", "2 a udp ipv4 r0", "3 b tcp ipv4 r0", "4 b udp ipv4 r0"]
        );

        // Two that take each other's names: what TCP has stays in its place, datagrams are of other services now.
        let named = |name, of: &Answering| Answering { name: service(name, &[]).name, ..of.clone() };
        let mut after = [named("b", &before[0]), named("a", &before[1])];
        (after[0].answer, after[1].answer) = (1, 1);
        assert_eq!(
            destinations(&first.following(&before, &after, 1).unwrap()),
            ["0 b tcp ipv4 r1", "1 b tcp ipv6 r1", "3 a tcp ipv4 r1", "5 b udp ipv4 r1", "6 a udp ipv4 r1"]
        );

        // Two that change places keep what is theirs, where each answers as before.
        let after = [service("a", &["tcp 192.0.2.0/24 22"]), service("b", &["tcp 192.0.2.0/24 80,443"])];
        assert_eq!(
            destinations(&first.following(&before, &after, 1).unwrap()),
            ["0 a tcp ipv4 r0", "3 b tcp ipv4 r0"]
        );
    }

    #[test]
    fn what_comes_back_is_another_destination() {
        let both = [service("a", &["tcp 192.0.2.0/24 80", "udp 192.0.2.0/24 80"])];
        let one = [service("a", &["tcp 192.0.2.0/24 80"])];
        let first = Plan::of(&both).unwrap();
        let second = first.following(&both, &one, 1).unwrap();
        let third = second.following(&one, &both, 2).unwrap();
        // The listeners of `a udp ipv4 r0` may still be retiring.
        assert_eq!(destinations(&third), ["0 a tcp ipv4 r0", "1 a udp ipv4 r2"]);
        // And what stayed all the while keeps its own revision, whatever its service has got since.
        let fourth = third.following(&both, &both, 3).unwrap();
        assert_eq!(fourth.destinations, third.destinations);
    }

    #[test]
    fn halves_make_one_route() {
        let plan = Plan::of(&[service(
            "a",
            &["tcp 192.0.2.0/25 80", "tcp 192.0.2.128/26 80", "tcp 192.0.2.192 80", "tcp 192.0.2.193 80"],
        )])
        .unwrap();
        let routes: Vec<String> = plan.routes.iter().map(ToString::to_string).collect();
        assert_eq!(routes, ["192.0.2.0/25", "192.0.2.128/26", "192.0.2.192/31"]);
        let plan = Plan::of(&[service("a", &["tcp 192.0.2.0/25 80", "tcp 192.0.2.128/25 443"])]).unwrap();
        assert_eq!(plan.routes, ["192.0.2.0/24".parse().unwrap()]);
        let plan = Plan::of(&[service("a", &["tcp 0.0.0.0/1 80", "tcp 128.0.0.0/1 443"])]).unwrap();
        assert_eq!(plan.routes.len(), 2);
    }

    #[test]
    fn routes_are_the_outermost_prefixes() {
        let plan = Plan::of(&[service(
            "a",
            &[
                "tcp 192.0.2.0/25 80",
                "tcp 192.0.2.0/24 1-65535",
                "udp 192.0.2.0/24 53",
                "tcp 2001:db8::/64 80",
            ],
        )])
        .unwrap();
        assert_eq!(
            plan.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.0/24", "2001:db8::/64"]
        );
        assert_eq!(plan.destinations.len(), 3);
    }

    #[test]
    fn a_prefix_of_length_0_makes_no_other_needless() {
        let plan = Plan::of(&[service(
            "a",
            &["tcp ::/0 80", "tcp 2001:db8::/64 80", "udp 2001:db8::/80 53", "udp ::/0 80", "tcp ::1 80"],
        )])
        .unwrap();
        assert_eq!(
            plan.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["::/0", "::1/128", "2001:db8::/64"]
        );
    }
}
