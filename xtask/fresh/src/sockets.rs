//! Servers that systemd starts and whose sockets are registered, as docs/registered.md shows it: by a command in the place of ours, by a unit that
//! finds systemd's, and by themselves. The server is one that comes with systemd, and knows nothing of us. Runs in a room, after the unit was tried in it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::control::{UNIT, configure, nothing_is_left, property_of, service, systemctl, wait_until};
use super::unit::PROGRAM;

const UNITS: &str = "/etc/systemd/system";

/// It takes its sockets by `sd_listen_fds(3)`, and passes connections to what answers for us.
const SERVER: &str = "/lib/systemd/systemd-socket-proxyd 192.0.2.7:4443";

/// The address of each service that others answer.
const WEB: &str = "198.18.0.9:31337";
const GAMES: &str = "198.18.1.9:443";
const FOUND: &str = "198.18.2.9:7";

/// The rights that an instance needs to look for sockets itself.
const DROP_IN: &str =
    "[Service]\nCapabilityBoundingSet=CAP_SYS_PTRACE\nProtectProc=default\nSystemCallFilter=pidfd_getfd\n";

/// Does with each what a host does.
pub(super) fn check() -> Result<ExitCode> {
    let registered = |name: &str, prefix: &str, key: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\n{key}\nbindings = [{{ prefix = \"{prefix}\", ports = \"1-65535\" }}]\n"
        )
    };
    configure(&[
        service(0),
        registered("web", "198.18.0.0/24", "registered = true"),
        registered("games", "198.18.1.0/24", "registered = true"),
        registered("found", "198.18.2.0/24", "sockets = [\"web.service tcp 8080\"]"),
    ])?;
    let units = [
        (
            "web.socket",
            "[Socket]\nListenStream=127.0.0.1:8080\n[Install]\nWantedBy=sockets.target\n".to_owned(),
        ),
        ("web.service", format!("[Service]\nExecStart={SERVER}\n")),
        (
            "web-register.service",
            format!(
                "[Unit]\nAfter=spectrum.service web.socket\nPartOf=spectrum.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart={PROGRAM} register web 127.0.0.1:8080 --pid 1\n[Install]\nWantedBy=spectrum.service\n"
            ),
        ),
        (
            "games.service",
            format!(
                "[Unit]\nAfter=spectrum.service\n[Service]\nType=exec\nRestart=always\nExecStart={PROGRAM} register games -- {SERVER}\n"
            ),
        ),
        ("spectrum.service.d/sockets.conf", DROP_IN.to_owned()),
    ];
    for (name, text) in &units {
        let path = Path::new(UNITS).join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all).context("create a directory for units")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "web-register.service"])?;
    systemctl(&["start", "web.socket", UNIT])?;
    passed()?;
    by_command()?;
    systemctl(&["stop", "games.service", "web.socket", "web.service", UNIT])?;
    systemctl(&["disable", "web-register.service"])?;
    for (name, _) in &units {
        fs::remove_file(Path::new(UNITS).join(name)).with_context(|| format!("remove {name}"))?;
    }
    systemctl(&["daemon-reload"])?;
    nothing_is_left()?;
    Ok(ExitCode::SUCCESS)
}

/// systemd keeps the socket, and whoever comes while the server is away waits for the next.
fn passed() -> Result<()> {
    wait_until("the socket of a socket unit is registered", || Ok(greeting(WEB).is_ok()))?;
    wait_until("the socket of a server that systemd has started is found", || Ok(greeting(FOUND).is_ok()))?;
    for _ in 0..3 {
        systemctl(&["stop", "web.service"])?;
        greeting(WEB)?;
    }
    println!("ok: nobody is refused while a server whose socket systemd has is started again");
    systemctl(&["restart", UNIT])?;
    wait_until("its socket is registered again after a restart of ours", || Ok(greeting(WEB).is_ok()))
}

/// The process of the unit becomes the server, and its next one makes sockets of its own.
fn by_command() -> Result<()> {
    systemctl(&["start", "games.service"])?;
    wait_until("a server has sockets that were made for it", || Ok(greeting(GAMES).is_ok()))?;
    for _ in 0..2 {
        let main = property_of("games.service", "MainPID")?;
        let name = fs::read_to_string(format!("/proc/{main}/comm")).context("ask who serves")?;
        ensure!(name.starts_with("systemd-socket-"), "the main process is {name:?}");
        let process = Pid::from_raw(main.parse().context("read a process id")?);
        kill(process, Signal::SIGKILL).context("kill the server")?;
        wait_until("a server that was killed is there again with sockets of its own", || {
            Ok(greeting(GAMES).is_ok() && property_of("games.service", "MainPID")? != main)
        })?;
    }
    Ok(())
}

/// The first line that is heard at `address`, by way of the server, of what answers behind it.
fn greeting(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("parse an address")?;
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
        .with_context(|| format!("dial {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).context("limit reading")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).with_context(|| format!("hear {address}"))?;
    ensure!(line == "hello world\n", "{address} says {line:?}");
    Ok(())
}
