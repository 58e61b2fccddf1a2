//! One memory layout, several meanings: views of a [`Node`], and its bytes. Decides nothing.
#![allow(unsafe_code, reason = "reinterpreting plain old data is what this file is for")]

use core::slice;

use crate::{Bucket4, Bucket6, Interfaces, Node, Ports, SourceGate, Step};

/// # Safety
/// Implementors are `repr(C, align(64))`, 64 bytes long, without padding, and valid for every bit pattern.
unsafe trait View {}

// SAFETY: integers only, 64 bytes without padding (the const assertion below).
unsafe impl View for Step {}
// SAFETY: as above.
unsafe impl View for Bucket4 {}
// SAFETY: as above.
unsafe impl View for Bucket6 {}
// SAFETY: as above.
unsafe impl View for Ports {}
// SAFETY: as above.
unsafe impl View for SourceGate {}
// SAFETY: as above.
unsafe impl View for Interfaces {}

const _: () = assert!(size_of::<Step>() == 3 * 8 + 6 * 4 + 4 * 4);
const _: () = assert!(size_of::<Bucket4>() == 14 * 4 + 2 * 4);
const _: () = assert!(size_of::<Bucket6>() == 6 * 8 + 4 * 4);
const _: () = assert!(size_of::<Ports>() == 10 * 2 + 4 + 10 * 4);
const _: () = assert!(size_of::<SourceGate>() == 2 * 8 + 7 * 4 + 5 * 4);
const _: () = assert!(size_of::<Interfaces>() == 16 * 4);

#[inline(always)]
const fn view<V: View>(node: &Node) -> &V {
    const { assert!(size_of::<V>() == size_of::<Node>() && align_of::<V>() == align_of::<Node>()) };
    // SAFETY: of equal size and alignment, and every bit pattern is a V, which is what View promises.
    unsafe { &*core::ptr::from_ref(node).cast::<V>() }
}

#[inline(always)]
const fn node<V: View + Copy>(value: V) -> Node {
    const { assert!(size_of::<V>() == size_of::<Node>()) };
    // SAFETY: of equal size, V has no padding, and every bit pattern is a Node.
    unsafe { core::mem::transmute_copy(&value) }
}

impl Node {
    /// The node read as a [`Step`].
    #[must_use]
    #[inline(always)]
    pub const fn as_step(&self) -> &Step {
        view(self)
    }

    /// The node read as a [`Bucket4`].
    #[must_use]
    #[inline(always)]
    pub const fn as_bucket4(&self) -> &Bucket4 {
        view(self)
    }

    /// The node read as a [`Bucket6`].
    #[must_use]
    #[inline(always)]
    pub const fn as_bucket6(&self) -> &Bucket6 {
        view(self)
    }

    /// The node read as [`Ports`].
    #[must_use]
    #[inline(always)]
    pub const fn as_ports(&self) -> &Ports {
        view(self)
    }

    /// The node read as a [`SourceGate`].
    #[must_use]
    #[inline(always)]
    pub const fn as_gate(&self) -> &SourceGate {
        view(self)
    }

    /// The node read as [`Interfaces`].
    #[must_use]
    #[inline(always)]
    pub const fn as_interfaces(&self) -> &Interfaces {
        view(self)
    }

    /// The node whose bytes these are, as [`bytes`](Self::bytes) gives them.
    #[must_use]
    pub const fn of_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: of equal size, and every bit pattern is a Node.
        unsafe { core::mem::transmute(bytes) }
    }

    /// The bytes of `nodes`, in the order the kernel reads them.
    #[must_use]
    pub const fn bytes(nodes: &[Self]) -> &[u8] {
        // SAFETY: nodes are plain old data without padding; u8 has no alignment.
        unsafe { slice::from_raw_parts(nodes.as_ptr().cast(), size_of_val(nodes)) }
    }
}

impl From<Step> for Node {
    fn from(step: Step) -> Self {
        node(step)
    }
}

impl From<Bucket4> for Node {
    fn from(bucket: Bucket4) -> Self {
        node(bucket)
    }
}

impl From<Bucket6> for Node {
    fn from(bucket: Bucket6) -> Self {
        node(bucket)
    }
}

impl From<Ports> for Node {
    fn from(ports: Ports) -> Self {
        node(ports)
    }
}

impl From<SourceGate> for Node {
    fn from(gate: SourceGate) -> Self {
        node(gate)
    }
}

impl From<Interfaces> for Node {
    fn from(interfaces: Interfaces) -> Self {
        node(interfaces)
    }
}
