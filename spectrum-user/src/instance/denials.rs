//! The task that reads samples of packets that are turned away: for whoever asks who comes most, and for the log, which gets few lines of
//! a flood. It waits for nobody, and whatever it misses is still counted by the programs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use spectrum_common::DenyReason;

use crate::model::{Records, ServiceName};
use crate::observe::DeniedClient;
use crate::view::Published;
use spectrum_steering::dispatcher::{DenialSamples, DeniedPacket};

/// The pause between looks: the ring has room for that long.
const PAUSE: Duration = Duration::from_millis(250);

/// The samples of one look: as many as the ring holds.
const SAMPLES: usize = 4096;

/// The lines in a second: of a service, and of all.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The services whose lines are told apart. More than that wait for others to be silent.
const SERVICES: usize = 1024;

/// Reads `samples` as they come. Never ends.
pub(super) async fn read(mut samples: DenialSamples, published: Published) {
    let mut lines = DenialLines::default();
    let mut turns = tokio::time::interval(PAUSE);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let now = published.now();
        let at = Instant::now();
        let mut read = 0;
        while read < SAMPLES
            && let Some(denied) = samples.next_sample()
        {
            read += 1;
            // That of a former generation's may be unknown by now.
            let Some(destination) = now.plan.destination(denied.destination) else { continue };
            let service = &destination.service;
            let DeniedPacket { client, dialled, reason, packets, destination: _ } = denied;
            if reason == DenyReason::Denied {
                now.run_time.count(&now.plan.policies, service, client.ip(), packets);
            }
            now.denied.add(service, &DeniedClient { client, dialled, reason, packets }, at);
            if now.config.log.of(service).records != Some(Records::None)
                && let Some(packets) = lines.of(service, packets, at)
            {
                // A record, of one for all since the last.
                tracing::info!(%service, %client, %dialled, reason = reason.word(), packets, "denied");
            }
        }
    }
}

/// The lines of late.
#[derive(Debug, Default)]
struct DenialLines {
    /// By the service: the last line, and the packets since.
    services: BTreeMap<ServiceName, (Instant, u64)>,
    /// The second that is counted, and the lines in it.
    second: Option<(Instant, u32)>,
}

impl DenialLines {
    /// The packets that a line about `service` is for, if there is to be one.
    fn of(&mut self, service: &ServiceName, packets: u64, now: Instant) -> Option<u64> {
        if !self.services.contains_key(service) && self.services.len() >= SERVICES {
            self.services.retain(|_, (last, _)| now.saturating_duration_since(*last) < SECOND);
            if self.services.len() >= SERVICES {
                return None;
            }
        }
        let (begun, lines) = self.second.get_or_insert((now, 0));
        if now.saturating_duration_since(*begun) >= SECOND {
            (*begun, *lines) = (now, 0);
        }
        let known = self.services.get_mut(service);
        let is_due = known.as_ref().is_none_or(|(last, _)| now.saturating_duration_since(*last) >= SECOND);
        if !is_due || *lines >= LINES {
            match known {
                Some((_, since)) => *since = since.saturating_add(packets),
                // Told of as if its line had just been written.
                None => drop(self.services.insert(service.clone(), (now, packets))),
            }
            return None;
        }
        *lines += 1;
        let since = known.map_or(0, |(_, since)| *since);
        self.services.insert(service.clone(), (now, 0));
        Some(since.saturating_add(packets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_line_a_second_which_stands_for_all_since_the_last() {
        let (mut lines, begun) = (DenialLines::default(), Instant::now());
        let web: ServiceName = "web".parse().unwrap();
        let mut told = Vec::new();
        for step in 0..3000_u32 {
            told.extend(lines.of(&web, 2, begun + Duration::from_millis(1) * step));
        }
        assert_eq!(told, [2, 2000, 2000]);
    }

    #[test]
    fn all_services_together_have_ten_lines_a_second_and_little_memory() {
        let (mut lines, begun) = (DenialLines::default(), Instant::now());
        let mut told = 0;
        for step in 0..20_000_u32 {
            let service: ServiceName = format!("s{step}").parse().unwrap();
            let at = begun + Duration::from_micros(100) * step;
            told += usize::from(lines.of(&service, 1, at).is_some());
            assert!(lines.services.len() <= SERVICES);
        }
        assert!((10..=20).contains(&told), "{told} lines in two seconds");
    }
}
