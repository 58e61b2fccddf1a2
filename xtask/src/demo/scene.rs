//! One path, shown from start to stop. What is printed here fits a terminal of 100 columns.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::interrupt::Interrupt;
use crate::random;
use crate::server::Server;
use crate::shell;
use crate::style::Style;

use super::PREFIXES;
use super::dial::{Answer, dial};
use super::kernel::{self, View};

/// The widest that a line may be.
pub(super) const WIDTH: usize = 98;

/// The number of random addresses dialled in each prefix.
const DIALS: usize = 6;

/// One path.
#[derive(Debug)]
pub(super) struct Scene {
    /// The program's name for it.
    pub(super) mode: &'static str,
    /// Its summary in one line.
    pub(super) title: &'static str,
}

impl Scene {
    /// Starts the program, dials, shows the kernel's view, stops it and shows that nothing is left.
    pub(super) fn play(
        &self,
        number: usize,
        program: &Path,
        interrupt: &Interrupt,
        style: Style,
    ) -> Result<()> {
        println!();
        println!("{}", style.title(&format!("{number}  {}", self.title)));
        println!();
        let mut command = Command::new("spectrum-user");
        for prefix in PREFIXES {
            command.args(["--prefix", prefix]);
        }
        command.args(["--mode", self.mode]);
        prompt(&format!("{} &", shell::line(&command)), style);

        let mut running = Command::new(program);
        running.args(command.get_args());
        let server = Server::start(&mut running, interrupt)?;
        println!("   {}  {}", style.good(&server.ready), style.faint(&after(server.ready_after)));
        println!();

        show_dials(interrupt, style)?;
        show(&kernel::listeners()?, style);
        let mut held = Vec::new();
        for views in [kernel::programs()?, kernel::routes()?, kernel::rules()?] {
            held.extend(views);
        }
        for view in held.iter().filter(|view| !view.lines.is_empty()) {
            show(view, style);
        }
        interrupt.check()?;

        let pid = server.pid();
        prompt(&format!("kill -TERM {pid}"), style);
        let (status, took) = server.stop()?;
        ensure!(status.success(), "stop the program: {status}");
        let left = super::held()?;
        ensure!(left == 0, "stop the program: {left} lines of links, routes and rules are left");
        println!(
            "   {}  {}",
            style.good("ended with 0; no link, program, route, chain or rule is left"),
            style.faint(&after(took))
        );
        Ok(())
    }
}

fn show_dials(interrupt: &Interrupt, style: Style) -> Result<()> {
    for (index, prefix) in PREFIXES.iter().enumerate() {
        let (address, length) = prefix.split_once('/').context("split a prefix")?;
        let address: IpAddr = address.parse().context("parse a prefix")?;
        let length = length.parse().context("parse a prefix")?;
        for nth in 0..DIALS {
            interrupt.check()?;
            let target = SocketAddr::new(random::address(address, length), random::port());
            let answer = dial(target)?;
            if index == 0 && nth == 0 {
                show_first(target, &answer, style);
            }
            println!("   {} {}", style.good("✔"), dial_line(target, &answer, style));
        }
    }
    println!();
    Ok(())
}

/// The first answer in full, then the head of the table of all.
fn show_first(target: SocketAddr, answer: &Answer, style: Style) {
    prompt(&format!("nc {} {}", target.ip(), target.port()), style);
    for line in answer.text.lines() {
        println!("   {line}");
    }
    println!();
    println!(
        "     {}",
        style.faint(&format!("{:<39}{:<39}{}", "dialled", "the answer: dialled=", "client="))
    );
}

fn dial_line(target: SocketAddr, answer: &Answer, style: Style) -> String {
    let target = format!("{:<39}", target.to_string());
    let Answer { dialled, client, .. } = answer;
    format!("{}{dialled:<39}{}", style.key(&target), style.faint(client))
}

fn show(view: &View, style: Style) {
    prompt(&view.command, style);
    for line in &view.lines {
        println!("   {line}");
    }
    println!();
}

fn prompt(command: &str, style: Style) {
    println!("   {} {}", style.faint("$"), style.title(command));
}

fn after(duration: Duration) -> String {
    format!("after {} ms", duration.as_millis())
}
