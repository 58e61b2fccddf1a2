//! What is remembered of the clients of a destination: to which of its registered sockets each went, while that is not long ago. Shares
//! may change between two packets of one client; what it has begun with one server it goes on with. Tells no time.
//!
//! A table of words, of fixed size. A client has two places, and who comes takes that of whoever has been silent for longer. Of those that
//! strangers drive out nothing is lost but this: that they go where the shares of now say.

use super::RegisteredId;
use crate::Address;

const PLACE_BITS: u32 = 15;

/// Words of the memory of a destination.
pub const MEMORY_WORDS: u32 = 1 << PLACE_BITS;

/// A client is told from others in its place by these bits of its hash.
const CLIENT_BITS: u32 = 24;
const SOCKET_BITS: u32 = 18;
const TIME_BITS: u32 = 22;
const TIME: u64 = (1 << TIME_BITS) - 1;
const SOCKET: u64 = (1 << SOCKET_BITS) - 1;
/// A tick is about an eighth of a second, and they wrap after six days.
const TICK_BITS: u32 = 27;

/// A word of the memory.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Remembered(u64);

impl Remembered {
    /// About nine seconds, in which the ACK of a SYN cookie follows its SYN.
    pub const TCP: u64 = 9_000_000_000 >> TICK_BITS;
    /// Half a minute, for which a client may be silent and still go on where it was.
    pub const UDP: u64 = 30_000_000_000 >> TICK_BITS;

    /// The hash of a client, whose own is `client`, and of what it dialled: by that it is remembered. Who dials something else, which it may from
    /// the same port at the same time, is new there.
    #[must_use]
    #[inline(always)]
    pub const fn key(client: u64, dialled: Address, port: u64) -> u64 {
        // What is dialled need only be spread: nobody can foresee the hash of a client.
        let spread = (dialled.hi ^ dialled.lo.rotate_left(17) ^ port).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        client ^ spread ^ spread >> 32
    }

    /// The places of the client with this hash, side by side.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits are the place")]
    pub const fn places(client: u64) -> [u32; 2] {
        let place = client as u32 & (MEMORY_WORDS - 1);
        [place, place ^ 1]
    }

    /// True if the client with this hash takes the second of its places, whose words are these, at `now`, and not the first.
    #[must_use]
    #[inline(always)]
    pub const fn takes_second([first, second]: [Self; 2], client: u64, now: u64) -> bool {
        if first.is_of(client) || second.is_of(client) {
            return !first.is_of(client);
        }
        second.age(now) > first.age(now)
    }

    /// The client with this hash has gone to `socket` at `now`, in nanoseconds.
    #[must_use]
    #[inline(always)]
    pub const fn of(client: u64, socket: RegisteredId, now: u64) -> Self {
        // One more, so that nobody is remembered by a word that was never written.
        let socket = (socket.0 as u64 + 1) & SOCKET;
        Self(Self::mark(client) << (SOCKET_BITS + TIME_BITS) | socket << TIME_BITS | now >> TICK_BITS & TIME)
    }

    /// The socket that the client with this hash went to, if that was not more than so many ticks before `now`, in nanoseconds.
    #[must_use]
    #[inline(always)]
    pub const fn socket(self, client: u64, now: u64, ticks: u64) -> Option<RegisteredId> {
        if !self.is_of(client) || self.age(now) > ticks {
            return None;
        }
        match (self.0 >> TIME_BITS & SOCKET) as u32 {
            0 => None,
            socket => Some(RegisteredId(socket - 1)),
        }
    }

    #[inline(always)]
    const fn is_of(self, client: u64) -> bool {
        self.0 >> (SOCKET_BITS + TIME_BITS) == Self::mark(client)
    }

    #[inline(always)]
    const fn age(self, now: u64) -> u64 {
        (now >> TICK_BITS).wrapping_sub(self.0) & TIME
    }

    /// Neither the bits of its slot nor those of its place.
    #[inline(always)]
    const fn mark(client: u64) -> u64 {
        client >> PLACE_BITS & ((1 << CLIENT_BITS) - 1)
    }

    /// The number that stands for it.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The word that `bits` stand for.
    #[must_use]
    #[inline(always)]
    pub const fn of_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const CLIENT: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn a_client_is_remembered_for_its_time_and_no_other_is() {
        let socket = RegisteredId(131_072 + 4_095);
        for start in [0, 77 * SECOND, (1 << (TICK_BITS + TIME_BITS)) - SECOND] {
            let word = Remembered::of_bits(Remembered::of(CLIENT, socket, start).bits());
            for (ticks, seconds) in [(Remembered::TCP, 9), (Remembered::UDP, 30)] {
                let known = |after: u64| word.socket(CLIENT, start + after, ticks);
                assert_eq!(known(0), Some(socket));
                assert_eq!(known((seconds - 1) * SECOND), Some(socket));
                assert_eq!(known((seconds + 1) * SECOND), None);
                assert_eq!(known(3_600 * SECOND), None);
            }
            for other in [CLIENT ^ 1 << PLACE_BITS, CLIENT ^ 1 << (PLACE_BITS + CLIENT_BITS - 1), 0, u64::MAX]
            {
                assert_eq!(word.socket(other, start, Remembered::UDP), None);
            }
        }
    }

    #[test]
    fn who_dials_something_else_is_another_client() {
        let dialled = [
            (0xc000_0207_u64 << 32, 0),
            (0xc000_0208 << 32, 0),
            (0x2001_0db8 << 32, 7),
            (7, 0x2001_0db8 << 32),
        ];
        let mut marks = [(0, 0); 8];
        for ((hi, lo), at) in dialled.into_iter().zip(0..) {
            for port in [443, 444] {
                let key = Remembered::key(CLIENT, Address { hi, lo }, port);
                let mark = (Remembered::places(key)[0] & !1, Remembered::mark(key));
                assert!(!marks.contains(&mark));
                marks[at * 2 + usize::from(port == 444)] = mark;
            }
        }
    }

    #[test]
    fn nobody_is_remembered_by_a_word_that_was_never_written() {
        for client in [0, CLIENT, u64::MAX] {
            for now in [0, SECOND, 1 << (TICK_BITS + TIME_BITS)] {
                assert_eq!(Remembered::default().socket(client, now, Remembered::UDP), None);
            }
        }
    }

    #[test]
    fn the_first_place_of_the_map_is_remembered_as_any_other() {
        let word = Remembered::of(CLIENT, RegisteredId(0), SECOND);
        assert_eq!(word.socket(CLIENT, SECOND, Remembered::TCP), Some(RegisteredId(0)));
    }

    #[test]
    fn places_are_within_the_memory_and_side_by_side() {
        assert_eq!(Remembered::places(0), [0, 1]);
        assert_eq!(Remembered::places(u64::MAX), [MEMORY_WORDS - 1, MEMORY_WORDS - 2]);
    }

    #[test]
    fn who_comes_takes_its_own_place_or_that_of_whoever_was_silent_for_longer() {
        let [one, other, stranger] = [1, 2, 3].map(|number| CLIENT ^ number << PLACE_BITS);
        let at = |client, second| Remembered::of(client, RegisteredId(7), second * SECOND);
        let words = [at(one, 100), at(other, 90)];
        let takes = |client| Remembered::takes_second(words, client, 101 * SECOND);
        assert_eq!([takes(one), takes(other), takes(stranger)], [false, true, true]);
        let [first, second] = words;
        assert!(!Remembered::takes_second([second, first], stranger, 101 * SECOND));
        assert!(Remembered::takes_second([first, Remembered::default()], stranger, 101 * SECOND));
    }
}
