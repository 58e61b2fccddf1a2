//! The exemption of what is bound from NAT: made, made anew and removed. Decides nothing about what is exempted. Needs nft,
//! whichever program made the rules that take connections: the kernel asks the chains of all of them in one order.

use std::collections::BTreeSet;

use super::TproxyError;
use super::error::Purpose;
use super::nftables::{Kind, Nft};
use crate::plan::Exemption;
use crate::plan::firewall::{Chain, ChainPart, ChainPlace};

/// The exemption as this process made it. It stays until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct ExemptionTable {
    chain: Chain,
    nft: Nft,
}

impl ExemptionTable {
    /// Exempts under the name `chain`, in place of what was exempted under it before. Blocks the calling thread.
    pub fn apply(chain: &Chain, exemption: &Exemption) -> Result<Self, TproxyError> {
        Self::make(chain, exemption).map_err(|error| error.meant_for(Purpose::Exemption))
    }

    fn make(chain: &Chain, exemption: &Exemption) -> Result<Self, TproxyError> {
        let nft = Nft::find()?;
        // One transaction: after an error what was exempted before still is.
        nft.transact("apply", &exemption.creation(chain))?;
        Ok(Self { chain: chain.clone(), nft })
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
