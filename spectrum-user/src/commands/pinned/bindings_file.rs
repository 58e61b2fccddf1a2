//! The files that `load` and `load-bindings` take bindings from: configurations, and tubular's JSON. Binds nothing.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;

use crate::config::{Config, ModeChoice, Planned};
use crate::model::{Binding, ParsePrefixError, PortRange, Prefix, Protocol, Service, ServiceName, Target};
use crate::plan::{Bound, Policies};

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct FileBindings {
    pub(super) services: Vec<Bound>,
    /// Whom they let in; none where the file has no words for that.
    pub(super) policies: Option<Policies>,
    /// The things that are otherwise than they would be with a process.
    pub(super) notes: Vec<String>,
}

/// Bindings as tubular's load-bindings has them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelledBindings {
    bindings: Vec<LabelledBinding>,
}

/// One of them, which is of both protocols.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelledBinding {
    label: ServiceName,
    prefix: MaskedPrefix,
    /// 0 stands for all.
    port: u16,
}

/// A prefix whose bits beyond its length count for nothing.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct MaskedPrefix(Prefix);

impl TryFrom<String> for MaskedPrefix {
    type Error = ParsePrefixError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let masked = || {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            // An address of IPv4 that is mapped to IPv6 is refused with what to write instead.
            let prefix = Prefix::containing(address, length.parse().ok()?).ok()?;
            (address.to_canonical() == address).then_some(prefix)
        };
        text.parse().or_else(|error| masked().ok_or(error)).map(Self)
    }
}

/// The content of the file `path`: a configuration, unless it begins as JSON does.
pub(super) fn read(path: &Path) -> anyhow::Result<FileBindings> {
    if path.is_dir() {
        return registered(&Config::load(path)?, path);
    }
    let text = fs::read_to_string(path).with_context(|| format!("read bindings {}", path.display()))?;
    if text.trim_start().starts_with('{') {
        let services = labelled(&text)
            .map_err(|(line, column, message)| anyhow!("{}:{line}:{column}: {message}", path.display()))?;
        return Ok(FileBindings { services, ..FileBindings::default() });
    }
    registered(&Config::load(path)?, path)
}

/// The services of tubular's JSON, or where it is wrong.
fn labelled(text: &str) -> Result<Vec<Bound>, (usize, usize, String)> {
    let LabelledBindings { bindings } = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // It says the place once more.
        let place = format!(" at line {} column {}", error.line(), error.column());
        (error.line(), error.column(), message.strip_suffix(&place).unwrap_or(&message).to_owned())
    })?;
    let mut services: Vec<Bound> = Vec::new();
    for LabelledBinding { label, prefix: MaskedPrefix(prefix), port } in bindings {
        let ports = match std::num::NonZeroU16::new(port) {
            None => PortRange::ALL,
            Some(port) => PortRange::new(port, port).unwrap_or(PortRange::ALL),
        };
        let both = [Protocol::Tcp, Protocol::Udp].map(|protocol| Binding { protocol, prefix, ports });
        match services.iter_mut().find(|service| service.name == label) {
            Some(service) => service.bindings.extend(both),
            None => services.push(Bound { name: label, bindings: both.into(), policy: None }),
        }
    }
    Ok(services)
}

/// The content of a configuration, whose services other programs' sockets are registered for: nothing else is served without a process.
pub(super) fn registered(planned: &Planned, path: &Path) -> anyhow::Result<FileBindings> {
    let Planned { config, plan } = planned;
    let path = path.display();
    let run = "(leave it out, or run spectrum-user --config)";
    if config.mode == ModeChoice::Tproxy {
        bail!("{path}: mode = \"tproxy\" has rules, and nothing that could be pinned {run}");
    }
    if !config.xdp.is_empty() {
        bail!("{path}: policy.xdp takes a process, with which the program on the interfaces ends {run}");
    }
    if !plan.silent().is_empty() {
        bail!(
            "{path}: on-deny = \"silent\" takes a process, which has the socket that never answers; without it who is denied is refused {run}"
        );
    }
    if config.admin.is_some() {
        bail!(
            "{path}: [admin] takes a process: spectrum-user metrics ADDRESS:PORT serves the metrics of what is pinned {run}"
        );
    }
    if !config.announcing.prefixes.is_empty() {
        bail!("{path}: what is announced is withdrawn with the process that announces it {run}");
    }
    let other = config.services.iter().find(|service| !is_registered(service));
    if let Some(Service { name, .. }) = other {
        bail!(
            "{path}: service {name} is answered by a process of ours; give it registered = true in place of origins or respond, or run \
             spectrum-user --config"
        );
    }
    let bound = |service: &Service| Bound {
        name: service.name.clone(),
        bindings: service.bindings.clone(),
        policy: None,
    };
    let services = config.services.iter().map(bound).collect();
    let mut notes = Vec::new();
    if !config.policy_places.lists().is_empty() {
        notes.push(format!(
            "note: {path}: files of prefixes are read now, and again by load-bindings {path} alone: without a process nobody sees that they change"
        ));
    }
    if plan.policies.all_interfaces().next().is_some() {
        notes.push(format!(
            "note: {path}: interfaces are those that there are now: load-bindings {path} looks for them again"
        ));
    }
    Ok(FileBindings { services, policies: Some(plan.policies.clone()), notes })
}

fn is_registered(service: &Service) -> bool {
    service.target == Target::Registered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tubulars_bindings_are_of_both_protocols_and_masked() {
        let text = r#"{ "bindings": [
            { "label": "foo", "prefix": "127.0.0.1/32", "port": 0 },
            { "label": "bar", "prefix": "1::1/64", "port": 53 },
            { "label": "foo", "prefix": "127.0.0.2/32", "port": 53 }
        ] }"#;
        let told: Vec<String> = labelled(text)
            .unwrap()
            .iter()
            .flat_map(|service| service.bindings.iter().map(|binding| format!("{} {binding}", service.name)))
            .collect();
        assert_eq!(
            told,
            [
                "foo tcp 127.0.0.1/32 1-65535",
                "foo udp 127.0.0.1/32 1-65535",
                "foo tcp 127.0.0.2/32 53",
                "foo udp 127.0.0.2/32 53",
                "bar tcp 1::/64 53",
                "bar udp 1::/64 53",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, line, what) in [
            ("{ \"bindings\": [\n{ \"label\": \"foo\", \"prefix\": \"127.0.0.1/32\" } ] }", 2, "port"),
            (
                "{ \"bindings\": [\n{ \"label\": \"foo\", \"prefix\": \"::ffff:192.0.2.1/128\", \"port\": 1 } ] }",
                2,
                "192.0.2.1",
            ),
            ("{ \"bindings\": [], \"labels\": [] }", 1, "labels"),
            ("{ \"bindings\": [\n{ \"label\": \"\", \"prefix\": \"::1\", \"port\": 1 } ] }", 2, ""),
        ] {
            let (at, _, message) = labelled(text).unwrap_err();
            assert!(at == line && message.contains(what), "{text}: {at}: {message}");
        }
    }
}
