//! Where a configuration is read from: a file, or a pipe such as `/dev/stdin`. Reads no more than a configuration can need,
//! and makes nothing of what it reads.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest file: with a million bindings, each with a line of its own, it has less than half of that.
const LIMIT: u64 = 256 << 20;

/// A file, whatever its names.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) bytes: Vec<u8>,
    /// None of a pipe.
    pub(super) id: Option<FileId>,
}

/// All that is at `path`, where other files of the configuration have `before` bytes.
pub(super) fn read(path: &Path, before: u64) -> io::Result<Read> {
    // A device might do something when it is opened.
    require_readable(std::fs::metadata(path)?.file_type())?;
    // Opening a named pipe that nobody writes to would wait for somebody who does.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    require_readable(metadata.file_type())?;
    let patient = Patient { file: &file, patience: PATIENCE };
    let bytes = read_at_most(LIMIT.saturating_sub(before), before, patient, metadata.len())?;
    let id = metadata.file_type().is_file().then(|| FileId { device: metadata.dev(), inode: metadata.ino() });
    Ok(Read { bytes, id })
}

/// True if what is at `path` can be read once only: a pipe without a name, which is at its end for ever when it was read to it.
pub(super) fn is_read_once(path: &Path) -> bool {
    let is_pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    // The links of /proc/PID/fd lead to what has no path.
    is_pipe && std::fs::canonicalize(path).is_err()
}

/// The time that whoever writes to a pipe may pause. Nothing else is done meanwhile: no signal is obeyed, and nobody is
/// answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file or pipe that is waited for, but not for ever.
struct Patient<'a> {
    file: &'a File,
    patience: Duration,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let patience = Timespec::try_from(self.patience).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(self.file, PollFlags::IN)], Some(&patience))? == 0 {
            let reason = format!("nobody has written to this pipe for {} s", self.patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        self.file.read(buffer)
    }
}

fn require_readable(kind: FileType) -> io::Result<()> {
    let kind = if kind.is_file() || kind.is_fifo() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "something else"
    };
    let reason = format!("it is {kind}; name a file or a pipe that holds the configuration");
    Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
}

/// All of `file`, which says that it has `length` bytes. Pipes, and the files of /proc, say 0.
fn read_at_most(limit: u64, before: u64, file: impl io::Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if length <= limit {
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 <= limit {
            return Ok(bytes);
        }
    }
    let together = if before > 0 { ", with the files before it," } else { "" };
    let limit = limit + before;
    let reason = format!(
        "it has{together} more than {limit} bytes, the most that a configuration may have; if it is one, write neighbouring \
         addresses as one prefix"
    );
    Err(io::Error::new(io::ErrorKind::FileTooLarge, reason))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::path::PathBuf;

    use super::*;

    fn refused(path: &str) -> String {
        read(Path::new(path), 0).unwrap_err().to_string()
    }

    #[test]
    fn what_is_neither_a_file_nor_a_pipe_is_refused_unread() {
        for (path, kind) in
            [("/dev/zero", "a character device"), ("/", "a directory"), ("/dev/null", "a character device")]
        {
            let expected = format!("it is {kind}; name a file or a pipe that holds the configuration");
            assert_eq!(refused(path), expected, "{path}");
        }
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"mode = ").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        assert!(is_read_once(&path));
        let Read { bytes, id } = read(&path, 0).unwrap();
        assert_eq!((bytes.as_slice(), id), (&b"mode = "[..], None));
    }

    #[test]
    fn a_file_and_a_pipe_with_a_name_can_be_read_again() {
        let path = std::env::temp_dir().join(format!("spectrum-again-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(!is_read_once(&path));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"").unwrap();
        assert!(!is_read_once(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_read_once(&path));
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever() {
        let path = std::env::temp_dir().join(format!("spectrum-pipe-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = Patient { file: &file, patience: Duration::ZERO }.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.to_string(), "nobody has written to this pipe for 0 s");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_endless_pipe_ends_at_the_limit() {
        let (reader, mut writer) = io::pipe().unwrap();
        let writing = std::thread::spawn(move || while writer.write_all(&[b'#'; 4096]).is_ok() {});
        let file = File::from(OwnedFd::from(reader));
        let error = read_at_most(100_000, 0, &file, 0).unwrap_err();
        assert!(error.to_string().starts_with("it has more than 100000 bytes, the most"), "{error}");
        drop(file);
        writing.join().unwrap();
    }

    #[test]
    fn a_file_may_be_as_long_as_the_limit() {
        let path = std::env::temp_dir().join(format!("spectrum-source-{}", std::process::id()));
        std::fs::write(&path, b"12345").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_at_most(5, 0, &file, 5).unwrap(), b"12345");
        // One that grew after it said how long it is.
        let error = read_at_most(4, 3, File::open(&path).unwrap(), 0).unwrap_err().to_string();
        assert!(error.starts_with("it has, with the files before it, more than 7 bytes"), "{error}");
        // A sparse one of more than the real limit is not even begun.
        File::options().write(true).open(&path).unwrap().set_len(LIMIT + 1).unwrap();
        let error = read(&path, 0).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
