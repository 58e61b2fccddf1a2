//! Both processes of an instance as a service under a real systemd: one dies or hangs, and the service does what its unit says; other
//! users than root run it. Runs in a room, after the unit was tried in it.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use xtask::shell;

use super::control::{
    UNIT, answers, configure, nothing_is_left, processes, property, service, systemctl, wait_until,
};
use super::life::Life;

/// What is changed of the unit.
const DROP_IN: &str = "/etc/systemd/system/spectrum.service.d/check.conf";

const PATIENCE: Duration = Duration::from_secs(20);

/// Does to both processes what a host does.
pub(super) fn check() -> Result<ExitCode> {
    change("")?;
    configure(&[service(0), service(1)])?;
    systemctl(&["start", UNIT])?;
    let life = Life::of(UNIT)?;
    let status = property("StatusText")?;
    ensure!(status.starts_with("ready: 192.0.2.0/24, "), "systemctl status says {status:?}");
    println!("ok: systemctl status tells: {status}");
    lose_worker(&life)?;
    upgrade(&life)?;
    lose_steerer(&life)?;
    hang_steerer()?;
    reload_by_signal()?;
    stop_slowly()?;
    for (user, how) in USERS {
        other_user(user, how).with_context(|| format!("with {user}"))?;
    }
    change("")?;
    let mut security = Command::new("systemd-analyze");
    let exposure = shell::stdout(security.args(["security", "--no-pager", "spectrum.service"]))?;
    println!("ok: {}", exposure.lines().last().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid).context("name a process")?);
    kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
}

/// The worker process dies: the service has not noticed.
fn lose_worker(life: &Life) -> Result<()> {
    for _ in 0..3 {
        let worker = life.worker()?;
        send(worker, Signal::SIGKILL)?;
        // Whoever comes meanwhile waits for the next.
        (0..2).try_for_each(answers)?;
        wait_until("another worker process serves", || Ok(life.worker().is_ok_and(|next| next != worker)))?;
    }
    ensure!(Life::of(UNIT)? == *life, "a dead worker process made {:?} of {life:?}", Life::of(UNIT)?);
    println!("ok: the unit stays active while worker processes are killed");
    Ok(())
}

/// The steerer executes its program anew, as it would another version: the service has not noticed, and another worker process serves.
fn upgrade(life: &Life) -> Result<()> {
    for _ in 0..2 {
        let worker = life.worker()?;
        send(life.main, Signal::SIGUSR2)?;
        wait_until("the worker process of before the upgrade is gone", || {
            (0..2).try_for_each(answers)?;
            Ok(!processes().contains(&worker) && life.worker().is_ok())
        })?;
        wait_until("the unit is as it was", || Ok(Life::of(UNIT).is_ok_and(|now| now == *life)))?;
        let status = property("StatusText")?;
        ensure!(status.starts_with("ready: "), "after an upgrade systemctl status says {status:?}");
    }
    println!("ok: the unit stays active, and its main process the same, over upgrades");
    Ok(())
}

/// The steerer alone dies: the worker process does not outlive it, and the service is started again.
fn lose_steerer(life: &Life) -> Result<()> {
    let worker = life.worker()?;
    send(life.main, Signal::SIGKILL)?;
    started_again(life, worker, "SIGKILL of the steerer")
}

/// The steerer hangs, which nobody but systemd sees.
fn hang_steerer() -> Result<()> {
    change("WatchdogSec=6s\n")?;
    systemctl(&["restart", UNIT])?;
    let life = Life::of(UNIT)?;
    let worker = life.worker()?;
    // Twice the time, in which nothing may happen to one that lives.
    std::thread::sleep(std::time::Duration::from_secs(12));
    ensure!(Life::of(UNIT)? == life, "a steerer that lives was taken for one that hangs");
    send(life.main, Signal::SIGSTOP)?;
    started_again(&life, worker, "a steerer that hangs was missed")
}

fn started_again(life: &Life, worker: u32, what: &str) -> Result<()> {
    wait_until(&format!("it runs again: {what}"), || {
        Ok(Life::of(UNIT).is_ok_and(|now| now.main != life.main))
    })?;
    let now = Life::of(UNIT)?;
    ensure!(now.restarts.parse::<u32>().unwrap_or(0) > 0, "systemd has not started it again: {now:?}");
    (0..2).try_for_each(answers)?;
    let (ours, expected) = (processes(), [now.main, now.worker()?]);
    ensure!(
        ours.len() == 2 && expected.iter().all(|pid| ours.contains(pid)),
        "there are processes {ours:?}, not {expected:?}"
    );
    ensure!(!ours.contains(&worker), "the worker process {worker} outlived its steerer");
    Ok(())
}

/// SIGHUP, as systemd 253 and later send it.
fn reload_by_signal() -> Result<()> {
    let life = Life::of(UNIT)?;
    configure(&[service(0)])?;
    send(life.main, Signal::SIGHUP)?;
    wait_until("systemctl status tells of a reload by a signal", || {
        Ok(!property("StatusText")?.contains("2001:db8::/64"))
    })?;
    ensure!(Life::of(UNIT)? == life, "a reload made {:?} of {life:?}", Life::of(UNIT)?);
    answers(0)
}

/// An end with connections that are open takes longer than the unit says, and nobody kills it.
fn stop_slowly() -> Result<()> {
    change("TimeoutStopSec=2s\n")?;
    // One that leaves the end to its client.
    configure(&[service(0).replace("hello", "echo")])?;
    systemctl(&["restart", UNIT])?;
    let address = ([192, 0, 2, 77], 31337).into();
    let held = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("dial {address}"))?;
    let started = Instant::now();
    stop()?;
    let (took, result) = (started.elapsed(), property("Result")?);
    drop(held);
    ensure!(result == "success", "a drain that took {took:?} ended with {result}");
    ensure!(took > Duration::from_secs(5), "nothing was open: the end took {took:?}");
    println!("ok: an end takes the time that the drain may take, {:.0} s, and no more", took.as_secs_f32());
    Ok(())
}

fn stop() -> Result<()> {
    systemctl(&["stop", UNIT])?;
    ensure!(property("ActiveState")? == "inactive", "a stopped unit is {}", property("ActiveState")?);
    nothing_is_left()
}

/// Users that are not root, and the drop-in that makes the unit theirs.
const USERS: [(&str, &str); 2] = [("User=", "User=daemon\n"), ("DynamicUser=", "DynamicUser=yes\n")];

/// What a user needs that is not root, as the documents say.
const NEEDS: &str = "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_PERFMON\n\
                     RuntimeDirectory=\nRuntimeDirectory=spectrum-edge\nRuntimeDirectoryPreserve=no\nEnvironment=SPECTRUM_RUN_DIR=/run/spectrum-edge\n";

/// The service as another user: start, reload, death of the worker process, stop.
fn other_user(name: &str, how: &str) -> Result<()> {
    change(&format!("{how}{NEEDS}"))?;
    configure(&[service(0)])?;
    systemctl(&["start", UNIT])?;
    let life = Life::of(UNIT)?;
    answers(0)?;
    for pid in [life.main, life.worker()?] {
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).context("read the state of a process")?;
        let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
        ensure!(!uids.split_whitespace().any(|uid| uid == "0"), "process {pid} is root: {uids}");
        let capabilities = status.lines().find(|line| line.starts_with("CapEff:")).unwrap_or_default();
        println!("    process {pid}: {uids:?} {capabilities:?}");
        ensure!(
            pid == life.main || capabilities.ends_with("\t0000000000000000"),
            "the worker process has {capabilities}"
        );
    }
    configure(&[service(0), service(1)])?;
    systemctl(&["reload", UNIT])?;
    answers(1)?;
    let worker = life.worker()?;
    send(worker, Signal::SIGKILL)?;
    answers(0)?;
    wait_until("another worker process serves", || Ok(life.worker().is_ok_and(|next| next != worker)))?;
    ensure!(Life::of(UNIT)? == life, "{:?} became of {life:?}", Life::of(UNIT)?);
    upgrade(&life)?;
    stop()?;
    println!("ok: it starts, reloads, survives its worker process, is upgraded and stops with {name}");
    Ok(())
}

/// Has the unit have `lines` besides.
fn change(lines: &str) -> Result<()> {
    let path = Path::new(DROP_IN);
    let directory = path.parent().context("name a directory")?;
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(path, format!("[Service]\n{lines}")))
        .with_context(|| format!("write {DROP_IN}"))?;
    systemctl(&["daemon-reload"])
}
