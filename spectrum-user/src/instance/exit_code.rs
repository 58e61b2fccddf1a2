//! The kind of end that an error is, as an exit code: of a command, or of what somebody asked an instance for. Prints nothing.

use std::io;

use super::privileges::NotPermitted;
use crate::config::{ConfigError, Problem};
use crate::confinement::UserError;
use crate::control::ControlError;
use crate::registry::RegistryError;
use spectrum_steering::host::NetError;
use spectrum_steering::tproxy::TproxyError;

/// The code of every failure that has no other.
pub(super) const FAILURE: u8 = 1;
/// `EX_NOPERM` of sysexits.h.
const NOT_PERMITTED: u8 = 77;
/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;
/// As clap exits, and as most programs do.
pub(crate) const USAGE: u8 = 2;

/// The problems of a file, if `error` is about one.
pub(crate) fn problems(error: &anyhow::Error) -> &[Problem] {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ConfigError::Invalid { problems }), _) | (_, Some(ControlError::Refused { problems, .. })) => {
            problems
        }
        _ => &[],
    }
}

/// The exit code that fits `error`.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if let Some(ControlError::Refused { code, .. }) = error.downcast_ref() {
        *code
    } else if error.is::<clap::Error>() {
        USAGE
    } else if is_permission(error) {
        NOT_PERMITTED
    } else if error.is::<ConfigError>() {
        BAD_CONFIGURATION
    } else {
        FAILURE
    }
}

fn is_permission(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<NotPermitted>()
            || matches!(cause.downcast_ref(), Some(UserError::NotPermitted { .. }))
            || cause.downcast_ref::<NetError>().is_some_and(|error| error.not_permitted().is_some())
            || cause.downcast_ref::<RegistryError>().is_some_and(|error| {
                error.not_permitted().is_some() || matches!(error, RegistryError::Distrusted { .. })
            })
            || cause.downcast_ref::<TproxyError>().is_some_and(|error| error.not_permitted().is_some())
            || cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
                .is_some_and(|errno| errno == libc::EPERM || errno == libc::EACCES)
    })
}
