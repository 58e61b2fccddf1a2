//! Conversations with those who ask: one request and one answer each, which is written while it is read. Who hangs up is
//! let go at once, and who is slow when others want the seat. Knows no request.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::Uid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::Request;
use super::passing::receive;
use super::server::AT_ONCE;
use crate::config::Problem;

/// The time that an asker has to say what, and to take each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that the taking of an answer may last in all: a million bindings take a few seconds.
const ANSWER: Duration = Duration::from_mins(1);

/// Whoever has been taking their answer for longer than this is slow: they give way when all places are taken and others
/// want one.
const SLOW: Duration = Duration::from_secs(5);

/// The time that an answer may take to be read when no more is heard.
const FAREWELL: Duration = Duration::from_millis(300);

/// No request is longer, in bytes.
const LONGEST: usize = 64 * 1024;

/// The bytes of an answer that are written at once.
const PIECE: usize = 64 * 1024;

/// The time between two looks whether somebody who has nothing more to say is still there to listen.
const GLANCE: Duration = Duration::from_millis(100);

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// The request that is made.
    pub request: Request,
    /// The asker; `None` where the kernel would not say.
    pub peer: Option<Asker>,
    /// The files that came along: of strangers there are none.
    pub files: Vec<OwnedFd>,
    answer: oneshot::Sender<Reply>,
}

/// A process that asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asker {
    /// Its id as this process sees it; `None` where it does not.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
}

impl Asker {
    /// True if it may have this process do what it may do itself: it is root's, or of the same user.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == Uid::effective().as_raw()
    }
}

/// An answer on its way.
enum Reply {
    /// All of it, shared by those who have asked the same.
    Line(Arc<[u8]>),
    /// As it is made.
    Pieces(AnswerPieces),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line(_) => "Line",
            Self::Pieces(_) => "Pieces",
        })
    }
}

type AnswerPieces = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// An answer that is the same for several.
#[derive(Clone, Debug)]
pub struct SharedAnswer(Arc<[u8]>);

impl SharedAnswer {
    /// It is done, and `value` is what came of it.
    pub fn done(value: &impl Serialize) -> Self {
        Self(line(&WrittenAnswer::Done(value)).into())
    }

    /// It is refused, with the exit code that fits, and what is wrong with the file where that is why.
    #[must_use]
    pub fn refused(message: &str, code: u8, problems: &[Problem]) -> Self {
        Self(refusal(message, code, problems).into())
    }
}

impl Asked {
    /// True if whoever asked has left: then nothing need be done for them.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers it.
    pub fn done(self, value: &impl Serialize) {
        self.answered(SharedAnswer::done(value));
    }

    /// Refuses it, with the exit code that fits, and what is wrong with the file where that is why.
    pub fn refused(self, message: &str, code: u8, problems: &[Problem]) {
        self.answered(SharedAnswer::refused(message, code, problems));
    }

    /// Answers or refuses it.
    pub fn answered(self, answer: SharedAnswer) {
        // Who asked may have gone.
        let _ = self.answer.send(Reply::Line(answer.0));
    }

    /// Answers it with a list, which is made as it is read: `batches` give a few of its values at a time, or none.
    pub fn listed<T: Serialize>(self, batches: impl Iterator<Item = Vec<T>> + Send + 'static) {
        let mut is_first = true;
        let pieces = batches.map(move |batch| {
            let mut piece = Vec::new();
            for value in batch {
                piece.push(if std::mem::take(&mut is_first) { b' ' } else { b',' });
                if let Err(error) = serde_json::to_writer(&mut piece, &value) {
                    tracing::debug!(%error, "write an answer");
                }
            }
            piece
        });
        let (begin, end) = (br#"{"done":["#.to_vec(), b"]}\n".to_vec());
        let pieces = std::iter::once(begin).chain(pieces).chain(std::iter::once(end));
        let _ = self.answer.send(Reply::Pieces(Box::new(pieces)));
    }
}

/// A kind of what is written.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenAnswer<'a, T: Serialize> {
    Done(&'a T),
    Refused {
        message: &'a str,
        code: u8,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        problems: &'a [Problem],
    },
}

fn refusal(message: &str, code: u8, problems: &[Problem]) -> Vec<u8> {
    let refused: WrittenAnswer<'_, ()> = WrittenAnswer::Refused { message, code, problems };
    line(&refused)
}

fn line(answer: &WrittenAnswer<'_, impl Serialize>) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_else(|error| refusal(&error.to_string(), 1, &[]));
    line.push(b'\n');
    line
}

/// Those who are asking now, who came first first.
pub(super) struct Conversations {
    requests: mpsc::Sender<Asked>,
    tasks: JoinSet<()>,
    seats: VecDeque<Seat>,
    /// Of those whose answers are made as they are read, one at a time has its next piece made.
    turn: Arc<Mutex<()>>,
}

struct Seat {
    stage: Arc<Progress>,
    task: AbortHandle,
}

impl Conversations {
    /// Conversations whose requests go to `requests`.
    pub(super) fn new(requests: mpsc::Sender<Asked>) -> Self {
        Self { requests, tasks: JoinSet::new(), seats: VecDeque::new(), turn: Arc::default() }
    }

    /// Returns when one is over. Never if there is none.
    pub(super) async fn one_ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.seats.retain(|seat| !seat.task.is_finished());
    }

    /// True if there is a seat for one more, perhaps that of somebody else.
    pub(super) fn has_room(&mut self) -> bool {
        self.seats.retain(|seat| !seat.task.is_finished());
        self.seats.len() < AT_ONCE || self.dispensable().is_some()
    }

    /// One more.
    pub(super) fn begin(&mut self, stream: UnixStream) {
        self.seats.retain(|seat| !seat.task.is_finished());
        if self.seats.len() >= AT_ONCE
            && let Some(seat) = self.dispensable().and_then(|at| self.seats.remove(at))
        {
            seat.task.abort();
        }
        let stage = Arc::<Progress>::default();
        let (requests, turn, own) = (self.requests.clone(), Arc::clone(&self.turn), Arc::clone(&stage));
        let task = self.tasks.spawn(async move {
            if let Err(error) = converse(stream, &requests, &turn, &own).await {
                tracing::debug!(%error, "answer a request");
            }
        });
        self.seats.push_back(Seat { stage, task });
    }

    /// Lets those who have said something end, for a moment.
    pub(super) async fn farewell(&mut self) {
        for seat in self.seats.iter().filter(|seat| seat.stage.is_silent()) {
            seat.task.abort();
        }
        let _ = timeout(FAREWELL, async { while self.tasks.join_next().await.is_some() {} }).await;
    }

    /// Whose seat another may have: who has been silent longest, or else who has been slow longest.
    fn dispensable(&self) -> Option<usize> {
        let silent = self.seats.iter().position(|seat| seat.stage.is_silent());
        silent.or_else(|| {
            let taking = self.seats.iter().enumerate();
            let slow = taking.filter_map(|(at, seat)| Some((seat.stage.taking_for()?, at)));
            slow.filter(|(taking, _)| *taking > SLOW).max().map(|(_, at)| at)
        })
    }
}

/// The stage of one of them: `SILENT`, `WAITING`, or the moment from which it has been taking its answer.
struct Progress {
    begun: Instant,
    now: AtomicU64,
}

const SILENT: u64 = 0;
const WAITING: u64 = 1;

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), now: AtomicU64::new(SILENT) }
    }
}

impl Progress {
    fn is_silent(&self) -> bool {
        self.now.load(Ordering::Relaxed) == SILENT
    }

    fn has_asked(&self) {
        self.now.store(WAITING, Ordering::Relaxed);
    }

    fn takes_answer(&self) {
        let moment = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.now.store(moment.saturating_add(WAITING + 1), Ordering::Relaxed);
    }

    fn taking_for(&self) -> Option<Duration> {
        let moment = self.now.load(Ordering::Relaxed).checked_sub(WAITING + 1)?;
        Some(self.begun.elapsed().saturating_sub(Duration::from_millis(moment)))
    }
}

async fn converse(
    mut stream: UnixStream,
    requests: &mpsc::Sender<Asked>,
    turn: &Mutex<()>,
    stage: &Progress,
) -> io::Result<()> {
    let peer =
        stream.peer_cred().ok().map(|credentials| Asker { pid: credentials.pid(), uid: credentials.uid() });
    let takes_files = peer.is_some_and(Asker::is_trusted);
    let (line, files) = timeout(PATIENCE, heard(&stream, takes_files)).await??;
    stage.has_asked();
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = async {
                let stopping = || Reply::Line(refusal("the instance is stopping", 1, &[]).into());
                match requests.send(Asked { request, peer, files, answer }).await {
                    Ok(()) => answered.await.unwrap_or_else(|_dropped| stopping()),
                    Err(_closed) => stopping(),
                }
            };
            tokio::select! {
                biased;
                reply = asked => reply,
                () = hung_up(&stream) => return Ok(()),
            }
        }
        Err(error) => Reply::Line(refusal(&format!("understand the request: {error}"), 2, &[]).into()),
    };
    stage.takes_answer();
    timeout(ANSWER, write(&mut stream, reply, turn)).await?
}

/// The first line that is said, without its end, and if `takes_files` the files that come with it.
async fn heard(stream: &UnixStream, takes_files: bool) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut files) = (Vec::new(), Vec::new());
    loop {
        let room = LONGEST - line.len();
        let came = stream.async_io(Interest::READABLE, || {
            if takes_files {
                return receive(stream, room);
            }
            // The kernel closes what is not asked for.
            let mut bytes = vec![0; room];
            let length = rustix::io::read(stream, bytes.as_mut_slice())?;
            bytes.truncate(length);
            Ok((bytes, Vec::new()))
        });
        let (bytes, more) = came.await?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let is_over = bytes.is_empty() || end.is_some();
        line.extend(bytes.into_iter().take(end.unwrap_or(usize::MAX)));
        files.extend(more);
        if is_over || line.len() >= LONGEST {
            return Ok((line, files));
        }
    }
}

async fn write(stream: &mut UnixStream, reply: Reply, turn: &Mutex<()>) -> io::Result<()> {
    match reply {
        Reply::Line(line) => {
            for piece in line.chunks(PIECE) {
                timeout(PATIENCE, stream.write_all(piece)).await??;
            }
        }
        Reply::Pieces(mut pieces) => {
            loop {
                let piece = {
                    let _turn = turn.lock().await;
                    let begun = Instant::now();
                    let Some(piece) = pieces.next() else { return Ok(()) };
                    // However many ask, and for however much, it takes half of a processor at most.
                    sleep(begun.elapsed().min(GLANCE)).await;
                    piece
                };
                timeout(PATIENCE, stream.write_all(&piece)).await??;
            }
        }
    }
    Ok(())
}

/// Returns when the other side has closed its socket. That it says no more, as `nc -N` does it, is not the same.
async fn hung_up(stream: &UnixStream) {
    let mut more = [0; 512];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut more) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    while !is_hung_up(stream) {
        sleep(GLANCE).await;
    }
}

fn is_hung_up(stream: &UnixStream) -> bool {
    let mut looked_at = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut looked_at, Some(&at_once)) {
        Ok(_) => looked_at.iter().any(|fd| fd.revents().contains(PollFlags::HUP)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
