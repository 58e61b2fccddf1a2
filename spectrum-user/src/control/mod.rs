//! How other processes speak with a running instance: one request and one answer per connection to a unix socket, each
//! a line of JSON. Carries them; what they ask for is done in `commands`.

mod answer;
mod client;
mod conversation;
mod error;
mod passing;
mod request;
mod server;

pub use answer::{
    AnnounceAnswer, Decider, DenyAnswer, Explanation, Outcome, RegisterAnswer, RunningConfiguration,
    SetOriginAnswer, Treatment,
};
pub use client::{ask, ask_with, ask_within};
pub use conversation::{Asked, Asker, SharedAnswer};
pub use error::ControlError;
pub use passing::MOST_FILES;
pub use request::{
    AnnounceQuery, BindingsQuery, DenyQuery, ExplainQuery, OfferedSocket, OriginQuery, RegisterQuery,
    ReloadQuery, Request, TopSourcesQuery, UnregisterQuery, UpgradeQuery, WeightQuery,
};
pub use server::ControlServer;
