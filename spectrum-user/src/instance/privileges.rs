//! What the process may do, asked before anything is touched, so that who lacks a capability is told so and not what
//! happened to fail first.

use std::fs;

const CAP_NET_ADMIN: u32 = 12;

/// The process lacks a capability that every path needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{op}: not permitted (needs {capability}; try sudo)")]
pub(crate) struct NotPermitted {
    op: &'static str,
    capability: &'static str,
}

/// Refuses to go on without CAP_NET_ADMIN, which routes, rules, transparent sockets and attaching need.
pub(crate) fn require_net_admin(op: &'static str) -> Result<(), NotPermitted> {
    // Without /proc the operations themselves will tell.
    match capabilities() {
        Some(capabilities) if capabilities & (1 << CAP_NET_ADMIN) == 0 => {
            Err(NotPermitted { op, capability: "CAP_NET_ADMIN" })
        }
        _ => Ok(()),
    }
}

/// The effective capabilities of this process, a bit each; nothing where there is no /proc.
pub(crate) fn capabilities() -> Option<u64> {
    fs::read_to_string("/proc/self/status").ok().and_then(|status| effective(&status))
}

/// The effective capabilities that proc_pid_status(5) shows, a bit each.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read() {
        assert_eq!(effective("Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000001000\n"), Some(1 << CAP_NET_ADMIN));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
