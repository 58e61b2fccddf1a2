//! Looks at the firewall that are under way, one of each kind. What is found it judges not.

use std::io;
use std::time::Instant;

use anyhow::Context as _;
use futures_util::future::select_all;
use tokio::sync::oneshot;

use super::standby::Standby;
use super::stop::Stop;
use crate::model::ResourceKind;
use crate::plan::firewall::ChainPart;
use spectrum_steering::tproxy::{FirewallLook, InterruptGuard, TproxyError};

/// Looks at the firewall.
pub(super) static LOOKING: Standby = Standby::new("looks");

/// Looks that are taken by threads of their own, since programs are run for them, which may hang.
#[derive(Debug, Default)]
pub(super) struct FirewallLooks(Vec<UnderWay>);

#[derive(Debug)]
struct UnderWay {
    kind: ResourceKind,
    look: FirewallLook,
    begun: Instant,
    worth: Worth,
    outcome: oneshot::Receiver<Result<Vec<ChainPart>, TproxyError>>,
}

/// The finds of a look at the firewall.
pub(super) struct FirewallFinds {
    pub(super) kind: ResourceKind,
    pub(super) look: FirewallLook,
    pub(super) begun: Instant,
    pub(super) worth: Worth,
    pub(super) damaged: anyhow::Result<Vec<ChainPart>>,
}

/// The worth of a look that has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Worth {
    /// It is as it was seen.
    Full,
    /// Something was told of meanwhile, so that there is to be another.
    Less,
    /// What was looked at has been made anew meanwhile.
    Nothing,
}

impl FirewallLooks {
    /// The finds of the next that ends. Dropped while it waits, it forgets nothing.
    pub(super) async fn next(&mut self) -> FirewallFinds {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let (outcome, at, _) = select_all(self.0.iter_mut().map(|one| &mut one.outcome)).await;
        let UnderWay { kind, look, begun, worth, .. } = self.0.swap_remove(at);
        let damaged = outcome.context("wait for a look at the firewall").and_then(|found| Ok(found?));
        FirewallFinds { kind, look, begun, worth, damaged }
    }

    /// Waits for one to end, of which nobody wants to know what it finds; false if there is none.
    pub(super) async fn end_one(&mut self) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let _nobody_wants_it = self.next().await;
        true
    }

    /// Takes `look`, if none of that kind is under course, and gives it up once we are told to `stop`.
    pub(super) fn take(&mut self, kind: ResourceKind, look: FirewallLook, stop: &Stop) -> io::Result<()> {
        if let Some(one) = self.0.iter_mut().find(|one| one.kind == kind) {
            if one.worth == Worth::Full {
                one.worth = Worth::Less;
            }
            return Ok(());
        }
        let (taken, stop) = (look.clone(), stop.flag());
        let outcome = LOOKING.send(move || {
            let _given_up = InterruptGuard::by(stop);
            taken.damaged()
        })?;
        self.0.push(UnderWay { kind, look, begun: Instant::now(), worth: Worth::Full, outcome });
        Ok(())
    }

    /// What is found by the looks that are under way is worth nothing any more.
    pub(super) fn forget(&mut self) {
        for one in &mut self.0 {
            one.worth = Worth::Nothing;
        }
    }
}
