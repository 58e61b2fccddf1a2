//! Clients by their numbers, the services that let them in or do not, and what they are told. Judges nothing itself.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::case::Case;
use crate::control::connect;
use crate::datagram;
use crate::deadline::{PATIENCE, eventually};
use crate::instance::Instance;
use crate::path::Path;

/// A service `web` that echoes by both protocols on port 80, beside one that everybody may use on port 81.
pub fn services_with(case: &Case, common: &str, own: &str) -> String {
    let service = |name, port, policy| {
        format!(
            "[[service]]\nname = \"{name}\"\nrespond = \"echo\"\n{policy}\n\
             bindings = [{{ prefix = \"{}\", ports = {port}, protocol = \"both\" }}]\n",
            case.prefix()
        )
    };
    // To allow is a mistake where nobody is denied.
    let all =
        if common.contains("\ndeny = ") { "policy = { allow = [\"0.0.0.0/0\", \"::/0\"] }" } else { "" };
    format!("{common}\n{}{}", service("web", 80, own), service("open", 81, all))
}

/// Clients have addresses of this prefix.
pub fn own_clients(case: &Case) {
    let prefix = case.family.pick("198.51.100.0/24", "2001:db8:77::/48");
    let ip = case.family.pick("", "-6 ");
    case.server.ip(&format!("{ip}route add local {prefix} dev lo"));
}

/// A client by its number: the last byte of its IPv4 address, the fourth group of its IPv6 address.
pub fn client(case: &Case, number: u8) -> IpAddr {
    case.family.parse(&format!("198.51.100.{number}"), &format!("2001:db8:77:{number:x}::1"))
}

/// The addresses that clients of these numbers have in common, as a prefix that leaves `free` bits of the number.
pub fn prefix_of(case: &Case, number: u8, free: u8) -> String {
    case.family
        .pick(format!("198.51.100.{number}/{}", 32 - free), format!("2001:db8:77:{number:x}::/{}", 64 - free))
}

/// The outcome of a client's attempt by TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// It is answered.
    LetIn,
    /// It hears that nobody is there.
    Refused,
    /// Nothing.
    Nothing,
}

/// The answer to a client that dials `target` by TCP.
pub fn told(case: &Case, client: IpAddr, target: SocketAddr, expected: Told) -> Told {
    let dialled = case.server.run(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
        if target.is_ipv6() {
            socket.set_freebind_v6(true).unwrap();
        }
        socket.bind(&SocketAddr::new(client, 0).into()).unwrap();
        socket.connect_timeout(&target.into(), patience(expected)).map(|()| TcpStream::from(socket))
    });
    // Whatever those are to be told who are judged after accept, they are reset.
    let reset = if expected == Told::LetIn { Told::Refused } else { expected };
    match dialled {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let is_answered = talks(&mut stream);
            assert!(is_answered || judges_after_accept(case), "{client} was let in and is not answered");
            if is_answered { Told::LetIn } else { reset }
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset && judges_after_accept(case) => reset,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Told::Refused,
        Err(error) if error.kind() == ErrorKind::TimedOut => Told::Nothing,
        Err(error) => panic!("{client} dials {target}: {error}"),
    }
}

/// The same by UDP.
pub fn told_by_datagram(case: &Case, client: IpAddr, target: SocketAddr, expected: Told) -> Told {
    let socket = datagram::client_from(&case.server, SocketAddr::new(client, 0), target);
    socket.send(b"is anybody there?").unwrap();
    socket.set_read_timeout(Some(patience(expected))).unwrap();
    match datagram::hear(&socket) {
        Ok(heard) => {
            assert_eq!(heard, b"is anybody there?");
            Told::LetIn
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Told::Refused,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Told::Nothing,
        Err(error) => panic!("{client} asks {target}: {error}"),
    }
}

/// True on paths whose rules judge no sources, but for interfaces: the worker process does.
pub fn judges_after_accept(case: &Case) -> bool {
    matches!(case.path, Path::TproxyIptablesLegacy | Path::TproxyIptablesNft)
}

/// The time that a client waits for what it expects; what must not come is not waited for as long.
fn patience(expected: Told) -> Duration {
    if expected == Told::Nothing { Duration::from_secs(2) } else { PATIENCE }
}

/// True if the connection is answered.
pub fn talks(stream: &mut TcpStream) -> bool {
    stream.write_all(b"still there?").is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

/// The packets that were turned away by `reason`, as `status` counts them.
pub fn denied(case: &Case, instance: &Instance, reason: &str) -> u64 {
    let status = connect(&case.server, instance).ask("status").unwrap();
    let destinations = status["destinations"].as_array().unwrap();
    let before: u64 = destinations.iter().filter_map(|one| one["denied"][reason].as_u64()).sum();
    let limit = match reason {
        "denied" => "policy",
        "rate" => "policy-rate",
        _ => return before,
    };
    let services = status["services"].as_array().unwrap();
    let after_accept: u64 = services.iter().filter_map(|one| one["denied"][limit].as_u64()).sum();
    before + after_accept
}

/// Waits until so many were turned away for this reason: who is told so after accept is counted a moment later.
pub fn await_denied(case: &Case, instance: &Instance, reason: &str, least: u64) {
    eventually(&format!("{least} that were turned away, {reason}"), PATIENCE, || {
        (denied(case, instance, reason) >= least).then_some(())
    });
}

/// A connection of the client with this number to `target`.
pub fn connected(case: &Case, number: u8, target: SocketAddr) -> TcpStream {
    let stream = case.server.run(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
        if target.is_ipv6() {
            socket.set_freebind_v6(true).unwrap();
        }
        socket.bind(&SocketAddr::new(client(case, number), 0).into()).unwrap();
        socket.connect(&target.into()).unwrap();
        TcpStream::from(socket)
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
