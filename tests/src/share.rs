//! How much of the tests a run does. Everything, unless the environment says that the machine is too slow for that:
//! `SPECTRUM_TEST_SCALE=0.02` is the share of what tests draw and repeat, `SPECTRUM_TEST_TURN=2/8` has one in
//! eight of all pairs of a case and its path and family run, others with each turn, but for the few cases that no kernel
//! may do without. Does not choose what a test checks.

use std::env;
use std::io::{self, Write};
use std::str::FromStr;

/// The share of `count` that is drawn or repeated, and never nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share of a count of tests"
)]
pub fn of(count: usize) -> usize {
    ((count as f64 * scale()) as usize).clamp(1, count.max(1))
}

/// Of many things in their order, how far to go to the next one that is done: 1, or more where the share is small.
pub fn step() -> usize {
    const MANY: usize = 10_000;
    MANY / of(MANY)
}

fn scale() -> f64 {
    parse("SPECTRUM_TEST_SCALE").unwrap_or(1.0)
}

/// Cases that are done on every path and family whatever the turn: without them a kernel would not be said to work.
const ALWAYS: [&str; 3] = [
    "any_port_of_any_address_answers",
    "any_port_of_any_address_echoes",
    "longer_prefix_hides_only_the_ports_it_binds",
];

/// True if this run does the variant number `variant` of `test`. Otherwise says that it is left out.
pub fn takes(test: &str, variant: usize) -> bool {
    let Some(turn) = parse::<Turn>("SPECTRUM_TEST_TURN") else { return true };
    let takes = ALWAYS.iter().any(|case| test.starts_with(case)) || turn.takes(test, variant);
    if !takes {
        // Not `println!`: libtest captures that, and what is left out must be seen when the test passes.
        writeln!(io::stdout(), "LEFT {test}: not in turn {}/{}", turn.number, turn.of)
            .expect("write to stdout");
    }
    takes
}

/// One of the parts into which the variants of all cases are divided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Turn {
    number: usize,
    of: usize,
}

impl Turn {
    /// Neighbouring variants of a case are in different turns, and so is the same variant of different cases.
    fn takes(self, test: &str, variant: usize) -> bool {
        let case = test.split("::").next().unwrap_or(test);
        let name = case.bytes().fold(0, |sum, byte| (sum * 31 + usize::from(byte)) % 1_000_003);
        (name + variant) % self.of == self.number
    }
}

impl FromStr for Turn {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, of) = text.split_once('/').ok_or(())?;
        let turn = Self { number: number.parse().map_err(drop)?, of: of.parse().map_err(drop)? };
        if turn.number < turn.of { Ok(turn) } else { Err(()) }
    }
}

/// The value of an environment variable, if it is set.
fn parse<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_error| panic!("{name}={text} is no share")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_exactly_one_turn() {
        for variant in 0..8 {
            let turns = (0..7).map(|number| Turn { number, of: 7 });
            assert_eq!(turns.filter(|turn| turn.takes("a_case::sk_lookup_ipv4", variant)).count(), 1);
        }
        assert_eq!("3/7".parse(), Ok(Turn { number: 3, of: 7 }));
        assert_eq!("7/7".parse::<Turn>(), Err(()));
    }
}
