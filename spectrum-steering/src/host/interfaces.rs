//! Interfaces by their names. Changes none.

use nix::net::if_::if_nametoindex;

use crate::model::InterfaceName;

/// The index of an interface of this network namespace; `None`: there is none of that name.
#[must_use]
pub fn interface_index(name: &InterfaceName) -> Option<u32> {
    if_nametoindex(name.as_str()).ok()
}
