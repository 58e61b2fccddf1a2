//! What a pinned generation says of itself, as the text behind its nodes. Written by one version of the program and read by others, so its
//! format has a number. Does not know where it is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use spectrum_common::{Counts, RegisteredId, names};

use super::policy_clauses::PolicyClauses;
use crate::model::{
    Binding, Destination, DestinationId, PortRange, Prefix, Protocol, RegisteredSocket, ServiceName,
};
use crate::plan::{Bound, Plan};

/// Changes whenever another version of the program would misunderstand a charter.
const FORMAT: u32 = 2;

/// The services of a pinned generation, and what else must be known of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Charter {
    format: u32,
    /// The version of the program that has published it.
    pub version: String,
    /// The version of what the kernel's program and its loader agree on, of the program that is loaded.
    pub abi: u32,
    /// The kernel's id of that program.
    pub program: u32,
    /// The number that no other network namespace has, where the kernel knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_cookie: Option<u64>,
    /// The nodes of its table.
    pub nodes: usize,
    /// The number of charters before it.
    pub revision: u32,
    services: Vec<ServiceClause>,
    destinations: Vec<DestinationClause>,
    /// The instance whose configuration it is; none where verbs have bound it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The services that this instance answers for itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub own: BTreeSet<ServiceName>,
    /// The sockets of each destination that were registered, as they were then. One without a place was gone by then.
    #[serde(default)]
    pub sockets: BTreeMap<DestinationId, Vec<RegisteredSocket>>,
    /// The place of the next one.
    #[serde(default)]
    pub following_place: u32,
    /// Whom the services let in.
    #[serde(default, skip_serializing_if = "PolicyClauses::is_empty")]
    policies: PolicyClauses,
    /// The counts of programs before this one.
    #[serde(default)]
    former: BTreeMap<DestinationId, FormerClause>,
}

/// The counts of a destination.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct FormerClause {
    steered: u64,
    missed: u64,
    refused: Vec<u64>,
    denied: Vec<u64>,
}

impl FormerClause {
    fn is_nothing(&self) -> bool {
        self.steered == 0
            && self.missed == 0
            && self.refused.iter().chain(&self.denied).all(|count| *count == 0)
    }
}

/// A service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct ServiceClause {
    name: ServiceName,
    bindings: Vec<BindingClause>,
}

/// A binding.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct BindingClause {
    protocol: Protocol,
    prefix: Prefix,
    ports: PortRange,
}

/// A destination and its id.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct DestinationClause {
    id: DestinationId,
    #[serde(flatten)]
    destination: Destination,
}

/// A charter that cannot be gone on with.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CharterError {
    /// It was written by something else.
    #[error("understand what is pinned: {cause}")]
    Text {
        /// The fault of it.
        cause: String,
    },
    /// Another version of the program has written it.
    #[error(
        "understand what is pinned: version {version} of this program has written it, in form {format}, and this one reads form {FORMAT} \
         (try: spectrum-user unload, by that version or by this one)"
    )]
    Format {
        /// The version.
        version: String,
        /// The form.
        format: u32,
    },
    /// The program in the kernel does not understand what this one would publish.
    #[error(
        "change what is pinned: the program in the kernel is of version {version}, and would not understand what this version publishes \
         (try: spectrum-user upgrade, which puts this version's in its place; nothing is lost)"
    )]
    Abi {
        /// The version that has loaded it.
        version: String,
    },
}

/// The part of every charter that any version can read.
#[derive(Deserialize)]
struct Beginning {
    format: u32,
    version: String,
}

impl Charter {
    /// The charter of `services`, as `plan` numbers their destinations.
    #[must_use]
    pub fn of(services: &[Bound], plan: &Plan, program: u32, nodes: usize, revision: u32) -> Self {
        let clause = |Binding { protocol, prefix, ports }: &Binding| BindingClause {
            protocol: *protocol,
            prefix: *prefix,
            ports: *ports,
        };
        let service = |service: &Bound| ServiceClause {
            name: service.name.clone(),
            bindings: service.bindings.iter().map(clause).collect(),
        };
        let destination = |(id, destination): (&DestinationId, &Destination)| DestinationClause {
            id: *id,
            destination: destination.clone(),
        };
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: names::ABI_VERSION,
            program,
            namespace_cookie: None,
            nodes,
            revision,
            services: services.iter().map(service).collect(),
            destinations: plan.destinations.iter().map(destination).collect(),
            instance: None,
            own: BTreeSet::new(),
            sockets: BTreeMap::new(),
            following_place: 0,
            policies: PolicyClauses::of(&plan.policies),
            former: BTreeMap::new(),
        }
    }

    /// This one after `before`: of destinations that it has as well sockets and counts stay.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        let own: BTreeSet<DestinationId> = self.destinations.iter().map(|one| one.id).collect();
        self.own.clone_from(&before.own);
        self.own.retain(|name| self.services.iter().any(|service| service.name == *name));
        self.following_place = before.following_place;
        self.sockets = before.sockets.clone();
        self.sockets.retain(|id, _| own.contains(id));
        self.former = before.former.clone();
        self.former.retain(|id, _| own.contains(id));
        self
    }

    /// The places of registered sockets in the program's map.
    #[must_use]
    pub fn places(&self) -> BTreeSet<RegisteredId> {
        self.sockets.values().flatten().flat_map(RegisteredSocket::places).collect()
    }

    /// The counts of programs before this one for `id`.
    #[must_use]
    pub fn former(&self, id: DestinationId) -> Counts {
        let Some(former) = self.former.get(&id) else { return Counts::default() };
        let mut counts = Counts { steered: former.steered, missed: former.missed, ..Counts::default() };
        counts.refused.iter_mut().zip(&former.refused).for_each(|(to, from)| *to = *from);
        counts.denied.iter_mut().zip(&former.denied).for_each(|(to, from)| *to = *from);
        counts
    }

    /// The counts of programs before this one.
    pub fn former_of_all(&self) -> impl Iterator<Item = (DestinationId, Counts)> {
        self.former.keys().map(|id| (*id, self.former(*id)))
    }

    /// Programs before this one have counted `counts` for `id`.
    pub fn set_former(&mut self, id: DestinationId, counts: Counts) {
        let Counts { steered, missed, refused, denied } = counts;
        let former = FormerClause { steered, missed, refused: refused.to_vec(), denied: denied.to_vec() };
        if former.is_nothing() {
            self.former.remove(&id);
        } else {
            self.former.insert(id, former);
        }
    }

    /// The charter that `text` is.
    ///
    /// # Errors
    /// It is none, or one of another version.
    pub fn parse(text: &[u8]) -> Result<Self, CharterError> {
        let unclear = |error: serde_json::Error| CharterError::Text { cause: error.to_string() };
        let Beginning { format, version } = serde_json::from_slice(text).map_err(unclear)?;
        if format != FORMAT {
            return Err(CharterError::Format { version, format });
        }
        serde_json::from_slice(text).map_err(unclear)
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Refuses where the program in the kernel would misunderstand what this version publishes.
    ///
    /// # Errors
    /// [`CharterError::Abi`].
    pub fn require_abi(&self) -> Result<(), CharterError> {
        if self.abi == names::ABI_VERSION {
            Ok(())
        } else {
            Err(CharterError::Abi { version: self.version.clone() })
        }
    }

    /// Its services.
    #[must_use]
    pub fn services(&self) -> Vec<Bound> {
        let binding = |BindingClause { protocol, prefix, ports }: &BindingClause| Binding {
            protocol: *protocol,
            prefix: *prefix,
            ports: *ports,
        };
        let service = |ServiceClause { name, bindings }: &ServiceClause| Bound {
            name: name.clone(),
            bindings: bindings.iter().map(binding).collect(),
            policy: None,
        };
        self.services.iter().map(service).collect()
    }

    /// The plan that it was made of, each destination with the id that it has.
    ///
    /// # Errors
    /// [`CharterError::Text`]: there are bindings that tie, or a destination has no id, or the id of another; or somebody is allowed and denied
    /// at once.
    pub fn plan(&self) -> Result<Plan, CharterError> {
        let broken = |cause: String| CharterError::Text { cause };
        let mut plan = Plan::of(&self.services()).map_err(|errors| {
            broken(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        plan.policies = self.policies.policies().map_err(broken)?;
        let known: HashMap<_, _> = self
            .destinations
            .iter()
            .map(|DestinationClause { id, destination }| {
                let Destination { service, family, protocol, .. } = destination;
                ((service, *family, *protocol), (*id, destination))
            })
            .collect();
        let ids: BTreeSet<DestinationId> = known.values().map(|(id, _)| *id).collect();
        if ids.len() != self.destinations.len() {
            return Err(broken("two destinations have one id".to_owned()));
        }
        let mut numbers = HashMap::new();
        for (first, destination) in std::mem::take(&mut plan.destinations) {
            let Destination { service, family, protocol, .. } = &destination;
            let (id, known) = known
                .get(&(service, *family, *protocol))
                .ok_or_else(|| broken(format!("{destination} has no id")))?;
            numbers.insert(first, *id);
            plan.destinations.insert(*id, (*known).clone());
        }
        for planned in &mut plan.bindings {
            planned.destination = numbers.get(&planned.destination).copied().unwrap_or(planned.destination);
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Weight;

    fn services(of: &[(&str, &[&str])]) -> Vec<Bound> {
        let binding = |text: &&str| {
            let mut words = text.split(' ');
            let (protocol, prefix, ports) = (words.next(), words.next(), words.next());
            Binding {
                protocol: protocol.unwrap().parse().unwrap(),
                prefix: prefix.unwrap().parse().unwrap(),
                ports: ports.unwrap().parse().unwrap(),
            }
        };
        of.iter()
            .map(|(name, bindings)| Bound {
                name: name.parse().unwrap(),
                bindings: bindings.iter().map(binding).collect(),
                policy: None,
            })
            .collect()
    }

    #[test]
    fn a_charter_gives_back_the_plan_that_it_was_made_of() {
        let first = services(&[("web", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"])]);
        let second = services(&[
            ("dns", &["udp 192.0.2.0/24 53", "tcp 192.0.2.0/24 53"]),
            ("web", &["tcp 192.0.2.0/24 443", "tcp 2001:db8::/64 80"]),
        ]);
        let plan = Plan::of(&first).unwrap();
        let later = plan.following(&first, &second, 1).unwrap();
        let charter = Charter::of(&second, &later, 7, 12, 1);
        let read = Charter::parse(&charter.text()).unwrap();
        assert_eq!(read, charter);
        assert_eq!((read.services(), read.plan().unwrap()), (second, later));
        read.require_abi().unwrap();
    }

    #[test]
    fn what_stays_keeps_its_socket_and_its_counts() {
        let first = services(&[("web", &["tcp 192.0.2.0/24 80"]), ("dns", &["udp 192.0.2.0/24 53"])]);
        let plan = Plan::of(&first).unwrap();
        let mut before = Charter::of(&first, &plan, 7, 4, 0);
        let [web, dns] = [0, 1].map(DestinationId);
        let socket = RegisteredSocket {
            cookie: 0x1f,
            inode: 7,
            address: "127.0.0.1:80".parse().unwrap(),
            pid: 12,
            command: "nginx".to_owned(),
            weight: Weight::ONE,
            place: Some(RegisteredId(4096)),
            beside: Vec::new(),
            source: None,
        };
        for id in [web, dns] {
            before.sockets.insert(id, vec![socket.clone()]);
            before.set_former(id, Counts { steered: 3, missed: 2, ..Counts::default() });
        }
        let next = plan.following(&first, &first[..1], 1).unwrap();
        let after = Charter::of(&first[..1], &next, 8, 4, 1).after(&Charter::parse(&before.text()).unwrap());
        assert_eq!((after.sockets.get(&web), after.sockets.get(&dns)), (Some(&vec![socket]), None));
        assert_eq!((after.former(web).steered, after.former(web).missed), (3, 2));
        assert_eq!(after.former(dns), Counts::default());
    }

    #[test]
    fn a_charter_of_another_form_or_version_says_which_and_what_to_do() {
        let message = |text: &[u8]| Charter::parse(text).unwrap_err().to_string();
        let told = message(br#"{ "format": 9, "version": "9.0.0", "whatever": 1 }"#);
        assert!(told.contains("version 9.0.0") && told.contains("spectrum-user unload"), "{told}");
        assert!(message(b"not JSON").starts_with("understand what is pinned: "));
        let mut charter = Charter::of(&[], &Plan::default(), 1, 4, 0);
        charter.abi += 1;
        assert!(charter.require_abi().unwrap_err().to_string().contains("spectrum-user upgrade"));
    }

    #[test]
    fn ids_that_two_destinations_share_are_no_charter() {
        let services = services(&[("web", &["tcp 192.0.2.0/24 80", "udp 192.0.2.0/24 80"])]);
        let mut charter = Charter::of(&services, &Plan::of(&services).unwrap(), 1, 4, 0);
        charter.destinations[1].id = charter.destinations[0].id;
        assert!(charter.plan().unwrap_err().to_string().contains("two destinations have one id"));
        charter.destinations.truncate(1);
        assert!(charter.plan().unwrap_err().to_string().contains("has no id"));
    }
}
