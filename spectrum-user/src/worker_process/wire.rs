//! Messages on a stream socket, each with the open files that belong to it. Knows no message.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most files of one message: fewer than the kernel takes at once (SCM_MAX_FD).
pub(super) const MOST_FILES: usize = 200;

/// In front of each message: its length in bytes and the number of its files, little-endian.
const HEAD: usize = 8;

/// The longest first message, in bytes.
const LONGEST_FIRST: usize = 64 * 1024;

/// The pause before sending is tried again, and how often it is.
const PAUSE: Duration = Duration::from_millis(10);
const TRIES: usize = 100;

/// So much is read at once.
const PORTION: usize = 64 * 1024;

/// A message as it goes, and the files that go with it.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Frame {
    /// `message` with `files`, which are at most [`MOST_FILES`].
    pub(super) fn of(message: &impl Serialize, files: Vec<OwnedFd>) -> io::Result<Self> {
        let too_much = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let mut bytes = vec![0; HEAD];
        serde_json::to_writer(&mut bytes, message)?;
        let length =
            u32::try_from(bytes.len() - HEAD).map_err(|_error| too_much("the message is too long"))?;
        if files.len() > MOST_FILES {
            return Err(too_much("too many files for one message"));
        }
        let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        for (place, byte) in bytes.iter_mut().zip(length.to_le_bytes().into_iter().chain(count.to_le_bytes()))
        {
            *place = byte;
        }
        Ok(Self { bytes, files })
    }
}

/// Writes all of a message that is the first on `stream`, which blocks.
pub(super) fn send_first(stream: &std::os::unix::net::UnixStream, frame: &Frame) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = frame.files.iter().map(AsFd::as_fd).collect();
    let sent = send_some(stream, &frame.bytes, &files)?;
    let mut stream = stream;
    stream.write_all(frame.bytes.get(sent..).unwrap_or_default())
}

/// The first message on `stream`, which blocks, and nothing of what is behind it.
pub(super) fn receive_first<T: DeserializeOwned>(
    stream: &std::os::unix::net::UnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let (head, files) = receive_some(stream, HEAD, RecvFlags::WAITALL)?;
    let head = head.first_chunk::<HEAD>().ok_or(io::ErrorKind::UnexpectedEof)?;
    let (length, count) = lengths(*head);
    if length > LONGEST_FIRST || files.len() != count {
        return Err(invalid("the first message makes no sense"));
    }
    let mut bytes = vec![0; length];
    let mut stream = stream;
    stream.read_exact(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes)?, files))
}

/// The half of the stream that is written to.
#[derive(Debug)]
pub(super) struct Outgoing(Arc<UnixStream>);

/// The half that is read from, and what has come of the next message.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: Arc<UnixStream>,
    most: usize,
    bytes: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

/// Both halves of `stream`, on which messages of at most so many bytes come.
pub(super) fn halves(stream: UnixStream, most: usize) -> (Outgoing, Incoming) {
    halves_after(stream, most, HeardPart::default())
}

/// The part of the next message that has come, for a process that hears the rest.
#[derive(Debug, Default)]
pub(crate) struct HeardPart {
    pub(crate) bytes: Vec<u8>,
    pub(crate) files: Vec<OwnedFd>,
}

/// The same where somebody has begun to hear before.
pub(super) fn halves_after(stream: UnixStream, most: usize, heard: HeardPart) -> (Outgoing, Incoming) {
    let stream = Arc::new(stream);
    let HeardPart { bytes, files } = heard;
    let incoming = Incoming { stream: Arc::clone(&stream), most, bytes, files: files.into() };
    (Outgoing(stream), incoming)
}

impl Outgoing {
    /// Writes all of `frame`. Dropped while it waits, it leaves the stream of no use.
    pub(super) async fn send(&self, frame: &Frame) -> io::Result<()> {
        let files: Vec<BorrowedFd<'_>> = frame.files.iter().map(AsFd::as_fd).collect();
        let (mut sent, mut tries) = (0, TRIES);
        while sent < frame.bytes.len() {
            // They go with the first byte, or not at all.
            let files = if sent == 0 { files.as_slice() } else { &[] };
            let rest = frame.bytes.get(sent..).unwrap_or_default();
            match self.0.async_io(Interest::WRITABLE, || send_some(&*self.0, rest, files)).await {
                Ok(some) => sent += some,
                // The host is short of memory for a moment.
                Err(error) if is_passing(&error) && tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn send_some(stream: &impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL;
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

impl Incoming {
    /// The stream, and what was heard of the next message, for somebody else to hear on.
    pub(super) fn hand_on(self) -> io::Result<(OwnedFd, HeardPart)> {
        let stream = self.stream.as_fd().try_clone_to_owned()?;
        Ok((stream, HeardPart { bytes: self.bytes, files: self.files.into() }))
    }

    /// The next message; `None` once the other side has closed the stream. Dropped while it waits, it forgets nothing.
    ///
    /// # Errors
    /// `InvalidData`: it is none, or longer than any can be.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some((length, files)) = self.head()? {
                let end = HEAD + length;
                if self.bytes.len() >= end {
                    let message = serde_json::from_slice(self.bytes.get(HEAD..end).unwrap_or_default())?;
                    self.bytes.drain(..end);
                    if self.bytes.is_empty() {
                        self.bytes = Vec::new();
                    }
                    if self.files.len() < files {
                        return Err(invalid("files of a message are missing"));
                    }
                    return Ok(Some((message, self.files.drain(..files).collect())));
                }
            }
            let came = self
                .stream
                .async_io(Interest::READABLE, || receive_some(&*self.stream, PORTION, RecvFlags::empty()))
                .await?;
            let (bytes, files) = came;
            if bytes.is_empty() {
                return if self.bytes.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            self.bytes.extend(bytes);
            self.files.extend(files);
        }
    }

    /// The length in bytes and the number of files of the next message, once that is known.
    fn head(&self) -> io::Result<Option<(usize, usize)>> {
        let Some((head, _)) = self.bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let (length, files) = lengths(*head);
        if length > self.most || files > MOST_FILES {
            return Err(invalid("a message is longer than any can be"));
        }
        Ok(Some((length, files)))
    }
}

/// True if what failed is likely to succeed soon.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::ETOOMANYREFS))
}

/// The length in bytes and the number of files.
fn lengths(head: [u8; HEAD]) -> (usize, usize) {
    let both = u64::from_le_bytes(head);
    let number = |half: u64| usize::try_from(half & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    (number(both), number(both >> u32::BITS))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn receive_some(stream: &impl AsFd, most: usize, flags: RecvFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; most];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    bytes.truncate(received.bytes);
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok((bytes, files.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const MOST: usize = 1 << 20;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[tokio::test]
    async fn messages_come_whole_and_in_order_with_their_files() {
        let (one, other) = pair();
        let ((outgoing, own), (_out, mut incoming)) = (halves(one, MOST), halves(other, MOST));
        let long = "x".repeat(500_000);
        let sent = long.clone();
        let sending = tokio::spawn(async move {
            // Both halves close it.
            let _own = own;
            for number in 0..3_u8 {
                let (mut read, write) = std::io::pipe().unwrap();
                outgoing
                    .send(
                        &Frame::of(
                            &(number, &sent),
                            vec![write.into(), File::open("/dev/null").unwrap().into()],
                        )
                        .unwrap(),
                    )
                    .await
                    .unwrap();
                outgoing.send(&Frame::of(&(number, "bare"), Vec::new()).unwrap()).await.unwrap();
                let mut said = String::new();
                tokio::task::spawn_blocking(move || read.read_to_string(&mut said).unwrap()).await.unwrap();
            }
        });
        for number in 0..3_u8 {
            let (message, files): ((u8, String), _) = incoming.next().await.unwrap().unwrap();
            assert_eq!((message.0, message.1 == long, files.len()), (number, true, 2));
            File::from(files.into_iter().next().unwrap()).write_all(b"it is open").unwrap();
            let (message, files): ((u8, String), _) = incoming.next().await.unwrap().unwrap();
            assert_eq!((message, files.len()), ((number, "bare".to_owned()), 0));
        }
        sending.await.unwrap();
        assert!(incoming.next::<u8>().await.unwrap().is_none());
    }

    #[test]
    fn the_first_message_is_read_alone() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        send_first(&one, &Frame::of(&"first", vec![File::open("/dev/null").unwrap().into()]).unwrap())
            .unwrap();
        send_first(&one, &Frame::of(&"second", Vec::new()).unwrap()).unwrap();
        for (text, count) in [("first", 1), ("second", 0)] {
            let (message, files): (String, _) = receive_first(&other).unwrap();
            assert_eq!((message.as_str(), files.len()), (text, count));
        }
        drop(one);
        receive_first::<String>(&other).unwrap_err();
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error_and_takes_no_memory() {
        for bytes in [
            &[0xff; 64][..],
            &[4, 0, 0, 0, 0, 0, 0, 0, b'{', b'{', b'{', b'{'],
            &[4, 0, 0, 0, 2, 0, 0, 0, b'1', b' ', b' ', b' '],
            &[1, 0],
        ] {
            let (one, other) = pair();
            let (_out, mut incoming) = halves(other, MOST);
            one.try_write(bytes).unwrap();
            drop(one);
            assert!(incoming.next::<u8>().await.is_err(), "{bytes:?}");
        }
    }
}
