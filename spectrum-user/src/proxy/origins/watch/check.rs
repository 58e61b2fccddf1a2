//! Health checks by TCP: a connection to an address now and then, closed at once. What to make of an outcome is `health`'s.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::lead::Lead;
use crate::model::HealthCheck;
use crate::proxy::header::Header;
use crate::proxy::origins::dial_source::connect_from_host;
use crate::proxy::origins::health::Health;
use crate::proxy::report::DialFailure;

/// So many checks are under way at most: each needs a descriptor, and connections need them more.
pub(super) const AT_ONCE: usize = 256;

/// By how much of the interval checks are spread, so that many origins are not checked in step.
const SPREAD: f64 = 0.1;

/// Checks until nobody is interested any more.
pub(super) async fn check(lead: Rc<Lead>, health: Weak<Health>) {
    let Some((address, settings)) = health.upgrade().map(|health| (health.address, health.check)) else {
        return;
    };
    sleep(settings.interval.min(Duration::from_secs(1)).mul_f64(SPREAD * jitter())).await;
    loop {
        let outcome = {
            // Never closed, so this does not fail.
            let _permit = lead.checks.acquire().await;
            connects(address, &settings).await
        };
        let Some(health) = health.upgrade() else { return };
        match outcome {
            Ok(after) => note(&lead, &health, Ok(after)),
            // What we lack ourselves says nothing about the origin.
            Err(error) if DialFailure::of(&error) == DialFailure::OutOfResources => {
                tracing::debug!(%address, %error, "check origin");
            }
            Err(error) => note(&lead, &health, Err(error.to_string())),
        }
        drop(health);
        sleep(settings.interval.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * jitter())).await;
    }
}

/// How long `address` took to accept a connection.
async fn connects(address: SocketAddr, check: &HealthCheck) -> io::Result<Duration> {
    let began = Instant::now();
    let connected = timeout(check.timeout, connect_from_host(address)).await;
    let stream =
        connected.map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    let after = began.elapsed();
    match check.header {
        // An origin that expects headers would complain of a connection without one. It must not overtake what it says,
        // so this one is closed as usual. The empty socket takes it at once; if not, the check has its answer anyway.
        Some(version) => {
            let _ = timeout(check.timeout, stream.write_all(&Header::Local.bytes(version))).await;
        }
        // A reset leaves no TIME-WAIT behind, and most servers do not log a connection that was never spoken on.
        None => {
            let _ = stream.set_zero_linger();
        }
    }
    Ok(after)
}

fn note(lead: &Lead, health: &std::sync::Arc<Health>, outcome: Result<Duration, String>) {
    let reason = outcome.as_ref().err().cloned();
    let Some(up) = health.note(outcome) else { return };
    let (origin, services) = (health.address, lead.services(health));
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
