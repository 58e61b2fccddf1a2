//! Raw access to map memory: the one place of this crate where unsafe code is. aya neither maps an array's memory nor
//! can it know that our counters are plain old data.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use spectrum_common::{Counts, Node};

/// [`Counts`] as map values are read.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct PodCounts(pub(super) Counts);

// SAFETY: repr(C), u64 fields only, so without padding and valid for every bit pattern.
unsafe impl aya::Pod for PodCounts {}

/// Writes `nodes` to the beginning of an array map that was created with BPF_F_MMAPABLE (Linux 5.5) and has at least
/// as many elements of their size. A system call for each element would take seconds for a million.
pub(super) fn fill(map: impl AsFd, nodes: &[Node]) -> io::Result<()> {
    let bytes = Node::bytes(nodes);
    let Some(length) = NonZeroUsize::new(bytes.len()) else { return Ok(()) };
    // SAFETY: a fresh shared mapping at an address of the kernel's choice; nothing else in this process knows it.
    let memory = unsafe {
        mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0)?
    };
    // SAFETY: the mapping is at least `length` long, since the kernel refuses to map more than the array has, and
    // does not overlap `bytes`, since it is fresh.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().cast(), bytes.len()) };
    // SAFETY: mapped above with this length, and no pointer into it is left.
    unsafe { munmap(memory, bytes.len())? };
    Ok(())
}
