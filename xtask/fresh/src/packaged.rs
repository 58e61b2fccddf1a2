//! The package as somebody installs it on a host that systemd runs: installed, configured, started, reloaded, upgraded under
//! traffic, removed, purged. Runs in a room with a network of its own, in which both versions of the package lie.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use xtask::demo;
use xtask::shell;

use super::control::{UNIT, nothing_is_left, processes, property, property_of, systemctl, wait_until};
use super::life::Life;
use super::load::{Dialled, Load, echo_server};
use super::snapshot::Snapshot;

/// The package of the version before, in the room.
pub(super) const BEFORE: &str = "/root/before.deb";

/// The package.
pub(super) const PACKAGE: &str = "/root/spectrum.deb";

const CONFIG: &str = "/etc/spectrum/spectrum.toml";

/// The instance of the template, and its configuration.
const OTHER: &str = "spectrum@edge";
const OTHER_CONFIG: &str = "/etc/spectrum/edge.toml";

/// The most that systemd may say of what a unit leaves open, in tenths.
const MOST_EXPOSED: u32 = 25;

/// Does with the package what a person does.
pub(super) fn check() -> Result<ExitCode> {
    let before = Snapshot::take()?;
    install(BEFORE)?;
    is_installed()?;
    let server = echo_server()?;
    start(server)?;
    reload(server)?;
    who_may_ask()?;
    exposure()?;
    upgrade()?;
    remove()?;
    apt_get(&["purge", "spectrum"])?;
    let left = Snapshot::take()?.since(&before);
    ensure!(left.is_empty(), "after the purge: {}", left.join(", "));
    ensure!(!Path::new("/run/spectrum").exists(), "after the purge there is /run/spectrum");
    for list in ["list-unit-files", "list-units"] {
        // It fails where there is none.
        let units =
            shell::output(Command::new("systemctl").args([list, "--all", "--no-legend", "spectrum*"]))?;
        let units = String::from_utf8_lossy(&units.stdout).into_owned();
        ensure!(units.trim().is_empty(), "after the purge systemd knows {units}");
    }
    nothing_is_left()?;
    println!("ok: nothing is left after the purge");
    Ok(ExitCode::SUCCESS)
}

/// Nothing is on by installing it, and what it says of itself is there.
fn is_installed() -> Result<()> {
    for unit in [UNIT, OTHER] {
        let state = property_of(unit, "UnitFileState")?;
        ensure!(state == "disabled", "{unit} is {state:?} after the package was installed");
        ensure!(property_of(unit, "ActiveState")? == "inactive", "{unit} was started by being installed");
    }
    ensure!(demo::held()? == 0 && processes().is_empty(), "something is served by being installed");
    let version = shell::stdout(Command::new("spectrum-user").arg("--version"))?;
    let checked = shell::output(Command::new("spectrum-user").args(["check", "--config", CONFIG]))?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(said.contains("no service; add [[service]]"), "the installed configuration: {said}");
    for (kind, name) in [("passwd", "spectrum"), ("group", "spectrum"), ("group", "spectrum-worker")] {
        shell::stdout(Command::new("getent").args([kind, name]))
            .with_context(|| format!("find {kind} {name}"))?;
    }
    // It would serve nothing, and says so where somebody looks.
    ensure!(systemctl(&["start", UNIT]).is_err(), "a configuration without a service was started");
    ensure!(property("ExecMainStatus")? == "78", "it ended with {}", property("ExecMainStatus")?);
    is_told("err", "no service")?;
    systemctl(&["reset-failed", UNIT])?;
    println!("ok: installed, neither enabled nor started: {}", version.trim());
    Ok(())
}

fn start(server: SocketAddr) -> Result<()> {
    configure(server, "")?;
    let other = "[[service]]\nname = \"other\"\nrespond = \"hello\"\n\
                 bindings = [{ prefix = \"198.51.100.0/24\", ports = 80 }]\n";
    fs::write(OTHER_CONFIG, other).with_context(|| format!("write {OTHER_CONFIG}"))?;
    systemctl(&["enable", "--now", UNIT, OTHER])?;
    serves(&[80])?;
    demo::dial::dial(([198, 51, 100, 7], 80).into())?;
    let life = Life::of(UNIT)?;
    let status = fs::read_to_string(format!("/proc/{}/status", life.worker()?)).context("read a process")?;
    let told = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    let uid = shell::stdout(Command::new("id").args(["--user", "spectrum"]))?;
    ensure!(
        told("Uid:").split_whitespace().skip(1).all(|id| id == uid.trim()),
        "who serves is {}",
        told("Uid:")
    );
    ensure!(told("CapEff:").ends_with("\t0000000000000000"), "who serves has {}", told("CapEff:"));
    let text = property("StatusText")?;
    ensure!(text.starts_with("ready: 192.0.2.0/24, 2001:db8::/64"), "systemctl status says {text:?}");
    // The route that daemons of this host pass on: the unit lets the program have the device for it.
    let routes = shell::stdout(Command::new("ip").args(["route", "show", "table", "main", "proto", "83"]))?;
    ensure!(routes.contains("192.0.2.0/24 dev spectrum"), "what is announced: {routes:?}");
    println!("ok: started, serves IPv4 and IPv6, announces, two instances: {text}");
    Ok(())
}

fn reload(server: SocketAddr) -> Result<()> {
    let life = Life::of(UNIT)?;
    configure(server, ",8080")?;
    systemctl(&["reload", UNIT])?;
    serves(&[80, 8080])?;
    fs::write(CONFIG, "[[service]]\nname = \"a\"\nrespnd = \"hello\"\n")
        .context("write a bad configuration")?;
    let refused = systemctl(&["reload", UNIT]);
    ensure!(refused.is_err(), "systemctl reload says nothing of a bad file");
    is_told("err", "did you mean respond?")?;
    serves(&[80, 8080])?;
    configure(server, ",8080")?;
    systemctl(&["reload", UNIT])?;
    ensure!(Life::of(UNIT)? == life, "reloads made {:?} of {life:?}", Life::of(UNIT)?);
    println!("ok: a reload is in force, and a bad one fails with the reason in the journal");
    Ok(())
}

/// Members of the group, and nobody else.
fn who_may_ask() -> Result<()> {
    let ask = |group: &str| {
        let mut status = Command::new("setpriv");
        status.args(["--reuid=daemon", "--clear-groups", "--regid", group, "--"]);
        status.args(["spectrum-user", "status", "--instance", &property("MainPID")?]);
        shell::output(&mut status)
    };
    let said = ask("spectrum")?;
    ensure!(said.status.success(), "a member of the group: {}", String::from_utf8_lossy(&said.stderr));
    ensure!(!ask("nogroup")?.status.success(), "everybody may ask");
    println!("ok: members of the group may ask, others may not");
    Ok(())
}

fn exposure() -> Result<()> {
    for unit in [UNIT, OTHER] {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--no-pager", "--threshold", &MOST_EXPOSED.to_string()]);
        let output = shell::output(analyze.arg(format!("{unit}.service")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{unit} leaves more open than it should:\n{text}");
        println!("ok: {}", text.trim().lines().last().unwrap_or_default());
    }
    Ok(())
}

/// The package goes to its next version while clients are there.
fn upgrade() -> Result<()> {
    let lives = [UNIT, OTHER].map(Life::of);
    let [life, other] = lives;
    let (life, other) = (life?, other?);
    let worker = life.worker()?;
    let load = Load::begin(Dialled {
        hello: [address(80, 4), address(8080, 6)],
        echo: [address(7, 4), address(7, 6)],
    })?;
    let said = install(PACKAGE)?;
    ensure!(said.contains("goes on as the new version"), "dpkg says nothing of what runs: {said}");
    wait_until("another worker process serves", || Ok(life.workers()?.iter().any(|now| *now != worker)))?;
    let told = load.end()?;
    let now = (Life::of(UNIT)?, Life::of(OTHER)?);
    ensure!(now == (life.clone(), other.clone()), "the upgrade made {now:?} of {life:?} and {other:?}");
    for main in [life.main, other.main] {
        let program = fs::read_link(format!("/proc/{main}/exe")).context("find the program of a process")?;
        ensure!(program == Path::new("/usr/bin/spectrum-user"), "process {main} runs {}", program.display());
    }
    for unit in [UNIT, OTHER] {
        ensure!(property_of(unit, "UnitFileState")? == "enabled", "{unit} is enabled no more");
        ensure!(property_of(unit, "NeedDaemonReload")? == "no", "systemd has an old {unit}");
    }
    println!("ok: upgraded in place, nothing lost: {told}");
    Ok(())
}

/// What runs ends with its program.
fn remove() -> Result<()> {
    serves(&[80, 8080])?;
    apt_get(&["remove", "spectrum"])?;
    nothing_is_left()?;
    ensure!(Path::new(CONFIG).exists(), "removing the package took the configuration");
    ensure!(!Path::new("/usr/bin/spectrum-user").exists(), "removing the package left the program");
    fs::remove_file(OTHER_CONFIG).context("remove what is the administrator's")?;
    println!("ok: nothing is served after the removal, and the configuration is there");
    Ok(())
}

fn configure(server: SocketAddr, ports: &str) -> Result<()> {
    let [four, six] = demo::PREFIXES;
    let text = format!(
        "[instance]\ndrain = \"5m\"\n\n[admin]\nlisten = \"127.0.0.1:9180\"\n\n\
         [[service]]\nname = \"hello\"\nrespond = \"hello\"\nannounce = true\n\
         bindings = [{{ prefix = \"{four}\", ports = \"80{ports}\" }}, {{ prefix = \"{six}\", ports = \"80{ports}\" }}]\n\n\
         [[service]]\nname = \"relayed\"\norigins = [\"{server}\"]\n\
         bindings = [{{ prefix = \"{four}\", ports = 7 }}, {{ prefix = \"{six}\", ports = 7 }}]\n\n\
         [[service]]\nname = \"datagrams\"\nrespond = \"echo\"\n\
         bindings = [{{ protocol = \"udp\", prefix = \"{four}\", ports = 7 }}, {{ protocol = \"udp\", prefix = \"{six}\", ports = 7 }}]\n",
    );
    fs::write(CONFIG, text).with_context(|| format!("write {CONFIG}"))
}

fn address(port: u16, family: u8) -> SocketAddr {
    if family == 4 {
        ([192, 0, 2, 77], port).into()
    } else {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77], port).into()
    }
}

/// Fails if an address of either family does not answer on one of `ports`.
fn serves(ports: &[u16]) -> Result<()> {
    for port in ports {
        for family in [4, 6] {
            demo::dial::dial(address(*port, family))?;
        }
    }
    Ok(())
}

/// Fails if the journal has no line of the unit with `words` that is as grave as `priority`.
fn is_told(priority: &str, words: &str) -> Result<()> {
    wait_until(&format!("the journal says, as {priority}: {words}"), || {
        let mut journal = Command::new("journalctl");
        journal.args(["--no-pager", "--output=cat", "--priority", priority, "--unit", UNIT]);
        Ok(shell::stdout(&mut journal)?.contains(words))
    })
}

/// Installs the package that lies there, and says what was said.
fn install(package: &str) -> Result<String> {
    apt_get(&["install", package])
}

fn apt_get(words: &[&str]) -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--yes", "--no-install-recommends", "-o=Dpkg::Options::=--force-unsafe-io"]);
    let output = shell::output(command.args(words).env("DEBIAN_FRONTEND", "noninteractive"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "apt-get {}: {}\n{said}", words.join(" "), output.status);
    said.lines().filter(|line| line.starts_with("spectrum: ")).for_each(|line| println!("    {line}"));
    Ok(said)
}
