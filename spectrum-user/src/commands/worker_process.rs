//! The verb that an instance starts its worker process with. Nobody types it.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use rustix::process::set_parent_process_death_signal;

use super::exit;
use super::logging;
use crate::confinement::{Trespass, WorkerReport, confine_worker, trespasses};
use crate::model::LogFormat;
use crate::observe::{Book, Counters, Omissions, Recorder};
use crate::worker_process::{Beginning, beginning, serve};

/// The variable that has a worker process try what it must not be able to do, for tests of a whole instance. They change nothing that they
/// do not take back.
const TRESPASS: &str = "SPECTRUM_TRESPASS";

/// Serves until whoever started it says no more.
pub(super) fn run() -> ExitCode {
    let Begun { stream, log_format: format, book, confinement } = match begun() {
        Ok(begun) => begun,
        Err(error) => return exit::failure(&error, LogFormat::Text),
    };
    let log = match logging::init(format) {
        Ok(log) => log,
        Err(error) => return exit::failure(&error, format),
    };
    log.output.losses().enter(&book);
    for (what, reason) in confinement.lacking() {
        tracing::info!(reason, "the worker process is not restricted in its {what}");
    }
    if std::env::var_os(TRESPASS).is_some() {
        try_trespasses();
    }
    let recorder = Recorder::new(log.output.clone(), Omissions::of(&book));
    match serve(stream, recorder, Counters::of(&book), Some(confinement)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::logged_failure(&error, &log),
    }
}

/// Tries what it must not be able to do, by a thread of its own while it serves.
fn try_trespasses() {
    let tried = thread::Builder::new().name("trespass".into()).spawn(|| {
        for Trespass { what, error } in trespasses() {
            let error = error.as_deref().unwrap_or("none");
            tracing::info!(what, error, "a trespass was tried");
        }
        tracing::info!("trespasses tried");
    });
    if let Err(error) = tried {
        tracing::error!(%error, "try trespasses");
    }
}

/// A worker process before it has any thread.
struct Begun {
    stream: UnixStream,
    log_format: LogFormat,
    book: Book,
    confinement: WorkerReport,
}

fn begun() -> anyhow::Result<Begun> {
    // Who sends them means the whole group, and the steerer tells what is to be done.
    let stops: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    stops.thread_block().context("block signals")?;
    let stream = io::stdin().as_fd().try_clone_to_owned().context("hear from the steerer")?;
    let stream = UnixStream::from(stream);
    let (Beginning { log_format, process, user, needs }, book) = beginning(&stream)?;
    let book = Book::open(book, process)?;
    let confinement = confine_worker(&user, &needs)?;
    // Nobody could tell it anything any more. Its stream closes as well, a little later.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).context("end with the steerer")?;
    Ok(Begun { stream, log_format, book, confinement })
}
