//! How other processes speak with a running instance: one request and one answer per connection to a unix socket, each
//! a line of JSON. Carries them; what they ask for is done in `commands`.

mod answer;
mod client;
mod conversation;
mod error;
mod request;
mod server;

pub use answer::{
    AnnounceAnswer, Decider, DenyAnswer, Explanation, Outcome, RunningConfiguration, SetOriginAnswer,
    Treatment,
};
pub use client::{ask, ask_within};
pub use conversation::{Asked, Asker, SharedAnswer};
pub use error::ControlError;
pub use request::{
    AnnounceQuery, BindingsQuery, DenyQuery, ExplainQuery, OriginQuery, ReloadQuery, Request, UpgradeQuery,
};
pub use server::ControlServer;
