//! What a running instance holds of whom services let in, beside a configuration that is checked. Judges nobody.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;

use super::ask::denied_by_running;
use crate::cli::InstanceArgs;
use crate::config::Config;
use crate::view::DeniedView;

/// Of a longer list as many are shown.
const SHOWN: usize = 20;

/// The words said at run time, beside a configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct HeldDenials {
    /// Those that are in force for services of the configuration.
    pub(super) in_force: Vec<DeniedView>,
    /// Those of services that it does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) idle: Vec<DeniedView>,
}

impl HeldDenials {
    /// Those of the running instance that `args` mean, beside `config`; none where none runs, or where it does not answer whoever asks.
    pub(super) fn beside(config: &Config, args: &InstanceArgs) -> Self {
        let services: BTreeSet<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
        Self::of(denied_by_running(args), &services)
    }

    fn of(held: Vec<DeniedView>, services: &BTreeSet<&str>) -> Self {
        let is_in_force =
            |entry: &DeniedView| entry.service.as_deref().is_none_or(|service| services.contains(service));
        let (in_force, idle) = held.into_iter().partition(is_in_force);
        Self { in_force, idle }
    }

    /// True if nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.in_force.is_empty() && self.idle.is_empty()
    }

    /// Writes it for people.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (what, entries) in [
            ("said at run time, and in force with this too", &self.in_force),
            ("said at run time of services that this does not have", &self.idle),
        ] {
            if !entries.is_empty() {
                writeln!(out, "{what}: {}", entries.len())?;
            }
            for DeniedView { service, prefix, word, until, .. } in entries.iter().take(SHOWN) {
                let service = service.as_deref().unwrap_or("all");
                let until = until.as_ref().map_or_else(String::new, |until| format!(" until {until}"));
                writeln!(out, "  {word} {prefix} of {service}{until}")?;
            }
            if let Some(more) = entries.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                writeln!(out, "  and {more} more: `spectrum-user denied`")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_told_by_the_services_that_there_are() {
        let entry = |service: Option<&str>, prefix: &str, until: Option<&str>| DeniedView {
            service: service.map(str::to_owned),
            prefix: prefix.to_owned(),
            word: "deny".to_owned(),
            until: until.map(str::to_owned),
            ..DeniedView::default()
        };
        let entries = vec![
            entry(None, "192.0.2.0/24", None),
            entry(Some("games"), "2001:db8::7/128", Some("2026-01-01T00:00:00Z")),
            entry(Some("gone"), "198.51.100.7/32", None),
        ];
        let held = HeldDenials::of(entries, &BTreeSet::from(["games", "web"]));
        let mut written = Vec::new();
        held.write(&mut written).unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "said at run time, and in force with this too: 2\n\
             \x20 deny 192.0.2.0/24 of all\n\
             \x20 deny 2001:db8::7/128 of games until 2026-01-01T00:00:00Z\n\
             said at run time of services that this does not have: 1\n\
             \x20 deny 198.51.100.7/32 of gone\n"
        );
        let many = vec![entry(None, "192.0.2.0/24", None); SHOWN + 3];
        let mut written = Vec::new();
        HeldDenials::of(many, &BTreeSet::new()).write(&mut written).unwrap();
        assert!(String::from_utf8(written).unwrap().ends_with("  and 3 more: `spectrum-user denied`\n"));
    }
}
