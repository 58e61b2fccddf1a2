//! The TPROXY path's effect on the kernel: firewall rules, applied, replaced and removed. Decides nothing about what
//! they say.

mod denial_counts;
mod error;
mod firewall_program;
mod handed_on;
mod interrupt;
mod iptables;
mod iptables_rules;
mod look;
mod nftables;
mod nftables_rules;
mod notices;
mod program;
mod side_table;
mod trial;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use denial_counts::DenialCounts;
pub use error::{Purpose, TproxyError};
use firewall_program::{FirewallProgram, programs};
pub use firewall_program::{listings, may_translate};
use handed_on::RulesAccount;
#[doc(hidden)]
pub use handed_on::{HandedRules, HandedTable};
pub use interrupt::InterruptGuard;
use iptables_rules::IptablesRules;
pub use look::FirewallLook;
use nftables_rules::NftablesRules;
pub use notices::{FirewallNotice, FirewallNotices, Touched};
pub use side_table::SideTable;
pub use trial::{Trial, try_all};

use crate::plan::firewall::{Chain, ChainPart, ChainPlace, Firewall};

/// A firewall of the kernel's that can carry the rules.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Backend {
    /// A chain of iptables and one of ip6tables.
    Iptables,
    /// A table of our own per family.
    Nftables,
}

impl Backend {
    /// The order in which to try them where the user does not care. A table of our own is out of the way of everybody
    /// else's rules, whichever programs made them, its cost does not grow with the bindings, and it is kinder to other
    /// sockets. What a host already uses is no reason for the one or the other: the kernel runs both.
    pub const PREFERENCE: [Self; 2] = [Self::Nftables, Self::Iptables];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

/// The rules that steer, as one of the backends has them for as long as they are applied.
trait AppliedRules: fmt::Debug + Send + Sync {
    /// Their parts, each with the program that lists it.
    fn parts(&self) -> Vec<(Arc<dyn FirewallProgram>, ChainPart)>;

    /// Puts `firewall` in their place, or leaves them.
    fn exchange(&mut self, firewall: &Firewall) -> Result<(), TproxyError>;

    /// The same where that is quick; whether it was.
    fn amend(&mut self, firewall: &Firewall) -> Result<bool, TproxyError>;

    /// Applies them again, in place of what is left of them.
    fn put_back(&mut self) -> Result<(), TproxyError>;

    /// True if this program would make the same of `firewall`.
    fn is_of(&self, firewall: &Firewall) -> bool;

    /// The account of them, by which another process adopts them.
    fn account(&self) -> RulesAccount;

    /// Removes them.
    fn undo(self: Box<Self>) -> Vec<TproxyError>;
}

/// The rules that this process applied. They stay until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct Tproxy {
    rules: Box<dyn AppliedRules>,
    look: FirewallLook,
}

impl Tproxy {
    /// Applies `firewall` under the name `chain` with the first of `backends` that takes it: all of it or nothing.
    /// Families without rules need no iptables. Blocks the calling thread.
    ///
    /// # Errors
    /// Each firewall's error, where there are several as [`TproxyError::None`]; nothing was applied.
    /// [`TproxyError::Interrupted`].
    pub fn apply(backends: &[Backend], chain: &Chain, firewall: &Firewall) -> Result<Self, TproxyError> {
        let mut errors = Vec::new();
        for backend in backends {
            let applied: Result<Box<dyn AppliedRules>, _> = match backend {
                Backend::Iptables => IptablesRules::apply(chain, firewall).map(|rules| Box::new(rules) as _),
                Backend::Nftables => NftablesRules::apply(chain, firewall).map(|rules| Box::new(rules) as _),
            };
            match applied {
                Ok(rules) => {
                    let refused = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    if refused.is_empty() {
                        tracing::info!("firewall rules are in {backend}");
                    } else {
                        tracing::info!(refused, "firewall rules are in {backend}");
                    }
                    return Ok(Self { look: FirewallLook::of(rules.parts()), rules });
                }
                // The next one is not wanted either.
                Err(error @ TproxyError::Interrupted { .. }) => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Err(if errors.len() == 1 { errors.remove(0) } else { TproxyError::None(errors) })
    }

    /// True if its rules judge the sources of packets.
    #[must_use]
    pub fn judges_sources(&self) -> bool {
        self.look.parts().any(|part| matches!(part.place, ChainPlace::Table(_)))
    }

    /// The parts that were applied, by the names that the firewall's programs show.
    #[must_use]
    pub fn parts(&self) -> Vec<ChainPart> {
        self.look.parts().cloned().collect()
    }

    /// Puts `firewall` in place of what was applied before. A packet meets the rules of before or those of after, never
    /// some of each and never none. When it fails, the rules of before stay, or are put back: with iptables
    /// each family is a commit of its own. Blocks the calling thread.
    ///
    /// # Errors
    /// [`TproxyError`]: the rules of before are in force. [`TproxyError::Undo`]: not all of them are.
    pub fn replace(&mut self, firewall: &Firewall) -> Result<(), TproxyError> {
        let replaced = self.rules.exchange(firewall);
        self.look = FirewallLook::of(self.rules.parts());
        replaced
    }

    /// The same, and quick where whom it denies is all that is different. Blocks the calling thread.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace).
    pub fn amend(&mut self, firewall: &Firewall) -> Result<(), TproxyError> {
        match self.rules.amend(firewall) {
            // What it looks for later is what it was: sets are looked at without their elements.
            Ok(true) => Ok(()),
            Ok(false) => self.replace(firewall),
            Err(error) => {
                tracing::debug!(%error, "change the elements of sets; everything is made anew");
                self.replace(firewall)
            }
        }
    }

    /// A look whether it is as it was applied.
    #[must_use]
    pub fn look(&self) -> FirewallLook {
        self.look.clone()
    }

    /// True where nobody tells when the rules are changed, so that they have to be looked at again and again.
    #[must_use]
    pub fn is_untold(&self) -> bool {
        self.look.is_untold()
    }

    /// Applies again what was applied, in place of what is left of it. Blocks the calling thread.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn put_back(&mut self) -> Result<(), TproxyError> {
        self.rules.put_back()?;
        self.look = FirewallLook::of(self.rules.parts());
        Ok(())
    }

    /// The account of what was applied, for a process that takes the place of this one.
    #[doc(hidden)]
    #[must_use]
    pub fn handed_on(&self) -> HandedRules {
        HandedRules { rules: self.rules.account(), prints: self.look.prints() }
    }

    /// Adopts what `handed` says that another process has applied. Nothing is changed. Blocks the calling thread.
    ///
    /// # Errors
    /// The program that applied it is not there any more.
    #[doc(hidden)]
    pub fn adopt(handed: HandedRules) -> Result<Self, TproxyError> {
        let rules: Box<dyn AppliedRules> = match handed.rules {
            RulesAccount::Iptables { chain, families } => Box::new(IptablesRules::adopt(chain, families)?),
            RulesAccount::Nftables { chain, ruleset, leftover } => {
                Box::new(NftablesRules::adopt(chain, ruleset, leftover)?)
            }
        };
        Ok(Self { look: FirewallLook::handed_on(rules.parts(), &handed.prints), rules })
    }

    /// True if this program would apply the same for `firewall`.
    #[doc(hidden)]
    #[must_use]
    pub fn is_of(&self, firewall: &Firewall) -> bool {
        self.rules.is_of(firewall)
    }

    /// Removes what was applied. What is gone already is no error. Blocks the calling thread.
    #[must_use]
    pub fn undo(self) -> Vec<TproxyError> {
        self.rules.undo()
    }
}

/// Every chain and table of ours in the namespace, whichever process made it and with whichever program. Without the
/// programs there are none. Blocks the calling thread.
///
/// # Errors
/// A firewall's program fails in another way than by not being there.
pub fn list_ours() -> Result<BTreeSet<ChainPart>, TproxyError> {
    let mut ours = BTreeSet::new();
    for program in programs() {
        match program.parts() {
            Ok(parts) => ours.extend(parts),
            // A kernel that cannot have rules of this kind has none.
            Err(TproxyError::ExtensionMissing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ours)
}

/// Removes the chains `doomed`, of both families and variants, with the jumps to them, and the tables of the same
/// instances. Blocks the calling thread.
#[must_use]
pub fn remove(doomed: &BTreeSet<Chain>) -> Vec<TproxyError> {
    if doomed.is_empty() {
        return Vec::new();
    }
    let swept = programs().filter_map(|program| program.sweep(doomed).err());
    swept.filter(|error| !matches!(error, TproxyError::ExtensionMissing { .. })).collect()
}
