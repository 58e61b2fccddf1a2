//! The descriptors that go over to another program: they have numbers in its document. Knows not what they are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::sys;

/// The number of a descriptor.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(super) struct FileNumber(RawFd);

impl FileNumber {
    /// The number as the system has it.
    pub(super) fn raw(self) -> RawFd {
        self.0
    }
}

/// Descriptors that go over, or came. Nobody else has them; whoever works with one has a copy.
#[derive(Debug, Default)]
pub(super) struct HandedFiles(RefCell<BTreeMap<FileNumber, OwnedFd>>);

impl HandedFiles {
    /// Those with these numbers, which came with this process. What this program executes does not get them.
    ///
    /// # Errors
    /// One of them is not there.
    pub(super) fn came(numbers: &[FileNumber]) -> io::Result<Self> {
        let files = Self::default();
        for number in numbers {
            let file = sys::own(number.0)?;
            fcntl_setfd(&file, FdFlags::CLOEXEC)?;
            files.0.borrow_mut().insert(*number, file);
        }
        Ok(files)
    }

    /// Has a copy of `file` go over: its number.
    pub(super) fn add(&self, file: impl AsFd) -> io::Result<FileNumber> {
        Ok(self.give(rustix::io::fcntl_dupfd_cloexec(file, 3)?))
    }

    /// Has `file` go over: its number.
    pub(super) fn give(&self, file: OwnedFd) -> FileNumber {
        let number = FileNumber(file.as_raw_fd());
        self.0.borrow_mut().insert(number, file);
        number
    }

    /// A copy of the one with this number.
    pub(super) fn copy(&self, number: FileNumber) -> io::Result<OwnedFd> {
        match self.0.borrow().get(&number) {
            Some(file) => file.try_clone(),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no descriptor {} among those handed over", number.0),
            )),
        }
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> Vec<FileNumber> {
        self.0.borrow().keys().copied().collect()
    }

    /// Has what is executed next get them, or not.
    pub(super) fn go_over(&self, goes: bool) -> io::Result<()> {
        let flags = if goes { FdFlags::empty() } else { FdFlags::CLOEXEC };
        self.0.borrow().values().try_for_each(|file| Ok(fcntl_setfd(file, flags)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_copy_is_the_same_file_and_closed_on_exec() {
        let (mut read, write) = std::io::pipe().unwrap();
        let files = HandedFiles::default();
        let number = files.add(&write).unwrap();
        assert_eq!(files.numbers(), [number]);
        drop(write);
        for goes in [true, false] {
            files.go_over(goes).unwrap();
            let copy = files.copy(number).unwrap();
            assert!(rustix::io::fcntl_getfd(&copy).unwrap().contains(FdFlags::CLOEXEC));
            File::from(copy).write_all(b"it").unwrap();
        }
        drop(files);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "itit");
    }

    #[test]
    fn what_did_not_come_is_missed() {
        let error = HandedFiles::came(&[FileNumber(1 << 20)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert!(HandedFiles::came(&[FileNumber(-1)]).is_err());
        assert!(HandedFiles::default().copy(FileNumber(0)).unwrap_err().to_string().contains("descriptor 0"));
    }
}
