//! How much of the tests a run does. Everything, unless the environment says that the machine is too slow for that:
//! `SPECTRUM_TEST_SCALE=0.02` is the share of what tests draw and repeat. `SPECTRUM_TEST_TURN=2` has every case run over
//! sk_lookup and one of the other paths, each with a family of its own, others with each turn; `SPECTRUM_TEST_TURN=2/8` has
//! one in eight of all pairs of a case and its path and family run, whichever these are. The few cases that no kernel may do
//! without run always. Does not choose what a test checks.

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use crate::path::{Family, Path};

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

/// The variants of a case, of which one is asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variants {
    /// One or two, all of which have to be done for the case to be done.
    Few,
    /// Every path.
    Each,
    /// Every path with each family.
    Every,
}

/// True if this run does the variant of `test` that has this path and family. Otherwise says that it is left out.
pub fn takes(test: &str, variants: Variants, path: Path, family: Family) -> bool {
    let Some(turn) = parse::<Turn>(VARIABLE) else { return true };
    let takes = ALWAYS.iter().any(|case| test.starts_with(case)) || turn.takes(test, variants, path, family);
    if !takes {
        // Not `println!`: libtest captures that, and what is left out must be seen when the test passes.
        writeln!(io::stdout(), "LEFT {test}: not in turn {turn}").expect("write to stdout");
    }
    takes
}

/// True if this run does number `index` of `count` tests, of which a turn has one, since they take long.
pub fn takes_one(test: &str, index: usize, count: usize) -> bool {
    let Some(turn) = parse::<Turn>(VARIABLE) else { return true };
    let takes = match turn {
        Turn::Round(number) => number % count == index,
        Turn::Share { number, of } => index % of == number,
    };
    if !takes {
        writeln!(io::stdout(), "LEFT {test}: not in turn {turn}").expect("write to stdout");
    }
    takes
}

/// The number of the turn, by which more than variants may go round; 0 where turns are not taken.
pub fn turn() -> usize {
    match parse(VARIABLE) {
        Some(Turn::Round(number)) => number,
        _ => 0,
    }
}

const VARIABLE: &str = "SPECTRUM_TEST_TURN";

/// After so many turns that follow each other, every variant of every case had one.
const ROUND: usize = 6;

/// A part of the variants of all cases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    /// A share of all variants, whichever these are.
    Share { number: usize, of: usize },
    /// sk_lookup and one of the other paths for every case, each with a family of its own.
    Round(usize),
}

impl Turn {
    /// Neighbouring variants of a case are in different turns, and so is the same variant of different cases.
    fn takes(self, test: &str, variants: Variants, path: Path, family: Family) -> bool {
        match (self, variants) {
            (Self::Share { number, of }, _) => {
                (hash(test) + path.number() + 4 * family.pick(0, 1)) % of == number
            }
            (Self::Round(_), Variants::Few) => true,
            (Self::Round(number), _) => {
                let at = (hash(test) + number) % ROUND;
                let is_path = path == Path::SkLookup || path.number() == 1 + at % 3;
                let of_tproxy = [Family::V4, Family::V6][at / 3];
                let is_family = (path == Path::SkLookup) != (family == of_tproxy);
                is_path && (is_family || variants == Variants::Each)
            }
        }
    }
}

/// A number of the case that the test is a variant of.
fn hash(test: &str) -> usize {
    let case = test.split("::").next().unwrap_or(test);
    case.bytes().fold(0, |sum, byte| (sum * 31 + usize::from(byte)) % 1_000_003)
}

impl FromStr for Turn {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let Some((number, of)) = text.split_once('/') else {
            return text.parse().map(Self::Round).map_err(drop);
        };
        let (number, of) = (number.parse().map_err(drop)?, of.parse().map_err(drop)?);
        if number < of { Ok(Self::Share { number, of }) } else { Err(()) }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share { number, of } => write!(f, "{number}/{of}"),
            Self::Round(number) => write!(f, "{number}"),
        }
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

    const PATHS: [Path; 4] =
        [Path::SkLookup, Path::TproxyIptablesLegacy, Path::TproxyIptablesNft, Path::TproxyNftables];

    fn all() -> Vec<(Path, Family)> {
        PATHS.into_iter().flat_map(|path| [(path, Family::V4), (path, Family::V6)]).collect()
    }

    #[test]
    fn every_variant_has_exactly_one_share() {
        let turn = |number| Turn::Share { number, of: 7 };
        for (path, family) in all() {
            let takes = |number: &usize| turn(*number).takes("a_case::x", Variants::Every, path, family);
            assert_eq!((0..7).filter(takes).count(), 1);
        }
        assert_eq!("3/7".parse(), Ok(turn(3)));
        assert_eq!("7/7".parse::<Turn>(), Err(()));
    }

    #[test]
    fn a_turn_has_both_kinds_of_path_and_both_families_and_a_round_everything() {
        for case in ["a_case::x", "another", "third", "a_case_more"] {
            let mut seen = Vec::new();
            for number in 10..10 + ROUND {
                let turn = Turn::Round(number);
                let taken: Vec<_> = all()
                    .into_iter()
                    .filter(|(path, family)| turn.takes(case, Variants::Every, *path, *family))
                    .collect();
                assert!(taken.len() == 2 && taken[0].1 != taken[1].1, "{taken:?}");
                assert!(taken[0].0 == Path::SkLookup && taken[1].0 != Path::SkLookup, "{taken:?}");
                seen.extend(taken);

                let of_paths = |path: &Path| turn.takes(case, Variants::Each, *path, Family::V4);
                assert!(of_paths(&PATHS[0]) && PATHS.iter().filter(|path| of_paths(path)).count() == 2);
                assert!(turn.takes(case, Variants::Few, PATHS[1], Family::V6));
            }
            assert!(all().iter().all(|variant| seen.contains(variant)), "{case}: {seen:?}");
        }
        assert_eq!("4".parse(), Ok(Turn::Round(4)));
    }
}
