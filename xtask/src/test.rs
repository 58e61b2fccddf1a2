//! `test`: every test there is. Builds and runs as the invoking user what needs no privilege, then runs the binaries of
//! the privileged tests as root. Decides nothing about which test may skip; it passes on what was asked.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use xtask::build::{self, Executable, executables};
use xtask::ebpf;
use xtask::privilege;
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::workspace;

/// The package of the privileged tests.
const PRIVILEGED: &str = "spectrum-tests";

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestOptions {
    /// Count a test that cannot run here as failed; the default where CI=true
    #[arg(long)]
    require: bool,
    /// Arguments for every test binary, such as part of a test's name
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Runs the tests; fails if any failed, after all have run.
pub(crate) fn test(options: &TestOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Test], consent)?;
    let require = options.require || env::var_os("CI").is_some_and(|ci| ci == "true");
    build::spectrum_user()?;

    let mut unprivileged =
        workspace::cargo(["test", "--workspace", "--no-fail-fast", "--exclude", "spectrum-ebpf"]);
    unprivileged.args(["--exclude", PRIVILEGED, "--"]).args(&options.arguments);
    let mut passed = shell::status(&mut unprivileged)?.success();

    let binaries = executables(&mut workspace::cargo(["test", "--no-run", "--package", PRIVILEGED]))?;
    if privilege::available() {
        for binary in &binaries {
            passed &= run_as_root(binary, options, require)?;
        }
    } else if require {
        println!("FAILED the privileged tests: this user is not root, and there is no sudo");
        passed = false;
    } else {
        println!("SKIP the privileged tests: this user is not root, and there is no sudo");
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The variables that tell the privileged tests where things are.
pub(crate) fn environment() -> Vec<(&'static str, String)> {
    vec![
        ("SPECTRUM_BIN", workspace::spectrum_user().display().to_string()),
        ("SPECTRUM_EBPF_OBJECT", ebpf::object(workspace::root()).display().to_string()),
    ]
}

fn run_as_root(binary: &Executable, options: &TestOptions, require: bool) -> Result<bool> {
    let mut environment = environment();
    if require {
        environment.push(("SPECTRUM_TEST_REQUIRE", "all".to_owned()));
    }
    for name in ["RUST_BACKTRACE", "SPECTRUM_TEST_SCALE", "SPECTRUM_TEST_SEED", "SPECTRUM_TEST_TURN"] {
        if let Ok(value) = env::var(name) {
            environment.push((name, value));
        }
    }
    println!("     Running {} as root", binary.name);
    let mut command = privilege::as_root(&binary.path, &environment)?;
    command.current_dir(workspace::root().join("tests")).args(&options.arguments);
    Ok(shell::status(&mut command)?.success())
}
