//! The exemption of what is bound from NAT: made, made anew and removed. Decides nothing about what is exempted. Needs nft,
//! whichever program made the rules that take connections: the kernel asks the chains of all of them in one order.

use std::collections::BTreeSet;

use super::error::Purpose;
use super::nftables::{Kind, Nft};
use super::{FirewallLook, TproxyError};
use crate::plan::Exemption;
use crate::plan::firewall::{Chain, ChainPart, ChainPlace};

/// The exemption as this process made it. It stays until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct ExemptionTable {
    chain: Chain,
    nft: Nft,
    text: String,
    print: Option<String>,
}

impl ExemptionTable {
    /// Exempts under the name `chain`, in place of what was exempted under it before. Blocks the calling thread.
    ///
    /// # Errors
    /// [`TproxyError`]: no nft, no `CAP_NET_ADMIN`, or a kernel that cannot; nothing was applied.
    pub fn apply(chain: &Chain, exemption: &Exemption) -> Result<Self, TproxyError> {
        Self::make(chain, exemption).map_err(|error| error.meant_for(Purpose::Exemption))
    }

    fn make(chain: &Chain, exemption: &Exemption) -> Result<Self, TproxyError> {
        let nft = Nft::find()?;
        // One transaction: after an error what was exempted before still is.
        let text = exemption.creation(chain);
        nft.transact("apply", &text)?;
        let mut made = Self { chain: chain.clone(), nft, text, print: None };
        made.print = made.nft.first_print(&made.part());
        Ok(made)
    }

    /// A look whether it is as it was made.
    #[must_use]
    pub fn look(&self) -> FirewallLook {
        let mut look = FirewallLook::default();
        look.add_nft(&self.nft, self.part(), self.print.as_ref());
        look
    }

    /// Makes it again, in place of what is left of it. Blocks the calling thread.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn put_back(&mut self) -> Result<(), TproxyError> {
        self.nft.transact("put back", &self.text)?;
        self.print = self.nft.first_print(&self.part());
        Ok(())
    }

    /// The part that was made, by the name that nft shows.
    #[must_use]
    pub fn part(&self) -> ChainPart {
        ChainPart { chain: self.chain.clone(), place: ChainPlace::Exemption }
    }

    /// Removes it. What is gone already is no error. Blocks the calling thread.
    #[must_use]
    pub fn undo(self) -> Option<TproxyError> {
        self.nft.remove(Kind::Exemption, &BTreeSet::from([self.chain])).err()
    }
}
