//! The process that serves what the steerer steers to it: it has the listeners, the origins and everything that strangers send,
//! and none of the privileges. What it is told and what it answers, and both ends of that. Steers nothing.

mod asking;
mod calls;
mod current;
mod link;
mod message;
mod moving;
mod node_file;
mod process;
mod serving;
mod waiters;
mod wire;

pub(crate) use calls::{NewJudge, NewListeners};
pub(crate) use current::{CurrentWorker, Setting};
pub(crate) use link::{Answering, Begun, HandedLink, Link, LinkError};
pub(crate) use message::{Beginning, DialPlace, HandoverOf, Told, WorkerQuestion, WorkersLook};
pub(crate) use process::{HandedWorker, Host, VERB, WorkerProcess, beginning};
pub(crate) use serving::serve;
pub(crate) use wire::HeardPart;
