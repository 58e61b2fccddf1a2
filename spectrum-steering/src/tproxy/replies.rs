//! The mark on origins' answers to clients' addresses: made and removed. Needs nft whatever carries the rules of the
//! TPROXY path, and over `sk_lookup` as well.

use std::collections::BTreeSet;

use super::TproxyError;
use super::error::Purpose;
use super::nftables::{Kind, Nft};
use crate::plan::firewall::{Chain, ChainPart, ChainPlace, TableFamily, replies};

/// The mark as this process made it. It stays until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct ReplyMark {
    chain: Chain,
    nft: Nft,
}

impl ReplyMark {
    /// Marks the answers under the name `chain`. Blocks the calling thread.
    pub fn apply(chain: &Chain) -> Result<Self, TproxyError> {
        Self::make(chain).map_err(|error| error.meant_for(Purpose::Replies))
    }

    fn make(chain: &Chain) -> Result<Self, TproxyError> {
        let nft = Nft::find()?;
        nft.apply(Kind::Replies, chain, &replies::creation(chain))?;
        Ok(Self { chain: chain.clone(), nft })
    }

    /// The part that was made, by the name that nft shows.
    #[must_use]
    pub fn part(&self) -> ChainPart {
        ChainPart { chain: self.chain.clone(), place: ChainPlace::Table(TableFamily::Inet) }
    }

    /// Removes it. What is gone already is no error. Blocks the calling thread.
    #[must_use]
    pub fn undo(self) -> Option<TproxyError> {
        self.nft.remove(Kind::Replies, &BTreeSet::from([self.chain])).err()
    }
}
