//! The proxies that are compared, and how each is started: two threads, and tuned as its documentation advises. Measures
//! nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::ebpf::toolchain::on_path;
use xtask::interrupt::Interrupt;
use xtask::server::Server;

/// A proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Contender {
    /// The program under test.
    Spectrum,
    /// HAProxy in `mode tcp`.
    Haproxy,
    /// The stream module of nginx.
    Nginx,
}

/// The address of the peers. Behind it is an ordinary listener, since that is what they have.
const PLAIN: &str = "127.0.0.1:7777";

/// The address of spectrum: its listener is found by the program in the kernel, since that is how it is used.
const STEERED: &str = "192.0.2.77:7777";

/// The directory of records: memory, and each of them writes one for every connection.
const RECORDS: &str = "/run/records";

impl Contender {
    /// All of them, the one of interest first.
    pub(super) const ALL: [Self; 3] = [Self::Spectrum, Self::Haproxy, Self::Nginx];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spectrum => "spectrum",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// The address that clients dial.
    pub(super) fn address(self) -> &'static str {
        match self {
            Self::Spectrum => STEERED,
            Self::Haproxy | Self::Nginx => PLAIN,
        }
    }

    /// Starts it in front of `origin`. `program` is the program under test.
    pub(super) fn start(self, program: &Path, origin: SocketAddr, interrupt: &Interrupt) -> Result<Server> {
        match self {
            Self::Spectrum => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("exec \"$0\" \"$@\" 2>{RECORDS}-spectrum")]).arg(program);
                command.args(["--prefix", "192.0.2.0/24", "--ports", "7777", "--protocol", "tcp"]);
                command.args(["--mode", "sk-lookup", "--origin", &origin.to_string()]);
                Server::start(&mut command, interrupt)
            }
            Self::Haproxy => {
                let path = written("haproxy.cfg", &haproxy(origin))?;
                let mut command = Command::new(on_path("haproxy").context("find haproxy")?);
                command.args(["-db", "-f", &path]);
                Server::start_listening(&mut command, PLAIN.parse()?, interrupt)
            }
            Self::Nginx => {
                let path = written("nginx.conf", &nginx(origin))?;
                let mut command = Command::new(on_path("nginx").context("find nginx")?);
                command.args(["-e", "stderr", "-c", &path]);
                Server::start_listening(&mut command, PLAIN.parse()?, interrupt)
            }
        }
    }
}

/// Splicing as its manual has it: automatic, so that small exchanges are copied, and with larger pipes for bulk. Its records
/// go to a ring in its own memory, the cheapest place that it knows.
fn haproxy(origin: SocketAddr) -> String {
    format!(
        "global
    nbthread 2
    maxconn 6000
    tune.pipesize 262144
ring records
    format raw
    size 1048576
defaults
    mode tcp
    log ring@records local0
    option tcplog
    option splice-auto
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen bench
    bind {PLAIN} backlog 65535
    server origin {origin}
"
    )
}

/// A buffer for its records, as its manual advises.
fn nginx(origin: SocketAddr) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
pid /run/nginx.pid;
worker_processes 2;
worker_rlimit_nofile 20000;
error_log stderr crit;
events {{
    worker_connections 16384;
    multi_accept on;
}}
stream {{
    log_format record '$time_iso8601 $remote_addr:$remote_port $server_addr:$server_port $upstream_addr $bytes_sent $bytes_received $session_time $status';
    access_log {RECORDS}-nginx record buffer=64k flush=1s;
    server {{
        listen {PLAIN} reuseport backlog=65535;
        proxy_pass {origin};
        proxy_buffer_size 64k;
    }}
}}
"
    )
}

/// A file in `/run`, which is ours alone here.
fn written(name: &str, text: &str) -> Result<String> {
    let path = format!("/run/{name}");
    fs::write(&path, text).with_context(|| format!("write {path}"))?;
    Ok(path)
}
