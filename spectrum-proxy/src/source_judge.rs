//! Whom services let in, judged after accept: clients that a trusted proxy names, and everybody where no rule or program judges
//! them before. The decision is `spectrum_common::admit`. Knows no connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use spectrum_common::{
    ACCOUNT_WORDS, Accounts, Address, Charge, DenyReason, NO_NODE, Node, Nodes, Pace, Sender, Source,
    SourceVerdict, Value, admit, charge, hash_of, search,
};

use crate::model::{Family, Protocol, ServiceName};
use crate::report::Limit;

/// One generation of whom services let in: everybody, where it is empty. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SourceJudge {
    /// The gates of each service that has any, of IPv4 and of IPv6.
    gates: Arc<HashMap<ServiceName, [u32; 2]>>,
    /// The table that has the gates.
    nodes: Arc<Vec<Node>>,
    /// The lists of what was said at run time.
    run_time: Arc<Vec<Node>>,
    judges_all: bool,
}

impl SourceJudge {
    /// The one of `nodes`, in which services of these families have these `gates`, and of the lists `run_time` of what was said at run
    /// time. It `judges_all` where nobody judged clients before they were accepted, else those alone that a trusted proxy names.
    #[must_use]
    pub fn new(
        gates: impl IntoIterator<Item = (ServiceName, Family, u32)>,
        nodes: Vec<Node>,
        run_time: Vec<Node>,
        judges_all: bool,
    ) -> Self {
        let mut of_services = HashMap::<ServiceName, [u32; 2]>::new();
        for (service, family, gate) in gates {
            let [ipv4, ipv6] = of_services.entry(service).or_insert([NO_NODE; 2]);
            *(if family == Family::Ipv4 { ipv4 } else { ipv6 }) = gate;
        }
        Self { gates: of_services.into(), nodes: nodes.into(), run_time: run_time.into(), judges_all }
    }

    /// True if it judges how often somebody comes.
    fn has_rates(&self) -> bool {
        self.nodes.first().is_some_and(|first| first.as_step().has_rates != 0)
    }

    fn verdict(&self, applicant: &Applicant<'_>, accounts: Option<&SourceAccounts>) -> SourceVerdict {
        if !(self.judges_all || applicant.is_named) {
            return SourceVerdict::Admit;
        }
        let Some([ipv4, ipv6]) = self.gates.get(applicant.service) else { return SourceVerdict::Admit };
        let gate = *if applicant.client.is_ipv4() { ipv4 } else { ipv6 };
        if gate == NO_NODE {
            return SourceVerdict::Admit;
        }
        let (source, is_tcp) = (Source::from(applicant.client), applicant.protocol == Protocol::Tcp);
        admit(gate, &AskingSource { source, is_tcp, accounts }, self)
    }
}

impl Nodes for SourceJudge {
    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    fn step(&self, index: u32) -> Option<&Node> {
        self.node(index)
    }

    fn said_at_run_time(&self, list: u32, source: Source) -> Value {
        search(list, source, self.run_time.as_slice())
    }
}

/// A change of whom services let in.
#[derive(Debug)]
pub enum JudgeChange {
    /// Other lists of what was said at run time, in the same places.
    Amend(Vec<Node>),
    /// The one that was prepared is not wanted any more.
    Forget,
    /// Steering is about to change: until that is settled, the one that was prepared has to let a client in as well.
    Overlap,
    /// This one is to hold next.
    Prepare(SourceJudge),
    /// The one that was prepared holds, and it alone.
    Settle,
}

/// A client that wants to be let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) service: &'a ServiceName,
    pub(crate) protocol: Protocol,
    pub(crate) client: IpAddr,
    /// True if a trusted proxy has named it.
    pub(crate) is_named: bool,
}

/// A client that is not let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TurnedAway {
    pub(crate) limit: Limit,
    /// True if it is to be told so.
    pub(crate) is_told: bool,
}

impl TurnedAway {
    fn by(verdict: SourceVerdict) -> Option<Self> {
        let (reason, is_told) = match verdict {
            SourceVerdict::Admit => return None,
            SourceVerdict::Refuse(reason) => (reason, true),
            SourceVerdict::Silence(reason) => (reason, false),
        };
        let limit = match reason {
            DenyReason::Rate => Limit::PolicyRate,
            DenyReason::Denied | DenyReason::Interface => Limit::Policy,
        };
        Some(Self { limit, is_told })
    }
}

/// The address of a client, with the accounts that it is charged to; `None`: nothing is charged.
struct AskingSource<'a> {
    source: Source,
    is_tcp: bool,
    accounts: Option<&'a SourceAccounts>,
}

impl Sender for AskingSource<'_> {
    fn source(&self) -> Source {
        self.source
    }

    /// Nobody knows any more.
    fn interface(&self) -> u32 {
        0
    }

    fn may_come(&self, source: Address, rate: u32, pace: Pace) -> bool {
        let Some(accounts) = self.accounts else { return true };
        let words = [source.hi, source.lo, u64::from(rate) << 1 | u64::from(self.is_tcp)];
        let (account, now) = (hash_of(accounts.secret, words), accounts.now());
        // Of what has been accepted no packet comes a second time.
        charge(Charge { account, connection: 0, now }, pace, accounts)
    }
}

/// The accounts of sources, as the kernel program has them in a map: fixed memory, without a lock.
#[derive(Debug)]
struct SourceAccounts {
    words: Vec<AtomicU64>,
    secret: [u64; 2],
    began: Instant,
}

impl SourceAccounts {
    fn new() -> Self {
        let words = (0..ACCOUNT_WORDS).map(|_| AtomicU64::new(0)).collect();
        let secret = [0, 1].map(|half: u8| RandomState::new().hash_one(half));
        Self { words, secret, began: Instant::now() }
    }

    /// The time in ticks.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos() >> 10).unwrap_or(u64::MAX)
    }
}

impl Accounts for SourceAccounts {
    fn load(&self, index: u32) -> u64 {
        self.words.get(index as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, index: u32, word: u64) {
        if let Some(at) = self.words.get(index as usize) {
            at.store(word, Ordering::Relaxed);
        }
    }
}

/// The judges that all workers ask now. Clones show the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentJudges(Arc<JudgeSeat>);

#[derive(Debug, Default)]
struct JudgeSeat {
    /// The number of changes so far.
    version: AtomicU64,
    judges: Mutex<Judges>,
    /// There once a judge needed them: they outlast it.
    accounts: OnceLock<SourceAccounts>,
}

/// The judge that holds, and the one that is to hold next.
#[derive(Clone, Debug, Default)]
struct Judges {
    holds: SourceJudge,
    next: Option<SourceJudge>,
    /// True while both judge.
    overlaps: bool,
}

impl CurrentJudges {
    /// Judges otherwise from now on.
    pub(crate) fn change(&self, change: JudgeChange) {
        if let JudgeChange::Prepare(judge) = &change
            && judge.has_rates()
        {
            self.0.accounts.get_or_init(SourceAccounts::new);
        }
        let mut judges = self.judges();
        judges.overlaps = matches!(change, JudgeChange::Overlap);
        match change {
            JudgeChange::Amend(run_time) => judges.holds.run_time = run_time.into(),
            JudgeChange::Forget => judges.next = None,
            JudgeChange::Overlap => {}
            JudgeChange::Prepare(next) => judges.next = Some(next),
            JudgeChange::Settle => {
                if let Some(next) = judges.next.take() {
                    judges.holds = next;
                }
            }
        }
        // Whoever sees the number waits for the lock.
        self.0.version.fetch_add(1, Ordering::Release);
    }

    fn judges(&self) -> MutexGuard<'_, Judges> {
        self.0.judges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's view of the judges. Takes the lock only where they have changed.
#[derive(Debug)]
pub(crate) struct JudgeView {
    current: CurrentJudges,
    version: Cell<u64>,
    seen: RefCell<Judges>,
}

impl JudgeView {
    pub(crate) fn new(current: CurrentJudges) -> Self {
        Self { current, version: Cell::new(0), seen: RefCell::default() }
    }

    /// The number of the judgement that holds: whom it has let in it need not judge again, unless [`has_rates`](Self::has_rates).
    pub(crate) fn version(&self) -> u64 {
        let version = self.current.0.version.load(Ordering::Acquire);
        if version != self.version.get() {
            let judges = self.current.judges().clone();
            self.version.set(version);
            self.seen.replace(judges);
        }
        version
    }

    /// True if it matters how often somebody comes.
    pub(crate) fn has_rates(&self) -> bool {
        let seen = self.seen.borrow();
        seen.holds.has_rates() || seen.next.as_ref().is_some_and(SourceJudge::has_rates)
    }

    /// What turns away who asks.
    pub(crate) fn turns_away(&self, applicant: &Applicant<'_>) -> Option<TurnedAway> {
        self.version();
        let seen = self.seen.borrow();
        let accounts = self.current.0.accounts.get();
        let by = |judge: &SourceJudge, accounts| TurnedAway::by(judge.verdict(applicant, accounts));
        match &seen.next {
            // Charged is once.
            Some(next) if seen.overlaps => by(&seen.holds, None).or_else(|| by(next, accounts)),
            _ => by(&seen.holds, accounts),
        }
    }
}

#[cfg(test)]
mod tests;
