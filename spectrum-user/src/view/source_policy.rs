//! The source policies in the view, and where they are judged. Judges nobody.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::present::{Present, Seen};
use super::run_time::written;
use crate::config::{Config, FirewallChoice, ModeChoice, ReadDatabase};
use crate::model::{InterfaceName, SourceRule};
use crate::plan::firewall::{ChainPart, ChainPlace};
use crate::plan::{Plan, Policies};

/// Whom one service lets in, as far as it says so, or all together.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct SourcePolicyPlan {
    /// The service; none: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The number of prefixes that may come in.
    pub allowed: usize,
    /// The number of prefixes that may not.
    pub denied: usize,
    /// What those hear that may not; none: what is said for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_deny: Option<String>,
    /// How often a source may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// The interfaces by which clients may come; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
}

impl SourcePolicyPlan {
    /// All that `policies` say.
    pub(super) fn all(policies: &Policies) -> Vec<Self> {
        if policies.is_empty() {
            return Vec::new();
        }
        let of = |rule, entries: &[crate::model::SourceEntry]| {
            entries.iter().filter(|one| one.rule == rule).count()
        };
        let common = policies.common.entries();
        let common = Self {
            service: None,
            allowed: of(SourceRule::Allow, common),
            denied: of(SourceRule::Deny, common),
            on_deny: Some(policies.on_deny.to_string()),
            rate: policies.rate.map(|rate| rate.to_string()),
            interfaces: policies.interfaces.iter().map(ToString::to_string).collect(),
        };
        let own = policies.own.iter().map(|(name, own)| Self {
            service: Some(name.to_string()),
            allowed: of(SourceRule::Allow, own.sources.entries()),
            denied: of(SourceRule::Deny, own.sources.entries()),
            on_deny: own.on_deny.map(|on_deny| on_deny.to_string()),
            rate: own.rate.map(|rate| rate.to_string()),
            interfaces: own.interfaces.iter().map(ToString::to_string).collect(),
        });
        std::iter::once(common).chain(own).collect()
    }

    /// What it says, on one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { service: _, allowed, denied, on_deny, rate, interfaces } = self;
        let counts = [(denied, "denied"), (allowed, "allowed")];
        let counts = counts.into_iter().filter(|(count, _)| **count > 0);
        let counts = counts.map(|(count, what)| format!("{count} {what}"));
        let on_deny = on_deny.iter().map(|on_deny| format!("on-deny {on_deny}"));
        let rate = rate.iter().map(|rate| format!("rate {rate}"));
        let interfaces = (!interfaces.is_empty()).then(|| format!("interfaces {}", interfaces.join(" ")));
        counts.chain(on_deny).chain(rate).chain(interfaces).collect::<Vec<_>>().join(", ")
    }
}

/// A database of networks, and what policies take from it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct DatabasePlan {
    /// Its file.
    pub file: String,
    /// Its type, as it says itself.
    pub kind: String,
    /// The time at which it was made.
    pub built: String,
    /// The countries and autonomous systems that policies name, and the number of networks of each.
    pub networks: BTreeMap<String, usize>,
}

impl DatabasePlan {
    /// The databases that were read for `config`.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        let of = |database: &ReadDatabase| Self {
            file: database.path.display().to_string(),
            kind: database.kind.clone(),
            built: written(UNIX_EPOCH.checked_add(Duration::from_secs(database.built)).unwrap_or(UNIX_EPOCH)),
            networks: database.groups.iter().map(|(group, count)| (group.to_string(), *count)).collect(),
        };
        config.policy_places.databases().iter().map(of).collect()
    }

    /// What it says, on one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { file, kind, built, networks } = self;
        let networks: Vec<String> =
            networks.iter().map(|(group, count)| format!("{group} {count} networks")).collect();
        let networks =
            if networks.is_empty() { "nothing is taken from it".to_owned() } else { networks.join(", ") };
        format!("{file} ({kind} of {built}): {networks}")
    }
}

/// Where whom is judged on the paths that `config` leaves, a line for each; none where `plan` lets everybody in.
pub(super) fn judged(config: &Config, plan: &Plan) -> Vec<String> {
    let is_open = plan.policies.is_empty();
    let by_xdp = (!config.xdp.is_empty()).then(|| {
        let interfaces: Vec<&str> = config.xdp.iter().map(InterfaceName::as_str).collect();
        format!(
            "XDP on {}: before the stack, SYNs and datagrams of services with on-deny silent, not by interface; the rest in the socket \
             lookup; not with TPROXY",
            interfaces.join(" ")
        )
    });
    let by_lookup = (config.mode != ModeChoice::Tproxy)
        .then_some("sk_lookup: in the socket lookup, before the handshake; interfaces from Linux 5.17");
    let by_sets = (config.mode != ModeChoice::SkLookup && config.firewall != FirewallChoice::Iptables)
        .then_some("TPROXY by nftables: by sets, before the handshake");
    let by_worker = (config.mode != ModeChoice::SkLookup && config.firewall != FirewallChoice::Nftables)
        .then_some("TPROXY by iptables: by the worker process, after accept, so that on-deny silent is a reset by TCP; interfaces by rules that drop");
    let of_named = names_clients(config).then_some(
        "every path, of clients that trusted proxies name: by the worker process, after the PROXY header, not by interface",
    );
    let by_paths = [by_lookup, by_sets, by_worker, of_named].into_iter().flatten().filter(|_| !is_open);
    by_xdp.into_iter().chain(by_paths.map(str::to_owned)).collect()
}

/// True if a trusted proxy may name clients of a service.
fn names_clients(config: &Config) -> bool {
    config.services.iter().any(|one| !one.policy.trusted_proxies.prefixes.is_empty())
}

impl Present {
    /// True if the rules that steer are those of iptables, which judge no sources.
    #[must_use]
    pub fn judges_all_after_accept(&self) -> bool {
        let is_table = |part: &ChainPart| matches!(part.place, ChainPlace::Table(_));
        matches!(&self.steering, Some(Seen::Tproxy(parts)) if !parts.iter().any(is_table))
    }

    /// The clients that the worker process judges.
    pub(super) fn judged_after_accept(&self) -> Option<&'static str> {
        if self.plan.policies.is_empty() && !self.run_time.sources.is_in_use {
            return None;
        }
        let of_named = names_clients(&self.config).then_some("those that trusted proxies name");
        if self.judges_all_after_accept() { Some("all, since iptables has the rules") } else { of_named }
    }
}
