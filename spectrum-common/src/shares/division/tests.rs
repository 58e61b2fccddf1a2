//! What shares get and keep: of whole tables, and of clients by their hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::{Address, slot_of};

const SECRET: [u64; 2] = [0x5eed, 0xfeed];

fn shares(weights: &[u16]) -> Vec<SocketShare> {
    let share = |(number, weight): (u32, &u16)| SocketShare {
        socket: RegisteredId(100 + number),
        key: hash_of([7, 7], [number.into()]),
        weight: *weight,
        spare: None,
    };
    (0..).zip(weights).map(share).collect()
}

/// So many clients, of both families, several of each address: each by its address and port.
fn clients(count: u32) -> impl Iterator<Item = u64> {
    (0..count).map(|number| {
        let (host, port) = (number / 8, 1024 + (number % 8) * 7_919);
        let address = if number % 2 == 0 {
            IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + host))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(host)))
        };
        let Address { hi, lo } = address.into();
        hash_of(SECRET, [hi, lo, port.into()])
    })
}

fn socket_of(hash: u64, slots: &[Slot]) -> RegisteredId {
    slots[slot_of(hash) as usize].first()
}

fn counted(slots: &[Slot]) -> BTreeMap<RegisteredId, u32> {
    let mut counts = BTreeMap::new();
    for slot in slots {
        *counts.entry(slot.first()).or_default() += 1;
    }
    counts
}

/// The slots of other shares than `of` that changed.
fn moved_of_others(before: &[Slot], after: &[Slot], of: RegisteredId) -> usize {
    let others = before.iter().zip(after).filter(|(was, is)| was.first() != of && is.first() != of);
    others.filter(|(was, is)| was.first() != is.first()).count()
}

#[test]
fn a_hundred_thousand_clients_are_divided_as_the_weights_say() {
    for weights in [[1, 1, 1], [1, 2, 3], [5, 3, 2], [100, 50, 10]] {
        let shares = shares(&weights);
        let slots = slots_of(&shares);
        let mut counts: BTreeMap<RegisteredId, f64> = BTreeMap::new();
        for client in clients(100_000) {
            *counts.entry(socket_of(client, &slots)).or_default() += 1.0;
        }
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for share in &shares {
            let due = 100_000.0 * f64::from(share.weight) / total;
            let off = (counts[&share.socket] - due).abs();
            assert!(off < 0.02 * due, "{weights:?}: {} clients of {due}", counts[&share.socket]);
        }
    }
}

#[test]
fn who_leaves_moves_its_own_clients_and_next_to_none_other() {
    for weights in [&[1, 1, 1][..], &[1, 2, 3], &[1, 1], &[7, 1, 1, 1, 4, 4, 2, 10], &[3; 40]] {
        let before = shares(weights);
        let slots = slots_of(&before);
        for leaver in &before {
            let after: Vec<SocketShare> = before.iter().filter(|share| *share != leaver).copied().collect();
            let moved = moved_of_others(&slots, &slots_of(&after), leaver.socket);
            // A hundredth and a half.
            assert!(moved * 200 < 3 * SLOTS as usize, "{moved} slots of others moved: {weights:?}");
            // Drained is as good as gone.
            let drained = before
                .iter()
                .map(|share| if share == leaver { SocketShare { weight: 0, ..*share } } else { *share });
            assert_eq!(slots_of(&drained.collect::<Vec<_>>()), slots_of(&after));
        }
    }
}

#[test]
fn clients_of_a_socket_that_is_gone_go_where_they_go_once_it_is_said() {
    let before = shares(&[2, 1, 1]);
    let slots = slots_of(&before);
    let after = slots_of(&before[1..]);
    let of_the_first = slots.iter().zip(&after).filter(|(was, _)| was.first() == before[0].socket);
    let (same, other): (Vec<_>, Vec<_>) = of_the_first.partition(|(was, is)| was.next() == is.first());
    assert!(other.len() * 50 < same.len(), "{} of {} go elsewhere", other.len(), same.len());
}

#[test]
fn a_server_that_comes_back_gets_the_clients_that_it_had() {
    let mut shares = shares(&[1, 1, 1]);
    let before = slots_of(&shares);
    shares[1].socket = RegisteredId(900);
    let was = |slot: &Slot| if slot.first() == RegisteredId(101) { RegisteredId(900) } else { slot.first() };
    let expected: Vec<RegisteredId> = before.iter().map(was).collect();
    assert_eq!(slots_of(&shares).iter().map(|slot| slot.first()).collect::<Vec<_>>(), expected);
}

#[test]
fn the_weight_of_one_is_changed_at_the_cost_of_no_other() {
    let before = shares(&[4, 4, 4]);
    let mut after = before.clone();
    after[0].weight = 5;
    let (was, is) = (slots_of(&before), slots_of(&after));
    let moved = was.iter().zip(&is).filter(|(was, is)| was.first() != is.first()).count();
    let gained = counted(&is)[&before[0].socket] - counted(&was)[&before[0].socket];
    assert!(moved < gained as usize + SLOTS as usize / 100, "{moved} moved for {gained}");
}

#[test]
fn nobody_has_slots_where_no_share_has_a_weight() {
    assert_eq!(slots_of(&[]), []);
    assert_eq!(slots_of(&shares(&[0, 0])), []);
    let alone = slots_of(&shares(&[0, 3]));
    assert_eq!(alone.len(), SLOTS as usize);
    assert!(alone.iter().all(|slot| *slot == Slot::of(RegisteredId(101), None)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_share_has_its_due_of_all_slots(
        weights in prop::collection::vec(0_u16..=256, 1..20),
        turn in 0_usize..20,
    ) {
        let mut shares = shares(&weights);
        let slots = slots_of(&shares);
        let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
        let taking: BTreeSet<RegisteredId> =
            shares.iter().filter(|share| share.weight > 0).map(|share| share.socket).collect();
        prop_assert_eq!(slots.len(), if taking.is_empty() { 0 } else { SLOTS as usize });
        let counts = counted(&slots);
        prop_assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), taking.clone());
        let sum_of_least = taking.len();
        for share in shares.iter().filter(|share| share.weight > 0) {
            let due = f64::from(share.weight) * f64::from(SLOTS) / f64::from(total);
            let has = f64::from(counts[&share.socket]);
            // Who is owed less than one gets one, from those who have most.
            let slack = if due < 1.0 || sum_of_least > 8 { 8.0 } else { 1.0 };
            prop_assert!((has - due).abs() <= slack, "{has} slots of {due}");
        }
        for slot in &slots {
            let next = slot.next();
            prop_assert_ne!(next, slot.first());
            prop_assert_eq!(taking.contains(&next), taking.len() > 1);
        }
        let turn = turn % shares.len();
        shares.rotate_left(turn);
        prop_assert_eq!(slots_of(&shares), slots);
    }
}

#[test]
fn the_spare_of_a_lone_share_has_its_clients_when_it_is_gone_and_others_come_before_it() {
    let spare = Some(RegisteredId(7));
    let lone = SocketShare { spare, ..shares(&[1])[0] };
    assert!(
        slots_of(&[lone]).iter().all(|slot| (slot.first(), slot.next()) == (lone.socket, RegisteredId(7)))
    );
    let [one, other] = [0, 1].map(|number| SocketShare { spare, ..shares(&[1, 1])[number] });
    let sockets = BTreeSet::from([one.socket.0, other.socket.0]);
    let slots = slots_of(&[one, other]);
    assert!(slots.iter().all(|slot| BTreeSet::from([slot.first().0, slot.next().0]) == sockets));
    // One that is drained takes nobody's place.
    let slots = slots_of(&[one, SocketShare { weight: 0, ..other }]);
    assert!(slots.iter().all(|slot| (slot.first(), slot.next()) == (one.socket, RegisteredId(7))));
}
