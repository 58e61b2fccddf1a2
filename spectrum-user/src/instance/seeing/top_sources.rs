//! Whom services turn away most, as it is told to who asks. Counts nobody.

use anyhow::{bail, ensure};

use crate::control::TopSourcesQuery;
use crate::observe::TopSourcesAnswer;
use crate::registry::Mode;
use crate::view::Present;

impl Present {
    /// Whom the service of `query` turned away, or each.
    ///
    /// # Errors
    /// Nobody is called so, or whoever turns clients away does not say whom.
    pub fn top_sources(&self, query: &TopSourcesQuery) -> anyhow::Result<TopSourcesAnswer> {
        let name = query.service.as_deref();
        if self.mode == Some(Mode::Tproxy) {
            bail!(
                "top-sources: over tproxy the firewall turns clients away and says not whom; `nft monitor trace` may, or steer by sk_lookup"
            );
        }
        if let Some(name) = name {
            let is_known = self.known.iter().any(|known| known.as_str() == name);
            ensure!(
                is_known,
                "top-sources: no service is called {name:?}; `spectrum-user status` lists those that there are"
            );
        }
        Ok(self.denied.told(name))
    }
}
