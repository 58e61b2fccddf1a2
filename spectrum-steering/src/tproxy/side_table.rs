//! The tables beside the rules that steer: the one that marks origins' answers to clients' addresses, and the one that exempts from
//! NAT. Decides nothing about what is in them. They need nft, whatever steers: no iptables can mark these answers, and the kernel
//! asks the chains of NAT of all programs in one order.

use std::sync::Arc;

use super::error::Purpose;
use super::handed_on::HandedTable;
use super::nftables::Nft;
use super::{FirewallLook, InterruptGuard, TproxyError};
use crate::plan::Exemption;
use crate::plan::firewall::{Chain, ChainPart, ChainPlace, TableFamily, marking};

/// A table as this process made it. It stays until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct SideTable {
    part: ChainPart,
    nft: Arc<Nft>,
    text: String,
    look: FirewallLook,
}

impl SideTable {
    /// Marks the answers under the name `chain`. Blocks the calling thread.
    ///
    /// # Errors
    /// [`TproxyError`]: no nft, no `CAP_NET_ADMIN`, or a kernel that cannot; nothing was applied.
    pub fn marking(chain: &Chain) -> Result<Self, TproxyError> {
        let place = ChainPlace::Table(TableFamily::Inet);
        let text = marking::creation(chain);
        Self::make(chain, place, text, |nft, text| nft.apply(Purpose::Replies, chain, text))
    }

    /// Exempts under the name `chain`, in place of what was exempted under it before. Blocks the calling thread.
    ///
    /// # Errors
    /// [`TproxyError`]: no nft, no `CAP_NET_ADMIN`, or a kernel that cannot; nothing was applied.
    pub fn exempting(chain: &Chain, exemption: &Exemption) -> Result<Self, TproxyError> {
        // One transaction: after an error what was exempted before still is.
        let text = exemption.creation(chain);
        Self::make(chain, ChainPlace::Exemption, text, |nft, text| nft.transact("apply", text))
    }

    /// Removes what an [`exempting`](Self::exempting) that failed may have made under the name `chain`, where there was nothing
    /// before. Blocks the calling thread.
    pub fn retreat(chain: &Chain) {
        let _whole = InterruptGuard::off();
        let doomed = [chain.clone()].into();
        if let Some(Err(error)) = Nft::find().ok().map(|nft| nft.remove(Some(Purpose::Exemption), &doomed)) {
            tracing::debug!(%error, "remove what a failed nft may have made");
        }
    }

    fn make(
        chain: &Chain,
        place: ChainPlace,
        text: String,
        apply: impl FnOnce(&Nft, &str) -> Result<(), TproxyError>,
    ) -> Result<Self, TproxyError> {
        let purpose = Purpose::of(&place);
        let nft = Nft::find().and_then(|nft| apply(&nft, &text).map(|()| Arc::new(nft)));
        let nft = nft.map_err(|error| error.meant_for(purpose))?;
        let part = ChainPart { chain: chain.clone(), place };
        Ok(Self { look: FirewallLook::of([(Arc::clone(&nft) as _, part.clone())]), part, nft, text })
    }

    /// The account of it, for a process that takes the place of this one.
    #[doc(hidden)]
    #[must_use]
    pub fn handed_on(&self) -> HandedTable {
        let print = self.look.prints().into_iter().next().and_then(|(_, print)| print);
        HandedTable { part: self.part.clone(), text: self.text.clone(), print }
    }

    /// Adopts the one that `handed` says that another process has made. Nothing is changed.
    ///
    /// # Errors
    /// There is no nft any more.
    #[doc(hidden)]
    pub fn adopt(handed: HandedTable) -> Result<Self, TproxyError> {
        let HandedTable { part, text, print } = handed;
        let nft = Arc::new(Nft::find()?);
        let look = FirewallLook::handed_on([(Arc::clone(&nft) as _, part.clone())], &[(part.clone(), print)]);
        Ok(Self { part, nft, text, look })
    }

    /// A look whether it is as it was made.
    #[must_use]
    pub fn look(&self) -> FirewallLook {
        self.look.clone()
    }

    /// Makes it again, in place of what is left of it. Blocks the calling thread.
    ///
    /// # Errors
    /// As for [`marking`](Self::marking).
    pub fn put_back(&mut self) -> Result<(), TproxyError> {
        self.nft.transact("put back", &self.text)?;
        self.look = FirewallLook::of([(Arc::clone(&self.nft) as _, self.part.clone())]);
        Ok(())
    }

    /// The part that was made, by the name that nft shows.
    #[must_use]
    pub fn part(&self) -> ChainPart {
        self.part.clone()
    }

    /// Removes it. What is gone already is no error. Blocks the calling thread.
    #[must_use]
    pub fn undo(self) -> Option<TproxyError> {
        self.nft.remove(Some(Purpose::of(&self.part.place)), &[self.part.chain].into()).err()
    }
}
