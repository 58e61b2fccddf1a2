//! Health checks: a connection by TCP to an address now and then, on which nothing is asked, or a question by UDP. What to make of
//! an outcome is `health`'s.

use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::datagram_check::answers;
use crate::header::Header;
use crate::model::{CheckClose, HealthCheck, HealthProbe};
use crate::origins::health::Health;
use crate::report::DialFailure;
use crate::tcp::dial_source::connect_from_host;
use crate::tcp::stream::Stream;

/// So many checks are under way at most: each needs a descriptor, and connections need them more.
pub(super) const AT_ONCE: usize = 256;

/// By how much of the interval checks are spread, so that many origins are not checked in step.
const SPREAD: f64 = 0.1;

/// The time that an origin may take for its own FIN, during which others that wait for their check may have to.
const FAREWELL: Duration = Duration::from_secs(1);

/// Checks until nobody is interested any more, when there is a permit of `turns`. `services` names those that use what is
/// checked, for the log.
pub(super) async fn check(
    turns: Rc<Semaphore>,
    health: Weak<Health>,
    services: impl Fn(&Arc<Health>) -> String,
) {
    let Some((address, settings)) = health.upgrade().map(|health| (health.address, health.check.clone()))
    else {
        return;
    };
    sleep(settings.interval.min(Duration::from_secs(1)).mul_f64(SPREAD * jitter())).await;
    loop {
        // Never closed, so this does not fail.
        let permit = turns.acquire().await;
        let mut connected = None;
        let outcome = match &settings.probe {
            HealthProbe::Connect => {
                connects(address, &settings).await.map(|(stream, after)| (Some(stream), after))
            }
            HealthProbe::Datagram(probe) => {
                answers(address, probe, settings.timeout).await.map(|after| (None, after))
            }
        };
        let Some(health) = health.upgrade() else { return };
        match outcome {
            Ok((stream, after)) => {
                connected = stream;
                note(&services, &health, Ok(after));
            }
            // What we lack ourselves says nothing about the origin.
            Err(error) if DialFailure::of(&error) == DialFailure::OutOfResources => {
                tracing::debug!(%address, %error, "check origin");
            }
            Err(error) => note(&services, &health, Err(error.to_string())),
        }
        drop(health);
        let closed = async {
            if let Some(stream) = connected {
                close(&stream, &settings).await;
            }
            drop(permit);
        };
        tokio::join!(closed, sleep(settings.interval.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * jitter())));
    }
}

/// A connection to `address`, and how long it took to accept it.
async fn connects(address: SocketAddr, check: &HealthCheck) -> io::Result<(Stream, Duration)> {
    let began = Instant::now();
    let connected = timeout(check.timeout, connect_from_host(address)).await;
    let stream =
        connected.map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    Ok((stream, began.elapsed()))
}

/// Closes the connection of a check as the origin expects it. The check has its answer, whatever becomes of this.
async fn close(stream: &Stream, check: &HealthCheck) {
    if check.close == CheckClose::Reset {
        let _ = stream.set_zero_linger();
        return;
    }
    let orderly = async {
        if let Some(version) = check.header {
            stream.write_all(&Header::Local.bytes(version)).await?;
        }
        stream.shut_down()?;
        // Closing while something that the origin said lies unread, or before it says it, makes the kernel send a RST.
        let mut forgotten = [0; 512];
        while poll_fn(|cx| stream.poll_recv(&mut forgotten, cx)).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = timeout(check.timeout.min(FAREWELL), orderly).await;
}

fn note(services: &impl Fn(&Arc<Health>) -> String, health: &Arc<Health>, outcome: Result<Duration, String>) {
    let reason = outcome.as_ref().err().cloned();
    let Some(up) = health.note(outcome) else { return };
    let (origin, services) = (health.address, services(health));
    match reason {
        Some(reason) if !up => tracing::warn!(%origin, services, reason, "origin is down"),
        _ => tracing::info!(%origin, services, "origin is up"),
    }
}

/// A number from 0 to 1, as random as the keys of a hash table.
fn jitter() -> f64 {
    let drawn = RandomState::new().hash_one(0) >> 32;
    f64::from(u32::try_from(drawn).unwrap_or(0)) / f64::from(u32::MAX)
}
