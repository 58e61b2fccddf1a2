//! How a command's end becomes an exit code and, if it failed, one message on standard error.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::ControlError;
use crate::instance::InstanceError;
use crate::model::visible;
use crate::net::NetError;
use crate::tproxy::TproxyError;

use super::privileges::NotPermitted;

/// `EX_NOPERM` of sysexits.h.
const NOT_PERMITTED: u8 = 77;
/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;
/// As clap exits, and as most programs do.
pub(super) const USAGE: u8 = 2;

/// Prints what clap has to say; help and version are no failure.
#[must_use]
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when standard error is gone.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Prints `error` with its causes, once, and says what kind it is.
#[must_use]
pub fn failure(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        return usage(error);
    }
    // The problems of a configuration are a line each, and each is an error of its own.
    for line in format!("{error:#}").lines() {
        let _ = writeln!(io::stderr(), "error: {}", visible(line));
    }
    ExitCode::from(code(error))
}

/// The exit code that fits `error`.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    if let Some(ControlError::Refused { code, .. }) = error.downcast_ref() {
        *code
    } else if error.is::<clap::Error>() {
        USAGE
    } else if is_permission(error) {
        NOT_PERMITTED
    } else if error.is::<ConfigError>() {
        BAD_CONFIGURATION
    } else {
        1
    }
}

fn is_permission(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<NotPermitted>()
            || cause.downcast_ref::<NetError>().is_some_and(|error| error.not_permitted().is_some())
            || cause.downcast_ref::<InstanceError>().is_some_and(|error| {
                error.not_permitted().is_some() || matches!(error, InstanceError::Distrusted { .. })
            })
            || cause.downcast_ref::<TproxyError>().is_some_and(|error| error.not_permitted().is_some())
            || cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
                .is_some_and(|errno| errno == libc::EPERM || errno == libc::EACCES)
    })
}
