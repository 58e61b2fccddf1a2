//! The life of an instance: what it wants, what it has, the courses from one to the other, and what it answers. Parses nothing that
//! was typed, and prints nothing.

mod announcing;
mod beside;
mod conflicts;
mod denying;
mod effects;
mod exempting;
mod exit_code;
mod firewall_looks;
mod hearing;
mod leaving;
mod ledger;
mod life;
mod lookups;
mod notifying;
mod own_addresses;
mod own_bindings;
mod privileges;
mod ready;
mod registering;
mod reload;
mod renewing;
mod repairing;
mod repairs;
mod replies;
mod running;
mod seeing;
mod set_origin;
mod signals;
mod standby;
mod state_dir;
mod stop;
mod sweep;
mod upgrade;
mod want;
mod watch;
mod worker;
mod xdp_links;

pub(crate) use exit_code::{USAGE, code, problems};
pub use ledger::{Act, Course, Farewell, Ledger};
pub(crate) use life::{Inheritance, ReadAgain, live};
pub(crate) use lookups::{Numbered, look_up, origins_of};
pub(crate) use own_addresses::refuse_covered_addresses;
pub(crate) use own_bindings::own_bindings;
pub(crate) use privileges::{capabilities, require_net_admin};
pub(crate) use ready::Ready;
pub(crate) use reload::Reloaded;
pub use repairs::{Judgement, Repairs};
pub(crate) use running::{LOCK_PATIENCE, Settings, WorkerPlace};
pub(crate) use signals::hold as hold_signals;
pub(crate) use sweep::leftovers;
#[cfg(test)]
pub(crate) use upgrade::LEDGER_VERSION;
pub(crate) use upgrade::{OwnProgram, Takeover, try_out};
pub use want::want;
pub use watch::{Look, Watch};
