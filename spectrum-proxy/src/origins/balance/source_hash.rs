//! By the client's address, always the same member: weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights by
//! logarithm as in Schindelhauer and Schomaker, 2005). Each member draws a number for the client and the highest wins, so a
//! member that goes takes only its own clients along, and each of them finds the member it would have had without it.
//! There is no state, so workers, restarts and other hosts with the same origins agree.

use std::net::IpAddr;

use super::Candidate;

/// The client's address as a number. Its port takes no part.
pub(crate) fn client_key(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => mix(u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits().to_be_bytes();
            bits.chunks_exact(8).fold(0, |key, half| {
                mix(key ^ half.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            })
        }
    }
}

/// The seed of a member, from its name: FNV-1a, mixed once more.
pub(crate) fn seed(name: &str) -> u64 {
    mix(name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The score of a member of `weight` for a client: the highest wins.
pub(crate) fn score(client: u64, seed: u64, weight: u32) -> f64 {
    let drawn = mix(client ^ seed) >> 32;
    let drawn = u32::try_from(drawn).unwrap_or(u32::MAX);
    // Between 0 and 1 without either, so that the logarithm is a number below 0.
    let uniform = (f64::from(drawn) + 0.5) / 4_294_967_296.0;
    f64::from(weight) / -uniform.ln()
}

pub(super) fn choose(client: u64, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    let scored = candidates.map(|one| (score(client, one.seed, one.weight), one));
    // Of equals the one with the smaller seed, so that the order of the members does not matter.
    scored.max_by(|(a, x), (b, y)| a.total_cmp(b).then(y.seed.cmp(&x.seed))).map(|(_, one)| one.index)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit given.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let candidate = |(index, weight): (usize, &u32)| Candidate {
            index,
            weight: *weight,
            open: 0,
            seed: seed(&format!("10.0.0.{index}:80")),
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    fn choices(clients: u32, first: IpAddr, members: &[Candidate]) -> Vec<usize> {
        let client = |offset: u32| match first {
            IpAddr::V4(address) => IpAddr::V4((address.to_bits() + offset).into()),
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() + u128::from(offset)).into()),
        };
        (0..clients)
            .map(|offset| choose(client_key(client(offset)), members.iter().copied()).unwrap())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_member_that_goes_takes_only_its_own_clients_along(
            count in 2usize..12,
            gone in any::<prop::sample::Index>(),
            v6 in any::<bool>(),
        ) {
            let first = if v6 { "2001:db8::" } else { "198.51.100.0" }.parse().unwrap();
            let members = candidates(&vec![1; count]);
            let gone = gone.index(count);
            let without: Vec<Candidate> = members.iter().copied().filter(|one| one.index != gone).collect();
            let before = choices(4000, first, &members);
            let after = choices(4000, first, &without);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            prop_assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == gone));
            // One in N, give or take five standard deviations.
            let share = 4000 / count;
            let slack = 5 * share.isqrt() + 5;
            prop_assert!(moved.abs_diff(share) <= slack, "{} of 4000 moved, {} expected", moved, share);
        }

        #[test]
        fn the_order_of_the_members_does_not_matter(client in any::<u32>(), weights in prop::collection::vec(1u32..9, 1..9)) {
            let members = candidates(&weights);
            let key = client_key(IpAddr::V4(client.into()));
            let reversed = choose(key, members.iter().rev().copied());
            prop_assert_eq!(choose(key, members.iter().copied()), reversed);
        }
    }

    #[test]
    fn clients_are_shared_by_weight() {
        let chosen = choices(12_000, "192.0.2.0".parse().unwrap(), &candidates(&[1, 2, 3]));
        for (index, share) in [2000_usize, 4000, 6000].into_iter().enumerate() {
            let count = chosen.iter().filter(|one| **one == index).count();
            assert!(count.abs_diff(share) < 300, "{index} got {count} of 12,000 instead of {share}");
        }
    }

    #[test]
    fn the_choice_stays_the_same_from_release_to_release() {
        // Computed once: were it to change, an upgrade would move every client.
        assert_eq!(client_key("192.0.2.1".parse().unwrap()), mix(0xc000_0201));
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the first number of SplitMix64 from 0");
        assert_eq!(
            choices(12, "192.0.2.0".parse().unwrap(), &candidates(&[1, 1, 1])),
            [0, 2, 2, 2, 1, 1, 1, 0, 0, 0, 1, 1]
        );
    }
}
