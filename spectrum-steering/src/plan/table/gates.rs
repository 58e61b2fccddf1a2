//! The gates of a table: which destinations have one, and to which lists of sources it leads. What the lists say is looked up
//! by `spectrum_common::admit`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use spectrum_common::{Interfaces, NO_NODE, Node, SourceGate, Step, Value};

use super::prefixes::BoundPrefix;
use super::run_time::RunTimeLists;
use super::{Table, TableError, index};
use crate::model::{
    Destination, DestinationId, Family, InterfaceName, OnDeny, ServiceName, SourceEntry, SourcePolicy,
    SourceRate, SourceRule,
};
use crate::plan::{Policies, PolicyScope};

/// The lists of one table, of which a gate names one or two, before they have places.
#[derive(Debug, Default)]
pub(super) struct Gates<'a> {
    /// Each list once, of one family: `None` is the one for all services.
    lists: BTreeMap<(Option<&'a ServiceName>, Family), Vec<BoundPrefix>>,
    /// Each gate once, and how many there were before it.
    keys: BTreeMap<GateKey<'a>, usize>,
    /// The gate of each destination that has one.
    of: HashMap<DestinationId, usize>,
    /// The places of the sets of interfaces, behind the gates.
    interfaces: BTreeMap<&'a BTreeSet<InterfaceName>, usize>,
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
    /// The rate, and its number.
    rate: Option<(u32, SourceRate)>,
    interfaces: &'a BTreeSet<InterfaceName>,
    /// The places of the lists of what was said at run time.
    run_time: [u32; 2],
}

impl<'a> Gates<'a> {
    /// The gates of `destinations`, which will stand in the table from the node `first` on. There are none where no list says
    /// anything of a destination's family.
    pub(super) fn of(
        destinations: &'a BTreeMap<DestinationId, Destination>,
        policies: &'a Policies,
        run_time: &RunTimeLists,
        first: usize,
    ) -> Result<Self, TableError> {
        let mut gates = Self { first, ..Self::default() };
        if policies.is_empty() && run_time.nodes().is_empty() {
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
            let service = &destination.service;
            let interfaces = policies.interfaces(service);
            // 0 is that of all services together.
            let rate = policies.rate(service).map(|(scope, rate)| match scope {
                PolicyScope::Common => (0, rate),
                PolicyScope::Own => (1 + number(policies.own.range(..service).count()), rate),
            });
            let run_time = [Some(service), None].map(|of| run_time.root(of, family).unwrap_or(NO_NODE));
            let has_list = own.is_some()
                || gates.lists.contains_key(&(None, family))
                || run_time.iter().any(|root| *root != NO_NODE);
            if has_list || rate.is_some() || !interfaces.is_empty() {
                if !interfaces.is_empty() {
                    let next = gates.interfaces.len();
                    gates.interfaces.entry(interfaces).or_insert(next);
                }
                let on_deny = policies.on_deny(service);
                let key = GateKey { own, family, on_deny, rate, interfaces, run_time };
                let next = gates.keys.len();
                gates.of.insert(*id, *gates.keys.entry(key).or_insert(next));
            }
        }
        let end = first + gates.keys.len() + gates.interfaces.len();
        if end > SourceGate::END as usize {
            return Err(TableError::Gates { count: gates.keys.len() });
        }
        Ok(gates)
    }

    fn add_list(&mut self, of: Option<&'a ServiceName>, family: Family, policy: &SourcePolicy) {
        if self.lists.contains_key(&(of, family)) {
            return;
        }
        let prefixes = source_prefixes(policy.entries(), family);
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
        let steps: usize = self.lists.values().map(|prefixes| lengths(prefixes)).sum();
        self.keys.len() + self.interfaces.len() + steps
    }

    /// Fills in the gates and the steps, for which there is room from the first gate on, and appends the lists' hash tables. `index_of`
    /// says the index of an interface.
    pub(super) fn place(
        self,
        table: &mut Table,
        index_of: &dyn Fn(&InterfaceName) -> Option<u32>,
    ) -> Result<(), TableError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut free = self.first + self.keys.len()..;
        let put = |table: &mut Table, at: usize, node: Node| {
            if let Some(place) = table.nodes.get_mut(at) {
                *place = node;
            }
        };
        let mut places = HashMap::new();
        for interfaces in self.interfaces.keys() {
            let at = free.next().unwrap_or_default();
            // One that is not there is none: nobody comes by it.
            let mut indexes = [0; Interfaces::MOST];
            let known = interfaces.iter().filter_map(index_of);
            known.zip(&mut indexes).for_each(|(index, place)| *place = index);
            put(table, at, Interfaces { indexes }.into());
            places.insert(*interfaces, index(at)?);
        }
        let mut roots = HashMap::new();
        for ((of, family), prefixes) in &self.lists {
            let root = free.next().unwrap_or_default();
            table.add_prefixes(*family, prefixes, index(root)?, &mut free)?;
            roots.insert((*of, *family), index(root)?);
        }
        let has_rates = self.keys.keys().any(|key| key.rate.is_some());
        for (key, number) in &self.keys {
            let root = |of: Option<&ServiceName>| roots.get(&(of, key.family)).copied().unwrap_or(NO_NODE);
            let on_deny = match key.on_deny {
                OnDeny::Refuse => SourceGate::REFUSE,
                OnDeny::Silent => SourceGate::SILENCE,
            };
            let mut gate = SourceGate {
                lists: [key.own.map_or(NO_NODE, |name| root(Some(name))), root(None)],
                on_deny,
                interfaces: places.get(key.interfaces).copied().unwrap_or(NO_NODE),
                run_time: key.run_time,
                ..SourceGate::default()
            };
            if let Some((number, rate)) = key.rate {
                let (mask, pace) = (rate.mask(key.family), rate.pace());
                (gate.mask_hi, gate.mask_lo) = (mask.hi, mask.lo);
                (gate.rate, gate.cost, gate.window) = (number, pace.cost, pace.window);
            }
            put(table, self.first + number, gate.into());
        }
        if let Some(first) = table.nodes.first_mut() {
            *first = Step { slot: 1, has_rates: has_rates.into(), ..*first.as_step() }.into();
        }
        Ok(())
    }
}

/// The prefixes of `family` among `entries`, which are in the order of [`SourcePolicy::entries`], with what each says.
pub(super) fn source_prefixes(entries: &[SourceEntry], family: Family) -> Vec<BoundPrefix> {
    let entries = entries.iter().filter(|entry| entry.prefix.family() == family);
    entries
        .map(|entry| BoundPrefix {
            address: entry.prefix.address().into(),
            length: entry.prefix.length(),
            value: Value::source(entry.prefix.length(), entry.rule == SourceRule::Deny),
        })
        .collect()
}

/// The number of lengths that `prefixes` have, and so of steps.
pub(super) fn lengths(prefixes: &[BoundPrefix]) -> usize {
    let mut lengths = [false; 129];
    for prefix in prefixes {
        if let Some(length) = lengths.get_mut(usize::from(prefix.length)) {
            *length = true;
        }
    }
    lengths.iter().filter(|occurs| **occurs).count()
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX - 1)
}
