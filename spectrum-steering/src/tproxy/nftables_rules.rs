//! The rules that steer, in a table of nftables for each family: applied, exchanged and removed, both families in one transaction.
//! Makes no rule.

use std::sync::Arc;

use super::error::Purpose;
use super::handed_on::RulesAccount;
use super::nftables::Nft;
use super::{AppliedRules, FirewallProgram, InterruptGuard, TproxyError};
use crate::plan::firewall::nftables::Ruleset;
use crate::plan::firewall::{Chain, ChainPart, ChainPlace, Firewall};

/// The rules as they are applied.
#[derive(Debug)]
pub(super) struct NftablesRules {
    chain: Chain,
    nft: Arc<Nft>,
    ruleset: Ruleset,
    /// Removes what an earlier replacement could not.
    leftover: Option<String>,
}

impl NftablesRules {
    /// Applies `firewall` under the name `chain`, or nothing of it.
    pub(super) fn apply(chain: &Chain, firewall: &Firewall) -> Result<Self, TproxyError> {
        let ruleset = Ruleset::compile(chain, firewall)?;
        let nft = Arc::new(Nft::find()?);
        nft.apply(Purpose::Steering, chain, &ruleset.creation())?;
        Ok(Self { chain: chain.clone(), nft, ruleset, leftover: None })
    }

    /// Those that another process has applied.
    pub(super) fn adopt(
        chain: Chain,
        ruleset: Ruleset,
        leftover: Option<String>,
    ) -> Result<Self, TproxyError> {
        Ok(Self { chain, nft: Arc::new(Nft::find()?), ruleset, leftover })
    }
}

impl AppliedRules for NftablesRules {
    fn parts(&self) -> Vec<(Arc<dyn FirewallProgram>, ChainPart)> {
        let part = |place| ChainPart { chain: self.chain.clone(), place };
        let table = |family| (Arc::clone(&self.nft) as _, part(ChainPlace::Table(family)));
        self.ruleset.families().map(|family| table(family.into())).collect()
    }

    fn exchange(&mut self, firewall: &Firewall) -> Result<(), TproxyError> {
        let nft = &self.nft;
        if let Some(leftover) = self.leftover.take()
            && let Err(error) = nft.transact("remove", &leftover)
        {
            // The removal that was said to fail may have done its work.
            tracing::debug!(%error, "remove what an earlier replacement left");
        }
        let next = self.ruleset.next(&self.chain, firewall)?;
        let replacement = next.replacement(&self.ruleset);
        let prepared = nft.transact("prepare", &replacement.preparation);
        // What is taken back when it fails must not be given up for the reason that it failed.
        let _whole = InterruptGuard::off();
        let exchanged = prepared.and_then(|()| nft.transact("replace", &replacement.exchange));
        if let Err(source) = exchanged {
            if let Err(error) = nft.transact("remove", &replacement.retreat) {
                tracing::debug!(%error, "remove what a failed replacement prepared");
                self.leftover = Some(replacement.retreat);
            }
            return Err(source);
        }
        if let Err(error) = nft.transact("remove", &replacement.cleanup) {
            tracing::warn!("remove the replaced firewall rules, which steer nothing any more: {error}");
            self.leftover = Some(replacement.cleanup);
        }
        self.ruleset = next;
        Ok(())
    }

    fn amend(&mut self, firewall: &Firewall) -> Result<bool, TproxyError> {
        let Some((text, next)) = self.ruleset.amended(&self.chain, firewall) else { return Ok(false) };
        if !text.is_empty() {
            self.nft.transact("amend", &text)?;
        }
        self.ruleset = next;
        Ok(true)
    }

    fn put_back(&mut self) -> Result<(), TproxyError> {
        // The names are those of this generation: the next one replaces it as if nothing had happened.
        self.nft.transact("put back", &self.ruleset.creation())?;
        self.leftover = None;
        Ok(())
    }

    fn is_of(&self, firewall: &Firewall) -> bool {
        self.ruleset.is_of(&self.chain, firewall)
    }

    fn account(&self) -> RulesAccount {
        let Self { chain, ruleset, leftover, .. } = self;
        RulesAccount::Nftables { chain: chain.clone(), ruleset: ruleset.clone(), leftover: leftover.clone() }
    }

    fn undo(self: Box<Self>) -> Vec<TproxyError> {
        self.nft.remove(Some(Purpose::Steering), &[self.chain].into()).err().into_iter().collect()
    }
}
