//! The unit of accounting: one per connection, reported exactly once. Moves no bytes itself.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::header::Extensions;
use super::limits::{Admission, Gate, Held, ServiceShare};
use super::origins::OpenGuard;
use super::report::{Datagrams, End, Established, Event, Limit, Report};
use super::sys::unacknowledged;
use super::tcp::stream::Stream;
use super::traffic::{Meter, Traffic, TrafficCount};
use super::worker::Worker;
use crate::model::{Protocol, ServiceName};

/// An open connection's account. Dropping it is what reports it, so that every way out of serving a connection, a panic
/// among them, is counted.
pub(super) struct Session {
    worker: Rc<Worker>,
    service: ServiceName,
    protocol: Protocol,
    /// The address that dialled, or that a trusted proxy named; of a client that is followed, the one where it is.
    pub(super) client: Cell<SocketAddr>,
    /// The trusted proxy that dialled in the client's place.
    pub(super) via: Cell<Option<SocketAddr>>,
    /// The dialled address, or the one that a trusted proxy named.
    pub(super) dialled: Cell<SocketAddr>,
    /// The extensions that a trusted proxy sent, until the origin is told.
    pub(super) extensions: Cell<Option<Box<Extensions>>>,
    /// Its name.
    pub(super) unique_id: OnceCell<Arc<str>>,
    /// The dialled port by which steering chose the service. What a trusted proxy names leads to no other port of an
    /// origin: its clients may say what they like to it, and only bound ports are meant to be reached.
    pub(super) bound_port: u16,
    pub(super) origin: Cell<Option<SocketAddr>>,
    dial: Cell<Option<Duration>>,
    pub(super) from_client: Meter,
    pub(super) to_client: Meter,
    pub(super) datagrams_from_client: Cell<u64>,
    pub(super) datagrams_to_client: Cell<u64>,
    unacknowledged: Cell<Option<u32>>,
    began: Instant,
    /// Its place in the counts of its limits.
    admission: Cell<Option<Admission>>,
    /// Those of its worker's descriptors that are kept for it.
    descriptors: Cell<Option<Held>>,
    /// The end to report when the session is dropped: a cut, unless [`Session::end`] says otherwise.
    end: Cell<End>,
    /// True once another process has it: there is nothing to report.
    is_elsewhere: Cell<bool>,
}

/// The account of a session of UDP that goes on in another process.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct MovingAccount {
    pub(super) service: ServiceName,
    pub(super) client: SocketAddr,
    via: Option<SocketAddr>,
    pub(super) dialled: SocketAddr,
    unique_id: Option<String>,
    bound_port: u16,
    origin: Option<SocketAddr>,
    dial: Option<Duration>,
    bytes: [u64; 2],
    datagrams: [u64; 2],
    age: Duration,
}

impl Session {
    pub(super) fn open(
        worker: Rc<Worker>,
        service: ServiceName,
        protocol: Protocol,
        client: SocketAddr,
        dialled: SocketAddr,
        traffic: &Traffic,
    ) -> Self {
        worker.opened(&service, protocol);
        Self {
            worker,
            service,
            protocol,
            client: Cell::new(client),
            via: Cell::new(None),
            dialled: Cell::new(dialled),
            extensions: Cell::new(None),
            unique_id: OnceCell::new(),
            bound_port: dialled.port(),
            origin: Cell::new(None),
            dial: Cell::new(None),
            from_client: traffic.meter(TrafficCount::BytesFromClient),
            to_client: traffic.meter(TrafficCount::BytesToClient),
            datagrams_from_client: Cell::new(0),
            datagrams_to_client: Cell::new(0),
            unacknowledged: Cell::new(None),
            began: Instant::now(),
            admission: Cell::new(None),
            descriptors: Cell::new(None),
            end: Cell::new(End::Cut),
            is_elsewhere: Cell::new(false),
        }
    }

    /// Gives it to another process, which reports it.
    pub(super) fn move_away(self) -> MovingAccount {
        self.is_elsewhere.set(true);
        MovingAccount {
            service: self.service.clone(),
            client: self.client.get(),
            via: self.via.get(),
            dialled: self.dialled.get(),
            unique_id: self.unique_id.get().map(ToString::to_string),
            bound_port: self.bound_port,
            origin: self.origin.get(),
            dial: self.dial.get(),
            bytes: [self.from_client.get(), self.to_client.get()],
            datagrams: [self.datagrams_from_client.get(), self.datagrams_to_client.get()],
            age: self.age(),
        }
    }

    /// Goes on with one that another process had.
    pub(super) fn resume(worker: Rc<Worker>, moving: MovingAccount, traffic: &Traffic) -> Self {
        worker.moved_here(&moving.service, Protocol::Udp);
        let [from_client, to_client] = moving.bytes;
        let [datagrams_from_client, datagrams_to_client] = moving.datagrams.map(Cell::new);
        let account = Self {
            worker,
            service: moving.service,
            protocol: Protocol::Udp,
            client: Cell::new(moving.client),
            via: Cell::new(moving.via),
            dialled: Cell::new(moving.dialled),
            extensions: Cell::new(None),
            unique_id: moving.unique_id.map(|id| OnceCell::from(Arc::from(id))).unwrap_or_default(),
            bound_port: moving.bound_port,
            origin: Cell::new(moving.origin),
            dial: Cell::new(moving.dial),
            from_client: traffic.meter(TrafficCount::BytesFromClient),
            to_client: traffic.meter(TrafficCount::BytesToClient),
            datagrams_from_client,
            datagrams_to_client,
            unacknowledged: Cell::new(None),
            began: Instant::now().checked_sub(moving.age).unwrap_or_else(Instant::now),
            admission: Cell::new(None),
            descriptors: Cell::new(None),
            end: Cell::new(End::Cut),
            is_elsewhere: Cell::new(false),
        };
        account.from_client.resume(from_client);
        account.to_client.resume(to_client);
        account
    }

    /// Its place in the counts of its limits, which it had in those of another process.
    pub(super) fn readmit(&self, gate: &Gate) {
        self.admission.set(gate.readmit(self.client.get().ip()));
    }

    /// Counts what it carries from now on for an origin's address, too.
    pub(super) fn count_on_for(&self, open: &OpenGuard) {
        self.from_client.count_on_for(open.counter_from_client());
        self.to_client.count_on_for(open.counter_to_client());
    }

    /// The time since it began.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn service(&self) -> &ServiceName {
        &self.service
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Its admission by the limits of its service, now that its client is known.
    pub(super) fn admit(&self, gate: &Gate) -> Result<(), Limit> {
        let client = self.client.get();
        self.admission.set(gate.admit(client.ip())?);
        Ok(())
    }

    /// The same for one that was admitted under the name of the trusted proxy that has dialled it.
    pub(super) fn reassign(&self, gate: &Gate) -> Result<(), Limit> {
        let Some(mut admission) = self.admission.take() else { return Ok(()) };
        let client = self.client.get();
        gate.reassign(&mut admission, client.ip())?;
        self.admission.set(Some(admission));
        Ok(())
    }

    /// The client is at `client` now, where the limits of its service allow one more. Otherwise nothing has changed.
    pub(super) fn follow(&self, gate: &Gate, client: SocketAddr) -> Result<(), Limit> {
        let mut admission = self.admission.take();
        let counted = admission.as_mut().map_or(Ok(()), |admission| gate.follow(admission, client.ip()));
        self.admission.set(admission);
        counted?;
        self.client.set(client);
        Ok(())
    }

    /// Takes so many descriptors of `share`. They are kept for it until it is over.
    pub(super) fn take_descriptors(&self, share: &Rc<ServiceShare>, count: usize) -> Result<(), Limit> {
        self.descriptors.set(Some(share.take(count)?));
        Ok(())
    }

    /// What it took of these, for somebody else to keep.
    pub(super) fn give_descriptors(&self) -> Option<Held> {
        self.descriptors.take()
    }

    /// A trusted proxy says whom it speaks for.
    pub(super) fn set_client(&self, client: SocketAddr, dialled: SocketAddr) {
        self.via.set(Some(self.client.replace(client)));
        self.dialled.set(dialled);
    }

    /// Counts what it carries for an origin's address, too.
    pub(super) fn count_for(&self, open: &OpenGuard) {
        self.from_client.count_for(open.counter_from_client());
        self.to_client.count_for(open.counter_to_client());
    }

    /// Connecting to an origin succeeded, and took so long.
    pub(super) fn dialled_in(&self, took: Duration) {
        self.dial.set(Some(took));
    }

    /// An origin is connected to, or we begin to answer ourselves.
    pub(super) fn established(&self) {
        let after = self.dial.get().unwrap_or_else(|| self.began.elapsed());
        let origin = self.origin.get();
        self.worker.observe(Event::Established(&Established {
            service: &self.service,
            protocol: self.protocol,
            client: self.client.get(),
            via: self.via.get(),
            dialled: self.dialled.get(),
            origin,
            unique_id: self.unique_id.get(),
            after,
        }));
    }

    /// Notes what the client has not acknowledged, where it is over before everything was said.
    pub(super) fn reckon(&self, downstream: &Stream) {
        if self.to_client.get() > 0 {
            self.unacknowledged.set(unacknowledged(downstream).ok());
        }
    }

    pub(super) fn end(self, end: End) {
        self.ends_as(end);
    }

    /// Sets the end to report when it is dropped.
    pub(super) fn ends_as(&self, end: End) {
        self.end.set(end);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.descriptors.take());
        if self.is_elsewhere.get() {
            self.worker.moved_away(&self.service, self.protocol);
            return;
        }
        let report = Report {
            service: self.service.clone(),
            protocol: self.protocol,
            client: self.client.get(),
            via: self.via.get(),
            dialled: self.dialled.get(),
            origin: self.origin.get(),
            unique_id: self.unique_id.get().cloned(),
            dial: self.dial.get(),
            bytes_from_client: self.from_client.get(),
            bytes_to_client: self.to_client.get(),
            bytes_unacknowledged: self.unacknowledged.get(),
            datagrams: (self.protocol == Protocol::Udp).then(|| Datagrams {
                from_client: self.datagrams_from_client.get(),
                to_client: self.datagrams_to_client.get(),
            }),
            duration: self.began.elapsed(),
            end: self.end.get(),
        };
        self.worker.ended(Event::Ended(&report));
    }
}
