//! Our own listener for metrics and health, which bindings must not hide. The plan says what is hidden.

use anyhow::bail;

use super::running::Running;
use crate::admin::AdminServer;
use crate::config::Config;
use crate::plan::Plan;

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
