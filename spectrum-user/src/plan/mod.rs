//! What the kernel must contain for a configuration: decisions as values. Carries none of them out.

mod bindings;
mod explain;
pub mod firewall;
mod hidden;
mod loops;
mod obstacles;
mod onward;
mod overlap;
pub mod replies;
pub mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use bindings::{BindingIndex, Plan, PlanError, PlannedBinding};
pub use explain::{Explained, Miss, Precedence};
pub use hidden::{Extent, Hidden};
pub use loops::Leg;
pub use obstacles::{Hindered, Listing, Obstacle, Tracked};
pub use overlap::Overlap;
