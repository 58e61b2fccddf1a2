//! Who is turned away most, of each service: by samples, in memory that no stranger makes larger. Reads no samples itself.
//!
//! A sketch has so many places for prefixes (space-saving by Metwally, Agrawal and El Abbadi): who has none takes that of the one with
//! fewest packets, and its count with it; so a count is never too low, and what it may be too high by is known.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::model::{Prefix, ServiceName};
use spectrum_common::DenyReason;

/// So long is counted before what was counted before that is forgotten.
const WINDOW: Duration = Duration::from_mins(1);

/// The services that have sketches. Of others only the number of packets is known.
const SERVICES: usize = 256;

/// The places of a sketch: of sources, and of networks.
const PLACES: [usize; 2] = [128, 64];

/// The bits of an address that are one source, and one network, over IPv4 and over IPv6.
const LENGTHS: [[u8; 2]; 2] = [[32, 24], [64, 48]];

/// So many of each are told.
const TOLD: usize = 20;

/// A packet that was turned away, and how many it stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeniedClient {
    /// Its source.
    pub client: SocketAddr,
    /// The address and port that it dialled.
    pub dialled: SocketAddr,
    /// The reason.
    pub reason: DenyReason,
    /// The packets that it stands for.
    pub packets: u64,
}

/// The sources that are turned away, in the last minute or two. Clones are the same one.
#[derive(Clone, Debug)]
pub struct TopSources(Arc<Mutex<SourceWindows>>);

impl Default for TopSources {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(SourceWindows::new(Instant::now()))))
    }
}

impl TopSources {
    /// Counts what `denied` stands for, of `service`.
    pub fn add(&self, service: &ServiceName, denied: &DeniedClient, now: Instant) {
        self.lock().add(service, denied, now);
    }

    /// Whom `service` turned away, or each.
    #[must_use]
    pub fn told(&self, service: Option<&str>) -> TopSourcesAnswer {
        self.lock().told(service, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, SourceWindows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts of now, and those of before.
#[derive(Debug)]
struct SourceWindows {
    now: SourceWindow,
    last: Option<SourceWindow>,
}

/// Whom the services turned away, as it is told.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TopSourcesAnswer {
    /// The time that was counted, in seconds.
    pub seconds: u64,
    /// In the order of their names; those that turned nobody away are left out.
    pub services: Vec<ServiceSources>,
    /// Packets to services that there was no room for.
    #[serde(default)]
    pub unlisted: u64,
}

/// Whom one service turned away.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceSources {
    /// Its name.
    pub service: String,
    /// The packets that it turned away.
    pub packets: u64,
    /// The sources of most of them: the most first.
    pub sources: Vec<SourceCount>,
    /// The networks that these are in, likewise.
    pub networks: Vec<SourceCount>,
}

/// A source prefix, and how many packets of it were turned away.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SourceCount {
    /// The prefix.
    pub source: String,
    /// Its packets: no more than that.
    pub packets: u64,
    /// So many of these may have been others'.
    pub over: u64,
    /// The reason of the last one.
    pub reason: String,
    /// The address and port that it dialled.
    pub dialled: SocketAddr,
}

#[derive(Debug)]
struct SourceWindow {
    begun: Instant,
    services: BTreeMap<ServiceName, SourceSketches>,
    unlisted: u64,
}

#[derive(Debug, Default)]
struct SourceSketches {
    packets: u64,
    /// Of sources, and of networks.
    sketches: [HashMap<Prefix, SketchPlace>; 2],
}

#[derive(Clone, Copy, Debug)]
struct SketchPlace {
    packets: u64,
    over: u64,
    reason: DenyReason,
    dialled: SocketAddr,
}

impl SourceWindows {
    fn new(now: Instant) -> Self {
        Self { now: SourceWindow::new(now), last: None }
    }

    fn add(&mut self, service: &ServiceName, denied: &DeniedClient, now: Instant) {
        self.turn(now);
        let window = &mut self.now;
        if !window.services.contains_key(service) {
            if window.services.len() >= SERVICES {
                window.unlisted = window.unlisted.saturating_add(denied.packets);
                return;
            }
            window.services.insert(service.clone(), SourceSketches::default());
        }
        if let Some(sketches) = window.services.get_mut(service) {
            sketches.add(denied);
        }
    }

    fn told(&mut self, service: Option<&str>, now: Instant) -> TopSourcesAnswer {
        self.turn(now);
        let windows = || self.last.iter().chain([&self.now]);
        let begun = windows().map(|window| window.begun).min().unwrap_or(now);
        let mut names: Vec<&ServiceName> = windows().flat_map(|window| window.services.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| service.is_none_or(|service| name.as_str() == service));
        let services = names.into_iter().map(|name| {
            let of: Vec<&SourceSketches> = windows().filter_map(|window| window.services.get(name)).collect();
            let [sources, networks] = [0, 1].map(|sketch| heaviest(&of, sketch));
            let packets = of.iter().fold(0_u64, |sum, sketches| sum.saturating_add(sketches.packets));
            ServiceSources { service: name.to_string(), packets, sources, networks }
        });
        TopSourcesAnswer {
            services: services.collect(),
            seconds: now.duration_since(begun).as_secs(),
            unlisted: windows().fold(0, |sum, window| window.unlisted.saturating_add(sum)),
        }
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.now.begun);
        if age >= WINDOW {
            let last = std::mem::replace(&mut self.now, SourceWindow::new(now));
            // What nobody added to for so long is over.
            self.last = (age < WINDOW * 2).then_some(last);
        }
    }
}

impl SourceWindow {
    fn new(begun: Instant) -> Self {
        Self { begun, services: BTreeMap::new(), unlisted: 0 }
    }
}

impl SourceSketches {
    fn add(&mut self, denied: &DeniedClient) {
        self.packets = self.packets.saturating_add(denied.packets);
        let address = denied.client.ip();
        let lengths = LENGTHS[usize::from(address.is_ipv6())];
        for ((sketch, places), length) in self.sketches.iter_mut().zip(PLACES).zip(lengths) {
            let Ok(prefix) = Prefix::containing(address, length) else { continue };
            let mut place = SketchPlace {
                packets: denied.packets,
                over: 0,
                reason: denied.reason,
                dialled: denied.dialled,
            };
            if let Some(own) = sketch.get(&prefix) {
                place.packets = place.packets.saturating_add(own.packets);
                place.over = own.over;
            } else if sketch.len() >= places {
                let least = sketch.iter().min_by_key(|(_, place)| place.packets);
                let Some((least, taken)) = least.map(|(prefix, place)| (*prefix, place.packets)) else {
                    continue;
                };
                sketch.remove(&least);
                place.packets = place.packets.saturating_add(taken);
                place.over = taken;
            }
            sketch.insert(prefix, place);
        }
    }
}

/// The heaviest of the `sketch`es of a service together.
fn heaviest(of: &[&SourceSketches], sketch: usize) -> Vec<SourceCount> {
    let mut sums: BTreeMap<Prefix, SketchPlace> = BTreeMap::new();
    for (prefix, place) in of.iter().filter_map(|sketches| sketches.sketches.get(sketch)).flatten() {
        let sum = sums.entry(*prefix).or_insert(SketchPlace { packets: 0, over: 0, ..*place });
        sum.packets = sum.packets.saturating_add(place.packets);
        sum.over = sum.over.saturating_add(place.over);
        (sum.reason, sum.dialled) = (place.reason, place.dialled);
    }
    // Of whom nothing is known for sure nothing is told: all that a flood of forged sources leaves.
    let mut sums: Vec<(Prefix, SketchPlace)> =
        sums.into_iter().filter(|(_, place)| place.packets > place.over.saturating_mul(2)).collect();
    sums.sort_by_key(|(prefix, place)| (std::cmp::Reverse(place.packets), *prefix));
    let told = sums.into_iter().take(TOLD).map(|(prefix, place)| SourceCount {
        source: prefix.to_string(),
        packets: place.packets,
        over: place.over,
        reason: place.reason.word().to_owned(),
        dialled: place.dialled,
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(client: &str, packets: u64) -> DeniedClient {
        DeniedClient {
            client: SocketAddr::new(client.parse().unwrap(), 999),
            dialled: "192.0.2.7:80".parse().unwrap(),
            reason: DenyReason::Rate,
            packets,
        }
    }

    fn name(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    #[test]
    fn the_heaviest_come_first_and_networks_beside_them() {
        let now = Instant::now();
        let mut top = SourceWindows::new(now);
        for (client, packets) in [
            ("198.51.100.1", 5),
            ("198.51.100.2", 9),
            ("203.0.113.7", 1),
            ("198.51.100.1", 6),
            ("2001:db8:7::1", 3),
        ] {
            top.add(&name("web"), &denied(client, packets), now);
        }
        top.add(&name("game"), &denied("203.0.113.7", 2), now);
        let told = top.told(Some("web"), now + Duration::from_secs(7));
        assert_eq!((told.seconds, told.services.len(), told.services[0].packets), (7, 1, 24));
        let shown = |counts: &[SourceCount]| -> Vec<(String, u64, u64)> {
            counts.iter().map(|one| (one.source.clone(), one.packets, one.over)).collect()
        };
        let of = |source: &str, packets| (source.to_owned(), packets, 0);
        assert_eq!(
            shown(&told.services[0].sources),
            [
                of("198.51.100.1/32", 11),
                of("198.51.100.2/32", 9),
                of("2001:db8:7::/64", 3),
                of("203.0.113.7/32", 1)
            ]
        );
        assert_eq!(
            shown(&told.services[0].networks),
            [of("198.51.100.0/24", 20), of("2001:db8:7::/48", 3), of("203.0.113.0/24", 1)]
        );
        assert_eq!(told.services[0].sources[0].reason, "rate");
        assert_eq!(top.told(None, now).services.len(), 2);
    }

    #[test]
    fn strangers_take_no_more_memory_and_do_not_hide_who_floods() {
        let now = Instant::now();
        let mut top = SourceWindows::new(now);
        for stranger in 0..100_000_u32 {
            let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + stranger * 97).to_string();
            top.add(&name("web"), &denied(&client, 1), now);
            if stranger % 20 == 0 {
                top.add(&name("web"), &denied("198.51.100.1", 1), now);
            }
        }
        for (sketch, places) in top.now.services[&name("web")].sketches.iter().zip(PLACES) {
            assert_eq!(sketch.len(), places);
        }
        let told = top.told(None, now);
        let sources = &told.services[0].sources;
        assert_eq!((sources.len(), sources[0].source.as_str()), (1, "198.51.100.1/32"), "{sources:?}");
        assert!(sources[0].packets >= 5000 && sources[0].packets - sources[0].over <= 5000, "{sources:?}");
        for number in 0..2 * SERVICES {
            top.add(&name(&format!("s{number}")), &denied("198.51.100.1", 1), now);
        }
        assert_eq!(top.now.services.len(), SERVICES);
        assert_eq!(top.told(None, now).unlisted, 257);
    }

    #[test]
    fn what_was_a_minute_or_two_ago_is_forgotten() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut top = SourceWindows::new(begun);
        let count = |top: &mut SourceWindows, seconds| {
            let told = top.told(None, at(seconds));
            (told.seconds, told.services.first().map_or(0, |one| one.packets))
        };
        top.add(&name("web"), &denied("198.51.100.1", 1), at(50));
        assert_eq!(count(&mut top, 59), (59, 1));
        top.add(&name("web"), &denied("198.51.100.1", 2), at(70));
        assert_eq!(count(&mut top, 80), (80, 3));
        assert_eq!(count(&mut top, 131), (61, 2));
        assert_eq!(count(&mut top, 500), (0, 0));
    }
}
