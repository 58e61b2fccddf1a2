//! The sk_lookup programs of a network namespace, whoever attached them. Leaves them attached.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use aya::programs::loaded_programs;
use serde::{Deserialize, Serialize};

use super::sys;
use crate::model::visible;

/// A program that decides about the packets of a namespace.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AttachedProgram {
    /// As `bpftool prog show` prints it.
    pub id: u32,
    /// Its name, where we may know it: that needs CAP_SYS_ADMIN.
    pub name: Option<String>,
}

/// The sk_lookup programs that are attached to `netns`, in the order in which they run. Needs CAP_NET_ADMIN.
///
/// # Errors
/// EPERM without the capability, EINVAL before Linux 5.9.
pub fn attached_programs(netns: impl AsFd) -> io::Result<Vec<AttachedProgram>> {
    let mut programs: Vec<AttachedProgram> =
        sys::attached_to(netns.as_fd())?.into_iter().map(|id| AttachedProgram { id, name: None }).collect();
    let mut names = program_names();
    for program in &mut programs {
        program.name = names.remove(&program.id);
    }
    Ok(programs)
}

/// The names of the host's programs by their ids: none without CAP_SYS_ADMIN.
#[must_use]
pub fn program_names() -> BTreeMap<u32, String> {
    // The first refusal ends the listing, and so does the end.
    let programs = loaded_programs().map_while(Result::ok);
    programs.filter_map(|info| Some((info.id(), visible(info.name_as_str()?).into_owned()))).collect()
}
