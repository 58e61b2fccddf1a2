//! Running the firewall's programs. Knows none of them.

use std::env;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::TproxyError;
use super::error::Purpose;

/// Searched after PATH, which often lacks them for services and plain users.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

pub(super) fn find_or_fail(program: &str) -> Result<PathBuf, TproxyError> {
    find_program(program).ok_or_else(|| TproxyError::ProgramMissing {
        purpose: Purpose::Steering,
        program: program.to_owned(),
    })
}

pub(super) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

pub(super) fn shown(program: &Path) -> String {
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

/// What `command` prints when given `input`, or what it complained about.
pub(super) fn output(op: &'static str, command: &mut Command, input: &str) -> Result<String, TproxyError> {
    let program = shown(Path::new(command.get_program()));
    let failed = |source| TproxyError::Run { program: program.clone(), source };
    let mut child = command
        .env("LC_ALL", "C")
        // A Ctrl-C at the terminal is meant for us: it must not cut short the removal of our rules.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It has given up, and its exit status and message say why.
            Err(source) if source.kind() != ErrorKind::BrokenPipe => return Err(failed(source)),
            _ => {}
        }
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    if status.success() {
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    } else {
        Err(TproxyError::said(op, &program, status, &String::from_utf8_lossy(&stderr)))
    }
}
