//! The capability sets of the calling thread, from which new threads and programs get theirs: all that is not to be kept is given up
//! for ever. Decides nothing about what is kept.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::ConfinementError;

/// What programs that the process executes are to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Heirs {
    /// The same capabilities: a steerer's worker process, and nft.
    Equal,
    /// No capability. Who has a worker process in hand is to find none in what it executes either.
    Poor,
}

/// The capabilities that the calling thread may have.
pub(super) fn permitted() -> Result<CapabilitySet, ConfinementError> {
    Ok(capabilities(None).map_err(failed("ask for the capabilities"))?.permitted)
}

/// Has the calling thread use all that it may have, which it does not if they are the file's and only permitted. Returns them.
pub(super) fn take_up() -> Result<CapabilitySet, ConfinementError> {
    let held = capabilities(None).map_err(failed("ask for the capabilities"))?;
    let sets = CapabilitySets { effective: held.permitted, ..held };
    set_capabilities(None, sets).map_err(failed("take up the capabilities that are permitted"))?;
    Ok(held.permitted)
}

/// Gives up the bounding set but for `kept`: not even a program with file capabilities gets more. Returns what is left of it, which
/// is more than that where CAP_SETPCAP is missing.
pub(super) fn bound(kept: CapabilitySet) -> Result<CapabilitySet, ConfinementError> {
    let held = capabilities(None).map_err(failed("ask for the capabilities"))?;
    let op = "give up the bounding set of capabilities";
    let mut left = CapabilitySet::empty();
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => {}
            Ok(false) => continue,
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed(op)(errno)),
        }
        if kept.contains(capability) || !held.effective.contains(CapabilitySet::SETPCAP) {
            left |= capability;
        } else {
            remove_capability_from_bounding_set(capability).map_err(failed(op))?;
        }
    }
    Ok(left)
}

/// Gives up everything but `kept`, which must be permitted.
pub(super) fn keep(kept: CapabilitySet, heirs: Heirs) -> Result<(), ConfinementError> {
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    let inheritable = match heirs {
        Heirs::Equal => kept,
        Heirs::Poor => CapabilitySet::empty(),
    };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable };
    set_capabilities(None, sets).map_err(failed("give up capabilities"))?;
    for capability in each(inheritable) {
        match configure_capability_in_ambient_set(capability, true) {
            // The super-user's programs get what is in the bounding set all the same.
            Err(Errno::PERM) if nix::unistd::Uid::effective().is_root() => {}
            done => done.map_err(failed("hand on capabilities"))?,
        }
    }
    let is = capabilities(None).map_err(failed("ask for the capabilities"))?;
    if is != sets {
        let source = io::Error::other("the kernel said that they were given up, and has them still");
        return Err(ConfinementError::Capabilities { op: "give up capabilities", source });
    }
    Ok(())
}

fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)).filter(move |one| set.contains(*one))
}

fn failed(op: &'static str) -> impl Fn(Errno) -> ConfinementError {
    move |errno| ConfinementError::Capabilities { op, source: errno.into() }
}
