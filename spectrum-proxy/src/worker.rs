//! A worker as its connections see it: what they have in common, and who hears of them. Knows neither its listeners nor who
//! commands it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;

use tokio::sync::{Notify, mpsc};

use crate::error::WorkersError;
use crate::high_water::HighWater;
use crate::limits::{DescriptorPool, Descriptors, LimitBook};
use crate::model::{Destination, Protocol, ServiceName, reached};
use crate::report::Event;
use crate::source_judge::{CurrentJudges, JudgeView};
use crate::sys;
use crate::tcp::relay::{Buffers, Means, Pipes, Strategy};
use crate::traffic::Traffic;
use crate::udp::ConnectionBook;
use crate::unique_id::UniqueIdSupply;

/// An observer that is told of every connection, on the worker's own thread.
pub(super) type Observer = Box<dyn Fn(Event<'_>) + Send>;

/// The common ground of all workers: they agree on it while connections come and go, where there are limits to agree on.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) ledger: LimitBook,
    pub(super) descriptors: DescriptorPool,
    pub(super) connections: ConnectionBook,
    pub(super) judges: CurrentJudges,
}

/// The common ground of a worker's connections.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) buffers: Buffers,
    pipes: Pipes,
    pub(super) descriptors: Descriptors,
    pub(super) common: Common,
    pub(super) judge: JudgeView,
    pub(super) unique_ids: UniqueIdSupply,
    /// The addresses at which it listens itself, whatever steers connections there.
    listening: RefCell<HashSet<(Protocol, SocketAddr)>>,
    observer: Observer,
    /// The bytes that it has carried, of services that are gone too: they may come back, and a counter must not fall.
    traffic: RefCell<HashMap<(ServiceName, Protocol), Traffic>>,
    failures: mpsc::UnboundedSender<WorkersError>,
    open: Cell<usize>,
    ended: Cell<usize>,
    high_water: HighWater,
    idle: Notify,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        pipes: Pipes,
        common: Common,
        observer: Observer,
        failures: mpsc::UnboundedSender<WorkersError>,
    ) -> Self {
        Self {
            index,
            buffers: Buffers::default(),
            pipes,
            descriptors: Descriptors::of(common.descriptors.clone()),
            judge: JudgeView::new(common.judges.clone()),
            common,
            unique_ids: UniqueIdSupply::start(),
            listening: RefCell::default(),
            observer,
            traffic: RefCell::default(),
            failures,
            open: Cell::new(0),
            ended: Cell::new(0),
            high_water: HighWater::default(),
            idle: Notify::new(),
        }
    }

    /// The means with which relays move bytes.
    pub(super) fn means(&self) -> Means<'_> {
        Means { buffers: &self.buffers, pipes: &self.pipes, strategy: Strategy::default() }
    }

    /// True if dialling `address` ends at a listener of its own, which all workers' are: nothing steers such a connection, and
    /// it would be dialled again and again.
    pub(super) fn listens_on(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let address = SocketAddr::new(reached(address.ip()), address.port());
        self.listening.borrow().contains(&(protocol, address))
    }

    pub(super) fn listener_opened(&self, protocol: Protocol, address: SocketAddr) {
        self.listening.borrow_mut().insert((protocol, address));
    }

    pub(super) fn listener_closed(&self, protocol: Protocol, address: SocketAddr) {
        self.listening.borrow_mut().remove(&(protocol, address));
    }

    /// The counters of its sessions of a service.
    pub(super) fn traffic(&self, service: &ServiceName, protocol: Protocol) -> Traffic {
        let mut all = self.traffic.borrow_mut();
        let traffic = all.entry((service.clone(), protocol)).or_insert_with(|| {
            let traffic = OnceCell::new();
            (self.observer)(Event::Serving { service, protocol, traffic: &traffic });
            traffic.into_inner().unwrap_or_default()
        });
        traffic.clone()
    }

    pub(super) fn opened(&self, service: &ServiceName, protocol: Protocol) {
        self.open.set(self.open.get() + 1);
        (self.observer)(Event::Opened { service, protocol });
    }

    /// One more is open, that another process had.
    pub(super) fn moved_here(&self, service: &ServiceName, protocol: Protocol) {
        self.open.set(self.open.get() + 1);
        (self.observer)(Event::Moved { service, protocol, is_here: true });
    }

    /// One less is open, that another process has from now on.
    pub(super) fn moved_away(&self, service: &ServiceName, protocol: Protocol) {
        (self.observer)(Event::Moved { service, protocol, is_here: false });
        self.one_less();
    }

    pub(super) fn observe(&self, event: Event<'_>) {
        (self.observer)(event);
    }

    pub(super) fn ended(&self, event: Event<'_>) {
        (self.observer)(event);
        self.ended.set(self.ended.get() + 1);
        self.one_less();
    }

    fn one_less(&self) {
        if self.high_water.has_ebbed(self.open.get()) {
            sys::give_memory_back();
        }
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.idle.notify_waiters();
        }
    }

    pub(super) fn listener_failed(&self, destination: Destination, source: io::Error) {
        // Nobody listens any more when the process is on its way out.
        let _ = self.failures.send(WorkersError::Accept { destination, source });
    }

    pub(super) fn died(&self) {
        let _ = self.failures.send(WorkersError::Died { worker: self.index });
    }

    /// The number of connections and sessions that have ended.
    pub(super) fn ended_so_far(&self) -> usize {
        self.ended.get()
    }

    /// The number of connections and sessions that are open.
    pub(super) fn open_now(&self) -> usize {
        self.open.get()
    }

    /// Returns once nothing is open.
    pub(super) async fn idle(&self) {
        while self.open.get() > 0 {
            self.idle.notified().await;
        }
    }
}
