//! How often sources may come: an account for each source prefix, in a table of fixed size that strangers cannot fill. Tells no time,
//! and knows no prefixes.
//!
//! An account is one word, so that no reader sees half of it: whose it is, and the time up to which that source has used what it may
//! (the theoretical arrival time of the generic cell rate algorithm). One whose time has passed says no more than an empty one, so
//! nothing is ever removed. A source has two places; where both are others', it takes that of who owes less. So who floods keeps its
//! account, and who comes once is forgotten.

/// Accounts in a table.
const ACCOUNTS: u32 = 1 << 17;
/// Connections in a table that were charged lately, behind the accounts.
const CHARGED: u32 = 1 << 17;
/// Words of a table.
pub const ACCOUNT_WORDS: u32 = ACCOUNTS + CHARGED;

const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// A connection is told from others by the upper bits of its hash, beside the time of its SYN.
const CHARGED_BITS: u32 = 24;
const CHARGED_TIME: u64 = (1 << CHARGED_BITS) - 1;
/// 1,024 ticks are about a millisecond.
const CHARGED_SHIFT: u32 = 10;
/// About eight seconds, in which the ACK follows a SYN that was let in.
const ACK_FOLLOWS: u64 = 8_000;

/// The words of a table of accounts. The kernel implements it over a map, the host over atomic numbers; neither locks, so of changes of
/// a word at the same instant one stays.
pub trait Accounts {
    /// The word at `index`, which is below [`ACCOUNT_WORDS`].
    fn load(&self, index: u32) -> u64;

    /// Changes it.
    fn store(&self, index: u32, word: u64);
}

/// The pace at which something may come: the ticks that each costs, and how far ahead a source may be.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Pace {
    /// The ticks from one to the next.
    pub cost: u32,
    /// The ticks that a source may be ahead and still come: the cost of one less than may come at once.
    pub window: u32,
}

/// A packet that comes, to be charged to an account.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Charge {
    /// The hash of the source prefix and of what counts it.
    pub account: u64,
    /// The hash of the connection, or 0 for a datagram.
    pub connection: u64,
    /// The time in ticks of 1,024 ns.
    pub now: u64,
}

/// True if it may come; then it is charged.
///
/// The socket lookup is asked for a SYN, and once more for the ACK that completes a handshake by a SYN cookie, and cannot tell one
/// from the other: what comes a second time by the same connection soon after it was let in is not charged, once.
#[inline(always)]
pub fn charge<A: Accounts + ?Sized>(charge: Charge, pace: Pace, accounts: &A) -> bool {
    let now = charge.now & TIME;
    if was_charged(&charge, accounts) {
        accounts.store(charged_place(charge.connection), 0);
        return true;
    }
    let Standing { at, used } = standing(&charge, accounts);
    if used - now > pace.window.into() {
        return false;
    }
    accounts.store(at, charge.account & !TIME | (used + u64::from(pace.cost)) & TIME);
    if charge.connection != 0 {
        let word = charge.connection & !CHARGED_TIME | since(now);
        accounts.store(charged_place(charge.connection), word);
    }
    true
}

/// True if [`charge`] would let it come now, at a [`Pace`] with this window. Nothing is charged: who sees packets before the socket lookup may turn away what that would.
#[inline(always)]
pub fn would_charge<A: Accounts + ?Sized>(charge: Charge, window: u32, accounts: &A) -> bool {
    let now = charge.now & TIME;
    was_charged(&charge, accounts) || standing(&charge, accounts).used - now <= window.into()
}

/// The account of a source, or the one that it gets.
struct Standing {
    /// Its place.
    at: u32,
    /// The time up to which the source has used what it may, not before now.
    used: u64,
}

#[inline(always)]
fn standing<A: Accounts + ?Sized>(charge: &Charge, accounts: &A) -> Standing {
    let (account, now) = (charge.account, charge.now & TIME);
    let owner = account & !TIME;
    let places = [place_of(account, ACCOUNTS), place_of(account >> 20, ACCOUNTS)];
    let words = places.map(|place| accounts.load(place));
    let [first, second] = words.map(|word| word & TIME);
    let (at, used) = if words[0] & !TIME == owner {
        (places[0], first)
    } else if words[1] & !TIME == owner {
        (places[1], second)
    } else if first <= second {
        (places[0], now)
    } else {
        (places[1], now)
    };
    Standing { at, used: if used < now { now } else { used } }
}

/// True if its connection was charged a little while ago.
#[inline(always)]
fn was_charged<A: Accounts + ?Sized>(charge: &Charge, accounts: &A) -> bool {
    if charge.connection == 0 {
        return false;
    }
    let word = accounts.load(charged_place(charge.connection));
    let is_same = word >> CHARGED_BITS == charge.connection >> CHARGED_BITS;
    is_same && since(charge.now & TIME).wrapping_sub(word) & CHARGED_TIME < ACK_FOLLOWS
}

#[inline(always)]
fn since(now: u64) -> u64 {
    now >> CHARGED_SHIFT & CHARGED_TIME
}

#[inline(always)]
fn charged_place(connection: u64) -> u32 {
    ACCOUNTS + place_of(connection, CHARGED)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower bits are the place")]
fn place_of(hash: u64, places: u32) -> u32 {
    hash as u32 & (places - 1)
}

/// The hash of `words` that nobody can foresee who does not know `secret` (SipHash-1-3 by Aumasson and Bernstein).
#[must_use]
#[inline(always)]
pub fn hash_of<const WORDS: usize>(secret: [u64; 2], words: [u64; WORDS]) -> u64 {
    let [k0, k1] = secret;
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        state[3] ^= word;
        state = round(state);
        state[0] ^= word;
    }
    let end = (WORDS as u64 * 8) << 56;
    state[3] ^= end;
    state = round(state);
    state[0] ^= end;
    state[2] ^= 0xff;
    state = round(round(round(state)));
    let [a, b, c, d] = state;
    a ^ b ^ c ^ d
}

#[inline(always)]
const fn round(state: [u64; 4]) -> [u64; 4] {
    let [mut a, mut b, mut c, mut d] = state;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::RefCell;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    struct Table(RefCell<Vec<u64>>);

    impl Table {
        fn new() -> Self {
            Self(RefCell::new(vec![0; ACCOUNT_WORDS as usize]))
        }
    }

    impl Accounts for Table {
        fn load(&self, index: u32) -> u64 {
            self.0.borrow()[index as usize]
        }

        fn store(&self, index: u32, word: u64) {
            self.0.borrow_mut()[index as usize] = word;
        }
    }

    const SECOND: u64 = 1_000_000_000 >> 10;
    /// Ten a second, five at once.
    const PACE: Pace = Pace { cost: 97_656, window: 4 * 97_656 };
    const SECRET: [u64; 2] = [1, 2];

    fn datagram(source: u64, now: u64) -> Charge {
        Charge { account: hash_of(SECRET, [source]), connection: 0, now }
    }

    fn syn(source: u64, port: u64, now: u64) -> Charge {
        Charge { connection: hash_of(SECRET, [source, port]), ..datagram(source, now) }
    }

    #[test]
    fn every_word_and_every_secret_makes_another_hash() {
        let hashes = [
            hash_of([1, 2], [7]),
            hash_of([1, 3], [7]),
            hash_of([2, 2], [7]),
            hash_of([1, 2], [8]),
            hash_of([1, 2], [7, 0]),
        ];
        let distinct: BTreeSet<u64> = hashes.into_iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_rate() {
        let table = Table::new();
        let start = 77 * SECOND;
        let admitted = |now| (0..20).filter(|_| charge(datagram(1, now), PACE, &table)).count();
        assert_eq!(admitted(start), 5);
        assert_eq!(admitted(start), 0);
        assert_eq!(admitted(start + SECOND / 10 + 1), 1);
        assert_eq!(admitted(start + SECOND), 5, "no more than a burst, however long it was silent");
        assert_eq!(admitted(start + 3600 * SECOND), 5);
        assert!(
            charge(datagram(2, start + 3600 * SECOND), PACE, &table),
            "others have accounts of their own"
        );
    }

    #[test]
    fn the_ack_of_a_cookie_is_not_charged_and_nothing_after_it_is_free() {
        let table = Table::new();
        let start = 77 * SECOND;
        for port in 1..=5 {
            assert!(charge(syn(1, port, start), PACE, &table));
        }
        assert!(!charge(syn(1, 6, start), PACE, &table));
        for port in 1..=5 {
            assert!(charge(syn(1, port, start + SECOND / 20), PACE, &table), "the ACK of {port}");
            assert!(!charge(syn(1, port, start + SECOND / 20), PACE, &table), "a SYN once more from {port}");
        }
        assert!(charge(syn(1, 9, start + SECOND / 10), PACE, &table));
        for port in 10..14 {
            assert!(charge(syn(1, port, start + 19 * SECOND), PACE, &table));
        }
        assert!(charge(syn(1, 9, start + 19 * SECOND), PACE, &table), "an old one is charged");
        assert!(!charge(syn(1, 15, start + 19 * SECOND), PACE, &table));
    }

    #[test]
    fn who_only_looks_says_what_would_be_said_and_charges_nothing() {
        let table = Table::new();
        let start = 77 * SECOND;
        for port in 1..20 {
            let syn = syn(1, port, start + u64::from(port == 19) * SECOND / 10);
            let looked = [(); 3].map(|()| would_charge(syn, PACE.window, &table));
            assert_eq!(looked, [charge(syn, PACE, &table); 3], "{port}");
        }
        assert!(
            would_charge(syn(1, 5, start + SECOND / 10), PACE.window, &table),
            "a SYN that was let in comes again"
        );
        assert!(!would_charge(syn(1, 6, start + SECOND / 10), PACE.window, &table));
        assert!(!would_charge(datagram(1, start + SECOND / 10), PACE.window, &table));
        assert!(would_charge(datagram(2, start), PACE.window, &table));
    }

    #[test]
    fn strangers_fill_nothing_and_who_floods_is_remembered() {
        let table = Table::new();
        let now = 77 * SECOND;
        let flood = |table: &Table| (0..20).filter(|_| charge(datagram(1, now), PACE, table)).count();
        assert_eq!(flood(&table), 5);
        for stranger in 1000..400_000 {
            assert!(charge(datagram(stranger, now), PACE, &table), "{stranger} came once");
        }
        assert_eq!(
            flood(&table),
            0,
            "three times as many strangers as there are accounts have not driven it out"
        );
    }
}
