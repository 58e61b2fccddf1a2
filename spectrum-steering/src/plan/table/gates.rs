//! The gates of a table: which destinations have one, and to which lists of sources it leads. What the lists say is looked up
//! by `spectrum_common::admit`.

use std::collections::{BTreeMap, HashMap};

use spectrum_common::{NO_NODE, Node, SourceGate, Value};

use super::prefixes::BoundPrefix;
use super::{Table, TableError, index};
use crate::model::{Destination, DestinationId, Family, OnDeny, ServiceName, SourcePolicy, SourceRule};
use crate::plan::Policies;

/// The lists of one table, of which a gate names one or two, before they have places.
#[derive(Debug, Default)]
pub(super) struct Gates<'a> {
    /// Each list once, of one family: `None` is the one for all services.
    lists: BTreeMap<(Option<&'a ServiceName>, Family), Vec<BoundPrefix>>,
    /// Each gate once, and how many there were before it.
    keys: BTreeMap<GateKey<'a>, usize>,
    /// The gate of each destination that has one.
    of: HashMap<DestinationId, usize>,
    /// The node of the first gate.
    first: usize,
}

/// What tells one gate from another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct GateKey<'a> {
    /// The service, where it has a list of its own.
    own: Option<&'a ServiceName>,
    family: Family,
    on_deny: OnDeny,
}

impl<'a> Gates<'a> {
    /// The gates of `destinations`, which will stand in the table from the node `first` on. There are none where no list says
    /// anything of a destination's family.
    pub(super) fn of(
        destinations: &'a BTreeMap<DestinationId, Destination>,
        policies: &'a Policies,
        first: usize,
    ) -> Result<Self, TableError> {
        let mut gates = Self { first, ..Self::default() };
        if policies.is_empty() {
            return Ok(gates);
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            gates.add_list(None, family, &policies.common);
        }
        for (id, destination) in destinations {
            let family = destination.family;
            let own = policies.own.get_key_value(&destination.service);
            if let Some((name, policy)) = own {
                gates.add_list(Some(name), family, &policy.sources);
            }
            let own =
                own.map(|(name, _)| name).filter(|name| gates.lists.contains_key(&(Some(*name), family)));
            if own.is_some() || gates.lists.contains_key(&(None, family)) {
                let key = GateKey { own, family, on_deny: policies.on_deny(&destination.service) };
                let next = gates.keys.len();
                gates.of.insert(*id, *gates.keys.entry(key).or_insert(next));
            }
        }
        let end = first + gates.keys.len();
        if end > SourceGate::END as usize {
            return Err(TableError::Gates { count: gates.keys.len() });
        }
        Ok(gates)
    }

    fn add_list(&mut self, of: Option<&'a ServiceName>, family: Family, policy: &SourcePolicy) {
        if self.lists.contains_key(&(of, family)) {
            return;
        }
        let entries = policy.entries().iter().filter(|entry| entry.prefix.family() == family);
        // They are in this order already: see SourcePolicy::entries.
        let prefixes: Vec<BoundPrefix> = entries
            .map(|entry| BoundPrefix {
                address: entry.prefix.address().into(),
                length: entry.prefix.length(),
                value: Value::source(entry.prefix.length(), entry.rule == SourceRule::Deny),
            })
            .collect();
        if !prefixes.is_empty() {
            self.lists.insert((of, family), prefixes);
        }
    }

    /// The value of ports that lead to the destination `id`.
    pub(super) fn value(&self, id: DestinationId) -> Value {
        match self.of.get(&id).and_then(|gate| u32::try_from(self.first + gate).ok()) {
            Some(gate) => Value::behind(gate, id.0),
            None => Value::destination(id.0),
        }
    }

    /// The number of nodes of the gates and of the lists' steps: those that stand together.
    pub(super) fn nodes(&self) -> usize {
        let lengths = |prefixes: &Vec<BoundPrefix>| {
            let mut lengths: Vec<u8> = prefixes.iter().map(|prefix| prefix.length).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths.len()
        };
        self.keys.len() + self.lists.values().map(lengths).sum::<usize>()
    }

    /// Fills in the gates and the steps, for which there is room from the first gate on, and appends the lists' hash tables.
    pub(super) fn place(self, table: &mut Table) -> Result<(), TableError> {
        let mut free = self.first + self.keys.len()..;
        let mut roots = HashMap::new();
        for ((of, family), prefixes) in &self.lists {
            let root = free.next().unwrap_or_default();
            table.add_prefixes(*family, prefixes, index(root)?, &mut free)?;
            roots.insert((*of, *family), index(root)?);
        }
        for (key, number) in &self.keys {
            let root = |of: Option<&ServiceName>| roots.get(&(of, key.family)).copied().unwrap_or(NO_NODE);
            let mut lists = [NO_NODE; 3];
            let those = key.own.map(|name| root(Some(name))).into_iter().chain([root(None)]);
            for (list, place) in those.filter(|list| *list != NO_NODE).zip(&mut lists) {
                *place = list;
            }
            let on_deny = match key.on_deny {
                OnDeny::Refuse => SourceGate::REFUSE,
                OnDeny::Silent => SourceGate::SILENCE,
            };
            let gate = SourceGate { lists, unlisted: Value::PASS, on_deny, ..SourceGate::default() };
            if let Some(node) = table.nodes.get_mut(self.first + number) {
                *node = Node::from(gate);
            }
        }
        Ok(())
    }
}
