//! Metrics and health, from the view of an instance, for who scrapes and who balances load. Changes nothing.

mod exposition;
mod families;
mod server;

pub use server::{AdminError, AdminServer};
