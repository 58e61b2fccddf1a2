//! What brings origins' answers to clients' addresses back to this host, as the services of a configuration need it: made
//! when the first one needs it, removed when none does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, bail};

use crate::model::{DialSource, Family, OriginHost, Service, Target};
use crate::plan::ReplyNeeds;
use crate::plan::firewall::{Chain, ChainPart};
use crate::plan::reply_table::ReplyTable;
use spectrum_steering::host::{self, ReplyRoutes};
use spectrum_steering::tproxy::ReplyMark;

/// The exemption that there is.
#[derive(Debug, Default)]
pub(super) struct Replies {
    routed: BTreeSet<Family>,
    mark: Option<ReplyMark>,
}

impl Replies {
    /// Adds what `needs` asks for and is not there. After an error, [`lower`](Self::lower) undoes what was done.
    pub(super) async fn raise(&mut self, needs: &ReplyNeeds, chain: &Chain) -> anyhow::Result<()> {
        let missing: Vec<Family> = needs.families.difference(&self.routed).copied().collect();
        if !missing.is_empty() {
            let routes = ReplyRoutes::open()?;
            for family in missing {
                // First, since a failure may leave a part of it.
                self.routed.insert(family);
                routes.add(ReplyTable::of(chain), family).await.context(PURPOSE)?;
            }
        }
        if needs.mark() && self.mark.is_none() {
            self.mark = Some(ReplyMark::apply(chain).context(PURPOSE)?);
        }
        Ok(())
    }

    /// Removes what `needs` does not ask for. Returns every error.
    pub(super) async fn lower(&mut self, needs: &ReplyNeeds, chain: &Chain) -> Vec<anyhow::Error> {
        let mut errors: Vec<anyhow::Error> = Vec::new();
        if !needs.mark()
            && let Some(mark) = self.mark.take()
        {
            errors.extend(mark.undo().map(Into::into));
        }
        let doomed: Vec<Family> = self.routed.difference(&needs.families).copied().collect();
        if !doomed.is_empty() {
            match ReplyRoutes::open() {
                Ok(routes) => {
                    for family in doomed {
                        self.routed.remove(&family);
                        let failed = routes.remove_family(ReplyTable::of(chain), family).await;
                        errors.extend(failed.into_iter().map(Into::into));
                    }
                }
                Err(error) => errors.push(error.into()),
            }
        }
        errors
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

    /// Adds what is missing of the rules and routes.
    pub(super) async fn put_back_routes(&self, chain: &Chain) -> anyhow::Result<()> {
        let routes = ReplyRoutes::open()?;
        for family in &self.routed {
            routes.add(ReplyTable::of(chain), *family).await.context(PURPOSE)?;
        }
        Ok(())
    }

    /// The table that marks answers.
    pub(super) fn mark(&self) -> Option<&ReplyMark> {
        self.mark.as_ref()
    }

    /// Makes that table anew.
    pub(super) fn put_back_mark(&mut self) -> anyhow::Result<()> {
        self.mark.as_mut().map_or(Ok(()), |mark| mark.put_back().context(PURPOSE))
    }

    /// Its part in the firewall.
    pub(super) fn part(&self) -> Option<ChainPart> {
        self.mark.as_ref().map(ReplyMark::part)
    }

    /// True if there is more than `needs` asks for.
    pub(super) fn exceed(&self, needs: &ReplyNeeds) -> bool {
        !self.routed.is_subset(&needs.families) || (self.mark.is_some() && !needs.mark())
    }
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
