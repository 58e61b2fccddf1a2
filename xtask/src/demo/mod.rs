//! `demo`: the project in one picture. Runs the program twice in a throw-away network namespace, once per path, dials
//! random addresses and ports, and shows what happened in the kernel and that it is undone. Changes nothing outside.

pub mod dial;
mod kernel;
mod scene;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::build;
use crate::interrupt::Interrupt;
use crate::namespace;
use crate::privilege;
use crate::setup::{self, Consent, Purpose};
use crate::shell;
use crate::style::Style;
use crate::workspace;

/// The prefixes that the demo serves.
pub const PREFIXES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/64"];

/// The part of the demo that runs as root.
#[derive(Debug, clap::Args)]
pub struct StageOptions {
    /// The program to show
    program: PathBuf,
}

/// Sets up, builds as the invoking user, and hands the rest to root.
pub fn demo(consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Run], consent)?;
    build::spectrum_user()?;
    // Ctrl-C reaches the stage as well; we wait for it to clean up.
    let _interrupt = Interrupt::watch()?;
    let environment: Vec<_> =
        env::var("NO_COLOR").ok().map(|value| ("NO_COLOR", value)).into_iter().collect();
    let mut stage = privilege::as_root(env::current_exe().context("find this program")?, &environment)?;
    let status = shell::status(stage.arg("demo-stage").arg(workspace::spectrum_user()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The demo itself. As root.
pub fn stage(options: &StageOptions) -> Result<ExitCode> {
    let started = Instant::now();
    namespace::enter()?;
    let interrupt = Interrupt::watch()?;
    let style = Style::of_stdout();

    println!();
    println!("{}", style.title("spectrum: one listening socket, any port on any address of whole prefixes"));
    println!("{}", style.faint(&"─".repeat(scene::WIDTH)));
    println!("In a network namespace of its own, on {} and {}:", PREFIXES[0], PREFIXES[1]);
    println!("2⁸ and 2⁶⁴ addresses with 65,535 ports each, none of them configured on an interface.");

    let modes = [
        scene::Scene {
            mode: "sk-lookup",
            title: "sk_lookup: an eBPF program picks the listener for every new connection",
        },
        scene::Scene {
            mode: "tproxy",
            title: "TPROXY: firewall rules do the same where the kernel has no sk_lookup",
        },
    ];
    for (index, scene) in modes.iter().enumerate() {
        scene.play(index + 1, &options.program, &interrupt, style)?;
    }
    println!();
    println!("{}", style.faint(&"─".repeat(scene::WIDTH)));
    println!("{} {:.1} s, and nothing is left.", style.good("done in"), started.elapsed().as_secs_f32());
    Ok(ExitCode::SUCCESS)
}

/// The number of lines of links, programs, routes of [`PREFIXES`], chains and rules this network namespace has.
pub fn held() -> Result<usize> {
    let views = [kernel::programs()?, kernel::routes()?, kernel::rules()?];
    Ok(views.iter().flatten().map(|view| view.lines.len()).sum())
}
