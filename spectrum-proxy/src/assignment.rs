//! A worker's part in serving a destination: the service, the way to its origins and its limits. Accepts and receives nothing.

use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::limits::{Gate, ServiceShare};
use crate::model::{Destination, Target};
use crate::report::{End, Limit};
use crate::service::{Served, Serving};
use crate::session::Session;
use crate::source_judge::{Applicant, JudgeView, TurnedAway};
use crate::tcp::connections::Connections;
use crate::tcp::dial::Dialler;
use crate::tcp::first_move::Manners;
use crate::traffic::Traffic;
use crate::worker::Worker;

/// The listener and service of a destination that this worker serves.
pub(super) struct Assignment {
    pub(super) destination: Destination,
    /// Where TCP's are kept while they are open.
    pub(super) connections: Rc<Connections>,
    pub(super) served: Arc<Served>,
    /// `None` where we answer ourselves.
    pub(super) dialler: Option<Dialler>,
    pub(super) gate: Gate,
    pub(super) manners: Manners,
    share: Rc<ServiceShare>,
    worker: Rc<Worker>,
    /// Nothing is counted of what nobody dials.
    traffic: OnceCell<Traffic>,
}

impl Assignment {
    pub(super) fn new(
        serving: Serving,
        destination: &Destination,
        connections: &Rc<Connections>,
        worker: &Rc<Worker>,
    ) -> Self {
        let Serving { served, current } = serving;
        let connect = served.policy.timeouts.connect;
        let gate = worker.common.ledger.gate(&served.service, &served.policy.limits);
        let share = worker.descriptors.share(&served.service);
        let dialler = current.map(|current| Dialler::new(current, connect, worker.index));
        let (destination, connections) = (destination.clone(), Rc::clone(connections));
        let manners = Manners::default();
        let (worker, traffic) = (Rc::clone(worker), OnceCell::new());
        Self { destination, connections, served, dialler, gate, manners, share, worker, traffic }
    }

    pub(super) fn served(&self) -> &Served {
        &self.served
    }

    /// The counters of its sessions.
    pub(super) fn traffic(&self) -> &Traffic {
        self.traffic.get_or_init(|| self.worker.traffic(&self.served.service, self.destination.protocol))
    }

    /// The permission to have one more connection: that of the source policy, as far as it is judged here, then descriptors to serve it with. A trusted proxy is
    /// counted itself until it says whom it speaks for; where that makes too many of it, this one is on credit.
    pub(super) fn admit(&self, session: &Session) -> Result<Option<Credit>, Limit> {
        self.judge(session)?;
        let sockets = match self.served.target {
            Target::Origins(_) => 2,
            Target::Registered | Target::Respond(_) => 1,
        };
        if let Err(limit) = session.take_descriptors(&self.share, sockets) {
            self.complain(session, limit);
            return Err(limit);
        }
        match session.admit(&self.gate) {
            Err(limit @ (Limit::Source | Limit::SourceRate)) if self.awaits_header(session) => {
                Ok(Some(Credit(limit)))
            }
            Err(limit) => {
                self.complain(session, limit);
                Err(limit)
            }
            Ok(()) => Ok(None),
        }
    }

    /// The same once a trusted proxy has said whom it speaks for.
    pub(super) fn readmit(&self, session: &Session, credit: Option<Credit>) -> Result<(), Limit> {
        if session.via.get().is_some() {
            self.judge(session)?;
        }
        let admitted = match credit {
            Some(_) => session.admit(&self.gate),
            None => session.reassign(&self.gate),
        };
        admitted.inspect_err(|limit| self.complain(session, *limit))
    }

    /// The word of the source policy on the client of `session`, as far as it is said here.
    fn judge(&self, session: &Session) -> Result<(), Limit> {
        let turned_away = self.turns_away(session.client.get().ip(), session.via.get().is_some());
        match turned_away {
            Some(TurnedAway { limit, .. }) => {
                self.complain(session, limit);
                Err(limit)
            }
            None => Ok(()),
        }
    }

    /// What turns the client at `client` away, whom a trusted proxy has named or not, as far as source policies are judged here.
    pub(super) fn turns_away(&self, client: IpAddr, is_named: bool) -> Option<TurnedAway> {
        let (service, protocol) = (&self.served.service, self.destination.protocol);
        self.worker.judge.turns_away(&Applicant { service, protocol, client, is_named })
    }

    /// The judges that its worker asks.
    pub(super) fn judge_view(&self) -> &JudgeView {
        &self.worker.judge
    }

    /// The account of a connection, or session, that begins.
    pub(super) fn account(&self, client: SocketAddr, dialled: SocketAddr) -> Session {
        let (service, protocol) = (self.served.service.clone(), self.destination.protocol);
        Session::open(Rc::clone(&self.worker), service, protocol, client, dialled, self.traffic())
    }

    /// Reports a datagram from `client` to what it `dialled` that comes no further for this reason.
    pub(super) fn deny(&self, client: SocketAddr, dialled: SocketAddr, limit: Limit) {
        let account = self.account(client, dialled);
        self.complain(&account, limit);
        account.end(End::Denied(limit));
    }

    /// The count of its sessions' descriptors.
    pub(super) fn share(&self) -> &Rc<ServiceShare> {
        &self.share
    }

    /// Tells the log of a session that was shed, or of many at once.
    pub(super) fn complain(&self, session: &Session, limit: Limit) {
        self.gate.complain(session.service(), session.client.get().ip(), limit);
    }

    /// True if the client is yet to be named, by the proxy that dialled for it.
    pub(super) fn awaits_header(&self, session: &Session) -> bool {
        self.served.policy.trusted_proxies.trusts(session.client.get().ip())
    }
}

/// The limit that a trusted proxy's own connections have reached: one more has little time to be somebody else's, so that many
/// at once are no fault of their clients, and those that never say for whom they are cannot be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit(pub(super) Limit);

/// The assignment that connections accepted from now on get; those already open keep theirs. Clones show the same one.
#[derive(Clone)]
pub(super) struct CurrentAssignment(Rc<RefCell<Rc<Assignment>>>);

impl CurrentAssignment {
    pub(super) fn new(assignment: Assignment) -> Self {
        Self(Rc::new(RefCell::new(Rc::new(assignment))))
    }

    pub(super) fn replace(&self, assignment: Assignment) {
        self.0.replace(Rc::new(assignment));
    }

    pub(super) fn get(&self) -> Rc<Assignment> {
        Rc::clone(&self.0.borrow())
    }
}
