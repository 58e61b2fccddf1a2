//! A running instance as whoever changes it has left it, for those who ask on other threads, so that nobody waits for anybody.
//! Answers nothing itself: what it shows is made into a view.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{
    AnnouncementView, Faults, InstanceState, LastUpgradeView, ListenerView, ReloadsView, RunTimePresent,
    UpgradesView, XdpView,
};
use crate::config::Config;
use crate::model::{DestinationId, RegisteredSocket, Service, ServiceName};
use crate::observe::{Book, TopSources, timestamp};
use crate::plan::Plan;
use crate::plan::firewall::ChainPart;
use crate::registry::{InstanceId, Mode};
use crate::worker_process::CurrentWorker;
use spectrum_steering::dispatcher::Probe;
use spectrum_steering::host::NamespaceId;

/// An instance as it is now. What counts goes on counting.
#[derive(Clone)]
pub struct Present {
    /// Its id, once it has one.
    pub id: Option<InstanceId>,
    /// The phase of its life.
    pub state: InstanceState,
    /// The path, once that is decided.
    pub mode: Option<Mode>,
    /// Its network namespace.
    pub namespace: NamespaceId,
    /// The number of configurations before this one.
    pub revision: u32,
    /// The configuration.
    pub config: Arc<Config>,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// The steering of packets, while there is any.
    pub steering: Option<Seen>,
    /// The counters of packets, with sk_lookup: also when nothing is steered any more.
    pub packets: Option<Probe>,
    /// The other parts that it has in the firewall.
    pub besides: Vec<ChainPart>,
    /// The services that it has, or had since its program began: no other is counted, whatever the book says.
    pub known: Arc<BTreeSet<ServiceName>>,
    /// The book of all that is counted of connections, and of what is written of them.
    pub book: Book,
    /// The worker process, which knows the states of origins.
    pub(crate) worker: CurrentWorker,
    /// Worker processes that have left their listeners to it.
    pub leaving: Arc<[LeavingWorker]>,
    /// The address of metrics and health.
    pub admin: Option<SocketAddr>,
    /// Services that the configuration has no more, and when what they have open is cut.
    pub gone: Arc<[(Service, Instant)]>,
    /// The listeners of destinations.
    pub listeners: Arc<BTreeMap<DestinationId, ListenerView>>,
    /// The sockets of other programs that destinations have.
    pub sockets: Arc<BTreeMap<DestinationId, Vec<RegisteredSocket>>>,
    /// The last ones of those that have none since.
    pub gone_sockets: Arc<BTreeMap<DestinationId, RegisteredSocket>>,
    /// The inodes of their sockets, and of those of destinations that are gone, while they are open.
    pub own_listeners: Arc<HashSet<u64>>,
    /// The interfaces where XDP is asked for.
    pub xdp: Arc<[XdpView]>,
    /// The directory of what is pinned.
    pub pins: Option<String>,
    /// Whom the programs turn away most.
    pub denied: TopSources,
    /// The prefixes that are to be announced.
    pub announcements: Arc<[AnnouncementView]>,
    /// The device that has their routes.
    pub announcing_device: Option<String>,
    /// Why what was withdrawn by hand may be forgotten.
    pub announcing_damage: Option<String>,
    /// The reason for which lists of prefixes hold as they were.
    pub lists_damage: Option<String>,
    /// What was said at run time of whom services let in.
    pub run_time: RunTimePresent,
    /// The things that others took away.
    pub faults: Faults,
    /// The upgrades so far.
    pub upgrades: UpgradesView,
}

/// A worker process that has left its listeners to another one, and still has something open.
#[derive(Clone, Copy, Debug)]
pub struct LeavingWorker {
    /// Its process id.
    pub pid: u32,
    /// When that is cut.
    pub cut_at: Instant,
}

/// The name of the requests for another configuration in the book.
const RELOADS: &str = "reloads";

/// The same of those for another version of the program.
const UPGRADES: &str = "upgrades";

/// That of the changes of what is announced.
const ANNOUNCEMENTS: &str = "announcements";

impl Present {
    /// Counts a request for another configuration.
    pub fn reloaded(&self, is_done: bool) {
        self.book.count(RELOADS, if is_done { "done" } else { "refused" });
    }

    /// The requests for another configuration so far.
    pub(super) fn reloads(&self) -> ReloadsView {
        let sums = self.book.singles(RELOADS);
        let of = |word| sums.get(word).copied().unwrap_or(0);
        ReloadsView { done: of("done"), refused: of("refused") }
    }

    /// The changes of what is announced so far, where anything is.
    pub(super) fn announcing_changes(&self) -> BTreeMap<String, u64> {
        if self.announcements.is_empty() {
            return BTreeMap::new();
        }
        let sums = self.book.singles(ANNOUNCEMENTS);
        let of = |word: &str| (word.to_owned(), sums.get(word).copied().unwrap_or(0));
        ["announced", "withdrawn"].map(of).into()
    }

    /// Counts a change of what is announced.
    pub fn announced(&self, is_announced: bool) {
        self.book.count(ANNOUNCEMENTS, if is_announced { "announced" } else { "withdrawn" });
    }

    /// Has it go by another configuration. Services that this one has no more are still known.
    pub fn go_by(&mut self, config: &Arc<Config>, plan: &Arc<Plan>) {
        let names = config.services.iter().map(|service| &service.name);
        let new: Vec<&ServiceName> = names.filter(|name| !self.known.contains(name)).collect();
        if !new.is_empty() {
            Arc::make_mut(&mut self.known).extend(new.into_iter().cloned());
        }
        self.config = Arc::clone(config);
        self.plan = Arc::clone(plan);
    }
}

/// The steering of packets to the listeners.
#[derive(Clone)]
pub enum Seen {
    /// By the eBPF program.
    SkLookup(Probe),
    /// By the firewall.
    Tproxy(Vec<ChainPart>),
}

/// The instance as it is now. Clones show the same one.
#[derive(Clone)]
pub struct Published(Arc<Mutex<Arc<Present>>>);

impl Published {
    /// An instance that has not taken any step yet, in the network namespace that this thread is in.
    ///
    /// # Errors
    /// The namespace cannot be asked for.
    pub fn new(config: Arc<Config>, plan: Arc<Plan>, book: Book) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Arc::new(Present {
            id: None,
            state: InstanceState::Starting,
            mode: None,
            namespace: NamespaceId::current()?,
            revision: 0,
            known: Arc::new(config.services.iter().map(|service| service.name.clone()).collect()),
            config,
            plan,
            steering: None,
            packets: None,
            besides: Vec::new(),
            book,
            worker: CurrentWorker::default(),
            leaving: Arc::default(),
            admin: None,
            gone: Arc::default(),
            listeners: Arc::default(),
            sockets: Arc::default(),
            gone_sockets: Arc::default(),
            own_listeners: Arc::default(),
            pins: None,
            xdp: Arc::default(),
            denied: TopSources::default(),
            announcements: Arc::default(),
            announcing_device: None,
            announcing_damage: None,
            lists_damage: None,
            run_time: RunTimePresent::default(),
            faults: Faults::default(),
            upgrades: UpgradesView::default(),
        })))))
    }

    /// The instance now.
    #[must_use]
    pub fn now(&self) -> Arc<Present> {
        Arc::clone(&self.lock())
    }

    /// The worker process, whichever it is.
    pub(crate) fn worker(&self) -> CurrentWorker {
        self.lock().worker.clone()
    }

    /// Shows what `changed` makes of it.
    pub fn change(&self, changed: impl FnOnce(&mut Present)) {
        changed(Arc::make_mut(&mut self.lock()));
    }

    /// It has become another version of the program, which was `from`; or has not, and goes on as it was, for the reason of `failure`.
    pub fn upgraded(&self, from: &str, failure: Option<&str>) {
        let last =
            LastUpgradeView { at: timestamp(), from: from.to_owned(), failure: failure.map(str::to_owned) };
        let book = self.now().book.clone();
        book.count(UPGRADES, if failure.is_none() { "done" } else { "refused" });
        let sums = book.singles(UPGRADES);
        let of = |word| sums.get(word).copied().unwrap_or(0);
        let upgrades = UpgradesView { done: of("done"), refused: of("refused"), last: Some(last) };
        self.change(|now| {
            now.state = InstanceState::Ready;
            now.upgrades = upgrades;
        });
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Present>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
