//! What the host says of name resolution: /etc/resolv.conf and /etc/hosts. Asks no server.

use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use hickory_resolver::Hosts;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::system_conf::parse_resolv_conf;

use super::{HostFile, LookupError};

/// The address of DNS when nothing says where: resolv.conf(5).
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// By which a file that was replaced or written to is told from what it was.
type Stamp = Option<(u64, i64, i64)>;

/// The state of the files that name resolution depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SystemFiles([Stamp; 2]);

impl SystemFiles {
    pub(super) fn now() -> Self {
        Self(HostFile::ALL.map(|file| {
            let metadata = fs::metadata(file.path()).ok()?;
            Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
        }))
    }
}

/// The host's own way of resolving names, except that `servers` are asked if there are any.
pub(super) fn configuration(servers: &[SocketAddr]) -> Result<(ResolverConfig, ResolverOpts), LookupError> {
    let mut text = match contents(HostFile::ResolvConf) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        // The servers are known, and search domains are a convenience.
        Err(_) if !servers.is_empty() => Vec::new(),
        Err(source) => {
            return Err(LookupError::System { op: "read /etc/resolv.conf", source: Arc::new(source) });
        }
    };
    if !names_a_server(&text) {
        text.extend_from_slice(format!("\nnameserver {LOCAL}\n").as_bytes());
    }
    let (system, options) = parse_resolv_conf(text)?;
    if servers.is_empty() {
        return Ok((system, options));
    }
    let (domain, search, _) = system.into_parts();
    Ok((ResolverConfig::from_parts(domain, search, servers.iter().map(server).collect()), options))
}

/// The names that this host knows by itself; of a file that cannot be read or understood, none.
pub(super) fn hosts() -> Hosts {
    let mut hosts = Hosts::default();
    match HostFile::Hosts.open_or_ask().and_then(|file| hosts.read_hosts_conf(file)) {
        Ok(()) => hosts,
        Err(_) => Hosts::default(),
    }
}

fn contents(file: HostFile) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    file.open_or_ask()?.read_to_end(&mut contents)?;
    Ok(contents)
}

fn names_a_server(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line.trim_ascii_start().starts_with(b"nameserver"))
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}
