//! The one decision: where a packet goes. Never touches a socket; the caller acts on the verdict.

use crate::{
    Address, DenyReason, DestinationId, EMPTY, NO_NODE, Node, Pace, Packet, Ports, Sender, Source,
    SourceGate, Step, Value, bucket_of,
};

/// A source of the steering table's nodes. The kernel implements it over a map, the host over a slice.
pub trait Nodes {
    /// The node at `index` of the current generation, or `None` past its end.
    fn node(&self, index: u32) -> Option<&Node>;

    /// The same of a step: all of them stand in the first page, which is at hand.
    fn step(&self, index: u32) -> Option<&Node>;

    /// The word of [`search`] on `source` in the list at the index `list`. The kernel has a function of its own for it, which its
    /// verifier walks once and not for each list.
    #[inline(always)]
    fn said_of(&self, list: u32, source: Source) -> Value {
        search(list, source, self)
    }

    /// The same of a list of what was said at run time, which stands in a table of its own.
    #[inline(always)]
    fn said_at_run_time(&self, _list: u32, _source: Source) -> Value {
        Value::PASS
    }
}

impl Nodes for [Node] {
    fn node(&self, index: u32) -> Option<&Node> {
        self.get(index as usize)
    }

    fn step(&self, index: u32) -> Option<&Node> {
        self.node(index)
    }
}

/// The decision on a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// To this destination's listener.
    Assign(DestinationId),
    /// None of our business: the kernel looks for a socket as if we were not there.
    Pass,
    /// It would go to this destination, but the source policy turns it away: let the kernel answer that nobody is there.
    Refuse(DestinationId, DenyReason),
    /// The same, and nobody answers.
    Silence(DestinationId, DenyReason),
}

/// The decision on the source of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SourceVerdict {
    /// It may come in.
    Admit,
    /// It is turned away, and told so.
    Refuse(DenyReason),
    /// It is turned away, and told nothing.
    Silence(DenyReason),
}

/// The deepest search tree over prefix lengths: 129 lengths of IPv6 in a balanced tree.
pub const MAX_STEPS: usize = 8;
/// The longest chain of buckets.
pub const MAX_BUCKETS: usize = 5;
/// The deepest tree of [`Ports`]: 65,535 intervals of one port each.
pub const MAX_PORT_NODES: usize = 5;

/// Decides where `packet` goes: the longest prefix that binds its port wins, then the narrowest range of ports. If the
/// destination has a gate, `sender`, which is asked then alone, must be admitted.
///
/// A binary search over the prefix lengths that occur (Waldvogel et al., SIGCOMM 1997): a prefix of the length asked
/// for sends the search to longer ones, and what it says already accounts for all shorter ones; so the last prefix
/// found is the answer. With one length, as with bindings of single addresses, that is one look at one cache line.
/// The port, if it matters, is looked for in the intervals that belong to the prefix.
///
/// A table that breaks its own rules leads to [`Verdict::Pass`], never to a loop without end.
#[inline(always)]
pub fn steer<N: Nodes + ?Sized>(packet: &Packet, sender: &impl Sender, nodes: &N) -> Verdict {
    if packet.port == 0 {
        return Verdict::Pass;
    }
    let is_ipv4 = packet.domain.is_ipv4();
    let first = packet.domain.first_step();
    let mut next = first;
    let mut best = Value::PASS;
    for _ in 0..MAX_STEPS {
        let Some(node) = nodes.step(next) else { return Verdict::Pass };
        let step = node.as_step();
        if step.buckets == 0 {
            return Verdict::Pass;
        }
        next = look(packet.address, is_ipv4, step, &mut best, nodes);
        if next == NO_NODE {
            break;
        }
    }
    let value = on_port(best, packet.port, nodes);
    let Some(id) = value.as_destination().map(DestinationId) else { return Verdict::Pass };
    if value.gate() == NO_NODE {
        return Verdict::Assign(id);
    }
    match admit(value.gate(), sender, nodes) {
        SourceVerdict::Admit => Verdict::Assign(id),
        SourceVerdict::Refuse(reason) => Verdict::Refuse(id, reason),
        SourceVerdict::Silence(reason) => Verdict::Silence(id, reason),
    }
}

/// Decides on a sender at the [`SourceGate`] at the index `gate`: the interface must be one of those that it names; the longest prefix
/// that contains the source in any list says whether that is denied, of two as long that of what was said at run time, then that of the
/// service's own list, and whom no list names may come; and no source may come more often than the rate says, which is charged for those alone that pass the rest.
///
/// The same search as for the dialled address, in one list after the other. Lists that break their own rules admit.
#[inline(always)]
pub fn admit<N: Nodes + ?Sized>(gate: u32, sender: &impl Sender, nodes: &N) -> SourceVerdict {
    let Some(node) = nodes.node(gate) else { return SourceVerdict::Admit };
    let gate = *node.as_gate();
    let Some(reason) = denial(&gate, sender, nodes) else { return SourceVerdict::Admit };
    if gate.on_deny == SourceGate::SILENCE {
        SourceVerdict::Silence(reason)
    } else {
        SourceVerdict::Refuse(reason)
    }
}

#[inline(always)]
fn denial<N: Nodes + ?Sized>(gate: &SourceGate, sender: &impl Sender, nodes: &N) -> Option<DenyReason> {
    if gate.interfaces != NO_NODE && !comes_by(gate.interfaces, sender.interface(), nodes) {
        return Some(DenyReason::Interface);
    }
    let source = sender.source();
    let mut said = Value::PASS;
    let [own, common] = gate.run_time;
    if own != NO_NODE {
        said = nodes.said_at_run_time(own, source);
    }
    if common != NO_NODE {
        said = said.or_longer(nodes.said_at_run_time(common, source));
    }
    let [own, common] = gate.lists;
    if own != NO_NODE {
        said = said.or_longer(nodes.said_of(own, source));
    }
    if common != NO_NODE {
        said = said.or_longer(nodes.said_of(common, source));
    }
    if said.is_denied() {
        return Some(DenyReason::Denied);
    }
    if gate.cost == 0 {
        return None;
    }
    let Address { hi, lo } = source.address;
    let counted = Address { hi: hi & gate.mask_hi, lo: lo & gate.mask_lo };
    let pace = Pace { cost: gate.cost, window: gate.window };
    if sender.may_come(counted, gate.rate, pace) { None } else { Some(DenyReason::Rate) }
}

/// True if the interface `index` is one of those at the index `interfaces`, or nobody knows which it is: who judges later knows.
#[inline(always)]
fn comes_by<N: Nodes + ?Sized>(interfaces: u32, index: u32, nodes: &N) -> bool {
    let Some(node) = nodes.node(interfaces) else { return true };
    // All are looked at, without a branch: the verifier would walk what follows from each.
    let differences = node.as_interfaces().indexes.map(|one| u64::from(one ^ index).wrapping_sub(1) >> 63);
    index == 0 || differences.into_iter().fold(0, |any, is_same| any | is_same) != 0
}

/// The word of the list of sources on `source` whose first step is at the index `list`: the value of the longest prefix that contains
/// it, else [`Value::PASS`], and so does a list that breaks its own rules.
#[inline(always)]
pub fn search<N: Nodes + ?Sized>(list: u32, source: Source, nodes: &N) -> Value {
    let mut next = list;
    let mut best = Value::PASS;
    for _ in 0..MAX_STEPS {
        let Some(node) = nodes.node(next) else { return Value::PASS };
        let step = node.as_step();
        if step.buckets == 0 {
            return Value::PASS;
        }
        next = look(source.address, source.is_ipv4, step, &mut best, nodes);
        if next == NO_NODE {
            return best;
        }
    }
    Value::PASS
}

/// Looks for `address` among the prefixes of one length. What is found is the best so far; returns the step to go on with.
#[inline(always)]
fn look<N: Nodes + ?Sized>(address: Address, is_ipv4: bool, step: &Step, best: &mut Value, nodes: &N) -> u32 {
    let found = find(address, is_ipv4, step, nodes);
    if found == EMPTY {
        return step.shorter;
    }
    *best = found;
    step.longer
}

#[inline(always)]
fn find<N: Nodes + ?Sized>(address: Address, is_ipv4: bool, step: &Step, nodes: &N) -> Value {
    let key = Address { hi: address.hi & step.mask_hi, lo: address.lo & step.mask_lo };
    let mut bucket = step.first_bucket + bucket_of(key, step.seed, step.buckets);
    for _ in 0..MAX_BUCKETS {
        let Some(node) = nodes.node(bucket) else { return EMPTY };
        let (found, next) = if is_ipv4 {
            let bucket = node.as_bucket4();
            (bucket.value_of(key), bucket.next)
        } else {
            let bucket = node.as_bucket6();
            (bucket.value_of(key), bucket.next)
        };
        // The bucket is most likely in no cache, and the step is. A CPU predicts that both say the same and works ahead
        // with what the step says, while it would have to wait for what the bucket says.
        if found == step.usual {
            return step.usual_again;
        }
        if found != EMPTY || next == NO_NODE {
            return found;
        }
        bucket = next;
    }
    EMPTY
}

#[inline(always)]
fn on_port<N: Nodes + ?Sized>(value: Value, port: u16, nodes: &N) -> Value {
    let mut value = value;
    for _ in 0..MAX_PORT_NODES {
        let Some(index) = value.as_ports() else { return value };
        let Some(node) = nodes.node(index) else { return Value::PASS };
        value = interval(node.as_ports(), port);
    }
    value
}

#[inline(always)]
fn interval(ports: &Ports, port: u16) -> Value {
    let mut value = ports.values[0];
    // Every interval is looked at: to leave early would cost the CPU a branch it cannot predict.
    for (first, at) in ports.firsts.iter().zip(&ports.values) {
        if *first <= port {
            value = *at;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bucket4, Domain, Interfaces};

    fn packet(port: u16) -> Packet {
        Packet { domain: Domain::Tcp4, address: Address { hi: 0xc000_0201 << 32, lo: 0 }, port }
    }

    /// A sender that no gate asks.
    struct Nobody;

    impl Sender for Nobody {
        fn source(&self) -> Source {
            unreachable!("no gate asks for the source")
        }

        fn interface(&self) -> u32 {
            unreachable!("no gate asks for the interface")
        }

        fn may_come(&self, _source: Address, _rate: u32, _pace: Pace) -> bool {
            unreachable!("no gate has a rate")
        }
    }

    fn steered(packet: Packet, nodes: &[Node]) -> Verdict {
        steer(&packet, &Nobody, nodes)
    }

    #[test]
    fn an_empty_table_passes_everything() {
        assert_eq!(steered(packet(80), &[]), Verdict::Pass);
        assert_eq!(steered(packet(80), &[Node::default(); 4]), Verdict::Pass);
    }

    #[test]
    fn a_table_that_loops_ends() {
        let step = Step { first_bucket: 1, buckets: 1, shorter: 2, longer: 2, ..Step::default() };
        let chained = Bucket4 { next: 1, ..Bucket4::default() };
        let ports = Ports { values: [Value::ports(3); Ports::INTERVALS], ..Ports::default() };
        let mut nodes = [Node::from(step), Node::from(chained), Node::from(step), Node::from(ports)];
        assert_eq!(steered(packet(80), &nodes), Verdict::Pass);
        let key = 0xc000_0201;
        nodes[1] = Bucket4 { keys: [key; 7], values: [Value::ports(3); 7], ..Bucket4::default() }.into();
        assert_eq!(steered(packet(80), &nodes), Verdict::Pass);
    }

    #[test]
    fn what_most_prefixes_say_is_not_said_of_others() {
        let usual = Value::destination(0);
        let step = Step {
            mask_hi: u64::MAX,
            first_bucket: 4,
            buckets: 1,
            usual,
            usual_again: usual,
            ..Step::default()
        };
        let mut bucket = Bucket4::default();
        let mut nodes = [step.into(), step.into(), step.into(), step.into(), Node::from(bucket)];
        assert_eq!(steered(packet(1), &nodes), Verdict::Pass);
        for (value, verdict) in [
            (Value::PASS, Verdict::Pass),
            (Value::destination(0), Verdict::Assign(DestinationId(0))),
            (Value::destination(1), Verdict::Assign(DestinationId(1))),
        ] {
            (bucket.keys[3], bucket.values[3]) = (0xc000_0201, value);
            nodes[4] = bucket.into();
            assert_eq!(steered(packet(1), &nodes), verdict);
        }
    }

    #[test]
    fn port_zero_is_never_ours() {
        let step = Step { first_bucket: 4, buckets: 1, ..Step::default() };
        let mut bucket = Bucket4::default();
        bucket.values[0] = Value::destination(0);
        let nodes = [step.into(), step.into(), step.into(), step.into(), Node::from(bucket)];
        assert_eq!(steered(packet(1), &nodes), Verdict::Assign(DestinationId(0)));
        assert_eq!(steered(packet(0), &nodes), Verdict::Pass);
    }

    /// Steps of four domains, the first of which leads to a destination behind `gate`, at 4; a bucket, at 5; `further` nodes.
    fn gated(gate: SourceGate, further: &[Node]) -> Vec<Node> {
        let step = Step { mask_hi: u64::MAX, first_bucket: 5, buckets: 1, ..Step::default() };
        let mut bucket = Bucket4::default();
        (bucket.keys[0], bucket.values[0]) = (0xc000_0201, Value::behind(4, 7));
        let mut nodes = vec![step.into(), step.into(), step.into(), step.into(), gate.into(), bucket.into()];
        nodes.extend_from_slice(further);
        nodes
    }

    fn from(source: u32, nodes: &[Node]) -> Verdict {
        let address = Address { hi: u64::from(source) << 32, lo: 0 };
        steer(&packet(80), &Source { address, is_ipv4: true }, nodes)
    }

    #[test]
    fn a_gate_denies_whom_its_lists_deny() {
        let step = Step { mask_hi: u64::MAX << 56, first_bucket: 7, buckets: 1, ..Step::default() };
        let mut bucket = Bucket4::default();
        (bucket.keys[0], bucket.values[0]) = (10 << 24, Value::source(8, true));
        let list = [Node::from(step), Node::from(bucket)];
        let id = DestinationId(7);
        for lists in [[6, NO_NODE], [NO_NODE, 6], [6, 6]] {
            for (on_deny, denied) in [
                (SourceGate::REFUSE, Verdict::Refuse(id, DenyReason::Denied)),
                (SourceGate::SILENCE, Verdict::Silence(id, DenyReason::Denied)),
                (9, Verdict::Refuse(id, DenyReason::Denied)),
            ] {
                let nodes = gated(SourceGate { lists, on_deny, ..SourceGate::default() }, &list);
                assert_eq!(from(10 << 24 | 1, &nodes), denied);
                assert_eq!(from(11 << 24 | 1, &nodes), Verdict::Assign(id));
            }
        }
    }

    #[test]
    fn lists_that_loop_or_lead_nowhere_end_and_admit() {
        let looping = Step { first_bucket: 7, buckets: 1, shorter: 6, longer: 6, ..Step::default() };
        let chained = Bucket4 { next: 7, ..Bucket4::default() };
        let id = DestinationId(7);
        for (first, further) in [
            (6, &[Node::from(looping), Node::from(chained)][..]),
            (NO_NODE, &[]),
            (6, &[]),
            (6, &[Node::default()]),
            (99, &[]),
        ] {
            let nodes = gated(SourceGate { lists: [first, first], ..SourceGate::default() }, further);
            assert_eq!(from(10 << 24, &nodes), Verdict::Assign(id));
        }
        assert_eq!(from(10 << 24, &gated(SourceGate::default(), &[])[..4]), Verdict::Pass);
    }

    /// A sender by an interface, who has come too often or not.
    struct Visitor {
        interface: u32,
        is_welcome: bool,
    }

    impl Sender for Visitor {
        fn source(&self) -> Source {
            Source { address: Address { hi: 0x0a01_0203 << 32, lo: 0 }, is_ipv4: true }
        }

        fn interface(&self) -> u32 {
            self.interface
        }

        fn may_come(&self, source: Address, rate: u32, pace: Pace) -> bool {
            let expected = Address { hi: 0x0a01_0200 << 32, lo: 0 };
            assert_eq!((source, rate, pace), (expected, 3, Pace { cost: 7, window: 9 }));
            self.is_welcome
        }
    }

    #[test]
    fn a_gate_lets_in_by_its_interfaces_and_no_oftener_than_its_rate() {
        let mut interfaces = Interfaces::default();
        interfaces.indexes[0] = 2;
        interfaces.indexes[15] = 70_000;
        let rate =
            SourceGate { mask_hi: u64::MAX << 40, rate: 3, cost: 7, window: 9, ..SourceGate::default() };
        let (id, admitted) = (DestinationId(7), Verdict::Assign(DestinationId(7)));
        let told = |gate, interface, is_welcome| {
            steer(&packet(80), &Visitor { interface, is_welcome }, &gated(gate, &[interfaces.into()])[..])
        };
        for (index, expected) in [
            (2, admitted),
            (70_000, admitted),
            (0, admitted),
            (1, Verdict::Refuse(id, DenyReason::Interface)),
            (u32::MAX, Verdict::Refuse(id, DenyReason::Interface)),
        ] {
            assert_eq!(told(SourceGate { interfaces: 6, ..rate }, index, true), expected, "{index}");
        }
        assert_eq!(told(rate, 1, true), admitted);
        assert_eq!(told(rate, 1, false), Verdict::Refuse(id, DenyReason::Rate));
        let silent = SourceGate { on_deny: SourceGate::SILENCE, ..rate };
        assert_eq!(told(silent, 1, false), Verdict::Silence(id, DenyReason::Rate));
        assert_eq!(told(SourceGate { interfaces: 99, ..rate }, 1, true), admitted, "a broken table admits");
    }
}
