//! What keys the hashes of the program, so that strangers cannot foresee them. Hashes nothing.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use serde::{Deserialize, Serialize};

/// The key of a program's hashes.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq, Serialize)]
pub struct Secret(pub(super) [u64; 2]);

impl Secret {
    /// A new one.
    pub(super) fn drawn() -> Self {
        // The standard library asks the system for what its hashers begin with.
        Self([(); 2].map(|()| RandomState::new().hash_one(0_u64)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
