//! What systemd is told, if it has started this process: that it is ready, how it fares in one line, and that it still lives.
//! Decides nothing; without systemd it does nothing.

use std::env;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

use crate::view::{InstanceState, Published};

/// The pause between looks at what is told in one line, where nothing happens that is told at once.
const STATUS: Duration = Duration::from_secs(10);

/// So many signs of life in the time in which systemd wants one.
const SIGNS: u32 = 4;

/// The time that an end may take from each telling on, whatever the unit says: how long it takes is said by who configures us.
const MORE_TIME: Duration = Duration::from_secs(30);

/// Tells how `published` fares, and gives signs of life, for as long as the running runtime comes round to it.
pub(super) fn begin(published: &Published) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watched = sd_notify::watchdog_enabled().map(|within| within / SIGNS);
    let published = published.clone();
    tokio::spawn(async move {
        let mut told = String::new();
        let mut untold = STATUS;
        let pause = watched.map_or(STATUS, |watched| watched.min(STATUS));
        loop {
            let mut states = Vec::new();
            let line = (untold >= STATUS).then(|| published.now().line());
            untold = if line.is_some() { pause } else { untold + pause };
            if let Some(line) = &line
                && *line != told
            {
                states.push(NotifyState::Status(line));
                told.clone_from(line);
            }
            if watched.is_some() {
                states.push(NotifyState::Watchdog);
            }
            if matches!(published.now().state, InstanceState::LameDuck | InstanceState::Draining) {
                states.push(more_time());
            }
            // What did not arrive is said where it matters: at the start and at reloads.
            if !states.is_empty() && sd_notify::notify(&states).is_err() {
                told.clear();
            }
            sleep(pause).await;
        }
    });
}

/// What asks for it.
fn more_time() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX))
}

/// Tells `state` and how `published` fares.
pub(super) fn notify(state: &[NotifyState<'_>], published: &Published) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let line = published.now().line();
    let mut states = [state, &[NotifyState::Status(&line)]].concat();
    if state.iter().any(|state| matches!(state, NotifyState::Stopping)) {
        states.push(more_time());
    }
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "notify systemd");
    }
}
