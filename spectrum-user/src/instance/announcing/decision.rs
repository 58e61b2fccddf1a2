//! Whether a prefix can be served, by the facts, and whether it is announced therefore: not as soon as a condition fails, and not as
//! soon as it holds again. Asks nobody for the facts.

use std::fmt;

use tokio::time::Instant;

use super::withdrawals::Withdrawal;
use crate::model::{AnnounceCondition, Announcing};
use crate::view::InstanceState;

/// All that decides whether a prefix can be served.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnnounceFacts<'a> {
    /// The phase of the instance's life.
    pub(super) state: InstanceState,
    /// The things that clients need and that others have removed, as the kernel was last seen.
    pub(super) hindrances: &'a [String],
    /// True if a reload is about to remove it.
    pub(super) is_leaving: bool,
    /// The operator's word, where there is one.
    pub(super) withdrawn: Option<&'a Withdrawal>,
    /// The conditions of services, each with the number of its origins that are up, where that is known.
    pub(super) conditions: &'a [(AnnounceCondition, Option<usize>)],
}

/// A reason not to announce a prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum WithdrawReason {
    /// The instance is in a phase in which it takes no new clients.
    Phase(InstanceState),
    /// Somebody removed what clients need.
    Hindrance(String),
    /// A reload is about to remove it.
    Leaving,
    /// The operator withdrew it.
    ByHand(Withdrawal),
    /// A service lacks origins.
    Origins {
        /// Its condition.
        condition: AnnounceCondition,
        /// The number of those that are up.
        up: usize,
    },
    /// Nobody has looked yet whether it lacks any.
    Unknown(AnnounceCondition),
}

/// The reasons for which a prefix cannot be served. Where there is none, it can.
pub(super) fn hindered(facts: &AnnounceFacts<'_>) -> Vec<WithdrawReason> {
    let mut reasons = Vec::new();
    if matches!(facts.state, InstanceState::Starting | InstanceState::LameDuck | InstanceState::Draining) {
        reasons.push(WithdrawReason::Phase(facts.state));
    }
    if facts.is_leaving {
        reasons.push(WithdrawReason::Leaving);
    }
    reasons.extend(facts.withdrawn.cloned().map(WithdrawReason::ByHand));
    reasons.extend(facts.hindrances.iter().cloned().map(WithdrawReason::Hindrance));
    for (condition, up) in facts.conditions {
        match up {
            None => reasons.push(WithdrawReason::Unknown(condition.clone())),
            Some(up) if *up < usize::from(condition.origins) => {
                reasons.push(WithdrawReason::Origins { condition: condition.clone(), up: *up });
            }
            Some(_) => {}
        }
    }
    reasons
}

/// Whether a prefix is announced, over time.
#[derive(Clone, Debug, Default)]
pub(super) struct AnnounceDamper {
    is_announced: bool,
    /// Since when a condition has failed, while it is announced all the same.
    failing: Option<Instant>,
    /// Since when it could be announced again.
    holding: Option<Instant>,
    /// When it was withdrawn for another reason than the operator's.
    withdrawn: Option<Instant>,
}

impl AnnounceDamper {
    /// One that is announced already.
    pub(super) fn announced() -> Self {
        Self { is_announced: true, ..Self::default() }
    }

    /// Whether a prefix is to be announced for which there are these `reasons` not to.
    pub(super) fn judge(&mut self, reasons: &[WithdrawReason], rules: &Announcing, now: Instant) -> bool {
        use WithdrawReason::{ByHand, Hindrance, Leaving, Origins, Phase, Unknown};
        if reasons.iter().any(|reason| matches!(reason, ByHand(_) | Leaving | Phase(_))) {
            // It is back as soon as there is no such word any more.
            *self = Self { withdrawn: self.withdrawn, ..Self::default() };
            return false;
        }
        if reasons.iter().any(|reason| matches!(reason, Hindrance(_))) {
            *self = Self { withdrawn: Some(now), ..Self::default() };
            return false;
        }
        if reasons.iter().any(|reason| matches!(reason, Origins { .. })) {
            self.holding = None;
            let failing = *self.failing.get_or_insert(now);
            if !self.is_announced {
                // One that never was announced has nothing to be held for.
                self.withdrawn.get_or_insert(now.checked_sub(rules.hold).unwrap_or(now));
            } else if now.duration_since(failing) >= rules.fall {
                *self = Self { withdrawn: Some(now), ..Self::default() };
            }
            return self.is_announced;
        }
        self.failing = None;
        if self.is_announced || reasons.iter().any(|reason| matches!(reason, Unknown(_))) {
            return self.is_announced;
        }
        if let Some(withdrawn) = self.withdrawn {
            let holding = *self.holding.get_or_insert(now);
            if now.duration_since(holding) < rules.rise || now.duration_since(withdrawn) < rules.hold {
                return false;
            }
        }
        *self = Self { is_announced: true, ..Self::default() };
        true
    }
}

impl fmt::Display for WithdrawReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(state) => write!(f, "the instance is {state}"),
            Self::Hindrance(what) => f.write_str(what),
            Self::Leaving => f.write_str("a reload is about to remove it"),
            Self::ByHand(withdrawal) => withdrawal.fmt(f),
            Self::Origins { condition: AnnounceCondition { service, origins }, up } => {
                write!(f, "{up} of the origins of {service} up, {origins} needed")
            }
            Self::Unknown(AnnounceCondition { service, .. }) => {
                write!(f, "the origins of {service} have not been checked yet")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rules() -> Announcing {
        let seconds = Duration::from_secs;
        Announcing { rise: seconds(3), fall: seconds(1), hold: seconds(10), ..Announcing::default() }
    }

    fn lacking() -> Vec<WithdrawReason> {
        let condition = AnnounceCondition { service: "web".parse().unwrap(), origins: 1 };
        vec![WithdrawReason::Origins { condition, up: 0 }]
    }

    #[test]
    fn it_can_be_served_if_nothing_speaks_against_it() {
        let condition = AnnounceCondition { service: "web".parse().unwrap(), origins: 2 };
        let judged = |state, hindrances: &[String], withdrawn: Option<&Withdrawal>, up| {
            let conditions = [(condition.clone(), up)];
            let facts =
                AnnounceFacts { state, hindrances, is_leaving: false, withdrawn, conditions: &conditions };
            hindered(&facts).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (ready, none) = (InstanceState::Ready, &[][..]);
        assert_eq!(judged(ready, none, None, Some(2)), [""; 0]);
        assert_eq!(judged(InstanceState::Reloading, none, None, Some(3)), [""; 0]);
        assert_eq!(judged(ready, none, None, Some(1)), ["1 of the origins of web up, 2 needed"]);
        assert_eq!(judged(ready, none, None, None), ["the origins of web have not been checked yet"]);
        for state in [InstanceState::Starting, InstanceState::LameDuck, InstanceState::Draining] {
            assert_eq!(judged(state, none, None, Some(2)), [format!("the instance is {state}")]);
        }
        let missing = ["local route 192.0.2.0/24 missing".to_owned()];
        assert_eq!(judged(ready, &missing, None, Some(2)), missing);
        let withdrawal = Withdrawal { why: Some("disk".into()), ..Withdrawal::default() };
        let told = judged(ready, none, Some(&withdrawal), Some(2));
        assert!(told[0].starts_with("by hand (disk)"), "{told:?}");
    }

    #[test]
    fn a_condition_that_fails_and_holds_by_turns_does_not_flap() {
        let (mut damper, rules, begun) = (AnnounceDamper::default(), rules(), Instant::now());
        let mut at = |seconds: f64, reasons: &[WithdrawReason]| {
            damper.judge(reasons, &rules, begun + Duration::from_secs_f64(seconds))
        };
        assert!(at(0.0, &[]), "it is announced at once where nothing speaks against it");
        assert!(at(1.0, &lacking()) && at(1.9, &lacking()), "not yet for long enough");
        assert!(at(1.95, &[]) && at(2.0, &lacking()) && at(2.9, &lacking()), "it begins anew");
        assert!(!at(3.1, &lacking()), "now");
        assert!(!at(4.0, &[]) && !at(8.0, &[]), "it has held for long enough, and is held back");
        assert!(!at(12.0, &lacking()) && !at(13.5, &[]) && !at(16.0, &[]), "it begins anew");
        assert!(at(16.5, &[]));
        let mut changes = 0;
        let mut before = true;
        for turn in 0..600 {
            let reasons = if turn % 2 == 0 { lacking() } else { Vec::new() };
            let now = at(20.0 + f64::from(turn) * 0.7, &reasons);
            changes += u32::from(now != before);
            before = now;
        }
        assert_eq!(changes, 0, "who is back within `fall` was never away");
    }

    #[test]
    fn the_operator_and_the_end_are_obeyed_at_once_and_without_aftermath() {
        let (mut damper, rules, now) = (AnnounceDamper::default(), rules(), Instant::now());
        assert!(damper.judge(&[], &rules, now));
        assert!(!damper.judge(&[WithdrawReason::ByHand(Withdrawal::default())], &rules, now));
        assert!(damper.judge(&[], &rules, now));
        assert!(!damper.judge(&[WithdrawReason::Leaving], &rules, now));
        assert!(damper.judge(&[], &rules, now), "the reload failed");
        assert!(!damper.judge(&[WithdrawReason::Phase(InstanceState::LameDuck)], &rules, now));
        assert!(damper.judge(&[], &rules, now));
        assert!(!damper.judge(&[WithdrawReason::Hindrance(String::new())], &rules, now));
        assert!(!damper.judge(&[], &rules, now + Duration::from_secs(9)), "what was missing may be so again");
        assert!(damper.judge(&[], &rules, now + Duration::from_secs(12)));
    }

    #[test]
    fn who_has_not_looked_yet_changes_nothing() {
        let unknown =
            [WithdrawReason::Unknown(AnnounceCondition { service: "web".parse().unwrap(), origins: 1 })];
        let (mut damper, rules, now) = (AnnounceDamper::default(), rules(), Instant::now());
        assert!(!damper.judge(&unknown, &rules, now));
        assert!(damper.judge(&[], &rules, now), "at once, since it never was withdrawn");
        assert!(damper.judge(&unknown, &rules, now + Duration::from_hours(1)));
        let mut late = AnnounceDamper::default();
        assert!(!late.judge(&lacking(), &rules, now));
        assert!(!late.judge(&[], &rules, now) && late.judge(&[], &rules, now + rules.rise), "without a hold");
    }
}
