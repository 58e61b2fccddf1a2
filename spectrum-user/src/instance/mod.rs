//! The live instances of a network namespace: what each has claimed, so that none takes another's, and so that what
//! dead ones left can be told from what live ones use. Removes nothing from the kernel.

mod error;
mod ledger;
mod leftovers;
mod registry;
mod repairs;
mod resource;
mod run_dir;
mod sockets;
mod state;
pub mod view;
mod want;
mod watch;

pub use error::{InstanceError, RunDirError};
pub use ledger::{Farewell, Ledger, Step, Way};
pub use leftovers::Leftovers;
pub(crate) use registry::GROUP;
pub use registry::{Claim, Registry, StartupLock, live_instances, taken};
pub use repairs::{Faults, Judgement, News, Repairs, named};
pub use resource::{Resource, ResourceKind};
pub use run_dir::run_dir;
pub use sockets::{ControlSocket, control_sockets};
pub use state::{Instance, InstanceId, InstanceName, Mode, NoInstanceName};
pub use want::want;
pub use watch::{Look, Watch};
