//! Pinned state: what steers to other programs' sockets without a process of ours, kept in a BPF file system by the verbs `load`, `bind`,
//! `unbind`, `load-bindings`, `register`, `unregister` and `unload`, and looked at by `status`, `bindings` and `metrics`. Prints nothing.

mod before;
mod charter;
mod look;
mod place;
mod policy_clauses;
mod registered_bound;
mod state;

pub use before::PinnedBefore;
pub use charter::{Charter, CharterError};
pub use look::PinnedView;
pub use place::{PinnedPlace, PlaceError};
pub use state::{PinnedError, PinnedState};
