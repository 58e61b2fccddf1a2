//! What the steerer and its worker process say to each other. Both are the same build of the program, but where one drains that was
//! started before an upgrade: what may be said then keeps the form that it has in `message/golden.txt`. Says nothing itself.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::confinement::{Needs, WorkerReport, WorkerUser};
use crate::model::{
    Destination, Family, Hop, LocalOrigins, LogFormat, Origin, OriginPort, OriginSetting, Protocol,
    ResolverOptions, ServiceName,
};
use crate::observe::ProcessNumber;
pub(crate) use crate::observe::RecordRules;
use spectrum_proxy::{
    DrainOutcome, HostFile, OriginState, PrivilegedSocket, Served, SetOrigin, SetOriginError,
};

/// The first thing that a worker process is told, before it is anything.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Beginning {
    /// The form of log lines and records.
    pub(crate) log_format: LogFormat,
    /// Its number in the book of counters.
    pub(crate) process: ProcessNumber,
    /// The user that it is to be.
    pub(crate) user: WorkerUser,
    /// The capabilities that it keeps.
    pub(crate) needs: Needs,
}

/// A message to the worker process.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum ToWorker {
    /// It is to do something, and to answer with this number.
    Do(u64, Order),
    /// The answer to its question of this number.
    Told(u64, Told),
}

/// A message from the worker process.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum FromWorker {
    /// The answer to the command of this number.
    Answer(u64, WorkerAnswer),
    /// A question of this number.
    Ask(u64, WorkerQuestion),
    /// Something happened that must not; it is about to end.
    Failed(String),
}

/// A thing to be done by the worker process.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Order {
    /// Look names up in this way from now on.
    Configure(ResolverOptions),
    /// Say of each service's origins where they were typed.
    Place(HashMap<ServiceName, Vec<String>>),
    /// Record connections by these rules from now on.
    Follow(RecordRules),
    /// Ask anew where what is dialled leads.
    Avoid,
    /// Look the names of these origins up, and answer when all are or after that time.
    LookUp(Vec<(Origin, LocalOrigins)>, Duration),
    /// Start so many workers.
    Start(usize),
    /// Judge otherwise whom services let in.
    Judge(JudgeOrder),
    /// Serve a destination from the listeners that come with it.
    Listen(Destination, Box<Served>),
    /// Prepare to hand these over, in place of what was prepared before.
    Prepare(Vec<HandoverOf>),
    /// Hand over what was prepared.
    HandOver,
    /// Close the listeners of a destination.
    Remove(Destination),
    /// Have the UDP sessions of these go on by themselves.
    Part(Vec<Destination>),
    /// Cut what is open of a destination that was removed.
    Cut(Destination),
    /// Do not read listeners that come from now on before [`Order::Begin`]: another worker process does still.
    Hold,
    /// Read those of this protocol.
    Begin(Protocol),
    /// Leave all listeners to another worker process, and give it the UDP sessions, by the stream that comes with this.
    Leave,
    /// Go on with the UDP sessions that come by the stream that comes with this.
    Adopt,
    /// Let what is open end, for so long.
    Drain(Duration),
    /// Cut everything.
    Abort,
    /// Give a sign of life, of each worker too.
    Sign,
    /// Drain an origin of a service, or weigh it.
    Set(ServiceName, String, OriginSetting),
    /// Forget what is set of others than these.
    Keep(Vec<(ServiceName, Origin)>),
    /// Tell of these services' origins, and of descriptors, which so many services share.
    Look(Vec<ServiceName>, usize),
}

/// A change of whom services let in, as far as the worker process judges that.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum JudgeOrder {
    /// What was said at run time is in the file that comes with this, so many nodes, in the places where it was.
    Amend(usize),
    /// Do not go over to what was prepared.
    Forget,
    /// Until it is settled judge by what was prepared, too.
    Overlap,
    /// What is in the file that comes with this is to hold next; or, where nothing is, nobody is to be judged.
    Prepare(Option<JudgeForm>),
    /// Judge by what was prepared alone.
    Settle,
}

/// The form of whom services let in, whose nodes come in a file: first those of the table, then those of the lists of what was said at
/// run time.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct JudgeForm {
    pub(super) gates: Vec<(ServiceName, Family, u32)>,
    pub(super) nodes: usize,
    pub(super) run_time: usize,
    pub(super) judges_all: bool,
}

/// The listeners of one destination are to serve something else.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct HandoverOf {
    pub(crate) from: Destination,
    pub(crate) to: Destination,
    pub(crate) served: Served,
}

/// The answer to a command.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum WorkerAnswer {
    Done,
    Cut(usize),
    /// So many UDP sessions went over.
    Moved(usize),
    Drained(DrainOutcome),
    Seen(WorkersLook),
    Set(Result<SetOrigin, SetOriginError>),
    /// It could not be done.
    Failed(String),
}

/// The things that only the worker process knows.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct WorkersLook {
    /// The number of descriptors that all connections together may have.
    pub(crate) descriptors: usize,
    /// The number of these that each service has of its own.
    pub(crate) descriptors_of_each: usize,
    /// What it may do, unless it is a thread.
    pub(crate) confinement: Option<WorkerReport>,
    /// The states of the addresses of services' origins.
    pub(crate) origins: HashMap<ServiceName, Vec<OriginState>>,
}

/// A question of the worker process, which knows no bindings.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum WorkerQuestion {
    /// The addresses of this host's interfaces.
    Interfaces,
    /// The ways that connections of a service take which are dialled there.
    Hops(DialPlace),
    /// A file of name resolution that the worker process may not open.
    File(HostFile),
    /// A socket that the worker process is not permitted to make.
    Socket(PrivilegedSocket),
}

/// A place that connections of a service may be dialled at.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct DialPlace {
    pub(crate) service: ServiceName,
    pub(crate) address: IpAddr,
    pub(crate) port: OriginPort,
    pub(crate) record: Option<u16>,
}

/// The answer to it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Told {
    Interfaces(BTreeSet<IpAddr>),
    Hops(Vec<Hop>),
    /// The file or socket comes with the answer, or there is none for this reason.
    Opened(Result<(), i32>),
}

#[cfg(test)]
mod tests;
