//! Metrics and health, from the view of an instance, for who scrapes and who balances load. Changes nothing.

mod exposition;
mod families;
mod server;

pub use server::{AdminError, AdminServer};

use crate::view::View;

/// The metrics of `view` in Prometheus' text form.
///
/// # Errors
/// There is no memory for them.
pub fn metrics_of(view: View) -> Result<String, std::fmt::Error> {
    exposition::exposition(view, exposition::TextFormat::Prometheus)
}
