//! The `start` benchmark: from exec to ready, and resident memory when idle, of the program as packages have it. What happens after is not its concern.

use std::process::Command;

use anyhow::Result;

use xtask::server::Server;

use super::Bench;
use super::contest::proportional;
use super::report::Report;
use super::row::{Goal, Row};
use super::statistics::Spread;

/// The number of starts on each path.
const STARTS: usize = 20;

/// Starts the program in each mode and looks at it once it is ready.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for mode in ["sk-lookup", "tproxy"].into_iter().filter(|mode| bench.wants(mode)) {
        match measure(mode, bench) {
            Ok((times, sizes)) => {
                let row = |subject: &str, values: Vec<f64>, unit: &str, goal| Row {
                    case: mode.to_owned(),
                    subject: subject.to_owned(),
                    peer: None,
                    value: Spread::of(values).median,
                    unit: unit.to_owned(),
                    goal,
                };
                let goal = (mode == "sk-lookup").then_some(Goal::Value(150.0));
                report.add(&row("exec to ready", times, "ms", goal));
                report.add(&row("idle memory of both processes", sizes, "MB", Some(Goal::Value(20.0))));
            }
            // A kernel without one path can still measure the other.
            Err(error) => {
                bench.interrupt.check()?;
                eprintln!("not measured: {mode}: {error:#}");
            }
        }
    }
    Ok(())
}

/// The times to ready in milliseconds, and the sizes in megabytes.
fn measure(mode: &str, bench: &Bench) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        bench.interrupt.check()?;
        let mut command = Command::new(&bench.packaged);
        command.args(["--prefix", "192.0.2.0/24", "--prefix", "2001:db8::/64", "--mode", mode]);
        let server = Server::start(&mut command, &bench.interrupt)?;
        times.push(server.ready_after.as_secs_f64() * 1e3);
        sizes.push(proportional(&server)? / 1e6);
        server.stop()?;
    }
    Ok((times, sizes))
}
