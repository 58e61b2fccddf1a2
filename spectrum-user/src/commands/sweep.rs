//! Removes what dead instances left in the network namespace: routes with our protocol number and chains with our name
//! that no live instance claims. `run` does it before it starts, and `clean` by itself.

use std::collections::BTreeSet;

use anyhow::{anyhow, bail};

use crate::instance::StartupLock;
use crate::model::Prefix;
use crate::net::LocalRoutes;
use crate::tproxy;

/// Removes all leftovers and says what they were.
///
/// # Errors
/// Everything that could not be removed; the rest is gone all the same.
pub(super) async fn leftovers(lock: &StartupLock<'_>) -> anyhow::Result<Vec<String>> {
    let live = lock.live()?;
    let claimed: BTreeSet<Prefix> =
        live.iter().flat_map(|instance| instance.prefixes.iter().copied()).collect();
    let chains = live.into_iter().map(|instance| instance.chain).collect();
    let mut swept = Vec::new();
    let mut errors: Vec<anyhow::Error> = Vec::new();

    // Rules first: what they steered to is gone, and without them the kernel refuses what it now drops.
    match tproxy::sweep(&chains) {
        Ok(removed) => swept.extend(removed.into_iter().map(|chain| format!("firewall chain {chain}"))),
        Err(failed) => errors.extend(failed.into_iter().map(Into::into)),
    }
    let mut routes = LocalRoutes::open()?;
    let doomed: Vec<Prefix> =
        routes.list_ours().await?.into_iter().filter(|prefix| !claimed.contains(prefix)).collect();
    let failed = routes.remove(&doomed).await;
    if failed.is_empty() {
        swept.extend(doomed.iter().map(|prefix| format!("local route {prefix}")));
    }
    errors.extend(failed.into_iter().map(Into::into));

    for leftover in &swept {
        tracing::info!("removed {leftover}, which a killed instance left");
    }
    if errors.is_empty() {
        Ok(swept)
    } else {
        let list = errors.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ");
        bail!(anyhow!("{list}").context("remove what killed instances left"))
    }
}
