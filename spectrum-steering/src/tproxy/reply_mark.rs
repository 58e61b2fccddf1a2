//! The mark on origins' answers to clients' addresses: made and removed. Needs nft whatever carries the rules of the
//! TPROXY path, and over `sk_lookup` as well.

use std::collections::BTreeSet;

use super::error::Purpose;
use super::nftables::{Kind, Nft};
use super::{FirewallLook, TproxyError};
use crate::plan::firewall::{Chain, ChainPart, ChainPlace, TableFamily, marking};

/// The mark as this process made it. It stays until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct ReplyMark {
    chain: Chain,
    nft: Nft,
    print: Option<String>,
}

impl ReplyMark {
    /// Marks the answers under the name `chain`. Blocks the calling thread.
    ///
    /// # Errors
    /// [`TproxyError`]: no nft, no `CAP_NET_ADMIN`, or a kernel that cannot; nothing was applied.
    pub fn apply(chain: &Chain) -> Result<Self, TproxyError> {
        Self::make(chain).map_err(|error| error.meant_for(Purpose::Replies))
    }

    fn make(chain: &Chain) -> Result<Self, TproxyError> {
        let nft = Nft::find()?;
        nft.apply(Kind::Replies, chain, &marking::creation(chain))?;
        let mut made = Self { chain: chain.clone(), nft, print: None };
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
        self.nft.transact("put back", &marking::creation(&self.chain))?;
        self.print = self.nft.first_print(&self.part());
        Ok(())
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
