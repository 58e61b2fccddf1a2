//! The part of the `connect` benchmark that is about servers of others: what a connection costs that nginx accepts itself, behind us and on a plain
//! port. Ours is counted with it, though no byte passes us.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::ebpf::toolchain::on_path;
use xtask::interrupt::Interrupt;
use xtask::namespace;
use xtask::server::Server;
use xtask::shell;

use super::Bench;
use super::caller::{Caller, slice};
use super::connect::{Case, route};
use super::contest::written;
use super::cpu::Meter;
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::slices::{self, SLICE, Sample};
use super::station::Station;
use super::statistics::Spread;

/// The plain port, with which the others are compared.
const PLAIN: &str = "nginx";

/// The paths to a registered socket, and how much more they may cost.
const SUBJECTS: [(&str, &[&str], Option<Goal>); 2] = [
    ("registered", &["--mode", "sk-lookup"], Some(Goal::Ratio(1.03))),
    ("registered nftables", &["--mode", "tproxy", "--firewall", "nftables"], None),
];

/// The port of the nginx that is registered.
const OWN_PORT: u16 = 7779;

/// Measures every path in `case`.
pub(super) fn run(case: &'static Case, bench: &Bench, report: &mut Report) -> Result<()> {
    let mut stations = vec![plain(case, bench)?];
    for (name, flags, _) in SUBJECTS {
        // A kernel without one path can still measure the others.
        match registered(name, flags, case, bench) {
            Ok(station) => stations.push(station),
            Err(error) => {
                bench.interrupt.check()?;
                eprintln!("not measured: {name}, {}: {error:#}", case.name);
            }
        }
    }
    let samples = slices::interleave(&mut stations, &bench.interrupt, |station| station.measure(SLICE))?;
    let names: Vec<_> = stations.iter().map(|station| station.name).collect();
    for row in rows_of(case, &names, &samples) {
        report.add(&row);
    }
    Ok(())
}

/// A row for the cost of each; the first is the plain one.
fn rows_of(case: &Case, names: &[&str], samples: &[Vec<Sample>]) -> Vec<Row> {
    let Some(plain) = samples.first() else { return Vec::new() };
    let cost = |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.cost / 1e3)).median;
    let rows = names.iter().zip(samples).map(|(subject, samples)| Row {
        case: case.name.to_owned(),
        subject: (*subject).to_owned(),
        peer: (*subject != PLAIN).then(|| Peer {
            name: PLAIN.to_owned(),
            value: cost(plain),
            ratio: slices::ratios(samples, plain),
        }),
        value: cost(samples),
        unit: "us".to_owned(),
        goal: SUBJECTS.iter().find_map(|(name, _, goal)| goal.filter(|_| name == subject)),
    });
    rows.collect()
}

fn plain(case: &'static Case, bench: &Bench) -> Result<Station> {
    let target: SocketAddr = case.target.parse().context("parse an address")?;
    let set_up = move |interrupt: &Interrupt| {
        namespace::enter_another()?;
        route(case)?;
        let nginx = nginx(PLAIN, case, target.port(), target, interrupt)?;
        let meter = Meter::of(&[&nginx])?;
        Ok((nginx, meter))
    };
    let measure = move |meter: &Meter, length, _: &Meter| slice(target, Caller::Served, length, meter);
    Station::of(PLAIN, &bench.interrupt, set_up, measure)
}

fn registered(
    name: &'static str,
    flags: &'static [&str],
    case: &'static Case,
    bench: &Bench,
) -> Result<Station> {
    let target: SocketAddr = case.target.parse().context("parse an address")?;
    let program = bench.program.clone();
    let set_up = move |interrupt: &Interrupt| {
        namespace::enter_another()?;
        let own = SocketAddr::new(case.loopback.parse().context("parse an address")?, OWN_PORT);
        let nginx = nginx(name, case, OWN_PORT, own, interrupt)?;
        let text = format!(
            "[[service]]\nname = \"bench\"\nregistered = true\nbindings = [{{ prefix = \"{}\" }}]\n",
            case.prefix
        );
        let path = written(&format!("{}-{}.toml", name.replace(' ', "-"), case.name), &text)?;
        let steerer = Server::start(Command::new(&program).args(flags).args(["--config", &path]), interrupt)?;
        let mut register = Command::new(&program);
        shell::stdout(register.args(["register", "bench", "--pid"]).arg(nginx.pid().to_string()))?;
        let meter = Meter::of(&[&nginx, &steerer])?;
        // Dropped first to last: the instance before the server.
        Ok((nginx, (steerer, meter)))
    };
    let measure =
        move |(_, meter): &(Server, Meter), length, _: &Meter| slice(target, Caller::Served, length, meter);
    Station::of(name, &bench.interrupt, set_up, measure)
}

/// An nginx of one worker that says a word to whoever connects to `port` at any address, and hangs up.
fn nginx(name: &str, case: &Case, port: u16, dialled: SocketAddr, interrupt: &Interrupt) -> Result<Server> {
    let name = format!("{}-{}", name.replace(' ', "-"), case.name);
    let any = if dialled.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let configuration = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
pid /run/{name}.pid;
worker_processes 1;
error_log stderr crit;
events {{
    worker_connections 1024;
}}
stream {{
    server {{
        listen {any}:{port};
        return 'hello world\\n';
    }}
}}
"
    );
    let path = written(&format!("{name}.conf"), &configuration)?;
    let mut command = Command::new(on_path("nginx").context("find nginx")?);
    Server::start_listening(command.args(["-e", "stderr", "-c", &path]), dialled, interrupt)
}
