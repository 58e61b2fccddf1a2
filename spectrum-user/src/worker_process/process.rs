//! A worker process, started and ended: this program once more, with one stream as its standard input and nothing else of ours.
//! Says nothing on the stream.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::runtime::Handle;

use super::link::{Answering, HandedLink, Link, SIGN_PAUSE};
use super::message::Beginning;
use super::serving::serve;
use super::wire::{Frame, receive_first, send_first};
use crate::confinement::{Needs, WorkerUser};
use crate::model::LogFormat;
use crate::observe::{Book, Counters, ProcessNumber, Recorder};

/// The program, as it was when this process began: whatever has come in the place of its file.
const PROGRAM: &str = "/proc/self/exe";

/// The name that it is shown by.
const NAME: &str = "spectrum-user";

/// The verb that it is started with, which nobody types.
pub(crate) const VERB: &str = "worker-process";

/// The time that it has to end by itself after its stream is closed.
const FAREWELL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Where it runs.
#[derive(Clone, Debug)]
pub(crate) enum Host {
    /// In a process of its own.
    Process {
        /// The form of its log.
        log_format: LogFormat,
        /// The user that it is.
        user: WorkerUser,
        /// The book that it counts in.
        book: Book,
    },
    /// On a thread of this one.
    Thread(Recorder, Counters),
}

/// A worker process. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    link: Option<Link>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Process { pid: Pid, pidfd: OwnedFd, counted: (Book, ProcessNumber) },
    Thread(Option<JoinHandle<()>>),
}

/// A worker process as another program adopts it that this process becomes.
#[derive(Debug)]
pub(crate) struct HandedWorker {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) process: ProcessNumber,
    pub(crate) link: HandedLink,
}

/// The first message on `stream`, as the worker process hears it, and the book that it is to count in. Blocks.
///
/// # Errors
/// Nobody has started this process as a worker process.
pub(crate) fn beginning(stream: &UnixStream) -> anyhow::Result<(Beginning, OwnedFd)> {
    let op = "hear from the steerer (spectrum-user starts this by itself)";
    let (beginning, files) = receive_first(stream).context(op)?;
    Ok((beginning, files.into_iter().next().context(op)?))
}

impl WorkerProcess {
    /// Starts one, which keeps the capabilities that it `needs`, in the network namespace that the calling thread is in; what it asks `answering` answers, and whoever speaks with it
    /// does by tasks on the runtime of `speaker`.
    ///
    /// # Errors
    /// When the system has no process or descriptor to spare.
    pub(crate) fn start(
        host: &Host,
        needs: &Needs,
        speaker: &Handle,
        answering: Arc<Answering>,
    ) -> anyhow::Result<Self> {
        let op = "start the worker process";
        let (ours, theirs) = UnixStream::pair().context(op)?;
        let body = match host {
            Host::Process { log_format, user, book } => {
                let process = book.begin_process();
                let beginning =
                    Beginning { log_format: *log_format, process, user: user.clone(), needs: needs.clone() };
                let first =
                    Frame::of(&beginning, vec![book.file().try_clone_to_owned().context(op)?]).context(op)?;
                let child = Command::new(PROGRAM)
                    .arg0(NAME)
                    .arg(VERB)
                    .env_remove("NOTIFY_SOCKET")
                    .env_remove("WATCHDOG_USEC")
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .spawn()
                    .context(op)?;
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context(op)?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).context(op)?;
                send_first(&ours, &first).context(op)?;
                Body::Process { pid, pidfd, counted: (book.clone(), process) }
            }
            Host::Thread(recorder, counters) => {
                let (recorder, counters) = (recorder.clone(), counters.clone());
                let body = move || {
                    if let Err(error) = serve(theirs, recorder, counters, None) {
                        tracing::error!("{error:#}");
                    }
                };
                Body::Thread(Some(
                    thread::Builder::new().name("worker-process".into()).spawn(body).context(op)?,
                ))
            }
        };
        // A thread cannot be ended by whoever shares its process.
        let sign_pause = matches!(body, Body::Process { .. }).then_some(SIGN_PAUSE);
        let link = Link::speak(ours, speaker, answering, sign_pause).context(op)?;
        Ok(Self { link: Some(link), body })
    }

    /// Adopts one that the program has started which this process was before.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn adopt(
        handed: HandedWorker,
        book: &Book,
        speaker: &Handle,
        answering: Arc<Answering>,
    ) -> anyhow::Result<Self> {
        let op = "adopt the worker process";
        let HandedWorker { pid, pidfd, process, link } = handed;
        let pid = Pid::from_raw(pid).context(op)?;
        let link = Link::speak_on(link, speaker, answering, Some(SIGN_PAUSE)).context(op)?;
        Ok(Self { link: Some(link), body: Body::Process { pid, pidfd, counted: (book.clone(), process) } })
    }

    /// Has it live on, for the program that this process becomes. One that is no process of its own cannot.
    ///
    /// # Errors
    /// It is over, or takes nothing. It still is whoever has it that ends it then.
    pub(crate) async fn hand_on(&mut self) -> anyhow::Result<HandedWorker> {
        let op = "hand on the worker process";
        let link = self.link()?.hand_on().await.context(op)?;
        match &self.body {
            Body::Process { pid, pidfd, counted: (_, process) } => Ok(HandedWorker {
                pid: pid.as_raw_nonzero().get(),
                pidfd: pidfd.try_clone().context(op)?,
                process: *process,
                link,
            }),
            Body::Thread(_) => Err(anyhow::anyhow!("it is a thread").context(op)),
        }
    }

    /// Lets go of it as it is: somebody else has it, and it lives on.
    pub(crate) fn let_go(mut self) {
        drop(self.link.take());
        self.body = Body::Thread(None);
    }

    /// Its process id, unless it is a thread.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.body {
            Body::Process { pid, .. } => u32::try_from(pid.as_raw_nonzero().get()).ok(),
            Body::Thread(_) => None,
        }
    }

    /// The way to it.
    pub(crate) fn link(&self) -> anyhow::Result<&Link> {
        self.link.as_ref().context("speak with a worker process that is ending")
    }

    /// Waits until it can do nothing any more: why.
    pub(crate) async fn over(&self) -> String {
        match &self.link {
            Some(link) => link.over().await,
            None => String::new(),
        }
    }

    /// Ends it, if it has not ended: how it did, where that is not as it should.
    pub(crate) fn end(&mut self) -> Option<String> {
        // It ends when nobody speaks to it any more.
        if let Some(link) = self.link.take() {
            link.close();
        }
        match &mut self.body {
            Body::Process { pid, pidfd, counted: (book, process) } => {
                let mut ended = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
                if !matches!(poll(&mut ended, Some(&FAREWELL)), Ok(1..)) {
                    // It is gone already, or now.
                    let _ = pidfd_send_signal(&*pidfd, Signal::KILL);
                }
                let status = waitpid(nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get()), None);
                book.end_process(*process);
                status.ok().and_then(shown)
            }
            Body::Thread(thread) => {
                if let Some(thread) = thread.take() {
                    // A panic was said when it happened.
                    let _ = thread.join();
                }
                None
            }
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// The end of a process in words, if it did not end well.
fn shown(status: WaitStatus) -> Option<String> {
    match status {
        WaitStatus::Exited(_, 0) => None,
        WaitStatus::Exited(_, code) => Some(format!("exit code {code}")),
        WaitStatus::Signaled(_, signal, _) => Some(format!("killed by {signal}")),
        other => Some(format!("{other:?}")),
    }
}
