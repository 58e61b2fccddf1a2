//! Sockets of a server that is about to be started: those that systemd passes to this process (sd_listen_fds(3)), and those that are made here for
//! a command. Registers none.

mod sys;

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::unistd::{AccessFlags, access};
use socket2::{Domain, Socket, Type};

use crate::model::{Family, PortRange, Protocol, visible};
use crate::view::BindingView;
use spectrum_steering::host::{NamespaceId, ProcessSockets, sockets_of_process};

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
pub(super) const FIRST: i32 = 3;

/// More are a mistake.
const MOST: i32 = 1024;

/// As many connections wait as the kernel allows.
const BACKLOG: i32 = 4096;

/// Only so many ranges of ports are named.
const NAMED: usize = 4;

/// The sockets that came with this process.
#[derive(Debug)]
pub(super) struct PassedSockets {
    count: i32,
    /// The name of each, where they have any.
    names: Vec<String>,
}

impl PassedSockets {
    /// What the environment says; `None` where it says nothing, or means another process.
    pub(super) fn of_environment() -> anyhow::Result<Option<Self>> {
        let text = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let [count, pid, names] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].map(text);
        Self::of(count.as_deref(), pid.as_deref(), names.as_deref(), std::process::id())
    }

    fn of(
        count: Option<&str>,
        pid: Option<&str>,
        names: Option<&str>,
        own: u32,
    ) -> anyhow::Result<Option<Self>> {
        let Some(count) = count else { return Ok(None) };
        if pid.map(str::trim) != Some(&own.to_string()) {
            return Ok(None);
        }
        let count =
            count.trim().parse().ok().filter(|count| (1..=MOST).contains(count)).ok_or_else(|| {
                anyhow!("read LISTEN_FDS: expected the number of sockets, found {:?}", visible(count))
            })?;
        let names: Vec<String> =
            names.into_iter().flat_map(|names| names.split(':')).map(str::to_owned).collect();
        if !names.is_empty() && i32::try_from(names.len()) != Ok(count) {
            bail!("read LISTEN_FDNAMES: {} names for {count} sockets of LISTEN_FDS", names.len());
        }
        Ok(Some(Self { count, names }))
    }

    /// The reason why nothing has come, where the environment says that something has.
    pub(super) fn of_another_process() -> Option<String> {
        env::var_os("LISTEN_FDS")?;
        let own = std::process::id();
        Some(match env::var_os("LISTEN_PID") {
            Some(pid) => format!(
                "LISTEN_PID is {} and this is process {own}: the sockets of LISTEN_FDS are for that one; have systemd start this program \
                 itself, with no shell or sudo between them",
                visible(&pid.to_string_lossy())
            ),
            None => "LISTEN_FDS is set and LISTEN_PID is not: whose the sockets are is not said".to_owned(),
        })
    }

    /// Those that are for `service`: of that name, or all where none has it.
    pub(super) fn sockets(&self, service: &str, namespace: NamespaceId) -> anyhow::Result<ProcessSockets> {
        // Copies of our own: the numbers are what the environment says, and may be anything.
        let mut own = sockets_of_process(std::process::id(), namespace)?;
        let is_named = self.names.iter().any(|name| name == service);
        let is_passed = |number: i32| {
            let index = number.checked_sub(FIRST).filter(|index| (0..self.count).contains(index));
            let index = index.and_then(|index| usize::try_from(index).ok());
            index.is_some_and(|index| !is_named || self.names.get(index).is_some_and(|name| name == service))
        };
        own.fit.retain(|(number, _)| is_passed(*number));
        own.unfit.retain(|(number, _)| is_passed(*number));
        Ok(own)
    }
}

/// The process that has passed them, and its name: whoever has started this one, which may be over in a moment.
pub(super) fn passer() -> (u32, String) {
    let pid = parent_id();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    (pid, visible(name.trim_end()).into_owned())
}

/// A program that is to be executed in the place of this one.
#[derive(Debug)]
pub(super) struct Successor {
    program: PathBuf,
    words: Vec<OsString>,
}

impl Successor {
    /// The program that `words` name, if there is one.
    pub(super) fn of(words: &[OsString]) -> anyhow::Result<Option<Self>> {
        let Some((name, words)) = words.split_first() else { return Ok(None) };
        let program = found(name)?;
        Ok(Some(Self { program, words: words.to_vec() }))
    }

    /// The name by which it will call itself.
    pub(super) fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        // The kernel keeps fifteen bytes.
        visible(&name).chars().take(15).collect()
    }

    /// Becomes it, with what was `made` for `service`; what was passed to this process is passed on as it is. Returns only where that fails.
    pub(super) fn take_over(&self, service: &str, made: &[OwnedFd]) -> anyhow::Error {
        let mut command = Command::new(&self.program);
        command.args(&self.words);
        if !made.is_empty() {
            let mut names = String::new();
            for index in 0..made.len() {
                let _ = write!(names, "{}{service}", if index > 0 { ":" } else { "" });
            }
            command.env("LISTEN_FDS", made.len().to_string());
            command.env("LISTEN_PID", std::process::id().to_string());
            command.env("LISTEN_FDNAMES", names);
        }
        let error = sys::execute(&mut command, made);
        let program = self.program.display();
        anyhow!(error).context(format!("run {program}: its sockets are closed again, and clients refused"))
    }
}

/// The program called `name`, as a shell finds it. It is looked for before anything is registered that it would have to serve.
fn found(name: &OsStr) -> anyhow::Result<PathBuf> {
    let shown = visible(&name.to_string_lossy()).into_owned();
    let may_run = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if name.as_encoded_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return if may_run(&path) {
            Ok(path)
        } else {
            Err(anyhow!("run {shown}: it is no program that may be run"))
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all = env::split_paths(&path).map(|directory| directory.join(name));
    all.find(|path| may_run(path)).ok_or_else(|| {
        anyhow!("run {shown}: no directory of PATH ({}) has it; write its whole path", path.to_string_lossy())
    })
}

/// A socket for a server that is to be started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Wanted {
    protocol: Protocol,
    address: SocketAddr,
    /// True if one of IPv6 takes packets of IPv4 too.
    is_for_both: bool,
}

/// Makes the sockets that `service` takes for what it binds: at `address` if one is given, or else one for each protocol and family, which nobody can
/// reach but by what is bound.
pub(super) fn made(
    service: &str,
    bindings: &[BindingView],
    protocol: Option<Protocol>,
    address: Option<SocketAddr>,
) -> anyhow::Result<Vec<Socket>> {
    let wanted = wanted(service, bindings, protocol, address)?;
    let made = wanted.into_iter().map(|one| {
        let Wanted { protocol, address, .. } = one;
        make(one).with_context(|| format!("make a socket of {protocol} at {address}"))
    });
    made.collect()
}

fn wanted(
    service: &str,
    bindings: &[BindingView],
    protocol: Option<Protocol>,
    address: Option<SocketAddr>,
) -> anyhow::Result<Vec<Wanted>> {
    let own = || bindings.iter().filter(|binding| binding.service.as_str() == service);
    let bound: BTreeSet<(Protocol, Family)> = own()
        .filter(|binding| protocol.is_none_or(|protocol| binding.protocol == protocol))
        .map(|binding| (binding.protocol, binding.prefix.family()))
        .collect();
    if bound.is_empty() {
        let all: BTreeSet<&str> = bindings.iter().map(|binding| binding.service.as_str()).collect();
        return Err(match (own().next(), protocol) {
            (Some(_), Some(protocol)) => anyhow!("it binds nothing of {protocol}; leave --protocol out"),
            _ => {
                anyhow!("nothing is bound for it, but for {}", all.into_iter().collect::<Vec<_>>().join(", "))
            }
        });
    }
    let Some(address) = address else {
        let each = bound.into_iter().map(|(protocol, family)| {
            let ip: IpAddr = match family {
                Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
                Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
            };
            let port = if protocol == Protocol::Udp { only_port(own())? } else { 0 };
            Ok(Wanted { protocol, address: SocketAddr::new(ip, port), is_for_both: false })
        });
        return each.collect();
    };
    let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let is_any = address.is_ipv6() && address.ip().is_unspecified();
    let mut wanted = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let is_for_both = is_any && bound.contains(&(protocol, Family::Ipv4));
        if bound.contains(&(protocol, family)) || is_for_both {
            wanted.push(Wanted { protocol, address, is_for_both });
        }
    }
    if wanted.is_empty() {
        let bound: Vec<String> =
            bound.iter().map(|(protocol, family)| format!("{protocol} of {family}")).collect();
        bail!("it binds {}, and a socket at {address} takes {family} alone", bound.join(", "));
    }
    Ok(wanted)
}

/// The one port that is bound of UDP: a server answers from its own.
fn only_port<'a>(bindings: impl Iterator<Item = &'a BindingView>) -> anyhow::Result<u16> {
    let ports: BTreeSet<PortRange> =
        bindings.filter(|binding| binding.protocol == Protocol::Udp).map(|binding| binding.ports).collect();
    let only = ports.first().filter(|ports| ports.first() == ports.last() && ports.first() > 0);
    if let (Some(ports), 1) = (only, ports.len()) {
        return Ok(ports.first());
    }
    let named: Vec<String> = ports.iter().take(NAMED).map(ToString::to_string).collect();
    bail!(
        "it binds {} of udp, and answers leave from the one port of the socket: say which by ADDR:PORT before --, such as 0.0.0.0:{}",
        named.join(", "),
        ports.first().map_or(53, |ports| ports.first().max(1))
    )
}

fn make(wanted: Wanted) -> std::io::Result<Socket> {
    let Wanted { protocol, address, is_for_both } = wanted;
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!is_for_both)?;
    }
    match protocol {
        // Connections of the one before may be in TIME-WAIT.
        Protocol::Tcp => socket.set_reuse_address(true)?,
        // As PassPacketInfo= of systemd has it, without which no server can tell what was dialled.
        Protocol::Udp if address.is_ipv4() => setsockopt(&socket, Ipv4PacketInfo, &true)?,
        Protocol::Udp => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
    }
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(count: &str, pid: &str, names: Option<&str>) -> anyhow::Result<Option<PassedSockets>> {
        PassedSockets::of(Some(count), Some(pid), names, 77)
    }

    fn bindings(all: &[(&str, &str, &str, &str)]) -> Vec<BindingView> {
        let view = |(service, protocol, prefix, ports): &(&str, &str, &str, &str)| {
            serde_json::from_value(serde_json::json!({
                "service": service, "protocol": protocol, "prefix": prefix, "ports": ports, "destination": 0
            }))
            .unwrap()
        };
        all.iter().map(view).collect()
    }

    #[test]
    fn what_is_passed_is_for_the_process_that_it_names() {
        assert!(PassedSockets::of(None, None, None, 77).unwrap().is_none());
        assert!(passed("1", "78", None).unwrap().is_none(), "another process");
        let one = passed("2", "77", Some("web:dns")).unwrap().unwrap();
        assert_eq!((one.count, one.names), (2, vec!["web".to_owned(), "dns".to_owned()]));
        for (count, names, why) in [
            ("x", None, "read LISTEN_FDS: expected the number of sockets, found \"x\""),
            ("0", None, "read LISTEN_FDS: expected the number of sockets, found \"0\""),
            ("2", Some("web"), "read LISTEN_FDNAMES: 1 names for 2 sockets of LISTEN_FDS"),
        ] {
            assert_eq!(passed(count, "77", names).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn a_socket_is_made_for_each_protocol_and_family() {
        let bound = bindings(&[
            ("web", "tcp", "192.0.2.0/24", "1-65535"),
            ("web", "tcp", "2001:db8::/64", "80"),
            ("web", "udp", "192.0.2.0/24", "443"),
            ("dns", "udp", "192.0.2.0/24", "53-54"),
        ]);
        let of = |service: &str, protocol: Option<Protocol>, address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            wanted(service, &bound, protocol, address)
        };
        let texts = |all: Vec<Wanted>| -> Vec<String> {
            all.iter().map(|one| format!("{} {} {}", one.protocol, one.address, one.is_for_both)).collect()
        };
        assert_eq!(
            texts(of("web", None, None).unwrap()),
            ["tcp 127.0.0.1:0 false", "tcp [::1]:0 false", "udp 127.0.0.1:443 false"]
        );
        assert_eq!(texts(of("web", Some(Protocol::Tcp), Some("[::]:80")).unwrap()), ["tcp [::]:80 true"]);
        assert_eq!(
            texts(of("web", None, Some("0.0.0.0:8443")).unwrap()),
            ["tcp 0.0.0.0:8443 false", "udp 0.0.0.0:8443 false"]
        );
        for (service, protocol, address, why) in [
            (
                "dns",
                None,
                None,
                "it binds 53-54 of udp, and answers leave from the one port of the socket: say which by ADDR:PORT before --, such as 0.0.0.0:53",
            ),
            (
                "dns",
                None,
                Some("[::1]:53"),
                "it binds udp of ipv4, and a socket at [::1]:53 takes ipv6 alone",
            ),
            ("dns", Some(Protocol::Tcp), None, "it binds nothing of tcp; leave --protocol out"),
            ("wep", None, None, "nothing is bound for it, but for dns, web"),
        ] {
            assert_eq!(of(service, protocol, address).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn what_is_to_be_run_is_looked_for_before() {
        assert!(Successor::of(&[]).unwrap().is_none());
        let shell = Successor::of(&["sh".into(), "-c".into()]).unwrap().unwrap();
        assert_eq!((shell.name(), shell.words.len()), ("sh".to_owned(), 1));
        let told = |word: &str| Successor::of(&[word.into()]).unwrap_err().to_string();
        assert!(told("there-is-none-").starts_with("run there-is-none-: no directory of PATH ("));
        assert_eq!(told("/etc/passwd"), "run /etc/passwd: it is no program that may be run");
    }
}
