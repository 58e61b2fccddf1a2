//! The live instances of a network namespace: what each has claimed, so that none takes another's, and so that what
//! dead ones left can be told from what live ones use. Removes nothing from the kernel.

mod error;
mod leftovers;
mod registry;
mod run_dir;
mod sockets;
mod state;

pub use error::{InstanceError, RunDirError};
pub use leftovers::Leftovers;
pub(crate) use registry::GROUP;
pub use registry::{Claim, Registry, StartupLock, live_instances, taken};
pub use run_dir::run_dir;
pub use sockets::{ControlSocket, control_sockets};
pub use state::{Instance, InstanceId, Mode, NoInstanceId};
