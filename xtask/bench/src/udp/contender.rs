//! The proxies that are compared, and how each is started: two threads, and a record for each session. Measures nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::ebpf::toolchain::on_path;
use xtask::interrupt::Interrupt;
use xtask::server::Server;

use crate::contest::{Contender, PLAIN, RECORDS, STEERED, recorded, written};

/// All of them, the one of interest first. Their sessions are kept while they are silent.
pub(super) const KEEPING: [Contender; 2] = [
    Contender {
        name: "spectrum",
        address: STEERED,
        start: |program, origin, interrupt| spectrum(program, origin, "", interrupt),
    },
    Contender { name: "nginx", address: PLAIN, start: |_, origin, interrupt| nginx(origin, "", interrupt) },
];

/// The same, whose sessions end with the first answer.
pub(super) const ANSWERING: [Contender; 2] = [
    Contender {
        name: "spectrum",
        address: STEERED,
        start: |program, origin, interrupt| spectrum(program, origin, ", responses = 1", interrupt),
    },
    Contender {
        name: "nginx",
        address: PLAIN,
        start: |_, origin, interrupt| nginx(origin, "proxy_responses 1;", interrupt),
    },
];

fn spectrum(program: &Path, origin: SocketAddr, more: &str, interrupt: &Interrupt) -> Result<Server> {
    let configuration = format!(
        "[[service]]
name = \"bench\"
bindings = [{{ prefix = \"192.0.2.0/24\", ports = 7777, protocol = \"udp\" }}]
origins = [\"{origin}\"]
udp = {{ idle = \"10m\"{more} }}
"
    );
    let path = written("spectrum.toml", &configuration)?;
    let mut command = recorded(program, "spectrum");
    command.args(["--mode", "sk-lookup", "--config", &path]);
    Server::start(&mut command, interrupt)
}

fn nginx(origin: SocketAddr, more: &str, interrupt: &Interrupt) -> Result<Server> {
    let path = written("nginx.conf", &nginx_configuration(origin, more))?;
    let mut command = Command::new(on_path("nginx").context("find nginx")?);
    command.args(["-e", "stderr", "-c", &path]);
    // Of datagrams nobody can tell whether they are waited for.
    Server::start_listening(&mut command, PLAIN.parse()?, interrupt)
}

/// A buffer for its records, as its manual advises, room at its socket for all that the load has under way, and places
/// for two sides of as many sessions as are held.
fn nginx_configuration(origin: SocketAddr, more: &str) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
pid /run/nginx.pid;
worker_processes 2;
worker_rlimit_nofile 20000;
error_log stderr crit;
events {{
    worker_connections 40000;
    multi_accept on;
}}
stream {{
    log_format record '$time_iso8601 $remote_addr:$remote_port $server_addr:$server_port $upstream_addr $bytes_sent $bytes_received $session_time $status';
    access_log {RECORDS}-nginx record buffer=64k flush=1s;
    server {{
        listen {PLAIN};
        return '';
    }}
    server {{
        listen {PLAIN} udp reuseport rcvbuf=4m;
        proxy_pass {origin};
        proxy_timeout 10m;
        {more}
    }}
}}
"
    )
}
