//! What the host says of name resolution: /etc/resolv.conf and /etc/hosts. Asks no server.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::system_conf::parse_resolv_conf;

use super::LookupError;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// The address of DNS when nothing says where: resolv.conf(5).
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// By which a file that was replaced or written to is told from what it was.
type Stamp = Option<(u64, i64, i64)>;

/// The state of the files that name resolution depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SystemFiles([Stamp; 2]);

impl SystemFiles {
    pub(super) fn now() -> Self {
        Self([RESOLV_CONF, HOSTS].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
        }))
    }
}

/// The host's own way of resolving names, except that `servers` are asked if there are any.
pub(super) fn configuration(servers: &[SocketAddr]) -> Result<(ResolverConfig, ResolverOpts), LookupError> {
    let mut text = match fs::read(RESOLV_CONF) {
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
