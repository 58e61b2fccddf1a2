//! What holds for all bindings and packets: the scan decides by the definition, the compiled table as the scan, and what
//! follows a plan leaves the ids in use alone; sources are judged as a scan of both lists judges them. Makes neither many bindings nor a kernel's table; other tests do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use arbitrary::{Result, Unstructured};
use spectrum_common::{DenyReason, Packet, Verdict};
use spectrum_steering::plan::table::{Table, domain_of};
use spectrum_steering::plan::{Explained, OwnPolicy, Plan, PlanError};
use spectrum_user::model::{
    Binding, Destination, DestinationId, Family, OnDeny, Policy, PortRange, Prefix, Protocol, Responder,
    Service, ServiceName, SourceEntry, SourcePolicy, SourceRule, Target,
};

/// Few, so that the services of one generation are those of the next.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const TARGETS: [Target; 2] = [Target::Respond(Responder::Discard), Target::Respond(Responder::Echo)];
const MAX_BINDINGS: usize = 12;
const MAX_GENERATIONS: u32 = 3;

/// Panics unless everything holds for the generations of services that `data` stands for.
pub(crate) fn holds(data: &[u8]) {
    // Too little data is the end of the story, and no less true.
    let _ = generations_hold(&mut Unstructured::new(data));
}

fn generations_hold(input: &mut Unstructured<'_>) -> Result<()> {
    let mut services: Vec<Service> = Vec::new();
    let mut plan = Plan::default();
    let mut gone: BTreeSet<Destination> = BTreeSet::new();
    for revision in 0..MAX_GENERATIONS {
        if input.is_empty() {
            break;
        }
        let configured = bindings(input, &services)?;
        ties_are_found(&configured);
        let following_services = named(untied(configured), input)?;
        let following = plan
            .following(&services, &following_services, revision)
            .unwrap_or_else(|errors| panic!("no binding ties, but {errors:?}"));
        if revision == 0 {
            assert_eq!(Plan::of(&following_services).as_ref(), Ok(&following), "no plan follows none");
        }
        ids_keep_their_meaning(&plan, &services, &following, &following_services);
        nothing_comes_back_as_itself(&plan, &following, &mut gone);
        bindings_lead_to_their_services(&following, &following_services);
        routes_do_not_overlap(&following);
        every_judge_agrees(&following, &packets(&following, input)?);
        (plan, services) = (following, following_services);
    }
    // Last, so that what stands before it means what it meant without policies.
    let mut known: Vec<Prefix> = plan.bindings.iter().map(|planned| planned.binding.prefix).collect();
    plan.policies.common = source_policy(input, &mut known)?;
    plan.policies.on_deny = on_deny(input)?;
    for name in NAMES {
        if input.arbitrary()? {
            let sources = source_policy(input, &mut known)?;
            let own = if input.arbitrary()? { Some(on_deny(input)?) } else { None };
            let name = name.parse().unwrap_or_else(|error| panic!("{error}"));
            plan.policies.own.insert(name, OwnPolicy { sources, on_deny: own, ..OwnPolicy::default() });
        }
    }
    sources_are_judged_as_the_scan_says(&plan, &known);
    Ok(())
}

/// Entries, some of them like bindings or other entries, which do not tie.
fn source_policy(input: &mut Unstructured<'_>, known: &mut Vec<Prefix>) -> Result<SourcePolicy> {
    let mut entries: BTreeMap<Prefix, SourceRule> = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=MAX_BINDINGS)? {
        let like = if known.is_empty() || input.arbitrary()? { None } else { Some(*input.choose(known)?) };
        let source = prefix(input, like)?;
        known.push(source);
        entries.insert(source, if input.arbitrary()? { SourceRule::Allow } else { SourceRule::Deny });
    }
    let entries: Vec<SourceEntry> =
        entries.into_iter().map(|(prefix, rule)| SourceEntry { prefix, rule }).collect();
    Ok(SourcePolicy::of(&entries).unwrap_or_else(|ties| panic!("nothing ties, but {ties:?}")))
}

fn on_deny(input: &mut Unstructured<'_>) -> Result<OnDeny> {
    Ok(if input.arbitrary()? { OnDeny::Refuse } else { OnDeny::Silent })
}

/// The longest prefix of both lists decides, of two as long that of the service's own: for every service, and sources at and around
/// the edges of every entry; what the plan says, and what the table decides.
fn sources_are_judged_as_the_scan_says(plan: &Plan, known: &[Prefix]) {
    let table = Table::of(plan).unwrap_or_else(|error| panic!("{error}"));
    let sources: Vec<IpAddr> = known.iter().flat_map(|prefix| around(*prefix)).collect();
    for planned in &plan.bindings {
        let Binding { protocol, prefix, ports } = planned.binding;
        let (address, port) = (prefix.address(), ports.first());
        let Some(winner) = plan.winner(protocol, address, port) else { panic!("{planned:?} is bound") };
        let Some(destination) = plan.destination(winner.destination) else {
            panic!("{winner:?} leads nowhere")
        };
        let own = plan.policies.own.get(&destination.service);
        for source in sources.iter().copied().filter(|source| source.is_ipv4() == address.is_ipv4()) {
            let lists = [(0, &plan.policies.common)].into_iter().chain(own.map(|own| (1, &own.sources)));
            let said = lists.flat_map(|(rank, list)| {
                let containing = list.entries().iter().filter(move |entry| entry.prefix.contains(source));
                containing.map(move |entry| (entry.prefix.length(), rank, entry.rule))
            });
            let is_denied = said.max_by_key(|(length, rank, _)| (*length, *rank));
            let is_denied = is_denied.is_some_and(|(_, _, rule)| rule == SourceRule::Deny);
            let on_deny = own.and_then(|own| own.on_deny).unwrap_or(plan.policies.on_deny);
            let id = winner.destination;
            let expected = match (is_denied, on_deny) {
                (false, _) => Verdict::Assign(id),
                (true, OnDeny::Refuse) => Verdict::Refuse(id, DenyReason::Denied),
                (true, OnDeny::Silent) => Verdict::Silence(id, DenyReason::Denied),
            };
            let shown = || format!("{protocol} {address} {port} from {source} over {plan:#?}");
            let denies = plan.denies(protocol, source, address, port);
            assert_eq!(denies, is_denied.then_some(on_deny), "the plan: {}", shown());
            let domain = domain_of(protocol, Family::of(address));
            let packet = Packet { domain, address: address.into(), port };
            assert_eq!(table.steer(&packet, source), expected, "the table: {}", shown());
        }
    }
}

/// A binding and the name of its service.
type Named = (usize, Binding);

/// Bindings, some of them like earlier ones or like those of `before`, so that they nest, overlap and tie.
fn bindings(input: &mut Unstructured<'_>, before: &[Service]) -> Result<Vec<Named>> {
    let mut known: Vec<Binding> = before.iter().flat_map(|service| &service.bindings).copied().collect();
    let mut bindings = Vec::new();
    for _ in 0..input.int_in_range(0..=MAX_BINDINGS)? {
        let like = if known.is_empty() { None } else { Some(*input.choose(&known)?) };
        let binding = match like.filter(|_| input.ratio(3, 4).unwrap_or(false)) {
            None => Binding {
                protocol: protocol(input)?,
                prefix: prefix(input, None)?,
                ports: ports(input, PortRange::ALL)?,
            },
            Some(like) => Binding {
                protocol: if input.ratio(1, 8)? { protocol(input)? } else { like.protocol },
                prefix: if input.ratio(1, 2)? { prefix(input, Some(like.prefix))? } else { like.prefix },
                ports: if input.ratio(3, 4)? { ports(input, like.ports)? } else { like.ports },
            },
        };
        known.push(binding);
        bindings.push((input.choose_index(NAMES.len())?, binding));
    }
    Ok(bindings)
}

fn protocol(input: &mut Unstructured<'_>) -> Result<Protocol> {
    Ok(if input.arbitrary()? { Protocol::Tcp } else { Protocol::Udp })
}

/// Any prefix, or one that differs from `like` in a bit of the address, and in its length.
fn prefix(input: &mut Unstructured<'_>, like: Option<Prefix>) -> Result<Prefix> {
    let address = match like {
        None if input.arbitrary()? => IpAddr::V4(Ipv4Addr::from_bits(input.arbitrary()?)),
        None => IpAddr::V6(Ipv6Addr::from_bits(input.arbitrary()?)),
        Some(like) => match like.address() {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 1 << input.int_in_range(0..=31)?).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 1 << input.int_in_range(0..=127)?).into(),
        },
    };
    let length = input.int_in_range(0..=if address.is_ipv4() { 32 } else { 128 })?;
    Ok(Prefix::containing(address, length).unwrap_or_else(|error| panic!("{address}/{length}: {error}")))
}

/// Any range, or one that shares an end with `like` or touches it.
fn ports(input: &mut Unstructured<'_>, like: PortRange) -> Result<PortRange> {
    let near = [
        like.first().saturating_sub(1),
        like.first(),
        like.first().saturating_add(1),
        like.last().saturating_sub(1),
        like.last(),
        like.last().saturating_add(1),
    ];
    let mut end = || if input.arbitrary()? { input.choose(&near).copied() } else { input.arbitrary() };
    let ends = [end()?, end()?].map(|port| NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN));
    let [first, last] = if ends[0] <= ends[1] { ends } else { [ends[1], ends[0]] };
    Ok(PortRange::new(first, last).unwrap_or(PortRange::ALL))
}

/// A plan is refused if any two bindings tie, and names only such.
fn ties_are_found(bindings: &[Named]) {
    let services = NAMES.iter().enumerate().map(|(name, _)| {
        let bindings = bindings.iter().filter(|(of, _)| *of == name).map(|(_, binding)| *binding).collect();
        service(name, bindings, 0)
    });
    let services: Vec<Service> = services.collect();
    let tied = bindings
        .iter()
        .enumerate()
        .any(|(index, (_, binding))| bindings.iter().skip(index + 1).any(|(_, other)| binding.ties(other)));
    match Plan::of(&services) {
        Ok(_) => assert!(!tied, "a tie was not found: {bindings:#?}"),
        Err(errors) => {
            assert!(tied && !errors.is_empty(), "nothing ties in {bindings:#?}, but {errors:?}");
            for error in errors {
                let PlanError::Tie { first, first_at, second, second_at, .. } = error else {
                    panic!("{error}");
                };
                assert!(first.ties(&second), "{first} and {second} do not tie");
                assert!(first_at < second_at, "{first} is not configured before {second}");
                for (binding, at) in [(first, first_at), (second, second_at)] {
                    assert_eq!(services[at.service].bindings[at.binding], binding, "stands elsewhere");
                }
            }
        }
    }
}

/// The bindings without those that tie with an earlier one.
fn untied(bindings: Vec<Named>) -> Vec<Named> {
    let mut untied: Vec<Named> = Vec::new();
    for (name, binding) in bindings {
        if !untied.iter().any(|(_, other)| other.ties(&binding)) {
            untied.push((name, binding));
        }
    }
    untied
}

/// The services that have the bindings, in any order.
fn named(bindings: Vec<Named>, input: &mut Unstructured<'_>) -> Result<Vec<Service>> {
    let mut by_name: BTreeMap<usize, Vec<Binding>> = BTreeMap::new();
    for (name, binding) in bindings {
        by_name.entry(name).or_default().push(binding);
    }
    let mut services = Vec::new();
    for (name, bindings) in by_name {
        let target = input.choose_index(TARGETS.len())?;
        let place = input.int_in_range(0..=services.len())?;
        services.insert(place, service(name, bindings, target));
    }
    Ok(services)
}

fn service(name: usize, bindings: Vec<Binding>, target: usize) -> Service {
    let name = NAMES[name].parse().unwrap_or_else(|error| panic!("{error}"));
    Service { name, bindings, target: TARGETS[target].clone(), policy: Policy::default() }
}

/// The meaning of an id, as long as it is in use: no other destination and no other answer, or the very same bindings, whose
/// listeners stay and serve something else. What answers as before has its ids from before.
fn ids_keep_their_meaning(plan: &Plan, before: &[Service], following: &Plan, after: &[Service]) {
    let target = |services: &[Service], name: &ServiceName| {
        services.iter().find(|service| service.name == *name).map(|service| service.target.clone())
    };
    for (id, destination) in &plan.destinations {
        let name = &destination.service;
        let unchanged = target(before, name) == target(after, name);
        if let Some(now) = following.destination(*id)
            && (now != destination || !unchanged)
        {
            let bound = |plan| bound_to(plan, *id);
            assert_eq!(bound(plan), bound(following), "id {id} of {destination} is {now} now, elsewhere");
            assert_eq!((now.family, now.protocol), (destination.family, destination.protocol));
            let is_session = now.protocol == Protocol::Udp;
            assert!(!is_session || now.service == *name, "sessions of {destination} are those of {now} now");
        }
        let remains = following.destinations.values().any(|other| {
            other.service == *name
                && other.family == destination.family
                && other.protocol == destination.protocol
        });
        if unchanged && remains {
            assert_eq!(
                following.destination(*id),
                Some(destination),
                "id {id} was taken from {destination}, which answers as before"
            );
        }
    }
}

/// The bindings that lead to the destination with this id.
fn bound_to(plan: &Plan, id: DestinationId) -> HashSet<Binding> {
    let its = plan.bindings.iter().filter(|planned| planned.destination == id);
    its.map(|planned| planned.binding).collect()
}

/// A destination that is gone is not the one that comes after it: what served the former may still be there.
fn nothing_comes_back_as_itself(plan: &Plan, following: &Plan, gone: &mut BTreeSet<Destination>) {
    for destination in following.destinations.values() {
        assert!(!gone.contains(destination), "{destination:?} is back");
    }
    let remain: BTreeSet<&Destination> = following.destinations.values().collect();
    gone.extend(plan.destinations.values().filter(|destination| !remain.contains(destination)).cloned());
}

/// A binding leads to the destination of its own service, and every destination has one that does.
fn bindings_lead_to_their_services(plan: &Plan, services: &[Service]) {
    let mut configured = 0;
    for service in services {
        configured += service.bindings.len();
        for binding in &service.bindings {
            let planned = plan.bindings.iter().find(|planned| planned.binding == *binding);
            let destination = planned
                .and_then(|planned| plan.destination(planned.destination))
                .unwrap_or_else(|| panic!("{binding} leads nowhere in {plan:#?}"));
            assert_eq!(
                (&destination.service, destination.family, destination.protocol),
                (&service.name, binding.family(), binding.protocol),
                "{binding} leads to {destination}"
            );
        }
    }
    assert_eq!(plan.bindings.len(), configured, "a binding was lost or made up");
    for (id, destination) in &plan.destinations {
        let used = plan.bindings.iter().any(|planned| planned.destination == *id);
        assert!(used, "nothing leads to {destination}");
        let again = plan.destinations.iter().find(|(other, same)| *other != id && *same == destination);
        assert_eq!(again, None, "{destination} has two ids");
    }
}

/// Except with a prefix of length 0, which gets no route.
fn routes_do_not_overlap(plan: &Plan) {
    let routed = || plan.routes.iter().filter(|route| route.length() > 0);
    for (index, route) in routed().enumerate() {
        let other = routed().skip(index + 1).find(|other| other.overlaps(route));
        assert_eq!(other, None, "overlaps with {route}");
    }
}

/// Packets at and around the edges of every binding, and some to anywhere.
fn packets(plan: &Plan, input: &mut Unstructured<'_>) -> Result<Vec<(IpAddr, u16)>> {
    let mut packets = vec![
        (IpAddr::V4(Ipv4Addr::from_bits(input.arbitrary()?)), input.arbitrary()?),
        (IpAddr::V6(Ipv6Addr::from_bits(input.arbitrary()?)), input.arbitrary()?),
    ];
    for planned in &plan.bindings {
        let Binding { prefix, ports, .. } = planned.binding;
        for address in around(prefix) {
            for port in [
                ports.first().wrapping_sub(1),
                ports.first(),
                ports.last(),
                ports.last().wrapping_add(1),
                input.arbitrary()?,
            ] {
                packets.push((address, port));
            }
        }
    }
    Ok(packets)
}

/// The first and the last address of a prefix, and their neighbours outside.
fn around(prefix: Prefix) -> Vec<IpAddr> {
    match prefix.address() {
        IpAddr::V4(v4) => {
            let first = v4.to_bits();
            let last = first | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .to_vec()
        }
        IpAddr::V6(v6) => {
            let first = v6.to_bits();
            let last = first | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .to_vec()
        }
    }
}

/// The definition, the scan, what is explained, and the table, compiled from either order of the bindings, decide alike;
/// and exactly the addresses that bindings have are routed.
fn every_judge_agrees(plan: &Plan, packets: &[(IpAddr, u16)]) {
    let compile = |bindings: &[_]| Table::compile(bindings).unwrap_or_else(|error| panic!("{error}"));
    let table = compile(&plan.bindings);
    let reversed = compile(&plan.bindings.iter().rev().copied().collect::<Vec<_>>());
    for &(address, port) in packets {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let shown = || format!("{protocol} {address} {port} over {:#?}", plan.bindings);
            let defined = plan
                .bindings
                .iter()
                .filter(|planned| planned.binding.matches(protocol, address, port))
                .max_by_key(|planned| {
                    (planned.binding.prefix.length(), Reverse(planned.binding.ports.width()))
                });
            let winner = plan.winner(protocol, address, port);
            assert_eq!(winner, defined, "the scan: {}", shown());

            let explained = match plan.explain(protocol, SocketAddr::new(address, port)) {
                Explained::Bound { winner, .. } => Some(winner),
                Explained::Unbound { .. } => None,
            };
            assert_eq!(explained, defined, "the explanation: {}", shown());

            let expected = defined.map_or(Verdict::Pass, |planned| Verdict::Assign(planned.destination));
            let domain = domain_of(protocol, Family::of(address));
            let packet = Packet { domain, address: address.into(), port };
            assert_eq!(table.steer(&packet, address), expected, "the table: {}", shown());
            assert_eq!(
                reversed.steer(&packet, address),
                expected,
                "the table of reversed bindings: {}",
                shown()
            );
        }
        let bound = plan.bindings.iter().any(|planned| planned.binding.prefix.contains(address));
        let routed = plan.routes.iter().any(|route| route.contains(address));
        assert_eq!(routed, bound, "{address} over the routes {:?}", plan.routes);
    }
}
