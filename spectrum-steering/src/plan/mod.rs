//! What the kernel must contain for a configuration: decisions as values. Carries none of them out.

mod bindings;
mod cut;
mod exemption;
mod explain;
pub mod firewall;
mod hidden;
mod hops;
mod listener_sockets;
mod obstacles;
mod overlap;
mod policies;
pub mod reply_table;
mod run_time;
pub mod table;
#[cfg(test)]
mod tests;

pub use bindings::{BindingIndex, Binds, Bound, Plan, PlanError, PlannedBinding};
pub use cut::Cut;
pub use exemption::Exemption;
pub use explain::{Explained, Miss, Precedence};
pub use hidden::{Extent, Hidden};
pub use listener_sockets::{ListenerRoom, TooFewDescriptors};
#[cfg(test)]
pub(crate) use obstacles::iptables_listing;
pub use obstacles::{Effect, Hindered, Listing, Obstacle, Tracked, Untracking, obstacles_to, word};
pub use overlap::Overlap;
pub use policies::{OwnPolicy, Policies, PolicyScope};
pub use run_time::{EntrySource, RunTimeSources};
