//! What a client does first, and how long its origin waits to be dialled for that. Dials nothing.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::timeout;

use super::relay::ConnectionTimer;
use super::stream::{FirstSign, Stream};
use crate::model::DialOn;
use crate::report::{End, Side};

/// The time that a client may be silent before its origin is dialled all the same. A check that resets what it opened does so
/// before it has heard of the origin, so this is what lies between two of its packets.
const PATIENCE: Duration = Duration::from_millis(10);

/// So many silent clients in a row are waiting for their origins to speak first.
const SILENT: u8 = 3;

/// Between two clients that are waited for in vain there are so many that are not, at first and at most: twice as many each time.
const SPARED: (u16, u16) = (32, 4096);

/// The habit of a service's clients to speak first or not, as far as a worker has seen.
#[derive(Debug)]
pub(crate) struct Manners {
    silent: Cell<u8>,
    spared: Cell<u16>,
    left: Cell<u16>,
}

impl Default for Manners {
    fn default() -> Self {
        Self { silent: Cell::new(0), spared: Cell::new(SPARED.0), left: Cell::new(0) }
    }
}

impl Manners {
    /// True if it may be worth waiting for the next one.
    fn promise(&self) -> bool {
        if self.silent.get() < SILENT {
            return true;
        }
        let Some(left) = self.left.get().checked_sub(1) else { return true };
        self.left.set(left);
        false
    }

    fn spoke(&self) {
        self.silent.set(0);
        self.spared.set(SPARED.0);
    }

    /// It was waited for in vain.
    fn kept_silent(&self) {
        let silent = self.silent.get().saturating_add(1).min(SILENT);
        self.silent.set(silent);
        if silent == SILENT {
            let spared = self.spared.get();
            self.left.set(spared);
            self.spared.set((spared * 2).min(SPARED.1));
        }
    }
}

/// Waits until the origin is to be dialled.
///
/// # Errors
/// How the connection ends instead.
pub(crate) async fn wait(
    downstream: &Stream,
    dial_on: DialOn,
    manners: &Manners,
    watch: &ConnectionTimer<'_>,
) -> Result<(), End> {
    let lost = |error| End::of(Side::Downstream, &error);
    match (downstream.look().map_err(lost)?, dial_on) {
        (FirstSign::Bytes, _) => {
            manners.spoke();
            Ok(())
        }
        // It may still want to hear what the origin says.
        (FirstSign::Fin, DialOn::Accept) => Ok(()),
        (FirstSign::Nothing, DialOn::Accept) => {
            if manners.promise() {
                match timeout(PATIENCE, downstream.first()).await {
                    Ok(Ok(FirstSign::Bytes)) => manners.spoke(),
                    Ok(first) => drop(first.map_err(lost)?),
                    Err(_elapsed) => manners.kept_silent(),
                }
            }
            Ok(())
        }
        (FirstSign::Fin, DialOn::FirstByte) => Err(End::Closed),
        (FirstSign::Nothing, DialOn::FirstByte) => tokio::select! {
            biased;
            first = downstream.first() => match first.map_err(lost)? {
                FirstSign::Bytes | FirstSign::Nothing => {
                    watch.touch();
                    Ok(())
                }
                FirstSign::Fin => Err(End::Closed),
            },
            end = watch.expired([downstream], || {}) => Err(end),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has `clients` come one after the other, each of which speaks after a moment or not at all: how many were waited for.
    fn waited(manners: &Manners, clients: u32, speaks: bool) -> u32 {
        let waited = (0..clients).filter(|_| {
            let waits = manners.promise();
            if waits {
                if speaks { manners.spoke() } else { manners.kept_silent() }
            }
            waits
        });
        u32::try_from(waited.count()).unwrap()
    }

    #[test]
    fn clients_that_wait_for_the_origin_are_kept_waiting_ever_more_rarely() {
        let manners = Manners::default();
        assert_eq!(waited(&manners, 100, true), 100);
        assert_eq!(waited(&manners, 3 + 32, false), 3);
        assert_eq!(waited(&manners, 1 + 64 + 1 + 128, false), 2);
        assert!(waited(&manners, 100_000, false) < 40);
    }

    #[test]
    fn one_that_speaks_has_the_next_ones_waited_for() {
        let manners = Manners::default();
        waited(&manners, 10_000, false);
        manners.spoke();
        assert_eq!(waited(&manners, 100, true), 100);
        waited(&manners, 2, false);
        assert_eq!(waited(&manners, 100, true), 100);
    }
}
