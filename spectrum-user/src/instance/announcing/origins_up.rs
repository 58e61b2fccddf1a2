//! How many origins of services are up, for those services that are announced for it only: asked for again and again. Decides nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::config::Config;
use crate::model::{ServiceName, Target};
use crate::view::{OriginView, Published};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// The number of origins of each service that are up, as far as that is known.
#[derive(Debug)]
pub(super) struct OriginsUp {
    now: watch::Receiver<HashMap<ServiceName, usize>>,
    task: AbortHandle,
}

impl OriginsUp {
    /// Begins to ask, by a task on the runtime of `host`.
    pub(super) fn begin(published: Published, host: &Handle) -> Self {
        let (tell, now) = watch::channel(HashMap::new());
        let task = host.spawn(ask(published, tell)).abort_handle();
        Self { now, task }
    }

    /// The number of origins of `service` that are up, if anybody knows.
    pub(super) fn of(&self, service: &ServiceName) -> Option<usize> {
        self.now.borrow().get(service).copied()
    }

    /// Waits until a number is another. Never if there will be none.
    pub(super) async fn changed(&mut self) {
        if self.now.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for OriginsUp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(published: Published, tell: watch::Sender<HashMap<ServiceName, usize>>) {
    loop {
        let now = published.now();
        let services = asking(&now.config);
        if !services.is_empty() {
            let asked = services.iter().cloned().collect();
            let (look, error) = now.worker.look(asked, now.config.services.len()).await;
            // Who does not answer may be back in a moment: what was known holds until then.
            if error.is_none() {
                let count = |name: &ServiceName| {
                    let rows = OriginView::all(&look, name);
                    Some((name.clone(), up(&rows, is_checked(&now.config, name))?))
                };
                let counted: HashMap<_, _> = services.iter().filter_map(count).collect();
                tell.send_if_modified(|before| {
                    let is_new = *before != counted;
                    *before = counted;
                    is_new
                });
            }
        }
        if tell.is_closed() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// The services that are announced for as long as they have origins.
fn asking(config: &Config) -> HashSet<ServiceName> {
    let conditions = config.announcing.prefixes.values().flatten();
    conditions.map(|condition| condition.service.clone()).collect()
}

fn is_checked(config: &Config, name: &ServiceName) -> bool {
    let service = config.services.iter().find(|service| service.name == *name);
    service.is_some_and(
        |service| matches!(&service.target, Target::Origins(origins) if origins.health.is_some()),
    )
}

/// The number of origins that have an address which is up; `None` while none is known to be and some are still to be checked.
fn up(rows: &[OriginView], is_checked: bool) -> Option<usize> {
    let is_seen = |row: &&OriginView| !is_checked || row.last_check.is_some();
    let ups = rows.iter().filter(|row| row.is_up());
    let up: HashSet<&str> = ups.clone().filter(is_seen).map(|row| row.plan.origin.as_str()).collect();
    let is_waited_for = ups.filter(|row| !is_seen(row)).any(|row| !up.contains(row.plan.origin.as_str()));
    if is_waited_for { None } else { Some(up.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{CheckView, OriginPlan};
    use spectrum_proxy::OriginCondition;

    fn row(origin: &str, condition: OriginCondition, is_checked: bool) -> OriginView {
        let plan = OriginPlan { origin: origin.into(), role: "primary".into(), weight: 1 };
        let check = CheckView { ago_ms: 1, connected_us: Some(1), error: None };
        OriginView {
            plan,
            condition,
            last_check: is_checked.then_some(check),
            ..OriginView::up_at("192.0.2.1:80")
        }
    }

    #[test]
    fn origins_are_counted_and_not_addresses_and_what_nobody_has_checked_is_not_known() {
        use OriginCondition::{Down, Up};
        assert_eq!(up(&[row("a", Up, true), row("a", Up, true), row("b", Down, true)], true), Some(1));
        assert_eq!(up(&[row("a", Up, false), row("b", Down, true)], true), None);
        assert_eq!(up(&[row("a", Up, false), row("b", Down, false)], false), Some(1));
        assert_eq!(up(&[row("a", Up, true), row("a", Up, false)], true), Some(1));
        assert_eq!(up(&[], true), Some(0));
    }
}
