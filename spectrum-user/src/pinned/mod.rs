//! Pinned state: what steers to other programs' sockets without a process of ours, kept in a BPF file system by the verbs `load`, `bind`,
//! `unbind`, `load-bindings`, `register`, `unregister` and `unload`, and looked at by `status`, `bindings` and `metrics`. Prints nothing.

mod charter;
mod look;
mod place;
mod state;

pub use charter::{Charter, CharterError, PinnedSocket};
pub use look::PinnedView;
pub use place::{PinnedPlace, PlaceError};
pub use state::{PinnedError, PinnedState};
