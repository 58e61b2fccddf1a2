//! What brings origins' answers to clients' addresses back to this host, as the services of a configuration need it: made
//! when the first one needs it, removed when none does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, bail};

use crate::model::{DialSource, Family, OriginHost, Service, Target};
use crate::plan::firewall::{Chain, ChainPart};
use crate::plan::reply_table::ReplyTable;
use spectrum_steering::host::{self, ReplyRoutes};
use spectrum_steering::tproxy::{FirewallLook, SideTable};

/// The exemption that there is.
#[derive(Debug, Default)]
pub(super) struct Replies {
    routed: BTreeSet<Family>,
    pub(super) mark: Option<SideTable>,
}

impl Replies {
    /// Adds the rules and routes of `families`, or what is missing of them. After an error a part may be there.
    pub(super) async fn add(
        &mut self,
        families: impl Iterator<Item = Family>,
        chain: &Chain,
    ) -> anyhow::Result<()> {
        let routes = ReplyRoutes::open()?;
        for family in families {
            // First, since a failure may leave a part of it.
            self.routed.insert(family);
            routes.add(ReplyTable::of(chain), family).await.context(PURPOSE)?;
        }
        Ok(())
    }

    /// Removes those of `families`. Returns every error.
    pub(super) async fn remove(
        &mut self,
        families: impl Iterator<Item = Family>,
        chain: &Chain,
    ) -> Vec<anyhow::Error> {
        let doomed: Vec<Family> = families.filter(|family| self.routed.remove(family)).collect();
        if doomed.is_empty() {
            return Vec::new();
        }
        let routes = match ReplyRoutes::open() {
            Ok(routes) => routes,
            Err(error) => return vec![error.into()],
        };
        let mut errors = Vec::new();
        for family in doomed {
            let failed = routes.remove_family(ReplyTable::of(chain), family).await;
            errors.extend(failed.into_iter().map(Into::into));
        }
        errors
    }

    /// The families whose rules and routes were added.
    pub(super) fn routed(&self) -> impl Iterator<Item = Family> {
        self.routed.iter().copied()
    }

    /// Those of `routed` are there.
    pub(super) fn adopt(&mut self, routed: impl Iterator<Item = Family>) {
        self.routed.extend(routed);
    }

    /// A look whether it is as it was made, if it was.
    pub(super) fn look(&self) -> Option<FirewallLook> {
        self.mark.as_ref().map(SideTable::look)
    }

    /// The families whose rules or routes are not all there.
    pub(super) async fn broken(&self, chain: &Chain) -> anyhow::Result<Vec<Family>> {
        let mut broken = Vec::new();
        if !self.routed.is_empty() {
            let routes = ReplyRoutes::open()?;
            for family in &self.routed {
                if !routes.is_whole(ReplyTable::of(chain), *family).await? {
                    broken.push(*family);
                }
            }
        }
        Ok(broken)
    }

    /// Its part in the firewall.
    pub(super) fn part(&self) -> Option<ChainPart> {
        self.mark.as_ref().map(SideTable::part)
    }
}

/// Makes the table that marks answers, anew if there is one. Blocks the calling thread.
pub(super) fn make(mark: &mut Option<SideTable>, chain: &Chain) -> anyhow::Result<()> {
    match mark {
        Some(mark) => mark.put_back(),
        none => SideTable::marking(chain).map(|made| *none = Some(made)),
    }
    .context(PURPOSE)
}

const PURPOSE: &str = "bring back what origins answer to clients' addresses, for transparent = true";

/// Refuses origins that no answer would come back from: what a server on this host sends from an address that others
/// reach too leaves the host before anything could tell whom it is for.
pub(super) fn refuse_own_addresses(services: &[Service]) -> anyhow::Result<()> {
    let own: BTreeSet<IpAddr> = host::interface_addresses()?.into_iter().map(|of| of.address).collect();
    for service in services {
        let Target::Origins(origins) = &service.target else { continue };
        if origins.source != DialSource::Client {
            continue;
        }
        for origin in &origins.list {
            if let OriginHost::Address(address) = &origin.host
                && !address.is_loopback()
                && own.contains(address)
            {
                bail!(
                    "dial origin {origin} of service {} from clients' addresses: it is this host, and what a server here \
                     answers from {address} goes out to the clients; use a loopback address, or leave transparent out",
                    service.name
                );
            }
        }
    }
    Ok(())
}
