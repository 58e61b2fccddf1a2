//! `lint`: formatting, clippy for host and kernel, the tests' crate alone, documentation, tidy and dependencies; one line per step, a step's
//! output only when it fails. Repairs nothing.

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use xtask::ebpf;
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::style::Style;
use xtask::workspace;
use xtask_tidy as tidy;

/// Options of `lint`.
#[derive(Debug, clap::Args)]
pub(crate) struct LintOptions {
    /// Also ask the network for known vulnerabilities of dependencies
    #[arg(long)]
    advisories: bool,
    /// Also list the files that are long enough to ask why
    #[arg(long)]
    long: bool,
    /// First write down the public APIs of the libraries as they are now
    #[arg(long)]
    renew_api: bool,
}

/// Runs every step, even after one has failed.
pub(crate) fn lint(options: &LintOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Lint], consent)?;
    if options.renew_api {
        tidy::renew_apis(workspace::root())?;
    }
    let host = ["--workspace", "--exclude", "spectrum-ebpf"];
    let deny: &[&str] = if options.advisories {
        &["check", "advisories", "bans", "licenses", "sources"]
    } else {
        &["check", "bans", "licenses", "sources"]
    };
    let style = Style::of_stdout();
    let started = Instant::now();
    let mut report = Report { style, passed: 0, failed: 0 };

    report.step("format", || {
        quiet(&mut workspace::cargo(["fmt", "--all", "--check"]))?;
        quiet(&mut workspace::cargo(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    });
    report.step("clippy", || {
        quiet(workspace::cargo(["clippy"]).args(host).args([
            "--all-targets",
            "--keep-going",
            "--",
            "-D",
            "warnings",
        ]))
    });
    // The soak builds it alone. What others of the workspace switch on of its dependencies hides there what it does not.
    report.step("tests alone", || {
        quiet(&mut workspace::cargo(["check", "--package", "spectrum-tests", "--bins"]))
    });
    report.step("clippy for BPF", || {
        quiet(&mut ebpf::clippy(workspace::root(), &workspace::machine(), &["--", "-D", "warnings"])?)
    });
    report.step("documentation", || {
        quiet(workspace::cargo(["doc", "--no-deps"]).args(host).env("RUSTDOCFLAGS", "-D warnings"))
    });
    report.step("tidy", || {
        let findings = tidy::check(workspace::root())?;
        if findings.is_empty() {
            return Ok(());
        }
        bail!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    });
    report.step("dependencies", || {
        let cargo_deny = setup::cargo_deny().context("find the home directory, where cargo-deny is")?;
        let mut command = Command::new(cargo_deny);
        // It asks cargo for the metadata of the workspace it stands in.
        command.current_dir(workspace::root()).env("CARGO", workspace::cargo_path());
        quiet(command.args(["--log-level", "error"]).args(deny))
    });

    if options.long {
        for (path, lines) in tidy::long_files(workspace::root())? {
            println!("  {lines:>5} lines  {path}");
        }
    }
    Ok(report.end(started))
}

struct Report {
    style: Style,
    passed: usize,
    failed: usize,
}

impl Report {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        let started = Instant::now();
        let done = work();
        let seconds = started.elapsed().as_secs_f32();
        let style = self.style;
        match done {
            Ok(()) => {
                self.passed += 1;
                println!("{} {name:<16} {}", style.good("ok  "), style.faint(&format!("{seconds:5.1} s")));
            }
            Err(error) => {
                self.failed += 1;
                println!("{} {name:<16} {}", style.bad("FAIL"), style.faint(&format!("{seconds:5.1} s")));
                println!("{}", format!("{error:#}").trim_end());
            }
        }
    }

    fn end(&self, started: Instant) -> ExitCode {
        let Self { passed, failed, .. } = self;
        println!("lint: {passed} passed, {failed} failed, {:.1} s", started.elapsed().as_secs_f32());
        if *failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs `command`; what it printed becomes the error if it fails.
fn quiet(command: &mut Command) -> Result<()> {
    if env::var_os("CARGO_TERM_COLOR").is_none() && Style::of_stdout().is_coloured() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let output = shell::output(command)?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
