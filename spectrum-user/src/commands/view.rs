//! What a running instance is, as those who ask see it: published by whoever changes the instance, read on other threads, so
//! that nobody waits for anybody. Answers nothing itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::config::Config;
use crate::control::{InstanceState, ListenerAnswer};
use crate::instance::{Faults, Mode};
use crate::model::{DestinationId, Service};
use crate::observe::Counters;
use crate::plan::Plan;
use crate::plan::firewall::ChainPart;
use spectrum_proxy::OriginWatch;
use spectrum_steering::dispatcher::Probe;

/// An instance at one moment. What counts goes on counting.
#[derive(Clone)]
pub(super) struct View {
    pub(super) state: InstanceState,
    pub(super) mode: Option<Mode>,
    /// The number of configurations before this one.
    pub(super) revision: u32,
    pub(super) config: Arc<Config>,
    pub(super) plan: Arc<Plan>,
    pub(super) steering: Option<Seen>,
    /// The other parts that it has in the firewall.
    pub(super) besides: Vec<ChainPart>,
    pub(super) counters: Counters,
    pub(super) origins: Option<OriginWatch>,
    /// The address of metrics and health.
    pub(super) admin: Option<std::net::SocketAddr>,
    /// The number of descriptors that all connections together may have.
    pub(super) descriptors: usize,
    /// The number of these that are each service's own.
    pub(super) descriptors_of_each: usize,
    /// Services that the configuration has no more, and when what they have open is cut.
    pub(super) gone: Arc<[(Service, Instant)]>,
    pub(super) listeners: Arc<BTreeMap<DestinationId, ListenerAnswer>>,
    /// The things that others took away.
    pub(super) faults: Faults,
}

/// The steering of packets to the listeners.
#[derive(Clone)]
pub(super) enum Seen {
    SkLookup(Probe),
    Tproxy(Vec<ChainPart>),
}

/// The view that holds now. Clones show the same one.
#[derive(Clone)]
pub(super) struct Published(Arc<Mutex<Arc<View>>>);

impl Published {
    /// Of an instance that has not taken any step yet.
    pub(super) fn new(config: Arc<Config>, plan: Arc<Plan>, counters: Counters) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(View {
            state: InstanceState::Starting,
            mode: None,
            revision: 0,
            config,
            plan,
            steering: None,
            besides: Vec::new(),
            counters,
            origins: None,
            admin: None,
            descriptors: 0,
            descriptors_of_each: 0,
            gone: Arc::default(),
            listeners: Arc::default(),
            faults: Faults::default(),
        }))))
    }

    pub(super) fn now(&self) -> Arc<View> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish(&self, view: View) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Nothing else has changed.
    pub(super) fn state(&self, state: InstanceState) {
        self.publish(View { state, ..View::clone(&self.now()) });
    }
}
