//! Addresses of the host's own interfaces that bindings take: refused where that cuts something, unless it is forced. The plan
//! says what is cut.

use std::collections::BTreeSet;

use anyhow::bail;

use super::running::Running;
use crate::config::Config;
use crate::model::Force;
use crate::plan::{Cut, Plan};
use spectrum_steering::host::{self, CoveredAddress, ListeningSocket};

/// So many listeners of an address are named; of the others there is a number.
const NAMED: usize = 4;

impl Running {
    /// The addresses that may be served although that cuts something: by flags, by `config`, and by reloads so far.
    pub(super) fn force(&self, config: &Config) -> Force {
        let mut force = self.settings.force.clone();
        force.extend(&config.force);
        force
    }

    /// See [`refuse_covered_addresses`].
    pub(super) fn refuse_covered_addresses(&self, plan: &Plan, config: &Config) -> anyhow::Result<()> {
        refuse_covered_addresses(plan, &self.force(config))
    }
}

/// Refuses what `plan` binds of the host's own addresses where that cuts something, unless it is of `force`: a typo in a prefix must not
/// lock anybody out of the host.
pub(crate) fn refuse_covered_addresses(plan: &Plan, force: &Force) -> anyhow::Result<()> {
    let covered = host::covered_addresses(&plan.routes, &host::interface_addresses()?);
    if covered.is_empty() {
        return Ok(());
    }
    let own = host::own_sockets();
    let others = host::listening_sockets()?.into_iter().filter(|socket| !own.contains(&socket.inode));
    let others: Vec<ListeningSocket> = others.collect();
    let places: Vec<_> = others.iter().map(|socket| (socket.protocol, socket.address)).collect();
    let (mut refused, mut values) = (Vec::new(), Vec::new());
    for covered in covered {
        let cut = plan.cut(covered.address, &places);
        if cut.is_empty() {
            tracing::info!("{covered}, where what is bound hides nothing");
            continue;
        }
        let told = format!("{covered}: serving it would cut {}", cut_in_words(&cut, &others));
        if force.covers(covered.address) {
            tracing::warn!("{told}; it is forced");
        } else {
            let CoveredAddress { address, .. } = covered;
            refused.push(told);
            values.push(address.to_string());
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    let flags: Vec<String> = values.iter().map(|value| format!("--force {value}")).collect();
    bail!(
        "{}; leave these ports of it out of the bindings, or, if it is meant, give {}, or write force = {values:?} under \
         [dispatcher]",
        refused.join("; "),
        flags.join(" ")
    )
}

fn cut_in_words(cut: &Cut, listeners: &[ListeningSocket]) -> String {
    let sockets: Vec<&ListeningSocket> =
        cut.listeners.iter().filter_map(|index| listeners.get(*index)).collect();
    let inodes: BTreeSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let owners = host::socket_owners(&inodes);
    let mut named: Vec<String> = Vec::new();
    for ListeningSocket { protocol, address, inode } in &sockets {
        let port = address.port();
        let one = match owners.get(inode) {
            Some(owner) => format!("{} (process {}) on {protocol} {port}", owner.command, owner.pid),
            None => format!("who listens on {protocol} {port}"),
        };
        if !named.contains(&one) {
            named.push(one);
        }
    }
    let more = named.len().saturating_sub(NAMED);
    named.truncate(NAMED);
    if more > 0 {
        named.push(format!("{more} others"));
    }
    if named.is_empty() {
        named.push("ssh, whenever it listens on tcp 22".to_owned());
    }
    named.join(", ")
}
