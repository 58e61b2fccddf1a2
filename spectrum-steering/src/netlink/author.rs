//! Who changed something, as far as the kernel tells. Asks nobody why.

use std::fmt;
use std::fs;

use crate::model::visible;

/// Linux gives no process a higher id (PID_MAX_LIMIT); who has several netlink sockets has ports beyond it.
const HIGHEST: u32 = 1 << 22;

/// A process that changed something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Author {
    pid: u32,
    /// Unless it has ended before it could be looked at.
    command: Option<String>,
}

impl Author {
    /// The process of this id, which runs this command.
    #[must_use]
    pub fn named(pid: u32, command: &str) -> Self {
        Self { pid, command: Some(visible(command).into_owned()) }
    }

    /// The process behind a netlink port, where it is another than this one and the port says which.
    pub(crate) fn at_port(port: u32) -> Option<Self> {
        if port == 0 || port > HIGHEST || port == std::process::id() {
            return None;
        }
        let command = fs::read_to_string(format!("/proc/{port}/comm")).ok();
        Some(Self { pid: port, command: command.map(|command| visible(command.trim()).into_owned()) })
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Some(command) => write!(f, "process {} ({command})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_no_process_ids_and_our_own_name_nobody() {
        for port in [0, std::process::id(), u32::MAX - 7] {
            assert_eq!(Author::at_port(port), None);
        }
        assert_eq!(Author::named(4711, "nft").to_string(), "process 4711 (nft)");
        assert!(Author::at_port(1).unwrap().to_string().starts_with("process 1"));
    }
}
