//! Listeners that are not for steering and that bindings hide: those of other programs, which may be meant, and our own for
//! metrics and health, which cannot be. The plan says what is hidden.

use std::collections::BTreeSet;

use anyhow::bail;

use super::running::Running;
use super::view::View;
use crate::config::Config;
use crate::control::Conflict;
use crate::model::Protocol;
use crate::observe::AdminServer;
use crate::plan::{Extent, Plan};
use spectrum_steering::host::{self, ListeningSocket};

impl View {
    /// The listeners that bindings hide.
    pub(super) fn conflicts(&self) -> anyhow::Result<Vec<Conflict>> {
        let own = host::own_sockets();
        let is_admin =
            |socket: &ListeningSocket| socket.protocol == Protocol::Tcp && Some(socket.address) == self.admin;
        let others: Vec<ListeningSocket> = host::listening_sockets()?
            .into_iter()
            .filter(|socket| !own.contains(&socket.inode) || is_admin(socket))
            .collect();
        let addresses: Vec<_> = others.iter().map(|socket| (socket.protocol, socket.address)).collect();
        let hidden: Vec<_> = self
            .plan
            .hidden(&addresses)
            .into_iter()
            .filter_map(|hidden| Some((others.get(hidden.index)?, hidden.extent)))
            .collect();
        if hidden.is_empty() {
            return Ok(Vec::new());
        }
        let owners =
            host::socket_owners(&hidden.iter().map(|(socket, _)| socket.inode).collect::<BTreeSet<_>>());
        let conflicts = hidden.into_iter().map(|(socket, extent)| {
            let owner = owners.get(&socket.inode);
            Conflict {
                protocol: socket.protocol,
                address: socket.address,
                pid: owner.map(|owner| owner.pid),
                command: owner.map(|owner| owner.command.clone()),
                wholly: matches!(extent, Extent::Wholly { .. }),
                hidden: self.plan.hiding(socket.address, &extent),
            }
        });
        Ok(conflicts.collect())
    }
}

impl Running {
    /// A page that nobody can reach is no page. Asked once its port is known, before anything is steered by `plan`; `cure` says
    /// what can be done about it then.
    pub(super) fn refuse_hidden_admin(&self, plan: &Plan, config: &Config, cure: &str) -> anyhow::Result<()> {
        let Some(admin) = self.admin.as_ref().map(AdminServer::address) else { return Ok(()) };
        let Some(hiding) = plan.hiding_admin(admin) else { return Ok(()) };
        if self.force(config).covers(admin.ip()) {
            tracing::warn!("metrics and health on {admin} are hidden {hiding}");
            return Ok(());
        }
        bail!("serve metrics and health on {admin}: hidden {hiding}, so that nobody would reach them; {cure}")
    }
}
