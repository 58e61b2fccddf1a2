//! The proxies that are compared, and how each is started: two threads, and tuned as its documentation advises. Measures
//! nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::ebpf::toolchain::on_path;
use xtask::interrupt::Interrupt;
use xtask::server::Server;

use crate::contest::{Contender, PLAIN, RECORDS, STEERED, recorded, written};

/// All of them, the one of interest first.
pub(super) const ALL: [Contender; 3] = [
    Contender { name: "spectrum", address: STEERED, start: spectrum },
    Contender { name: "haproxy", address: PLAIN, start: haproxy },
    Contender { name: "nginx", address: PLAIN, start: nginx },
];

fn spectrum(program: &Path, origin: SocketAddr, interrupt: &Interrupt) -> Result<Server> {
    let mut command = recorded(program, "spectrum");
    command.args(["--prefix", "192.0.2.0/24", "--ports", "7777", "--protocol", "tcp"]);
    command.args(["--mode", "sk-lookup", "--origin", &origin.to_string()]);
    Server::start(&mut command, interrupt)
}

fn haproxy(_program: &Path, origin: SocketAddr, interrupt: &Interrupt) -> Result<Server> {
    let path = written("haproxy.cfg", &haproxy_configuration(origin))?;
    let mut command = Command::new(on_path("haproxy").context("find haproxy")?);
    command.args(["-db", "-f", &path]);
    Server::start_listening(&mut command, PLAIN.parse()?, interrupt)
}

fn nginx(_program: &Path, origin: SocketAddr, interrupt: &Interrupt) -> Result<Server> {
    let path = written("nginx.conf", &nginx_configuration(origin))?;
    let mut command = Command::new(on_path("nginx").context("find nginx")?);
    command.args(["-e", "stderr", "-c", &path]);
    Server::start_listening(&mut command, PLAIN.parse()?, interrupt)
}

/// Splicing as its manual has it: automatic, so that small exchanges are copied, and with larger pipes for bulk. Its records
/// go to a ring in its own memory, the cheapest place that it knows.
fn haproxy_configuration(origin: SocketAddr) -> String {
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
fn nginx_configuration(origin: SocketAddr) -> String {
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
