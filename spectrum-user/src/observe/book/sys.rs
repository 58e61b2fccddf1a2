//! Memory that processes share and that holds nothing but atomic words. No crate of ours makes a slice of it. What the words mean
//! is not decided here.
#![allow(unsafe_code, reason = "mmap(2); each block says why it is sound")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use spectrum_proxy::Counter;

/// The bytes of a word.
const WORD: usize = size_of::<AtomicU64>();

/// No file is mapped further than this.
const MOST_WORDS: usize = (1 << 30) / WORD;

/// Memory of a file that has no name, for whoever has its descriptor. Pages that nothing was ever written to take none.
#[derive(Debug)]
pub(super) struct SharedWords {
    start: NonNull<AtomicU64>,
    count: usize,
    file: OwnedFd,
}

// SAFETY: it is read and written by atomic operations alone, which any thread may do.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// New memory of `count` words, all 0.
    pub(super) fn create(count: usize) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Linux 6.3 wants to be told that nobody executes it, and earlier ones refuse to be.
        let never_executed = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
        let file = match memfd_create(c"spectrum-counters", flags | never_executed) {
            Err(Errno::EINVAL) => memfd_create(c"spectrum-counters", flags)?,
            made => made?,
        };
        let bytes = count.checked_mul(WORD).and_then(|bytes| i64::try_from(bytes).ok());
        ftruncate(&file, bytes.ok_or(Errno::EFBIG)?)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Self::open(file)
    }

    /// The memory behind `file`, which must be sealed against shrinking: a page that is gone would be a SIGBUS.
    pub(super) fn open(file: OwnedFd) -> io::Result<Self> {
        let seals = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not sealed against shrinking"));
        }
        let count = usize::try_from(fstat(&file)?.st_size).unwrap_or(0) / WORD;
        let length = NonZeroUsize::new(count * WORD).filter(|_| count <= MOST_WORDS);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its size is wrong"))?;
        let (access, shared) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: the kernel chooses a place where nothing is, so that no other memory is touched.
        let start = unsafe { mmap(None, length, access, shared, &file, 0) }?;
        // Whoever has a dump of a process wants to see what it did, not 64 MiB of zeros. Nothing depends on it.
        // SAFETY: MADV_DONTDUMP changes no content, and the range is the one that was just mapped.
        let _ = unsafe { madvise(start, length.get(), MmapAdvise::MADV_DONTDUMP) };
        Ok(Self { start: start.cast(), count, file })
    }

    /// All of them.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `count` words are mapped from `start`, which is aligned to a page, until this is dropped, and the file cannot
        // shrink below them. Any content is a valid AtomicU64. Other processes write to them by atomic operations of the
        // same width; one that does not has been broken into, and may have changed their values, which nothing trusts.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }

    /// All of them as counters.
    pub(super) fn counters(&self) -> &[Counter] {
        let words = self.words();
        // SAFETY: a `Counter` is a transparent AtomicU64, which its documentation promises.
        unsafe { slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    /// What other processes map it by.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let start: NonNull<c_void> = self.start.cast();
        // SAFETY: this is what was mapped, and slices of it cannot outlive it.
        let _ = unsafe { munmap(start, self.count * WORD) };
    }
}
