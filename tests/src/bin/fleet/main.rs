//! Measures what clients notice when something happens to one of three servers of a fleet: `fleet [COUNT [WORD]]` has every event happen
//! once with BIRD and once with FRR on the servers, over sk_lookup and TPROXY, IPv4 and IPv6, under 240 long connections and COUNT new
//! ones (1,000), 100 a second, and prints a row each; with a WORD those rows only that have it. It asserts nothing: `tests/routers.rs` does.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is test code: it panics where a test would"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;

use spectrum_tests::fleet::daemon::Speaker;
use spectrum_tests::fleet::event::{Aftermath, Event, Trial};
use spectrum_tests::fleet::load::LoadSize;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{Need, met};

const SIZE: LoadSize = LoadSize { long: 240, rate: 100 };

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let count = words.next().map_or(1000, |word| word.parse().expect("a number of connections"));
    let wanted = words.next().unwrap_or_default();
    println!(
        "event                               servers                withdrawn   new lost (undisturbed) slow   long broken: its, others'"
    );
    for event in Event::ALL {
        for (speaker, path) in Speaker::ALL
            .into_iter()
            .zip([Path::SkLookup, Path::TproxyNftables])
            .chain(Speaker::ALL.into_iter().zip([Path::TproxyNftables, Path::SkLookup]))
        {
            let family =
                if (speaker == Speaker::Bird) == (path == Path::SkLookup) { Family::V4 } else { Family::V6 };
            let row = format!("{event:35} {:22}", format!("{speaker}, {path}, {family}"));
            let needs = [path.needs(), &[Need::Ipv6, Need::Tun, Need::Bird, speaker.need(), Need::Resilient]]
                .concat();
            if !row.contains(&wanted) || !met(&row, &needs) {
                continue;
            }
            let aftermath = Trial { path, family, speaker, size: SIZE, count }.run(event);
            print(&row, &aftermath);
        }
    }
    ExitCode::SUCCESS
}

fn print(row: &str, aftermath: &Aftermath) {
    let withdrawn = aftermath.withdrawn.map_or("-".to_owned(), |time| format!("{} ms", time.as_millis()));
    let (tally, [own, others]) = (&aftermath.tally, [false, true].map(|others| aftermath.long(others)));
    println!(
        "{row} {withdrawn:>9}   {:3} of {} ({}) {:12}   {} of {}, {} of {}",
        tally.lost().count(),
        tally.attempts.len(),
        aftermath.lost_undisturbed().len(),
        tally.slow(),
        own.1,
        own.0,
        others.1,
        others.0
    );
    for change in &aftermath.changes {
        println!("    {change}");
    }
    let mut errors = BTreeMap::new();
    for attempt in tally.lost() {
        let error = attempt.outcome.as_ref().unwrap_err();
        *errors.entry(error.split_once(": ").map_or(error.as_str(), |(_, error)| error)).or_insert(0) += 1;
    }
    for (error, count) in errors {
        println!("    {count} times: {error}");
    }
}
