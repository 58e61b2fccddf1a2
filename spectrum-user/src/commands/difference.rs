//! `check --diff`: what a reload would make of a running instance, by name. Asks it for what it has, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Serialize;

use super::held_denials::HeldDenials;
use crate::config::{Config, KeyChange, Keys, Planned, SaidBy, ServiceKeys, changes};
use crate::control::RunningConfiguration;
use crate::model::{Binding, Destination, Service};
use crate::plan;
use crate::registry::Mode;

/// Of a longer list as many are shown.
const SHOWN: usize = 20;

/// Keys with which an instance starts, and which it keeps.
const KEPT: [&str; 7] = [
    "admin.listen",
    "instance.netns",
    "instance.pin",
    "instance.single-process",
    "instance.user",
    "instance.workers",
    "log.format",
];

/// What a reload would change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Difference {
    /// Why a reload would be refused: what needs a restart.
    pub(super) refused: Vec<String>,
    /// The keys that are of no service.
    pub(super) keys: Vec<KeyChange>,
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) changed: Vec<ChangedService>,
    /// Listeners, by service, protocol and family.
    pub(super) listeners: ListenerChanges,
    pub(super) files_added: Vec<String>,
    pub(super) files_removed: Vec<String>,
    /// What was said at run time, which a reload keeps: no difference.
    #[serde(skip_serializing_if = "HeldDenials::is_empty")]
    pub(super) at_run_time: HeldDenials,
}

/// What becomes of listeners.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct ListenerChanges {
    pub(super) kept: usize,
    pub(super) new: Vec<String>,
    pub(super) closed: Vec<String>,
}

/// A service that would be otherwise.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct ChangedService {
    pub(super) service: String,
    pub(super) keys: Vec<KeyChange>,
    pub(super) bindings_added: Vec<String>,
    pub(super) bindings_removed: Vec<String>,
}

impl Difference {
    /// Between what is `running` and what is `planned`.
    pub(super) fn of(running: RunningConfiguration, planned: Planned) -> Self {
        let Planned { config, plan } = planned;
        let RunningConfiguration { mode, files, keys: said, services: before } = running;
        let candidate = overlaid(&config, &said).filled();
        let said = said.filled();
        let mut difference = Self::default();
        for change in changes(&said.general, &candidate.general) {
            match needs_restart(&change, mode) {
                Some(reason) => difference.refused.push(reason),
                None => difference.keys.push(change),
            }
        }

        let after: BTreeMap<&str, &Service> = by_name(&config.services);
        let had: BTreeMap<&str, &Service> = by_name(&before);
        let names = |of: &BTreeMap<&str, &Service>, other: &BTreeMap<&str, &Service>| -> Vec<String> {
            of.keys().filter(|name| !other.contains_key(**name)).map(|name| (*name).to_owned()).collect()
        };
        difference.added = names(&after, &had);
        difference.removed = names(&had, &after);
        let (said_before, said_after) = (keys_by_name(&said), keys_by_name(&candidate));
        for (name, is) in &after {
            let Some(was) = had.get(name) else { continue };
            let change = changed(was, is, said_before.get(name).copied(), said_after.get(name).copied());
            difference.changed.extend(change);
        }

        // Whatever ids the running one has, what is kept of them is the same.
        if let Ok(plan_before) = plan::of(&before) {
            let plan = plan.after(&plan_before, &before, &config.services, 1);
            let listeners = &mut difference.listeners;
            listeners.kept =
                plan.destinations.keys().filter(|id| plan_before.destinations.contains_key(id)).count();
            let only = |one: &plan::Plan, other: &plan::Plan| -> Vec<String> {
                let only = one.destinations.iter().filter(|(id, _)| !other.destinations.contains_key(id));
                only.map(|(_, destination)| called(destination)).collect()
            };
            listeners.new = only(&plan, &plan_before);
            listeners.closed = only(&plan_before, &plan);
        }

        let (had, has): (BTreeSet<_>, BTreeSet<_>) =
            (files.into_iter().collect(), config.shown_files().into_iter().collect());
        difference.files_added = has.difference(&had).cloned().collect();
        difference.files_removed = had.difference(&has).cloned().collect();
        difference
    }

    /// True if a reload would change nothing. That files have other names changes nothing.
    pub(super) fn is_none(&self) -> bool {
        let Self { refused, keys, added, removed, changed, listeners, .. } = self;
        let ListenerChanges { new, closed, .. } = listeners;
        refused.is_empty()
            && keys.is_empty()
            && changed.is_empty()
            && [added, removed, new, closed].iter().all(|list| list.is_empty())
    }

    /// Writes it for people.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for reason in &self.refused {
            writeln!(out, "a reload would be refused: {reason}")?;
        }
        if self.is_none() {
            writeln!(out, "a reload would change nothing")?;
            return self.at_run_time.write(out);
        }
        for change in &self.keys {
            writeln!(out, "{change}")?;
        }
        list(out, "services added", &self.added)?;
        list(out, "services removed", &self.removed)?;
        for ChangedService { service, keys, bindings_added, bindings_removed } in &self.changed {
            writeln!(out, "service {service} changed:")?;
            for change in keys {
                writeln!(out, "  {change}")?;
            }
            list(out, "  bindings added", bindings_added)?;
            list(out, "  bindings removed", bindings_removed)?;
        }
        let ListenerChanges { kept, new, closed } = &self.listeners;
        writeln!(out, "listeners kept: {kept}")?;
        list(out, "listeners new", new)?;
        list(out, "listeners closed", closed)?;
        list(out, "files added", &self.files_added)?;
        list(out, "files removed", &self.files_removed)?;
        self.at_run_time.write(out)
    }
}

fn list(out: &mut dyn Write, what: &str, names: &[String]) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    writeln!(out, "{what}: {shown}{more}")
}

/// The keys of `config` where flags win that the running instance was started with.
fn overlaid(config: &Config, running: &Keys) -> Keys {
    let mut keys = config.keys.clone();
    let flags = running.general.iter().filter(|(_, said)| matches!(said.said, SaidBy::Flag(_)));
    keys.general.extend(flags.map(|(key, said)| (key.clone(), said.clone())));
    keys
}

/// Why an instance that steers in `mode` cannot take this by a reload.
fn needs_restart(change: &KeyChange, mode: Option<Mode>) -> Option<String> {
    let KeyChange { key, is, .. } = change;
    let keeps = match key.as_str() {
        "dispatcher.mode" => {
            let wanted = is.as_deref().unwrap_or("\"auto\"").trim_matches('"');
            wanted != "auto" && mode.is_some_and(|mode| mode.to_string() != wanted)
        }
        "dispatcher.firewall" => mode == Some(Mode::Tproxy),
        other => KEPT.contains(&other),
    };
    keeps.then(|| format!("{change}: cannot change while running; restart instead"))
}

fn by_name(services: &[Service]) -> BTreeMap<&str, &Service> {
    services.iter().map(|service| (service.name.as_str(), service)).collect()
}

fn keys_by_name(keys: &Keys) -> BTreeMap<&str, &ServiceKeys> {
    keys.services.iter().map(|keys| (keys.service.as_str(), keys)).collect()
}

fn changed(
    was: &Service,
    is: &Service,
    said_before: Option<&ServiceKeys>,
    said_after: Option<&ServiceKeys>,
) -> Option<ChangedService> {
    let none = BTreeMap::new();
    let of = |said: Option<&ServiceKeys>| said.map_or_else(|| none.clone(), |said| said.keys.clone());
    let mut keys = changes(&of(said_before), &of(said_after));
    keys.retain(|change| change.key != "bindings");
    let is_same = was == is;
    // Another notation of the same is no change; but which records are written, and who may come in, a service does not know.
    keys.retain(|change| !is_same || ["log.", "policy."].iter().any(|of| change.key.starts_with(of)));
    let (had, has) = (texts(&was.bindings), texts(&is.bindings));
    let bindings_added: Vec<String> = has.difference(&had).cloned().collect();
    let bindings_removed: Vec<String> = had.difference(&has).cloned().collect();
    let is_told = !keys.is_empty() || !bindings_added.is_empty() || !bindings_removed.is_empty();
    if !is_same && !is_told {
        let key = if was.target == is.target { "bindings" } else { "origins" };
        let [was, is] = ["as it is", "otherwise, in its order or far down its list"].map(str::to_owned);
        keys.push(KeyChange { key: key.to_owned(), was: Some(was), is: Some(is), said: None });
    }
    let service = is.name.to_string();
    (!is_same || is_told).then_some(ChangedService { service, keys, bindings_added, bindings_removed })
}

fn texts(bindings: &[Binding]) -> BTreeSet<String> {
    bindings.iter().map(ToString::to_string).collect()
}

fn called(destination: &Destination) -> String {
    format!("{} {} {}", destination.service, destination.protocol, destination.family)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::SaidKey;

    fn planned(text: &str) -> Planned {
        Config::parse(Path::new("f.toml"), text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn service(name: &str, port: u16, more: &str) -> String {
        format!(
            "[[service]]\nname = \"{name}\"\nrespond = \"echo\"\n\
             bindings = [{{ prefix = \"192.0.2.0/24\", ports = {port} }}]\n{more}"
        )
    }

    fn running(text: &str) -> RunningConfiguration {
        let Planned { config, .. } = planned(text);
        let files = config.shown_files();
        RunningConfiguration { mode: Some(Mode::Tproxy), files, keys: config.keys, services: config.services }
    }

    fn told(before: RunningConfiguration, after: &str) -> String {
        let difference = Difference::of(before, planned(after));
        let mut text = Vec::new();
        difference.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn another_notation_is_no_change() {
        let before = running(&service("a", 80, "timeouts = { idle = \"1h\" }\n"));
        let after = format!(
            "[dispatcher]\nmode = \"auto\"\n{}",
            service("a", 0x50, "timeouts = { idle = \"60m\" }\n")
        );
        assert_eq!(told(before, &after), "a reload would change nothing\n");
    }

    #[test]
    fn services_keys_bindings_and_listeners_are_told_by_name() {
        let before = [service("a", 80, ""), service("b", 81, ""), service("c", 82, "")].concat();
        let after = [
            "[dispatcher]\nnat = \"heed\"\n".to_owned(),
            service("a", 80, "timeouts = { idle = \"5m\" }\n"),
            service("c", 83, ""),
            service("d", 84, "log = { opened = true }\n"),
        ];
        assert_eq!(
            told(running(&before), &after.concat()),
            "dispatcher.nat: \"exempt\" -> \"heed\"  (f.toml:2)\n\
             services added: d\nservices removed: b\n\
             service a changed:\n  timeouts.idle: \"1h\" -> \"5m\"  (f.toml:7)\n\
             service c changed:\n  bindings added: tcp 192.0.2.0/24 83\n  bindings removed: tcp 192.0.2.0/24 82\n\
             listeners kept: 2\nlisteners new: d tcp ipv4\nlisteners closed: b tcp ipv4\n"
        );
    }

    #[test]
    fn what_needs_a_restart_is_told_and_flags_win() {
        let mut before = running(&service("a", 80, ""));
        let said = SaidKey { value: "\"json\"".to_owned(), said: SaidBy::Flag("--log-format".to_owned()) };
        before.keys.general.insert("log.format".to_owned(), said);
        let after = |dispatcher: &str| {
            format!("[dispatcher]\n{dispatcher}[log]\nformat = \"text\"\n{}", service("a", 80, ""))
        };
        assert_eq!(told(before.clone(), &after("")), "a reload would change nothing\n");
        let told = told(before, &after("mode = \"sk-lookup\"\nfirewall = \"nftables\"\n"));
        assert_eq!(
            told,
            "a reload would be refused: dispatcher.firewall: \"auto\" -> \"nftables\"  (f.toml:3): cannot change while running; \
             restart instead\n\
             a reload would be refused: dispatcher.mode: \"auto\" -> \"sk-lookup\"  (f.toml:2): cannot change while running; \
             restart instead\nlisteners kept: 1\n"
        );
    }

    #[test]
    fn a_running_configuration_travels() {
        let before = running(&service("a", 80, "timeouts = { idle = \"5m\" }\n"));
        let travelled: RunningConfiguration =
            serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
        assert_eq!((&travelled.services, &travelled.keys), (&before.services, &before.keys));
    }
}
