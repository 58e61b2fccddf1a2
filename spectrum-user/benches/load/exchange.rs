//! What is done as fast as it goes: short connections, requests over kept ones, bulk, and connections that are only
//! held. Paces nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Came, Client};
use crate::origin::{ENDLESS, KEPT, MESSAGE, SHORT};
use crate::station::{Set, Station};

/// The time in which nothing may happen.
const PATIENCE: Duration = Duration::from_secs(5);

/// The number of connections dialled before any of them is answered.
const BATCH: usize = 64;

/// Clients by descriptor.
#[derive(Default)]
pub(crate) struct Clients(Vec<Option<Client>>);

impl Clients {
    pub(crate) fn dial(&mut self, set: &Set, address: SocketAddr, kind: u8) {
        let client = Client::dial(set, address, kind);
        let place = client.place();
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(client);
    }

    pub(crate) fn at(&mut self, place: usize) -> Option<&mut Client> {
        self.0.get_mut(place)?.as_mut()
    }

    pub(crate) fn close(&mut self, place: usize) {
        self.0[place] = None;
    }

    pub(crate) fn places(&self) -> Vec<usize> {
        self.0.iter().flatten().map(Client::place).collect()
    }
}

/// Short connections for `length`, `width` at once: a request, an answer, and an orderly end that the origin begins.
pub(crate) fn connect(station: &mut Station, address: SocketAddr, length: Duration, width: usize) -> Value {
    let mut clients = Clients::default();
    let (mut done, mut failed) = (0_u64, 0_u64);
    let began = Instant::now();
    for _ in 0..width {
        clients.dial(station.set(), address, SHORT);
    }
    let mut last = began;
    while began.elapsed() < length {
        station.turn(PATIENCE, |set, place| {
            let Some(client) = clients.at(place) else { return };
            match client.read() {
                Came::Bytes(bytes) => client.answered += bytes,
                Came::End(end) => {
                    if end.is_ok() && client.answered == MESSAGE {
                        done += 1;
                    } else {
                        failed += 1;
                    }
                    clients.close(place);
                    clients.dial(set, address, SHORT);
                    last = Instant::now();
                }
                Came::Nothing => {}
            }
        });
    }
    drop(clients);
    station.settle();
    json!({ "count": done, "failed": failed, "seconds": last.duration_since(began).as_secs_f64() })
}

/// Requests over `width` connections for `length`, one at a time on each.
pub(crate) fn request(station: &mut Station, address: SocketAddr, length: Duration, width: usize) -> Value {
    let mut clients = warmed(station, address, width);
    let began = Instant::now();
    for place in clients.places() {
        if let Some(client) = clients.at(place) {
            client.ask(KEPT);
        }
    }
    let mut done = 0_u64;
    let mut failed = 0_u64;
    while began.elapsed() < length {
        station.turn(PATIENCE, |_, place| {
            let Some(client) = clients.at(place) else { return };
            match client.read() {
                Came::Bytes(bytes) => {
                    client.answered += bytes;
                    if client.answered >= MESSAGE {
                        client.answered -= MESSAGE;
                        done += 1;
                        client.ask(KEPT);
                    }
                }
                Came::End(_) => {
                    failed += 1;
                    clients.close(place);
                }
                Came::Nothing => {}
            }
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(clients);
    station.settle();
    json!({ "count": done, "failed": failed, "seconds": seconds })
}

/// Bytes from the origin over `width` connections for `length`.
pub(crate) fn bulk(station: &mut Station, address: SocketAddr, length: Duration, width: usize) -> Value {
    let mut clients = Clients::default();
    for _ in 0..width {
        clients.dial(station.set(), address, ENDLESS);
    }
    let mut scratch = vec![0; 4 << 20];
    let mut bytes = 0_u64;
    let mut failed = 0_u64;
    let began = Instant::now();
    while began.elapsed() < length {
        station.turn(PATIENCE, |_, place| {
            let Some(client) = clients.at(place) else { return };
            match client.discard(&mut scratch) {
                Came::Bytes(came) => bytes += came as u64,
                Came::End(_) => {
                    failed += 1;
                    clients.close(place);
                }
                Came::Nothing => {}
            }
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(clients);
    station.settle();
    json!({ "count": bytes, "failed": failed, "seconds": seconds })
}

/// Opens `width` connections, lets each be answered once, and keeps them.
pub(crate) fn hold(station: &mut Station, address: SocketAddr, width: usize) -> Value {
    let clients = warmed(station, address, width);
    station.held = clients.0.into_iter().flatten().collect();
    json!({ "count": station.held.len() })
}

/// Closes what is held.
pub(crate) fn release(station: &mut Station) -> Value {
    station.held.clear();
    station.settle();
    json!({})
}

/// `width` connections that were answered once: both sides are connected.
pub(crate) fn warmed(station: &mut Station, address: SocketAddr, width: usize) -> Clients {
    let mut clients = Clients::default();
    let (mut dialled, mut warm) = (0, 0);
    let deadline = Instant::now() + 4 * PATIENCE;
    while warm < width {
        assert!(Instant::now() < deadline, "{warm} of {width} connections were answered");
        while dialled < width && dialled < warm + BATCH {
            clients.dial(station.set(), address, KEPT);
            dialled += 1;
        }
        station.turn(PATIENCE, |_, place| {
            let Some(client) = clients.at(place) else { return };
            match client.read() {
                Came::Bytes(bytes) => {
                    client.answered += bytes;
                    if client.answered == MESSAGE {
                        client.answered = 0;
                        warm += 1;
                    }
                }
                Came::End(end) => panic!("a connection was refused: {end:?}"),
                Came::Nothing => {}
            }
        });
    }
    clients
}
