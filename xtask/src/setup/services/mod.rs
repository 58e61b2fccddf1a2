//! Keeps the servers that packages bring from running on this host: the tests and benchmarks start their own. What was
//! on the host before is left as it is. Installs no package.

mod host;
mod policy;
mod record;

use anyhow::Result;

use crate::interrupt::Interrupt;

use host::{Host, Standing};
use policy::Policy;
use record::Turn;

/// Runs `install`, which may bring some of `services`, and keeps those that it brought from running, now and after a
/// boot. A service that the host had is left enabled, disabled, running or stopped as it was. So it is with what an
/// earlier call brought that was killed.
///
/// # Errors
/// What `install` failed with, or why nothing could be installed. A service that cannot be disabled is only said.
pub(super) fn install_quietly(services: &[&str], install: impl FnOnce() -> Result<()>) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let _turn = Turn::take()?;
    let host = Host::this();
    let unfinished = record::read();
    let before: Vec<(&str, Standing)> =
        all(services, &unfinished).into_iter().map(|service| (service, host.standing(service))).collect();
    let brought = brought(&before, &unfinished);
    let links: Vec<_> = before.iter().map(|(service, _)| host.links(service)).collect();
    record::write(&brought)?;

    let policy = Policy::hold(&silenced(&before))?;
    let installed = install();
    let there: Vec<&str> =
        brought.into_iter().filter(|service| host.standing(service) != Standing::Absent).collect();
    for ((service, was), links) in before.iter().zip(&links) {
        let done = if there.contains(service) {
            host.quiet(service)
        } else if *was == Standing::Absent {
            Ok(())
        } else {
            // A package may enable a unit of the host's own that has the name of its own one.
            host.restore(service, *was, links)
        };
        if let Err(error) = done {
            println!("{service} could not be kept from starting, now or at the next boot: {error:#}");
        }
    }
    drop(policy);
    // A package that is unpacked and not configured would enable its service later; the next set-up sees to it.
    record::write(if installed.is_ok() { &[] } else { &there })?;
    interrupt.check().and(installed)
}

/// True if a set-up was killed, or failed, before it had kept its services from running.
pub(super) fn is_unfinished() -> bool {
    policy::is_left() || !record::read().is_empty()
}

fn all<'a>(services: &[&'a str], unfinished: &'a [String]) -> Vec<&'a str> {
    let mut all: Vec<&str> = services.to_vec();
    all.extend(unfinished.iter().map(String::as_str));
    all.sort_unstable();
    all.dedup();
    all
}

/// Those that would not be on this host but for us: not there before, or written down by a set-up that did not end.
fn brought<'a>(before: &[(&'a str, Standing)], unfinished: &[String]) -> Vec<&'a str> {
    let ours = |service: &str, standing| {
        standing == Standing::Absent || unfinished.iter().any(|name| name == service)
    };
    before
        .iter()
        .filter(|(service, standing)| ours(service, *standing))
        .map(|(service, _)| *service)
        .collect()
}

/// Those that no package may start: what runs already may be restarted with its new version, as ever.
fn silenced<'a>(before: &[(&'a str, Standing)]) -> Vec<&'a str> {
    before
        .iter()
        .filter(|(_, standing)| *standing != Standing::Running)
        .map(|(service, _)| *service)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: [(&str, Standing); 3] =
        [("haproxy", Standing::Absent), ("nginx", Standing::Idle), ("ssh", Standing::Running)];

    #[test]
    fn only_what_was_not_there_is_ours_to_disable() {
        assert_eq!(brought(&BEFORE, &[]), ["haproxy"]);
    }

    #[test]
    fn what_a_killed_set_up_had_begun_to_bring_is_ours_still() {
        assert_eq!(brought(&BEFORE, &["nginx".to_owned()]), ["haproxy", "nginx"]);
        // This run itself may have nothing to install.
        let unfinished = ["nginx".to_owned()];
        assert_eq!(all(&[], &unfinished), ["nginx"]);
        assert_eq!(all(&["ssh", "nginx"], &unfinished), ["nginx", "ssh"]);
    }

    #[test]
    fn only_what_runs_may_be_started_anew_by_its_package() {
        assert_eq!(silenced(&BEFORE), ["haproxy", "nginx"]);
    }
}
