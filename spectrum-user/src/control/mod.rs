//! How other processes speak with a running instance: one request and one answer per connection to a unix socket, each
//! a line of JSON. Carries them; what they ask for is done in `commands`.

mod answer;
mod client;
mod conversation;
mod error;
mod policy;
mod request;
mod server;

pub use answer::{
    CheckAnswer, Conflict, Decider, DestinationAnswer, DrainingAnswer, ErrorAnswer, Explanation,
    InstanceState, ListedBinding, ListenerAnswer, OriginAnswer, Outcome, PacketCounts, ProgramAnswer,
    RecordAnswer, ServiceAnswer, SetOriginAnswer, Status, TableAnswer,
};
pub use client::{ask, ask_within};
pub use conversation::{Asked, Asker, SharedAnswer};
pub use error::ControlError;
pub use policy::{LimitsAnswer, TimeoutsAnswer};
pub use request::{BindingsQuery, ExplainQuery, OriginQuery, ReloadQuery, Request};
pub use server::ControlServer;
