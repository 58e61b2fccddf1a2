//! What the user asked for, understood: flags, and files later, become one [`Config`]. Asks the system nothing.

mod firewall;
mod flags;
mod mode;

pub use firewall::{FirewallChoice, ParseFirewallError};
pub use flags::{Flags, FlagsError};
pub use mode::{ModeChoice, ParseModeError};

use crate::model::Service;

/// What to do, however it was said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Which path to steer by.
    pub mode: ModeChoice,
    /// Which firewall carries the rules of the TPROXY path.
    pub firewall: FirewallChoice,
    /// At least one, each with at least one binding; names differ.
    pub services: Vec<Service>,
}
