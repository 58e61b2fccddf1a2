//! The tools that are crates of their own below xtask, and are built when somebody asks for one: nobody who only wants a
//! demo waits for them. Knows nothing of their options; they read those themselves.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use xtask::workspace;

/// A tool that is a program of its own.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name for `cargo xtask NAME`.
    pub(crate) name: &'static str,
    /// Its summary in one line.
    pub(crate) about: &'static str,
    /// The package that it is.
    package: &'static str,
}

/// All of them.
pub(crate) const PROGRAMS: [Program; 5] = [
    Program {
        name: "bench",
        about: "Measure, as root, in throw-away network namespaces",
        package: "xtask-bench",
    },
    Program {
        name: "dist",
        about: "Make the Debian package, and with --check judge it",
        package: "xtask-dist",
    },
    Program {
        name: "fresh",
        about: "Run README's commands in a clean Debian, as a new user types them, and say what each took",
        package: "xtask-fresh",
    },
    Program { name: "test", about: "Run every test, the privileged ones as root", package: "xtask-test" },
    Program {
        name: "vmtest",
        about: "Run the privileged tests on other kernels, each in an emulated machine",
        package: "xtask-vm",
    },
];

impl Program {
    /// The one that a command line asks for, and the arguments that are its own.
    pub(crate) fn asked_for(arguments: &[OsString]) -> Option<(&'static Self, Vec<OsString>)> {
        let at = arguments.iter().position(|argument| argument != "--no-install")?;
        let program = PROGRAMS.iter().find(|program| arguments[at] == program.name)?;
        Some((program, [&arguments[..at], &arguments[at + 1..]].concat()))
    }

    /// Builds it and becomes it.
    pub(crate) fn run(&self, arguments: &[OsString]) -> Result<Infallible> {
        let mut cargo = workspace::cargo(["run", "--quiet", "--package", self.package, "--"]);
        let error = cargo.args(arguments).exec();
        Err(error).with_context(|| format!("run {}", self.package))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(line: &str) -> Option<(&'static str, String)> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let (program, own) = Program::asked_for(&words)?;
        Some((program.name, own.join(" ".as_ref()).into_string().unwrap()))
    }

    #[test]
    fn what_follows_the_name_is_the_programs_own() {
        let own = |text: &str| Some(("vmtest", text.to_owned()));
        assert_eq!(asked_for("vmtest --kernel 5.10 -- a_test"), own("--kernel 5.10 -- a_test"));
        assert_eq!(asked_for("vmtest -- a_test"), own("-- a_test"));
        assert_eq!(asked_for("--no-install vmtest --list"), own("--no-install --list"));
    }

    #[test]
    fn what_xtask_does_itself_asks_for_no_program() {
        for line in ["", "--no-install", "soak bench", "--help", "lint bench"] {
            assert_eq!(asked_for(line), None, "{line}");
        }
    }
}
