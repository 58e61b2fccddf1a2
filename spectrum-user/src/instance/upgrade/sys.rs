//! Descriptors that came with the process, by their numbers, of which no crate makes owners; and a signal handler that executes another
//! program, for which none has a form. What is executed, and when it is to be, is not decided here.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::io::fcntl_dupfd_cloexec;

use super::way_back::Called;

/// A copy, closed on exec, of the descriptor with this number.
pub(super) fn copy(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: borrowed for the one call, which only reads what the number stands for, and says so where that is nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Not among the standard streams.
    Ok(fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Owns the descriptor with this number, of which only the program knew that this process was before.
pub(super) fn own(number: RawFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // Where it is none that is found here.
    drop(copy(number)?);
    // SAFETY: it is open, as was just found, and came by exec: nobody in this program has taken it, since each number stands once in a
    // document of which there is one.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What the handler works with, made beforehand, since it may allocate nothing.
#[derive(Debug)]
struct Prepared {
    called: Called,
    words: Vec<*const c_char>,
    /// The environment with each signal's reason in it, which the pointers lead to.
    environments: Vec<(Signal, CString, Vec<*const c_char>)>,
    mask: SigSet,
}

/// What the handler works with, while there are handlers and none has begun.
static PREPARED: AtomicPtr<Prepared> = AtomicPtr::new(null_mut());

/// The signal that another thread than the first has crashed by, if one has.
static CRASHED: AtomicI32 = AtomicI32::new(0);

/// Handlers of signals that execute a program. Dropped, the signals do what they did before.
#[derive(Debug)]
pub(super) struct Handlers(Vec<(Signal, SigAction)>);

impl Handlers {
    /// Has each of these signals execute what is `called`, the text beside it among the environment.
    pub(super) fn install(called: Called, signals: Vec<(Signal, CString)>) -> io::Result<Self> {
        let ended = |texts: &[CString], more: Option<&CString>| {
            texts.iter().chain(more).map(|text| text.as_ptr()).chain([null()]).collect::<Vec<_>>()
        };
        let words = ended(&called.words, None);
        let environments = signals.into_iter().map(|(signal, reason)| {
            let environment = ended(&called.environment, Some(&reason));
            (signal, reason, environment)
        });
        let environments: Vec<_> = environments.collect();
        let signals: Vec<Signal> = environments.iter().map(|(signal, ..)| *signal).collect();
        let mut mask = SigSet::thread_get_mask()?;
        mask.remove(Signal::SIGALRM);
        let prepared = Box::new(Prepared { called, words, environments, mask });
        // Never freed but where nobody can be at it: see `drop`.
        PREPARED.store(Box::into_raw(prepared), Ordering::Release);
        let mut handlers = Self(Vec::new());
        // On the stack of its own that the standard library gives each thread: its other one may be what has overflowed.
        let flags = SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER;
        let action = SigAction::new(SigHandler::Handler(execute_prepared), flags, SigSet::empty());
        for signal in signals {
            // SAFETY: the handler calls nothing but what may be called in one, and works with what is there before it is.
            let before = unsafe { sigaction(signal, &action) }?;
            handlers.0.push((signal, before));
        }
        Ok(handlers)
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, before) in self.0.drain(..) {
            // SAFETY: it is what was there before this program changed it.
            let _ = unsafe { sigaction(signal, &before) };
        }
        // A handler that runs just then has taken it, and never returns.
        let prepared = PREPARED.swap(null_mut(), Ordering::AcqRel);
        if !prepared.is_null() {
            // SAFETY: it came from a box, and whoever takes it out of PREPARED is the only one to have it.
            drop(unsafe { Box::from_raw(prepared) });
        }
    }
}

/// Executes what is prepared, and ends this process where that fails.
extern "C" fn execute_prepared(signal: c_int) {
    // SAFETY: system calls that may be made in a handler (signal-safety(7)), with numbers alone.
    let is_first = unsafe {
        let process = libc::getpid();
        let is_first = libc::gettid() == process;
        if !is_first {
            // Whoever executes outlives all other threads, and worker processes die with the thread that has started them: the first.
            CRASHED.store(signal, Ordering::Release);
            libc::syscall(libc::SYS_tgkill, process, process, libc::SIGALRM);
        }
        is_first
    };
    let signal = match CRASHED.load(Ordering::Acquire) {
        0 => signal,
        crashed => crashed,
    };
    let prepared = if is_first { PREPARED.swap(null_mut(), Ordering::AcqRel) } else { null_mut() };
    if prepared.is_null() {
        // Another thread is on it, and no thread outlives that.
        loop {
            // SAFETY: it only waits.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: nobody else has it since it was taken out, and it is not freed any more.
    let Prepared { called, words, environments, mask } = unsafe { &*prepared };
    let environment = environments.iter().find(|(one, ..)| *one as c_int == signal);
    if let Some((.., environment)) = environment {
        // SAFETY: these are system calls that may be made in a handler (signal-safety(7)), on numbers, on a mask and on texts and lists of
        // texts with their ends that live as long as the process.
        unsafe {
            libc::alarm(0);
            for file in &called.files {
                libc::fcntl(*file, libc::F_SETFD, 0);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ref(), null_mut());
            libc::execve(called.path.as_ptr(), words.as_ptr(), environment.as_ptr());
        }
    }
    // SAFETY: as above; the signal ends the process, as it would have without a handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
