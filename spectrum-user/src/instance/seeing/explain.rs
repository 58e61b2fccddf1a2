//! Where a packet goes, and why. The kernel is asked where it can be; the bindings are asked in any case, since they
//! know the reasons, and since the two must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use spectrum_common::{Counts, DenyReason, Refusal};

use super::misunderstood;
use crate::config::PolicyPlace;
use crate::control::{ControlError, Decider, ExplainQuery, Explanation, Outcome, Treatment};
use crate::instance::exit_code::FAILURE;
use crate::model::{
    Binding, DestinationId, Family, OnDeny, PortRange, Prefix, Protocol, ResourceKind, SourceRule, Timeouts,
    UdpPolicy, registered,
};
use crate::plan::{Explained, PolicyScope, obstacles_to};
use crate::registry::Mode;
use crate::view::{DETACHED, Present, Scope, Seen, ServiceView, bridges_to_rules, policy_lines};
use spectrum_steering::dispatcher::{DispatcherError, Probe, Steered};
use spectrum_steering::host::{self, ListeningSocket};
use spectrum_steering::tproxy;

/// So often the program is run on the packet, until the counters tell which destination it was: others may get packets
/// at the same time.
const RUNS: usize = 5;

/// Who judges where the rules do not.
const AFTER_ACCEPT: &str = "; judged by the worker process, after accept";
const AFTER_HEADER: &str = "; judged by the worker process, after the PROXY header";

/// The fate of a packet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fate {
    Passed,
    Steered(DestinationId),
    Missed(DestinationId),
    Denied(DestinationId, DenyReason),
    /// And which of the [`Refusal`]s it was.
    Refused(DestinationId, usize),
}

impl Fate {
    fn destination(self) -> Option<DestinationId> {
        match self {
            Self::Passed => None,
            Self::Denied(id, _) | Self::Missed(id) | Self::Refused(id, _) | Self::Steered(id) => Some(id),
        }
    }
}

impl Present {
    /// The way of the packet, and the reason.
    pub(in crate::instance) fn explain(&self, query: &ExplainQuery) -> Result<Explanation, ControlError> {
        let ExplainQuery { protocol, dialled, .. } = *query;
        if self.steering.is_none() {
            let message =
                format!("explain {dialled}: nothing is steered, since the instance is {}", self.state);
            return Err(ControlError::Refused { message, code: FAILURE, problems: Vec::new() });
        }
        let from = query.from_or_example();
        if from.is_ipv4() != dialled.is_ipv4() {
            return Err(misunderstood(format!(
                "explain {dialled} from {from}: they are of different families"
            )));
        }
        if let IpAddr::V6(v6) = dialled.ip()
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(misunderstood(format!(
                "explain {dialled}: the packets of IPv4-mapped addresses are IPv4; ask for {v4}:{}",
                dialled.port()
            )));
        }
        let explained = self.plan.explain(protocol, dialled);
        let expected = match &explained {
            Explained::Bound { winner, .. } => {
                let id = winner.destination;
                let said = &self.run_time.sources;
                let denies =
                    said.denies(&self.plan, protocol, from.ip(), dialled.ip(), dialled.port()).is_some();
                if denies { Fate::Denied(id, DenyReason::Denied) } else { Fate::Steered(id) }
            }
            Explained::Unbound { .. } => Fate::Passed,
        };
        let (fate, not_asked) = match &self.steering {
            Some(Seen::SkLookup(probe)) => match self.test(probe, query, expected) {
                Ok(fate) => (Some(fate), None),
                Err(error) => (None, Some(format!("{:#}", anyhow::Error::from(error)))),
            },
            _ => (None, Some("with tproxy there is no program to ask".to_owned())),
        };
        let decided_by = if fate.is_some() { Decider::Kernel } else { Decider::Host };
        let differs = |fate: &Fate| {
            let is_denied = |fate: &Fate| matches!(fate, Fate::Denied(_, DenyReason::Denied));
            // How often a source has come the kernel alone knows.
            let is_counted = matches!(fate, Fate::Denied(_, DenyReason::Rate)) && !is_denied(&expected);
            fate.destination() != expected.destination()
                || is_denied(fate) != is_denied(&expected) && !is_counted
        };
        let disagreement = fate.filter(differs).map(|fate| {
            format!("the kernel says {}, the host's copy says {}", self.named(fate), self.named(expected))
        });
        let is_detached = !self.is_attached();
        let fate = fate.unwrap_or(expected);
        let (outcome, detail) = match fate {
            // What the program would do is what the rest is about.
            _ if is_detached => (Outcome::Passed, Some(DETACHED.to_owned())),
            _ if self.faults.has(ResourceKind::Rules) => {
                (Outcome::Passed, Some("the firewall rules that steer are missing".to_owned()))
            }
            Fate::Passed => (Outcome::Passed, Some(passed(protocol, dialled))),
            Fate::Steered(_) => (Outcome::Steered, None),
            Fate::Denied(id, reason) => {
                (Outcome::Refused, Some(self.denial(id, reason, from.ip()) + self.consequence(id)))
            }
            Fate::Missed(id) => (Outcome::Refused, Some(self.lack(id))),
            Fate::Refused(id, at) => {
                let errno = Refusal::ALL.get(at).map_or("other", |refusal| refusal.errno());
                (
                    Outcome::Refused,
                    Some(format!("the listener of destination {id} is refused by the kernel: {errno}")),
                )
            }
        };
        let (binding, why, hides, nearest) = match explained {
            Explained::Bound { winner, why, hides } => {
                (Some(self.listed(winner)), why.to_string(), hides, None)
            }
            Explained::Unbound { why, nearest } => {
                (None, why.to_string(), Vec::new(), nearest.map(|nearest| self.listed(nearest)))
            }
        };
        let named = expected.destination().and_then(|id| self.named_by_proxy(id, from.ip()));
        let mut notes = self.notes(protocol, dialled, binding.is_some());
        notes.extend(named);
        let treatment =
            binding.as_ref().and_then(|binding| self.treatment(protocol, binding.service.as_str()));
        Ok(Explanation {
            protocol,
            dialled,
            from,
            outcome,
            detail,
            decided_by,
            not_asked,
            disagreement,
            binding,
            why,
            hides: hides.into_iter().map(|hidden| self.listed(hidden)).collect(),
            nearest,
            listener: fate.destination().and_then(|id| self.listener(id)),
            treatment,
            notes,
        })
    }

    /// What the destination `id` lacks, to which nothing can be given.
    fn lack(&self, id: DestinationId) -> String {
        let others = registered(&self.config.services);
        let is_others = self.plan.destination(id).is_some_and(|one| others.contains(&one.service));
        format!(
            "destination {id} has no {}",
            if is_others { "registered socket that is open" } else { "listener" }
        )
    }

    /// Which entry denies a client at `source` of the destination `id`, or what else turns it away, and what it is told.
    fn denial(&self, id: DestinationId, reason: DenyReason, source: IpAddr) -> String {
        let policies = &self.plan.policies;
        let service = self.plan.destination(id).map(|destination| &destination.service);
        match reason {
            DenyReason::Denied => {}
            DenyReason::Interface => {
                return format!("{source} comes by an interface that interfaces does not name");
            }
            DenyReason::Rate => {
                let rate = service.and_then(|service| policies.rate(service));
                let rate = rate.map_or_else(String::new, |(_, rate)| format!(", {rate}"));
                return format!("{source} has come more often than its rate{rate}");
            }
        }
        let entry = self.plan.destination(id).and_then(|destination| {
            let service = &destination.service;
            if let Some(command) = self.run_time.command(policies, service, source) {
                return Some(format!("{source} is denied {command}"));
            }
            let (scope, entry) = policies.decisive(service, source)?;
            let place = match scope {
                PolicyScope::Common => self.config.policy_places.of(None, &policies.common, entry),
                PolicyScope::Own => policies
                    .own
                    .get(service)
                    .and_then(|own| self.config.policy_places.of(Some(service), &own.sources, entry)),
            };
            let prefix = entry.prefix;
            let by = match place {
                Some(PolicyPlace::Line { file, line }) => format!("{prefix} in {}:{line}", file.display()),
                Some(PolicyPlace::Network { database, group }) => {
                    format!("deny {group}, network {prefix} of {}", database.name())
                }
                None => prefix.to_string(),
            };
            Some(format!("{source} is denied by {by}"))
        });
        entry.unwrap_or_else(|| format!("{source} is denied"))
    }

    /// What becomes of a client that the destination `id` denies, where it is not told at once that nobody is there.
    fn consequence(&self, id: DestinationId) -> &'static str {
        let on_deny = self.plan.destination(id).map(|one| self.plan.policies.on_deny(&one.service));
        match on_deny {
            _ if self.judges_all_after_accept() => AFTER_ACCEPT,
            Some(OnDeny::Silent) => "; nobody answers it",
            Some(OnDeny::Refuse) | None => "",
        }
    }

    /// The judgement of a client at `source` of the destination `id` where it is not who dials, but named by a trusted proxy.
    fn named_by_proxy(&self, id: DestinationId, source: IpAddr) -> Option<String> {
        let (policies, said) = (&self.plan.policies, &self.run_time.sources);
        let service = &self.plan.destination(id)?.service;
        let configured = self.config.services.iter().find(|one| one.name == *service)?;
        let trusted = &configured.policy.trusted_proxies;
        if trusted.prefixes.is_empty() || !(policies.guard(service) || said.is_in_use) {
            return None;
        }
        if trusted.trusts(source) {
            return Some(format!(
                "{source} is a trusted proxy: each client that it names is judged as well, after the PROXY header (--from that client)"
            ));
        }
        let decisive = said.decisive(policies, service, source);
        let is_denied = decisive.is_some_and(|(.., entry)| entry.rule == SourceRule::Deny);
        let told = if is_denied {
            self.denial(id, DenyReason::Denied, source)
        } else {
            format!("{source} is let in")
        };
        Some(format!("named by a trusted proxy, {told}{AFTER_HEADER}"))
    }

    /// What `service` does with what begins by this protocol.
    fn treatment(&self, protocol: Protocol, service: &str) -> Option<Treatment> {
        let view = self.view(Scope::Service(Some(service)));
        let ServiceView { plan, origins, .. } =
            view.services.into_iter().find(|one| one.plan.name == service)?;
        let (limits, usual) = ((&plan.limits).into(), (Timeouts::default(), UdpPolicy::default()));
        let policy = match protocol {
            Protocol::Tcp => policy_lines(&limits, &(&plan.timeouts).into(), &usual.1),
            Protocol::Udp => policy_lines(&limits, &usual.0, &(&plan.udp).into()),
        };
        Some(Treatment { target: plan.target, policy, origins })
    }

    /// The things that may interfere with a packet to `dialled`, which is bound or not.
    fn notes(&self, protocol: Protocol, dialled: SocketAddr, is_bound: bool) -> Vec<String> {
        let view = self.view(Scope::Service(None));
        let mut notes = Vec::new();
        if !view.surroundings.other_programs.is_empty() {
            let ids: Vec<String> =
                view.surroundings.other_programs.iter().map(|program| program.id.to_string()).collect();
            let ids = ids.join(", ");
            notes.push(format!("other sk_lookup programs are attached and may choose another socket: {ids}"));
        }
        notes.extend(view.missing.into_iter().chain(view.unseen));
        let is_about =
            |prefix: &str| prefix.parse().is_ok_and(|prefix: Prefix| prefix.contains(dialled.ip()));
        let announced = view.announcements.iter().filter(|one| is_about(&one.prefix));
        notes.extend(announced.map(|one| format!("to routers {} is {}", one.prefix, one.line())));
        if is_bound
            && let Some(port) = NonZeroU16::new(dialled.port())
            && let Some(ports) = PortRange::new(port, port)
        {
            if self.mode == Some(Mode::Tproxy) {
                notes.extend(bridges_to_rules(Family::of(dialled.ip())));
            }
            let (listings, errors) = tproxy::listings();
            let obstacles =
                obstacles_to(Binding { protocol, prefix: Prefix::host(dialled.ip()), ports }, &listings);
            notes.extend(obstacles.iter().map(ToString::to_string));
            notes.extend(errors.iter().map(|error| format!("could not look at everything: {error}")));
        }
        notes
    }

    /// Runs the program on the packet. Since it only says whether it chose a socket, the counters say whose.
    fn test(&self, probe: &Probe, query: &ExplainQuery, expected: Fate) -> Result<Fate, DispatcherError> {
        let mut possible: Option<BTreeSet<Fate>> = None;
        for _ in 0..RUNS {
            let before = self.counts(probe)?;
            let steered = probe.test(query.protocol, query.from_or_example(), query.dialled)?;
            let after = self.counts(probe)?;
            let rose = match steered {
                Steered::Passed => return Ok(Fate::Passed),
                Steered::Assigned { cookie: Some(cookie) } => {
                    if let Some(id) = self.destination_with(cookie) {
                        return Ok(Fate::Steered(id));
                    }
                    rises(&before, &after)
                }
                Steered::Assigned { cookie: None } | Steered::Dropped => rises(&before, &after),
            };
            let is_dropped = steered == Steered::Dropped;
            let fits = rose.into_iter().filter(|fate| match fate {
                // Where nobody answers it gets a socket, too.
                Fate::Denied(..) => true,
                fate => matches!(fate, Fate::Steered(_)) != is_dropped,
            });
            let remaining: BTreeSet<Fate> = match possible.take() {
                Some(possible) => fits.filter(|fate| possible.contains(fate)).collect(),
                None => fits.collect(),
            };
            if let [only] = remaining.iter().copied().collect::<Vec<_>>()[..] {
                return Ok(only);
            }
            possible = Some(remaining);
        }
        // Under such a load of packets to several destinations none can be excluded, not even the expected one.
        let possible = possible.unwrap_or_default();
        let likely = possible.iter().find(|fate| fate.destination() == expected.destination());
        Ok(likely.or(possible.first()).copied().unwrap_or(expected))
    }

    fn counts(&self, probe: &Probe) -> Result<BTreeMap<DestinationId, Counts>, DispatcherError> {
        self.plan.destinations.keys().map(|id| Ok((*id, probe.counts(*id)?))).collect()
    }

    fn destination_with(&self, cookie: u64) -> Option<DestinationId> {
        let cookie = format!("{cookie:x}");
        self.listeners.iter().find(|(_, listener)| listener.cookies.contains(&cookie)).map(|(id, _)| *id)
    }

    fn named(&self, fate: Fate) -> String {
        let denied = if matches!(fate, Fate::Denied(..)) { "denied at " } else { "" };
        match fate.destination().and_then(|id| Some((id, self.plan.destination(id)?))) {
            Some((id, destination)) => format!("{denied}destination {id} ({destination})"),
            None => "pass".to_owned(),
        }
    }
}

/// The rises between two counts.
fn rises(before: &BTreeMap<DestinationId, Counts>, after: &BTreeMap<DestinationId, Counts>) -> Vec<Fate> {
    let mut rises = Vec::new();
    for ((id, before), after) in before.iter().zip(after.values()) {
        if before.steered != after.steered {
            rises.push(Fate::Steered(*id));
        }
        let denied = DenyReason::ALL.into_iter().zip(before.denied.into_iter().zip(after.denied));
        rises.extend(
            denied
                .filter(|(_, (before, after))| before != after)
                .map(|(reason, _)| Fate::Denied(*id, reason)),
        );
        if before.missed != after.missed {
            rises.push(Fate::Missed(*id));
        }
        let refused = before.refused.iter().zip(after.refused).enumerate();
        rises.extend(
            refused
                .filter(|(_, (before, after))| *before != after)
                .map(|(refusal, _)| Fate::Refused(*id, refusal)),
        );
    }
    rises
}

/// The listener that takes a packet that passes.
fn passed(protocol: Protocol, dialled: SocketAddr) -> String {
    let sockets = match host::listening_sockets() {
        Ok(sockets) => sockets,
        Err(error) => return format!("{:#}", anyhow::Error::from(error)),
    };
    let Some(socket) = best(&sockets, protocol, dialled) else {
        return "no socket listens there: refused, if the address is this host's".to_owned();
    };
    let address = socket.address;
    match host::socket_owners(&BTreeSet::from([socket.inode])).remove(&socket.inode) {
        Some(owner) => {
            format!(
                "to the socket of {} (process {}) on {address}, if the address is this host's",
                owner.command, owner.pid
            )
        }
        None => format!("to the socket on {address}, if the address is this host's"),
    }
}

/// The socket that the kernel would find: one of the very address before one of every address.
fn best(sockets: &[ListeningSocket], protocol: Protocol, dialled: SocketAddr) -> Option<&ListeningSocket> {
    let listens =
        |socket: &&ListeningSocket| socket.protocol == protocol && socket.address.port() == dialled.port();
    let on =
        |address: IpAddr| sockets.iter().filter(listens).find(move |socket| socket.address.ip() == address);
    on(dialled.ip())
        .or_else(|| match dialled.ip() {
            IpAddr::V4(v4) => {
                on(v4.to_ipv6_mapped().into()).or_else(|| on(std::net::Ipv4Addr::UNSPECIFIED.into()))
            }
            IpAddr::V6(_) => None,
        })
        // One of both families, or of IPv6.
        .or_else(|| on(std::net::Ipv6Addr::UNSPECIFIED.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_rose_is_possible() {
        let counts = |steered, missed| Counts { steered, missed, refused: [0; 5], denied: [0; 3] };
        let before = BTreeMap::from([(DestinationId(0), counts(7, 0)), (DestinationId(3), counts(1, 1))]);
        let mut after = before.clone();
        assert_eq!(rises(&before, &after), []);
        after.insert(
            DestinationId(3),
            Counts { steered: 2, missed: 1, refused: [0, 1, 0, 0, 0], denied: [0; 3] },
        );
        assert_eq!(
            rises(&before, &after),
            [Fate::Steered(DestinationId(3)), Fate::Refused(DestinationId(3), 1)]
        );
    }

    #[test]
    fn a_socket_of_the_very_address_comes_before_one_of_every_address() {
        let socket = |address: &str, inode| ListeningSocket {
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            inode,
        };
        let sockets = [socket("[::]:22", 1), socket("0.0.0.0:22", 2), socket("192.0.2.7:22", 3)];
        let found = |dialled: &str| {
            best(&sockets, Protocol::Tcp, dialled.parse().unwrap()).map(|socket| socket.inode)
        };
        assert_eq!(found("192.0.2.7:22"), Some(3));
        assert_eq!(found("192.0.2.8:22"), Some(2));
        assert_eq!(found("[2001:db8::1]:22"), Some(1));
        assert_eq!(found("192.0.2.7:23"), None);
        assert_eq!(best(&sockets, Protocol::Udp, "192.0.2.7:22".parse().unwrap()), None);
    }
}
