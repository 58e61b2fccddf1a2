//! Raw access to the kernel's BPF. aya neither maps an array's memory nor asks which programs are attached, nor gives out a link's
//! descriptor nor has it run another program, nor has sockmaps with values of eight bytes, nor can it know that our counters are plain
//! old data.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use aya_obj::generated::bpf_attach_type::{BPF_SK_LOOKUP, BPF_XDP};
use aya_obj::generated::bpf_prog_type::{BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SK_LOOKUP};
use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use spectrum_common::Counts;

use super::xdp::XdpMode;

/// [`Counts`] as map values are read.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct PodCounts(pub(super) Counts);

// SAFETY: repr(C), u64 fields only, so without padding and valid for every bit pattern.
unsafe impl aya::Pod for PodCounts {}

/// Writes `bytes` to an array map that was created with BPF_F_MMAPABLE (Linux 5.5) and has room for them, behind `offset` bytes, which are
/// whole pages of memory. A system call for each element would have to copy it once more.
pub(super) fn fill(map: impl AsFd, bytes: &[u8], offset: usize) -> io::Result<()> {
    let Some(length) = NonZeroUsize::new(bytes.len()) else { return Ok(()) };
    let offset = offset.try_into().map_err(io::Error::other)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh shared mapping at an address of the kernel's choice; nothing else in this process knows it.
    let memory = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map, offset)? };
    // SAFETY: the mapping is at least `length` long, since the kernel refuses to map more than the array has, and
    // does not overlap `bytes`, since it is fresh.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().cast(), bytes.len()) };
    // SAFETY: mapped above with this length, and no pointer into it is left.
    unsafe { munmap(memory, bytes.len())? };
    Ok(())
}

/// Copies the first `length` bytes, whole pages of memory, of one array map to another, both as above.
pub(super) fn copy(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<()> {
    let Some(size) = NonZeroUsize::new(length) else { return Ok(()) };
    // SAFETY: a fresh shared mapping at an address of the kernel's choice; nothing else in this process knows it.
    let memory = unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, from, 0)? };
    // SAFETY: the mapping is that long, since the kernel refuses to map more than the array has; a generation that is in force is never
    // written to, so that nobody changes what the slice shows while it lives.
    let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), length) };
    let filled = fill(to, bytes, 0);
    // SAFETY: mapped above with this length, and `bytes`, the only reference into it, is not used any more.
    unsafe { munmap(memory, length)? };
    filled
}

/// Calls bpf(2), whose part of `union bpf_attr` is `attributes`; what it says.
///
/// # Safety
/// `attributes` begins as what the kernel reads and writes for `command`, and the addresses in it lead to memory that the kernel may read
/// and write so until this returns.
pub(super) unsafe fn call<A>(command: libc::c_long, attributes: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel is told how long `attributes` is; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The descriptor that bpf(2) makes, which is closed on exec.
///
/// # Safety
/// As for [`call`], and `command` makes a descriptor.
pub(super) unsafe fn make<A>(command: libc::c_long, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let made = unsafe { call(command, attributes)? };
    let descriptor = RawFd::try_from(made).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches an sk_lookup program to a network namespace (BPF_LINK_CREATE, Linux 5.9): the link, which is closed on exec. Needs
/// CAP_NET_ADMIN in it.
pub(super) fn attach(program: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link(LinkAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        target: netns.as_raw_fd().cast_unsigned(),
        attach_type: BPF_SK_LOOKUP as u32,
        flags: 0,
    })
}

/// Attaches an XDP program to the interface `index` of the calling thread's network namespace, likewise.
pub(super) fn attach_xdp(program: BorrowedFd<'_>, index: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    link(LinkAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        target: index,
        attach_type: BPF_XDP as u32,
        flags: match mode {
            XdpMode::Generic => XDP_FLAGS_SKB_MODE,
            XdpMode::Native => XDP_FLAGS_DRV_MODE,
        },
    })
}

fn link(mut attributes: LinkAttributes) -> io::Result<OwnedFd> {
    // SAFETY: bpf(2) reads `attributes`, whose size is given and which live until it returns.
    unsafe { make(BPF_LINK_CREATE, &mut attributes) }
}

/// The index of the interface that the XDP link `link` is on; 0: it is on none any more (BPF_OBJ_GET_INFO_BY_FD).
pub(super) fn interface_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let mut attributes = InfoAttributes {
        descriptor: link.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>().try_into().unwrap_or(u32::MAX),
        address: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given, and writes at most `length` bytes of `info`; both live until it returns.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)? };
    // SAFETY: `info` was handed to the kernel as a raw pointer; it is read back as one, initialised before.
    Ok(unsafe { ptr::read_volatile(&raw const info.interface) })
}

pub(super) const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD reads.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct InfoAttributes {
    pub(super) descriptor: u32,
    pub(super) length: u32,
    pub(super) address: u64,
}

/// `struct bpf_link_info` of linux/bpf.h, as it is of an XDP link.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    interface: u32,
    rest: [u32; 11],
}

/// Runs an XDP program on `frame`, once; true if it drops it.
pub(super) fn test_frame(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<bool> {
    let mut attributes = TestAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        data_in: frame.len().try_into().unwrap_or(u32::MAX),
        data_in_address: frame.as_ptr().expose_provenance() as u64,
        ..TestAttributes::default()
    };
    // SAFETY: bpf(2) reads and writes `attributes`, whose size is given, and reads `frame`, whose size stands in it; both live until it
    // returns.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes)? };
    Ok(attributes.result == XDP_DROP)
}

const XDP_DROP: u32 = 1;

/// Has `link` run `program` in place of the one that it runs, in one step (BPF_LINK_UPDATE). ENOLINK: somebody has detached it.
pub(super) fn exchange(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = UpdateAttributes {
        link: link.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        ..UpdateAttributes::default()
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given and which live until it returns.
    unsafe { call(BPF_LINK_UPDATE, &mut attributes).map(drop) }
}

/// True if the kernel lets an sk_lookup program read by which interface a packet came (Linux 5.17): one that does nothing else is
/// loaded, and let go of.
pub(super) fn tells_interface() -> bool {
    // r0 = *(u32 *)(r1 + ingress_ifindex); r0 = 1; exit
    let program = [0x0000_0000_0040_1061, 0x0000_0001_0000_00b7, 0x95];
    load(BPF_PROG_TYPE_SK_LOOKUP as u32, BPF_SK_LOOKUP as u32, &program).is_ok()
}

/// Loads a program of a few instructions (BPF_PROG_LOAD), each as the kernel's `struct bpf_insn` is on a little-endian host.
fn load(kind: u32, attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let program: Vec<u64> = instructions.iter().copied().map(u64::to_le).collect();
    let license = c"GPL";
    let mut attributes = LoadAttributes {
        kind,
        instructions: program.len().try_into().unwrap_or(u32::MAX),
        instructions_address: program.as_ptr().expose_provenance() as u64,
        license_address: license.as_ptr().expose_provenance() as u64,
        attach_type,
        ..LoadAttributes::default()
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given, and what the addresses in it refer to, which all live until it returns.
    unsafe { make(BPF_PROG_LOAD, &mut attributes) }
}

/// Puts `socket` at `index` of a sockmap whose values have eight bytes (BPF_MAP_UPDATE_ELEM).
pub(super) fn set_socket(
    map: BorrowedFd<'_>,
    index: u32,
    socket: BorrowedFd<'_>,
    flags: u64,
) -> io::Result<()> {
    let value = u64::from(socket.as_raw_fd().cast_unsigned());
    element(BPF_MAP_UPDATE_ELEM, map, index, (&raw const value).expose_provenance() as u64, flags)
}

/// Takes away what is at `index` of a sockmap (BPF_MAP_DELETE_ELEM). EINVAL: nothing is.
pub(super) fn clear_socket(map: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    element(BPF_MAP_DELETE_ELEM, map, index, 0, 0)
}

/// The cookie of the socket at `index` of a sockmap whose values have eight bytes (BPF_MAP_LOOKUP_ELEM, Linux 5.7 for sockmaps): one that is
/// closed is in no map any more.
pub(super) fn cookie(map: BorrowedFd<'_>, index: u32) -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    match element(BPF_MAP_LOOKUP_ELEM, map, index, (&raw mut cookie).expose_provenance() as u64, 0) {
        // SAFETY: `cookie` was handed to the kernel as a raw pointer; it is read back as one.
        Ok(()) => Ok(Some(unsafe { ptr::read_volatile(&raw const cookie) })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn element(command: libc::c_long, map: BorrowedFd<'_>, index: u32, value: u64, flags: u64) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key_address: (&raw const index).expose_provenance() as u64,
        value_address: value,
        flags,
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given, and the key; the callers see to it that the value has eight bytes. All live
    // until it returns.
    unsafe { call(command, &mut attributes).map(drop) }
}

pub(super) const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;

/// The part of `union bpf_attr` that commands on an element of a map read.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ElementAttributes {
    pub(super) map: u32,
    pub(super) padding: u32,
    pub(super) key_address: u64,
    pub(super) value_address: u64,
    pub(super) flags: u64,
}

/// Loads a program that copies a socket from one sockmap to another, which user space cannot: it is told cookies alone. The indices are in
/// the control block of the packet that [`copy_socket`] runs it on. Needs CAP_BPF and CAP_NET_ADMIN.
pub(super) fn copier(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Helpers of linux/bpf.h.
    const LOOKUP: i32 = 1;
    const UPDATE: i32 = 2;
    const RELEASE: i32 = 86;
    // The control block is at 48 of struct __sk_buff.
    let program = [
        instruction(0x61, 2, 1, 48, 0),               // r2 = the index in `from`
        instruction(0x63, 10, 2, -4, 0),              // *(u32 *)(r10 - 4) = r2
        instruction(0x61, 2, 1, 52, 0),               // r2 = the index in `to`
        instruction(0x63, 10, 2, -8, 0),              // *(u32 *)(r10 - 8) = r2
        instruction(0x18, 1, 1, 0, from.as_raw_fd()), // r1 = from
        0,
        instruction(0xbf, 2, 10, 0, 0), // r2 = r10
        instruction(0x07, 2, 0, 0, -4), // r2 -= 4
        instruction(0x85, 0, 0, 0, LOOKUP),
        instruction(0x55, 0, 0, 2, 0), // if r0 != 0 goto + 2
        instruction(0xb7, 0, 0, 0, -libc::ENOENT),
        instruction(0x95, 0, 0, 0, 0),
        instruction(0xbf, 6, 0, 0, 0),              // r6 = the socket
        instruction(0x18, 1, 1, 0, to.as_raw_fd()), // r1 = to
        0,
        instruction(0xbf, 2, 10, 0, 0), // r2 = r10
        instruction(0x07, 2, 0, 0, -8), // r2 -= 8
        instruction(0xbf, 3, 6, 0, 0),  // r3 = the socket
        instruction(0xb7, 4, 0, 0, 0),  // r4 = 0, no flags
        instruction(0x85, 0, 0, 0, UPDATE),
        instruction(0xbf, 7, 0, 0, 0), // r7 = what came of it
        instruction(0xbf, 1, 6, 0, 0), // r1 = the socket
        instruction(0x85, 0, 0, 0, RELEASE),
        instruction(0xbf, 0, 7, 0, 0), // r0 = r7
        instruction(0x95, 0, 0, 0, 0),
    ];
    load(BPF_PROG_TYPE_SCHED_CLS as u32, 0, &program)
}

/// An instruction: `struct bpf_insn` of linux/bpf.h on a little-endian host.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

/// Runs a [`copier`] once: the socket at `from` of the one map is then at `to` of the other as well. ENOENT: there is none.
pub(super) fn copy_socket(copier: BorrowedFd<'_>, from: u32, to: u32) -> io::Result<()> {
    // Beyond the header of Ethernet there must be something (Linux 6.1).
    let packet = [0_u8; 64];
    let mut context = [0_u32; 17];
    if let Some(block) = context.get_mut(12..14) {
        block.copy_from_slice(&[from, to]);
    }
    let mut attributes = TestAttributes {
        program: copier.as_raw_fd().cast_unsigned(),
        data_in: packet.len().try_into().unwrap_or(u32::MAX),
        data_in_address: packet.as_ptr().expose_provenance() as u64,
        context_in: size_of_val(&context).try_into().unwrap_or(u32::MAX),
        context_in_address: context.as_ptr().expose_provenance() as u64,
        ..TestAttributes::default()
    };
    // SAFETY: bpf(2) reads and writes `attributes`, whose size is given, and reads `packet` and `context`, whose sizes stand in it; all live
    // until it returns.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes)? };
    match attributes.result.cast_signed() {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
    }
}

const BPF_PROG_LOAD: libc::c_long = 5;

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instructions: u32,
    instructions_address: u64,
    license_address: u64,
    log_level: u32,
    log_size: u32,
    log_address: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

const BPF_LINK_CREATE: libc::c_long = 28;

const BPF_LINK_UPDATE: libc::c_long = 29;

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct LinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_UPDATE reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct UpdateAttributes {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// The ids of the sk_lookup programs that are attached to the network namespace, in the order of attaching
/// (BPF_PROG_QUERY). Needs CAP_NET_ADMIN.
pub(super) fn attached_to(netns: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_ATTACHED];
    let mut attributes = QueryAttributes {
        target: netns.as_raw_fd().cast_unsigned(),
        attach_type: BPF_SK_LOOKUP as u32,
        programs_address: (&raw mut ids).expose_provenance() as u64,
        count: MAX_ATTACHED.try_into().unwrap_or(u32::MAX),
        ..QueryAttributes::default()
    };
    // SAFETY: bpf(2) reads and writes `attributes`, whose size is given, and at most `count` elements of `ids`; both live
    // until it returns.
    unsafe { call(BPF_PROG_QUERY, &mut attributes)? };
    // SAFETY: `ids` was handed to the kernel as a raw pointer; it is read back as one, initialised before.
    let ids = unsafe { ptr::read_volatile(&raw const ids) };
    Ok(ids.into_iter().take(attributes.count as usize).collect())
}

/// A namespace holds no more (include/linux/bpf-netns.h's array of 64 programs).
const MAX_ATTACHED: usize = 64;

const BPF_PROG_QUERY: libc::c_long = 16;

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs_address: u64,
    count: u32,
    padding: u32,
}

pub(super) const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct TestAttributes {
    pub(super) program: u32,
    pub(super) result: u32,
    pub(super) data_in: u32,
    pub(super) data_out: u32,
    pub(super) data_in_address: u64,
    pub(super) data_out_address: u64,
    pub(super) repeat: u32,
    pub(super) duration: u32,
    pub(super) context_in: u32,
    pub(super) context_out: u32,
    pub(super) context_in_address: u64,
    pub(super) context_out_address: u64,
}
