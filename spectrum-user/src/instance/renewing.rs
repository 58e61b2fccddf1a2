//! Another worker process in the place of one that serves: nothing is lost, since the next one serves everything before the former
//! leaves it, and goes on with its UDP sessions. Ends no connection: those of TCP have their time where they are.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::running::Running;
use crate::model::Protocol;
use crate::worker_process::{Host, WorkerProcess};

/// What became of a renewal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Renewed {
    /// The UDP sessions that went over.
    pub(crate) sessions: usize,
    /// The time that this took, in microseconds: so long at most what clients of one service sent has waited.
    pub(crate) moving_us: u64,
}

impl Running {
    /// Has another worker process take the place of the one that serves. After an error that one serves on, unless it ended itself. What it
    /// has open of TCP gets as much time as when the instance stops.
    pub(super) async fn renew_worker(&mut self) -> anyhow::Result<Renewed> {
        if matches!(self.host, Host::Thread(..)) {
            bail!(
                "renew the worker process: the instance is one process (--single-process); restart it instead"
            );
        }
        if self.leaving.are_many() {
            bail!(
                "renew the worker process: too many former ones have connections still; wait for these to end, see spectrum-user status, \
                 or restart with a shorter --drain"
            );
        }
        self.require_worker(Duration::ZERO).await?;
        let next = self.next_worker().await?;
        self.stop_asked.check()?;
        self.change_workers(next).await
    }

    /// Another worker process that is about to serve, and does as soon as it reads what it has.
    pub(super) async fn next_worker(&mut self) -> anyhow::Result<WorkerProcess> {
        let aim = self.aim();
        let (next, lookups) = self.another_worker_process(&aim.config)?;
        let link = next.link()?.clone();
        let stop = self.stop_asked.clone();
        // So that with name servers that answer the first connection finds its origin.
        self.meanwhile(stop.unless(lookups.done())).await??;
        link.avoid().await?;
        link.start(self.worker_count()?.get()).await?;
        link.hold().await?;
        self.serve_all(&link, &aim.config).await?;
        Ok(next)
    }

    /// Has `next` serve, and the one that serves leave.
    pub(super) async fn change_workers(&mut self, next: WorkerProcess) -> anyhow::Result<Renewed> {
        let link = next.link()?.clone();
        // From here on it serves. Connections are accepted by both for a moment.
        link.begin_reading(Protocol::Tcp).await?;
        let former = self.worker.replace(next).context("renew a worker process that is gone")?;
        self.published.worker().is(Some(link.clone()));
        let begun = Instant::now();
        let sessions = match former.link() {
            Ok(left) => left.leave_to(&link).await,
            Err(error) => Err(error),
        };
        let is_read = link.begin_reading(Protocol::Udp).await;
        let moving_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.leaving.add(former, self.settings.drain);
        self.publish();
        is_read?;
        let sessions = sessions.unwrap_or_else(|error| {
            tracing::error!("UDP sessions begin anew: {error:#}");
            0
        });
        tracing::info!(
            sessions,
            moving_us,
            "another worker process serves, and the former one is on its way out"
        );
        Ok(Renewed { sessions, moving_us })
    }
}
