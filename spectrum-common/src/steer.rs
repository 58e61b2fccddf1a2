//! The one decision: where a packet goes. Never touches a socket; the caller acts on the verdict.

use crate::{Address, DestinationId, EMPTY, NO_NODE, Node, Packet, Ports, Step, Value, bucket_of};

/// A source of the steering table's nodes. The kernel implements it over a map, the host over a slice.
pub trait Nodes {
    /// The node at `index` of the current generation, or `None` past its end.
    fn node(&self, index: u32) -> Option<&Node>;

    /// The same of a step: all of them stand in the first page, which is at hand.
    fn step(&self, index: u32) -> Option<&Node>;
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
}

/// The deepest search tree over prefix lengths: 129 lengths of IPv6 in a balanced tree.
pub const MAX_STEPS: usize = 8;
/// The longest chain of buckets.
pub const MAX_BUCKETS: usize = 5;
/// The deepest tree of [`Ports`]: 65,535 intervals of one port each.
pub const MAX_PORT_NODES: usize = 5;

/// Decides where `packet` goes: the longest prefix that binds its port wins, then the narrowest range of ports.
///
/// A binary search over the prefix lengths that occur (Waldvogel et al., SIGCOMM 1997): a prefix of the length asked
/// for sends the search to longer ones, and what it says already accounts for all shorter ones; so the last prefix
/// found is the answer. With one length, as with bindings of single addresses, that is one look at one cache line.
/// The port, if it matters, is looked for in the intervals that belong to the prefix.
///
/// A table that breaks its own rules leads to [`Verdict::Pass`], never to a loop without end.
#[inline(always)]
pub fn steer<N: Nodes + ?Sized>(packet: &Packet, nodes: &N) -> Verdict {
    if packet.port == 0 {
        return Verdict::Pass;
    }
    match on_port(on_address(packet, nodes), packet.port, nodes).as_destination() {
        Some(id) => Verdict::Assign(DestinationId(id)),
        None => Verdict::Pass,
    }
}

#[inline(always)]
fn on_address<N: Nodes + ?Sized>(packet: &Packet, nodes: &N) -> Value {
    let mut best = Value::PASS;
    let mut next = packet.domain.first_step();
    for _ in 0..MAX_STEPS {
        let Some(node) = nodes.step(next) else { return Value::PASS };
        let step = node.as_step();
        if step.buckets == 0 {
            return Value::PASS;
        }
        let found = find(packet, step, nodes);
        next = if found == EMPTY { step.shorter } else { step.longer };
        if found != EMPTY {
            best = found;
        }
        if next == NO_NODE {
            break;
        }
    }
    best
}

#[inline(always)]
fn find<N: Nodes + ?Sized>(packet: &Packet, step: &Step, nodes: &N) -> Value {
    let key = Address { hi: packet.address.hi & step.mask_hi, lo: packet.address.lo & step.mask_lo };
    let mut bucket = step.first_bucket + bucket_of(key, step.seed, step.buckets);
    for _ in 0..MAX_BUCKETS {
        let Some(node) = nodes.node(bucket) else { return EMPTY };
        let (found, next) = if packet.domain.is_ipv4() {
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
    use crate::{Bucket4, Domain};

    fn packet(port: u16) -> Packet {
        Packet { domain: Domain::Tcp4, address: Address { hi: 0xc000_0201 << 32, lo: 0 }, port }
    }

    #[test]
    fn an_empty_table_passes_everything() {
        assert_eq!(steer(&packet(80), &[] as &[Node]), Verdict::Pass);
        assert_eq!(steer(&packet(80), &[Node::default(); 4][..]), Verdict::Pass);
    }

    #[test]
    fn a_table_that_loops_ends() {
        let step = Step { first_bucket: 1, buckets: 1, shorter: 2, longer: 2, ..Step::default() };
        let chained = Bucket4 { next: 1, ..Bucket4::default() };
        let ports = Ports { values: [Value::ports(3); Ports::INTERVALS], ..Ports::default() };
        let mut nodes = [Node::from(step), Node::from(chained), Node::from(step), Node::from(ports)];
        assert_eq!(steer(&packet(80), &nodes[..]), Verdict::Pass);
        let key = 0xc000_0201;
        nodes[1] = Bucket4 { keys: [key; 7], values: [Value::ports(3); 7], ..Bucket4::default() }.into();
        assert_eq!(steer(&packet(80), &nodes[..]), Verdict::Pass);
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
        assert_eq!(steer(&packet(1), &nodes[..]), Verdict::Pass);
        for (value, verdict) in [
            (Value::PASS, Verdict::Pass),
            (Value::destination(0), Verdict::Assign(DestinationId(0))),
            (Value::destination(1), Verdict::Assign(DestinationId(1))),
        ] {
            (bucket.keys[3], bucket.values[3]) = (0xc000_0201, value);
            nodes[4] = bucket.into();
            assert_eq!(steer(&packet(1), &nodes[..]), verdict);
        }
    }

    #[test]
    fn port_zero_is_never_ours() {
        let step = Step { first_bucket: 4, buckets: 1, ..Step::default() };
        let mut bucket = Bucket4::default();
        bucket.values[0] = Value::destination(0);
        let nodes = [step.into(), step.into(), step.into(), step.into(), Node::from(bucket)];
        assert_eq!(steer(&packet(1), &nodes[..]), Verdict::Assign(DestinationId(0)));
        assert_eq!(steer(&packet(0), &nodes[..]), Verdict::Pass);
    }
}
