//! Whether an address of an origin is up, by what the checks say. Checks nothing itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::HealthCheck;

/// Up or down, and how sure we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Streak {
    pub(super) up: bool,
    /// Checks in a row that said the contrary.
    contrary: u16,
}

impl Streak {
    /// Before the first check: up, so that a start need not wait for checks, but one failure away from down.
    pub(super) fn unproven(check: &HealthCheck) -> Self {
        Self { up: true, contrary: check.fall.saturating_sub(1) }
    }

    /// Its state after one more check.
    #[must_use]
    pub(super) fn after(self, succeeded: bool, check: &HealthCheck) -> Self {
        if succeeded == self.up {
            return Self { up: self.up, contrary: 0 };
        }
        let contrary = self.contrary.saturating_add(1);
        let enough = if self.up { check.fall } else { check.rise };
        if contrary >= enough { Self { up: !self.up, contrary: 0 } } else { Self { up: self.up, contrary } }
    }
}

/// The health of one address and port, for all services that check it so.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) address: SocketAddr,
    pub(super) check: HealthCheck,
    /// The flag that connections look at.
    up: AtomicBool,
    record: Mutex<CheckHistory>,
}

/// The outcomes of the checks so far.
#[derive(Debug)]
struct CheckHistory {
    tally: Streak,
    last: Option<LastCheck>,
}

/// The outcome of the last check.
#[derive(Clone, Debug)]
pub(super) struct LastCheck {
    pub(super) at: Instant,
    /// The time that connecting took, or why it failed.
    pub(super) outcome: Result<Duration, String>,
}

impl Health {
    /// As it was with `before`, another set of checks of the same address, if there was one.
    pub(super) fn new(address: SocketAddr, check: HealthCheck, before: Option<&Self>) -> Self {
        let record = match before {
            Some(before) => {
                let before = before.record();
                CheckHistory { tally: Streak { up: before.tally.up, contrary: 0 }, last: before.last.clone() }
            }
            None => CheckHistory { tally: Streak::unproven(&check), last: None },
        };
        Self { address, check, up: AtomicBool::new(record.tally.up), record: Mutex::new(record) }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Notes a check. Whether the address is up now, if that has changed.
    pub(super) fn note(&self, outcome: Result<Duration, String>) -> Option<bool> {
        let mut record = self.record();
        let before = record.tally;
        record.tally = before.after(outcome.is_ok(), &self.check);
        record.last = Some(LastCheck { at: Instant::now(), outcome });
        let up = record.tally.up;
        self.up.store(up, Ordering::Relaxed);
        (up != before.up).then_some(up)
    }

    pub(super) fn last(&self) -> Option<LastCheck> {
        self.record().last.clone()
    }

    fn record(&self) -> std::sync::MutexGuard<'_, CheckHistory> {
        // Each change is complete in itself.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rise: u16, fall: u16) -> HealthCheck {
        HealthCheck { rise, fall, ..HealthCheck::default() }
    }

    /// `+` for a check that succeeds, `-` for one that fails; the answer says what is true after each.
    fn run(check: &HealthCheck, checks: &str) -> String {
        let mut tally = Streak::unproven(check);
        let mut shown = String::new();
        for one in checks.chars() {
            tally = tally.after(one == '+', check);
            shown.push(if tally.up { 'u' } else { 'd' });
        }
        shown
    }

    #[test]
    fn it_takes_rise_checks_to_come_up_and_fall_checks_to_go_down() {
        for (rise, fall, checks, expected) in [
            (2, 3, "+---++", "uuuddu"),
            (2, 3, "-", "d"),
            (2, 3, "-+-++", "ddddu"),
            (1, 1, "+-+-", "udud"),
            (3, 2, "+-+--+++", "uuuudddu"),
        ] {
            assert_eq!(run(&check(rise, fall), checks), expected, "rise {rise} fall {fall}: {checks}");
        }
    }

    #[test]
    fn a_new_set_of_checks_begins_where_the_old_one_was() {
        let address = "127.0.0.1:80".parse().unwrap();
        let old = Health::new(address, check(2, 3), None);
        assert_eq!(old.note(Err("refused".to_owned())), Some(false));
        assert_eq!(old.note(Err("refused".to_owned())), None);
        let new = Health::new(address, check(1, 1), Some(&old));
        assert!(!new.is_up());
        assert_eq!(new.note(Ok(Duration::ZERO)), Some(true));
    }
}
