//! What bpf(2) has for objects that are files of a BPF file system. aya pins maps, but opens none of it for reading alone, no program of
//! our type, and no link of another process's whose program is to be told.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::dispatcher::sys::{
    BPF_MAP_LOOKUP_ELEM, BPF_OBJ_GET_INFO_BY_FD, ElementAttributes, InfoAttributes, call, make,
};

/// The purpose for which an object is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    /// To be looked at: who may read the file may have that.
    Read,
    /// To be changed.
    Write,
}

/// `BPF_F_RDONLY` of linux/bpf.h.
const READ_ONLY: u32 = 1 << 3;

/// The part of `union bpf_attr` that BPF_OBJ_PIN and BPF_OBJ_GET read.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PathAttributes {
    path_address: u64,
    descriptor: u32,
    flags: u32,
}

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;

/// Makes `object` the file `path` of a BPF file system: it lives for as long as that.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = PathAttributes {
        path_address: path.as_ptr().expose_provenance() as u64,
        descriptor: object.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given, and the path, which ends with a zero; both live until it returns.
    unsafe { call(BPF_OBJ_PIN, &mut attributes).map(drop) }
}

/// The object that is the file `path`. Programs and links are not to be had for reading alone.
pub(super) fn open(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = PathAttributes {
        path_address: path.as_ptr().expose_provenance() as u64,
        descriptor: 0,
        flags: if access == Access::Read { READ_ONLY } else { 0 },
    };
    // SAFETY: as above.
    unsafe { make(BPF_OBJ_GET, &mut attributes) }
}

/// The first words of what the kernel tells of an object: its type and its id; of a link then its program's id, a word without meaning,
/// and the inode of its network namespace, 0 where it is attached to none.
pub(super) fn told_of(object: BorrowedFd<'_>) -> io::Result<[u32; 5]> {
    // struct bpf_prog_info, bpf_map_info or bpf_link_info; whoever asks with less gets less. Eight bytes are its alignment.
    let mut told = [0_u64; 3];
    let mut attributes = InfoAttributes {
        descriptor: object.as_raw_fd().cast_unsigned(),
        length: size_of_val(&told).try_into().unwrap_or(0),
        address: (&raw mut told).expose_provenance() as u64,
    };
    // SAFETY: bpf(2) reads and writes `attributes`, whose size is given, and at most `length` bytes of `told`; both live until it
    // returns.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)? };
    // SAFETY: `told` was handed to the kernel as a raw pointer; it is read back as one, initialised before.
    let told = unsafe { std::ptr::read_volatile(&raw const told) };
    let mut words = [0; 5];
    let bytes: Vec<u8> = told.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let halves = bytes.as_chunks::<4>().0.iter();
    words.iter_mut().zip(halves).for_each(|(word, half)| *word = u32::from_ne_bytes(*half));
    Ok(words)
}

/// Reads what `map`, whose keys have four bytes, holds for `key` to `value`, which is as long as its values; whether it holds anything.
pub(super) fn element(map: BorrowedFd<'_>, key: u32, value: &mut [u8]) -> io::Result<bool> {
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key_address: (&raw const key).expose_provenance() as u64,
        value_address: value.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: bpf(2) reads `attributes`, whose size is given, and four bytes of `key`, and writes as many bytes of `value` as a value of
    // the map has, which is its length; all of them live until it returns.
    let read = unsafe { call(BPF_MAP_LOOKUP_ELEM, &mut attributes) };
    match read {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
