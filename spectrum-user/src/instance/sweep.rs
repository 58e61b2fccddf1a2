//! Removes what dead instances left in the network namespace: routes with our protocol number and chains with our name
//! that no live instance claims. `run` does it before it starts, and `clean` by itself.

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow};

use crate::pinned::PinnedPlace;
use crate::registry::{Leftovers, StartupLock, unfinished_pins};
use spectrum_steering::dispatcher::unpin;
use spectrum_steering::host::{LocalRoutes, ReplyRoutes};
use spectrum_steering::tproxy;

/// Removes all leftovers and returns what they were.
///
/// # Errors
/// Everything that could not be removed; the rest is gone all the same.
pub(crate) async fn leftovers(lock: &StartupLock) -> anyhow::Result<Vec<String>> {
    let mut routes = LocalRoutes::open()?;
    let chains = tproxy::list_ours().unwrap_or_else(|error| {
        // sk_lookup needs no firewall, so a firewall that cannot be read must not stop it.
        tracing::warn!("look for firewall rules of killed instances: {error}");
        BTreeSet::default()
    });
    let replies = ReplyRoutes::open()?;
    let tables = replies.list_ours().await?;
    let leftovers = Leftovers::among(routes.list_ours().await?, chains, tables, &lock.live()?);
    let doomed = leftovers.chains.iter().map(|part| part.chain.clone()).collect();
    // Rules first: what they steered to is gone, and without them the kernel refuses what it now drops.
    let mut lines = leftovers.lines();
    for path in unfinished_pins(lock.namespace()).into_iter().filter(|path| path.is_dir()) {
        unpin(&path).with_context(|| format!("remove pins {}", path.display()))?;
        lines.push(format!("pins {}", path.display()));
        PinnedPlace::of(lock.namespace()).tidy();
    }
    let mut errors: Vec<anyhow::Error> = tproxy::remove(&doomed).into_iter().map(Into::into).collect();
    errors.extend(routes.remove(&leftovers.routes).await.into_iter().map(Into::into));
    for table in &leftovers.tables {
        errors.extend(replies.remove(*table).await.into_iter().map(Into::into));
    }
    if !errors.is_empty() {
        let list = errors.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ");
        return Err(anyhow!("{list}").context("remove what killed instances left"));
    }
    Ok(lines)
}
