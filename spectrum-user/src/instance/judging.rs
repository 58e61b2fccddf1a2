//! The part of the judgement of clients that is the worker process's: whom trusted proxies name, and everybody where iptables has the
//! rules. Judges nobody.

use std::sync::Arc;

use anyhow::Context as _;

use super::reload::has_lost_worker;
use super::running::Running;
use super::standby::aside;
use crate::config::{Config, FirewallChoice};
use crate::model::{Service, ServiceName};
use crate::plan::table::{RunTimeLists, SourceTable};
use crate::plan::{Plan, RunTimeSources};
use crate::registry::Mode;
use crate::worker_process::{Link, LinkError, NewJudge};
use spectrum_steering::tproxy::Tproxy;

/// The lists of what was said at run time that the worker process judges by; empty where it judges nobody.
#[derive(Debug, Default)]
pub(super) struct Judging {
    lists: RunTimeLists,
    /// Those that were prepared.
    next: RunTimeLists,
}

impl Running {
    /// Has the worker process behind `link` be ready to judge by `config`, `plan` and what was `said` at run time, as far as nobody judges
    /// clients before.
    pub(super) async fn prepare_judge(
        &mut self,
        link: &Link,
        config: &Config,
        plan: &Arc<Plan>,
        said: Arc<RunTimeSources>,
    ) -> anyhow::Result<()> {
        let judges_all = self.judges_all(config);
        let services = judged(config, judges_all);
        let is_open = plan.policies.is_empty() && !said.is_in_use;
        self.judging.next = RunTimeLists::default();
        if is_open || services.is_empty() {
            return link.prepare_judge(None).await;
        }
        let compiled = Arc::clone(plan);
        // A million prefixes take a while.
        let table = aside(move || SourceTable::of(&services, &compiled.policies, &said)).await?;
        let table = table.context("judge clients after accept")?;
        let gates = table.gates().map(|(service, family, gate)| (service.clone(), family, gate));
        let (nodes, run_time) = (table.nodes(), table.run_time().nodes());
        let next = NewJudge { gates: gates.collect(), nodes, run_time, judges_all };
        link.prepare_judge(Some(next)).await?;
        self.judging.next = table.run_time().clone();
        Ok(())
    }

    /// Has it judge by what was prepared, and by that alone.
    pub(super) async fn settle_judge(&mut self, link: &Link) -> Result<(), LinkError> {
        link.settle_judge().await?;
        self.judging.lists = std::mem::take(&mut self.judging.next);
        Ok(())
    }

    /// Both, where steering does not change.
    pub(super) async fn have_judged(
        &mut self,
        link: &Link,
        config: &Config,
        plan: &Arc<Plan>,
    ) -> anyhow::Result<()> {
        let said = self.denying.sources();
        self.prepare_judge(link, config, plan, said).await?;
        Ok(self.settle_judge(link).await?)
    }

    /// The same for the worker process that there is, by what holds now.
    pub(super) async fn judge_anew(&mut self) -> anyhow::Result<()> {
        let said = self.denying.sources();
        self.judge_by(said).await
    }

    /// What was said at run time is `next` now. A worker process that is gone is no failure: the next one is told what holds.
    pub(super) async fn judge_at_run_time(&mut self, next: &Arc<RunTimeSources>) -> anyhow::Result<()> {
        if judged(&self.config, self.judges_all(&self.config)).is_empty() {
            return Ok(());
        }
        let lists = &self.judging.lists;
        let refilled = if lists.nodes().is_empty() { None } else { lists.refilled(next)? };
        let judged = match refilled {
            Some(lists) => self.amend_judge(lists).await,
            // What is nobody's place yet takes other gates.
            None => self.judge_by(Arc::clone(next)).await,
        };
        match judged {
            Err(error) if has_lost_worker(&error) => Ok(()),
            judged => judged.context("judge clients after accept"),
        }
    }

    async fn judge_by(&mut self, said: Arc<RunTimeSources>) -> anyhow::Result<()> {
        let (link, config, plan) = (self.link()?, Arc::clone(&self.config), Arc::clone(&self.plan));
        self.prepare_judge(&link, &config, &plan, said).await?;
        Ok(self.settle_judge(&link).await?)
    }

    async fn amend_judge(&mut self, lists: RunTimeLists) -> anyhow::Result<()> {
        self.link()?.amend_judge(lists.nodes()).await?;
        self.judging.lists = lists;
        Ok(())
    }

    /// True if no rule and no program judges clients before they are accepted; as long as nobody knows, too.
    pub(super) fn judges_all(&self, config: &Config) -> bool {
        let by_rules = self.tproxy.as_ref().map(Tproxy::judges_sources);
        self.path == Some(Mode::Tproxy) && !by_rules.unwrap_or(config.firewall == FirewallChoice::Nftables)
    }
}

/// The services of which clients are judged after accept: all, or those that trust proxies.
fn judged(config: &Config, judges_all: bool) -> Vec<ServiceName> {
    let is_judged = |one: &&Service| judges_all || !one.policy.trusted_proxies.prefixes.is_empty();
    config.services.iter().filter(is_judged).map(|one| one.name.clone()).collect()
}
