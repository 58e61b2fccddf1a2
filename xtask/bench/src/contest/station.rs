//! One proxy between a client and an origin, in a network namespace of its own: what steers one must not cost another.
//! The load has the first CPU and the proxy the last one, so that the proxy is what limits. Compares nothing.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use xtask::interrupt::Interrupt;
use xtask::namespace;
use xtask::server::Server;

use super::Contender;
use super::load::{Answer, Load};
use crate::{memory, processes};

/// The time that a reload may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A contender, ready to be measured.
#[derive(Debug)]
pub(crate) struct Station {
    contender: Contender,
    // Ends before the load: a proxy without its origin would complain.
    server: Server,
    load: Load,
}

/// The outcome of an order, and its cost for the proxy.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The findings of the load.
    pub(crate) answer: Answer,
    /// CPU time of the proxy, in seconds.
    pub(crate) cpu: f64,
}

impl Station {
    /// Starts `contender` and a load.
    pub(crate) fn open(
        contender: Contender,
        program: &Path,
        load: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        // A namespace belongs to a thread and what it starts.
        let opened = thread::scope(|scope| {
            scope
                .spawn(|| {
                    namespace::enter_another()?;
                    prepare()?;
                    let (first, last) = first_and_last()?;
                    stay_on(Pid::from_raw(0), &[first])?;
                    let load = Load::start(load)?;
                    // Each has two threads, and ours starts one for each CPU that it may use.
                    stay_on(Pid::from_raw(0), &[first, last])?;
                    let server = (contender.start)(program, load.origin, interrupt)?;
                    for thread in threads(&server)? {
                        stay_on(thread, &[last])?;
                    }
                    Ok(Self { contender, server, load })
                })
                .join()
        });
        let opened: Result<Self> = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        opened.with_context(|| format!("set up {}", contender.name))
    }

    /// One of each of `contenders`.
    pub(crate) fn open_all(
        contenders: &[Contender],
        program: &Path,
        load: &Path,
        interrupt: &Interrupt,
    ) -> Result<Vec<Self>> {
        contenders.iter().map(|contender| Self::open(*contender, program, load, interrupt)).collect()
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.contender.name
    }

    /// Has `verb` done at the proxy's address, with `rest`.
    pub(crate) fn measure(&mut self, verb: &str, rest: &str) -> Result<Outcome> {
        let address = self.contender.address;
        let before = self.cpu()?;
        let answer = self.load.obey(&format!("{verb} {address} {rest}"));
        let answer = answer.with_context(|| format!("measure {}", self.contender.name))?;
        Ok(Outcome { answer, cpu: self.cpu()? - before })
    }

    /// Resident memory of the proxy, in bytes.
    pub(crate) fn resident(&self) -> Result<f64> {
        let mut bytes = 0.0;
        for pid in processes::of(&self.server)? {
            bytes += memory::resident(u32::try_from(pid.as_raw())?)?;
        }
        Ok(bytes)
    }

    /// The number of descriptors that the proxy has open.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        let mut count = 0;
        for pid in processes::of(&self.server)? {
            let path = format!("/proc/{pid}/fd");
            count += fs::read_dir(&path).with_context(|| format!("list {path}"))?.count();
        }
        Ok(count)
    }

    /// Has the proxy read its configuration again, and waits until `done` says of its process that it has.
    pub(crate) fn reload(&self, mut done: impl FnMut(u32) -> Result<bool>) -> Result<()> {
        let pid = self.server.pid();
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGHUP).context("ask for a reload")?;
        let deadline = Instant::now() + PATIENCE;
        while !done(pid)? {
            ensure!(Instant::now() < deadline, "reload {}: nothing happens", self.contender.name);
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn cpu(&self) -> Result<f64> {
        let mut seconds = 0.0;
        for pid in processes::of(&self.server)? {
            let clock: ClockId = clock_getcpuclockid(pid).context("find the CPU clock of a process")?;
            let time = clock_gettime(clock).context("read the CPU clock of a process")?;
            seconds += Duration::from(time).as_secs_f64();
        }
        Ok(seconds)
    }
}

/// Sockets that wait for stray packets would fill the tables of a namespace that makes thousands of connections a second,
/// and a congestion control that paces would have everybody wait for timers. Reno is the one that any namespace may have.
fn prepare() -> Result<()> {
    for (name, value) in [
        ("tcp_max_tw_buckets", "1024"),
        ("ip_local_port_range", "1024 65535"),
        ("tcp_max_syn_backlog", "65535"),
        ("tcp_congestion_control", "reno"),
    ] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    let path = "/proc/sys/net/core/somaxconn";
    fs::write(path, "65535").with_context(|| format!("write {path}"))
}

/// Memory of a server and its children together, in bytes, what they share counted once.
pub(crate) fn proportional(server: &Server) -> Result<f64> {
    let mut bytes = 0.0;
    for pid in processes::of(server)? {
        bytes += memory::proportional(u32::try_from(pid.as_raw())?)?;
    }
    Ok(bytes)
}

/// Its threads, and its children's.
fn threads(server: &Server) -> Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for pid in processes::of(server)? {
        let path = format!("/proc/{pid}/task");
        for entry in fs::read_dir(&path).with_context(|| format!("list {path}"))? {
            let name = entry.with_context(|| format!("list {path}"))?.file_name();
            threads.extend(name.to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw));
        }
    }
    Ok(threads)
}

/// The first and the last CPU that we may use.
fn first_and_last() -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask which CPUs may be used")?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = usable.next().context("find a CPU")?;
    Ok((first, usable.next_back().context("find a second CPU: this takes two")?))
}

fn stay_on(thread: Pid, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).context("choose a CPU")?;
    }
    sched_setaffinity(thread, &set).context("stay on a CPU")
}
