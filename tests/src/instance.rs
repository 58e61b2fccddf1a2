//! The program under test as a process: started in a namespace, read, signalled, waited for, and never left behind.
//! Does not know what the program does.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::deadline::{PATIENCE, eventually};
use crate::holdings::memory;
use crate::netns::Netns;
use crate::path::TOOLS;

/// The workspace that these tests belong to.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The program under test: `SPECTRUM_BIN`, else the release build, else the debug build.
pub fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SPECTRUM_BIN") {
        return Some(PathBuf::from(named)).filter(|file| file.is_file());
    }
    ["release", "debug"]
        .map(|profile| workspace().join("target").join(profile).join("spectrum-user"))
        .into_iter()
        .find(|file| file.is_file())
}

/// A process about to be started.
#[derive(Debug)]
pub struct Launch<'netns> {
    netns: &'netns Netns,
    program: Option<PathBuf>,
    before: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl<'netns> Launch<'netns> {
    /// The program without arguments, in `netns`, with the namespace's own tools as its whole search path.
    pub fn new(netns: &'netns Netns) -> Self {
        Self {
            netns,
            program: None,
            before: Vec::new(),
            arguments: Vec::new(),
            environment: vec![("PATH".to_owned(), TOOLS.to_owned())],
            stdout: None,
            stderr: None,
        }
    }

    /// Adds arguments, split at spaces.
    #[must_use]
    pub fn arguments(mut self, words: &str) -> Self {
        self.arguments.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// Runs this copy of the program.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Runs the program by another one, such as `setpriv --no-new-privs`; its full path comes after these words.
    #[must_use]
    pub fn through(mut self, words: &str) -> Self {
        self.before = words.split_whitespace().map(str::to_owned).collect();
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has its standard output go there and not to this test, which then cannot wait for its ready line.
    #[must_use]
    pub fn stdout_to(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Has its standard error go there and not to this test.
    #[must_use]
    pub fn stderr_to(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it without waiting for anything.
    pub fn spawn(self) -> Instance {
        let program = self.program.or_else(program).expect("the program under test").display().to_string();
        let words: Vec<String> = self.before.into_iter().chain([program]).chain(self.arguments).collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(self.stdout.unwrap_or_else(Stdio::piped))
            .stderr(self.stderr.unwrap_or_else(Stdio::piped));
        let line = words.join(" ");
        let mut child =
            self.netns.run(|| command.spawn()).unwrap_or_else(|error| panic!("start {line}: {error}"));
        // The command keeps the other ends of what it was given, and a reader is to see when the process is gone.
        drop(command);
        let stdout = child.stdout.take().map_or_else(Captured::nothing, Captured::read);
        let stderr = child.stderr.take().map_or_else(Captured::nothing, Captured::read);
        Instance { line, child, stdout, stderr, ready: None }
    }

    /// Starts it and waits for its ready line.
    pub fn start(self) -> Instance {
        self.spawn().await_ready_or_end().unwrap_or_else(|finished| panic!("not ready: {finished}"))
    }

    /// Runs it to its end, which it must reach by itself.
    pub fn finish(self) -> Finished {
        self.spawn().finish(PATIENCE)
    }
}

/// The content of the ready line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ready {
    /// `mode=`
    pub mode: String,
    /// `services=`
    pub services: usize,
    /// `bindings=`
    pub bindings: usize,
}

impl Ready {
    fn parse(line: &str) -> Option<Self> {
        if let Ok(object) = serde_json::from_str::<serde_json::Value>(line) {
            let count = |key: &str| object[key].as_u64().and_then(|count| usize::try_from(count).ok());
            let (services, bindings) = (count("services")?, count("bindings")?);
            let mode = object["mode"].as_str()?.to_owned();
            return (object["event"] == "ready").then_some(Self { mode, services, bindings });
        }
        let mut ready = Self::default();
        for field in line.strip_prefix("ready ")?.split(' ') {
            match field.split_once('=')? {
                ("mode", mode) => mode.clone_into(&mut ready.mode),
                ("services", count) => ready.services = count.parse().ok()?,
                ("bindings", count) => ready.bindings = count.parse().ok()?,
                _ => return None,
            }
        }
        Some(ready)
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Instance {
    line: String,
    child: Child,
    stdout: Captured,
    stderr: Captured,
    ready: Option<Ready>,
}

/// The end of a process, and all that it printed.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line.
    pub line: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Instance {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The id by which it is known in `netns`, once it has claimed its prefixes.
    pub fn id(&self, netns: &Netns) -> String {
        let directory = format!("/run/spectrum/{}", netns.inode());
        let claimed = |path: &Path| {
            let claim: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            (claim["pid"] == self.pid()).then(|| path.file_stem()?.to_str().map(str::to_owned))?
        };
        eventually("the claim of the instance", PATIENCE, || {
            let claims =
                netns.run(|| fs::read_dir(&directory).map(|entries| entries.flatten().collect::<Vec<_>>()));
            let claims = claims.ok()?.into_iter().map(|entry| entry.path());
            let mut claims =
                claims.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
            netns.run(|| claims.find_map(|path| claimed(&path)))
        })
    }

    /// The most memory that it had so far, in bytes, of both processes together.
    pub fn peak_memory(&self) -> u64 {
        memory(self, "VmHWM") << 10
    }

    /// The process id of its worker process.
    pub fn worker(&self) -> u32 {
        eventually("a worker process", PATIENCE, || worker_of(self.pid()))
    }

    /// The process ids of its processes.
    pub fn processes(&self) -> Vec<u32> {
        std::iter::once(self.pid()).chain(worker_of(self.pid())).collect()
    }

    /// The content of the ready line.
    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("an instance that was waited for")
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.send(self.pid(), signal);
    }

    /// Sends a signal to its worker process: the process id of that.
    pub fn signal_worker(&self, signal: Signal) -> u32 {
        let worker = self.worker();
        self.send(worker, signal);
        worker
    }

    fn send(&self, pid: u32, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
        kill(pid, signal).unwrap_or_else(|error| panic!("send {signal} to {}: {error}", self.line));
    }

    /// True if it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ask for the exit status").is_none()
    }

    /// Waits for it to end by itself; panics, with what it wrote, when it does not.
    pub fn finish(mut self, within: Duration) -> Finished {
        let what = format!("end of {}", self.line);
        let stderr = self.stderr.clone();
        let child = &mut self.child;
        let status =
            eventually_or(&what, within, &stderr, || child.try_wait().expect("ask for the exit status"));
        Finished { line: self.line.clone(), status, stdout: self.stdout.all(), stderr: self.stderr.all() }
    }

    /// Sends `signal` and waits for its end.
    pub fn finish_after(self, signal: Signal) -> Finished {
        self.signal(signal);
        self.finish(PATIENCE)
    }

    /// Sends SIGTERM and expects the exit code 0.
    pub fn stop(self) -> Finished {
        self.signal(Signal::SIGTERM);
        let finished = self.finish(PATIENCE);
        assert_eq!(finished.code(), 0, "{finished}");
        finished
    }

    /// Sends SIGKILL and waits until it is gone.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.finish(PATIENCE);
    }

    /// Waits until it is ready or has ended.
    pub fn await_ready_or_end(mut self) -> Result<Self, Finished> {
        let what = format!("ready line or end of {}", self.line);
        let Self { child, stdout, stderr, .. } = &mut self;
        let ready = eventually_or(&what, PATIENCE, stderr, || {
            let text = stdout.text();
            if let Some((line, _)) = text.split_once('\n') {
                return Some(Some(
                    Ready::parse(line).unwrap_or_else(|| panic!("not a ready line: {line:?}")),
                ));
            }
            child.try_wait().expect("ask for the exit status").map(|_| None)
        });
        match ready {
            Some(_) => {
                self.ready = ready;
                Ok(self)
            }
            None => Err(self.finish(PATIENCE)),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// The exit code; panics when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{self}"))
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\nstdout:\n{}\nstderr:\n{}", self.line, self.status, self.stdout, self.stderr)
    }
}

fn eventually_or<T>(
    what: &str,
    within: Duration,
    stderr: &Captured,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let started = std::time::Instant::now();
    eventually(what, within + Duration::from_secs(1), || {
        let answer = probe();
        assert!(answer.is_some() || started.elapsed() < within, "{what}: not in time\n{}", stderr.text());
        answer
    })
}

/// The output of a process on one of its streams, read as it comes so that the process never blocks on it.
#[derive(Clone, Debug)]
struct Captured {
    text: Arc<Mutex<String>>,
    reader: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Captured {
    /// A stream that goes elsewhere.
    fn nothing() -> Self {
        Self { text: Arc::default(), reader: Arc::default() }
    }

    fn read(stream: impl std::io::Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Arc::new(Mutex::new(Some(reader))) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Everything until the end of the stream.
    fn all(&self) -> String {
        if let Some(reader) = self.reader.lock().unwrap().take() {
            reader.join().expect("read the stream to its end");
        }
        self.text()
    }
}

/// The worker process of the instance whose process id is `pid`, while there is one; of several, one that drains.
pub fn worker_of(pid: u32) -> Option<u32> {
    workers_of(pid).into_iter().next()
}

/// All of them: those that drain first, as they were started.
pub fn workers_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let is_worker = |child: &u32| {
        let words = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"worker-process")
    };
    children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).filter(is_worker).collect()
}
