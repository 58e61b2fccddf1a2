//! What the kernel must contain for a configuration: decisions as values. Carries none of them out.

mod bindings;
pub mod firewall;
pub mod table;

pub use bindings::{BindingIndex, Plan, PlanError, PlannedBinding};
