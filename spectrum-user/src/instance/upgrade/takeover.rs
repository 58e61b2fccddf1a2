//! The taking over of what another version of the program has raised, as this process has become this one: until it is done, it goes back
//! where anything fails. Adopts nothing itself.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, raise};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::files::{FileNumber, HandedFiles};
use super::handed_ledger::HandedLedger;
use super::sys;
use super::way_back::{AlarmGuard, Called, WayBackGuard};
use crate::config::{Config, ConfigText};
use crate::observe::Book;
use crate::plan::Plan;

/// The variable that names the descriptor of the ledger.
const LEDGER: &str = "SPECTRUM_LEDGER";

/// The variable that says why the program that was to take over did not.
const FAILURE: &str = "SPECTRUM_UPGRADE_FAILURE";

/// The variable that names a step of the adoption that is to fail, for tests of what goes back from there.
const FAULT: &str = "SPECTRUM_UPGRADE_FAULT";

/// The longest reason that is told, in bytes.
const LONGEST: usize = 4096;

/// What has come from the version before, for as long as it is not wholly taken over.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(super) ledger: HandedLedger,
    pub(super) files: HandedFiles,
    pub(super) document: OwnedFd,
    /// The reason that another program did not take over, which is why this one does.
    failure: Option<String>,
    is_done: Cell<bool>,
    /// Closed once it is done.
    way_back: RefCell<Option<WayBackGuard>>,
}

impl Drop for Takeover {
    fn drop(&mut self) {
        if self.failure.is_none() && !self.is_done.get() {
            // Whoever gave up without a word, or panicked. That it does not even get back is in the log of whoever starts it anew.
            let _ = self.go_back(anyhow::anyhow!("it gave up"));
        }
    }
}

impl Takeover {
    /// What has come, if anything has.
    ///
    /// # Errors
    /// It makes no sense. There is no way back then, and nothing that could be lost by it.
    pub(crate) fn begin() -> anyhow::Result<Option<Self>> {
        let Some(number) = std::env::var_os(LEDGER) else { return Ok(None) };
        let op = || format!("take over as the variable {LEDGER} says (which nobody sets; unset it)");
        let number = number.to_str().and_then(|text| text.parse().ok()).with_context(op)?;
        let document = sys::own(number).with_context(op)?;
        fcntl_setfd(&document, FdFlags::CLOEXEC).with_context(op)?;
        let ledger = HandedLedger::read(document.as_fd()).with_context(op)?;
        anyhow::ensure!(ledger.pid == std::process::id(), "{}: it is for another process", op());
        let files = HandedFiles::came(&ledger.files).with_context(op)?;
        let failure = std::env::var_os(FAILURE).map(|why| why.to_string_lossy().into_owned());
        let way_back = if failure.is_none() {
            Some(open_way_back(&ledger, &files, &document).with_context(op)?)
        } else {
            AlarmGuard::cancel();
            None
        };
        let takeover =
            Self { ledger, files, document, failure, is_done: Cell::new(false), way_back: way_back.into() };
        takeover.step("begin").map_err(|error| takeover.go_back(error))?;
        Ok(Some(takeover))
    }

    /// The files of the configuration.
    pub(crate) fn config(&self) -> &[ConfigText] {
        &self.ledger.config
    }

    /// The reason that this program takes over what it had handed over, if it does.
    pub(in crate::instance) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The version of the program before.
    pub(in crate::instance) fn from(&self) -> &str {
        &self.ledger.version
    }

    /// True if a reload was asked for that did not take place.
    pub(in crate::instance) fn reload_waits(&self) -> bool {
        self.ledger.reload_waits
    }

    /// `plan` of `config`, which is a first one, with the numbers that its destinations have.
    pub(in crate::instance) fn renumbered(&self, config: &Config, plan: Plan) -> Plan {
        self.ledger.renumbered(config, plan)
    }

    /// The counters, which go on.
    pub(in crate::instance) fn book(&self) -> anyhow::Result<Book> {
        let files = self.ledger.book.iter().map(|number| self.files.copy(*number));
        Ok(Book::adopt(files.collect::<io::Result<_>>().context("adopt the counters")?)?)
    }

    /// Fails at `step` where a test wants that.
    pub(super) fn step(&self, step: &str) -> anyhow::Result<()> {
        if self.failure.is_some() {
            return Ok(());
        }
        let wanted = std::env::var(FAULT).unwrap_or_default();
        match wanted.strip_suffix(step) {
            Some("panic-") => panic!("the variable {FAULT} wants it to panic at {step}"),
            Some("abort-") => std::process::abort(),
            Some("fault-") => raise(Signal::SIGSEGV)?,
            Some("apart-") => {
                std::thread::spawn(|| raise(Signal::SIGSEGV));
                sleep(Duration::MAX);
            }
            Some("hang-") => loop {
                sleep(Duration::MAX);
            },
            _ => {}
        }
        anyhow::ensure!(wanted != step, "the variable {FAULT} wants it to fail at {step}");
        Ok(())
    }

    /// It is taken over: there is no way back any more, and none is needed.
    pub(super) fn done(&self) {
        self.is_done.set(true);
        drop(self.way_back.take());
    }

    /// Becomes the program again that this process was before, unless all is taken over. Returns only where that fails, or it is too
    /// late, with what became of it.
    pub(crate) fn go_back(&self, why: anyhow::Error) -> anyhow::Error {
        if self.is_done.get() {
            return why;
        }
        if self.failure.is_some() {
            // It was this one that handed over, and cannot take back.
            return why.context("take back what was handed over");
        }
        let reason = format!("{} could not take over: {why:#}", self.ledger.to.display());
        // Whatever goes wrong from here on ends this process as it would any other.
        drop(self.way_back.take());
        let executed = self
            .files
            .copy(self.ledger.program)
            .and_then(|program| execute(&program, &self.ledger, &self.files, &self.document, Some(&reason)));
        match executed {
            Err(error) => why.context(format!("go back to the version before: {error}")),
        }
    }
}

/// Becomes the program behind `program`, to which `files` and `ledger`, in `document`, go over, with the words and the environment in
/// it.
///
/// # Errors
/// The system's: then it is what it was.
pub(super) fn execute(
    program: &impl AsFd,
    ledger: &HandedLedger,
    files: &HandedFiles,
    document: &OwnedFd,
    failure: Option<&str>,
) -> io::Result<Infallible> {
    let (program, document) = (fcntl_dupfd_cloexec(program, 3)?, fcntl_dupfd_cloexec(document, 3)?);
    let Called { path, words, mut environment, .. } = called(ledger, program.as_raw_fd(), &document)?;
    environment.extend(failure.map(told).transpose()?);
    if is_script(&program) {
        // Its interpreter opens it once more.
        fcntl_setfd(&program, FdFlags::empty())?;
    }
    fcntl_setfd(&document, FdFlags::empty())?;
    files.go_over(true)?;
    let executed = nix::unistd::execve(&path, &words, &environment);
    // What is executed beside has no use for them.
    files.go_over(false)?;
    match executed {
        Err(errno) => Err(errno.into()),
    }
}

/// The program behind `program` as it is executed to take over what is in `ledger`, in `document`.
fn called(ledger: &HandedLedger, program: RawFd, document: &OwnedFd) -> io::Result<Called> {
    let path = string(format!("/proc/self/fd/{program}").into())?;
    let words = ledger.words.iter().cloned().map(string).collect::<io::Result<_>>()?;
    let is_other = |name: &OsString| name != LEDGER && name != FAILURE;
    let kept = ledger.environment.iter().filter(|(name, _)| is_other(name)).cloned();
    let environment = kept
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            string(name)
        })
        .chain([string(format!("{LEDGER}={}", document.as_raw_fd()).into())]);
    Ok(Called { path, words, environment: environment.collect::<io::Result<_>>()?, files: Vec::new() })
}

/// `reason` as it stands in the environment of whoever is told.
fn told(reason: &str) -> io::Result<CString> {
    let told: String = reason.chars().filter(|one| *one != '\0').take(LONGEST).collect();
    string(format!("{FAILURE}={told}").into())
}

/// Has whatever ends this process before it has taken over execute the program before.
fn open_way_back(ledger: &HandedLedger, files: &HandedFiles, document: &OwnedFd) -> io::Result<WayBackGuard> {
    let mut called = called(ledger, ledger.program.raw(), document)?;
    called.files = files.numbers().into_iter().map(FileNumber::raw).chain([document.as_raw_fd()]).collect();
    WayBackGuard::open(called, |why| told(&format!("{} could not take over: {why}", ledger.to.display())))
}

fn is_script(program: &OwnedFd) -> bool {
    let mut beginning = [0; 2];
    matches!(rustix::io::pread(program, &mut beginning, 0), Ok(2)) && beginning == *b"#!"
}

fn string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(io::Error::other)
}
