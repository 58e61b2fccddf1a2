//! Whom pinned services let in, as their charter says it: with the very words of a configuration, so that whoever reads it understands
//! them, and a table can be made of it again. Judges nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::{
    InterfaceName, OnDeny, Prefix, ServiceName, SourceEntry, SourcePolicy, SourceRate, SourceRule,
};
use crate::plan::{OwnPolicy, Policies};

/// The policies of all services.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct PolicyClauses {
    #[serde(flatten)]
    common: PolicyClause,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<ServiceName, PolicyClause>,
}

/// A policy: that of all services, or of one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PolicyClause {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<Prefix>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny: Vec<Prefix>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_deny: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    interfaces: BTreeSet<InterfaceName>,
}

impl PolicyClauses {
    pub(super) fn of(policies: &Policies) -> Self {
        let Policies { common, on_deny, rate, interfaces, own } = policies;
        let own = own.iter().map(|(name, own)| {
            let OwnPolicy { sources, on_deny, rate, interfaces } = own;
            (name.clone(), PolicyClause::of(sources, *on_deny, *rate, interfaces))
        });
        let on_deny = Some(*on_deny).filter(|word| *word != OnDeny::default());
        Self { common: PolicyClause::of(common, on_deny, *rate, interfaces), services: own.collect() }
    }

    /// True if everybody is let in.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The policies that they say, or what is wrong with them.
    pub(super) fn policies(&self) -> Result<Policies, String> {
        let OwnPolicy { sources: common, on_deny, rate, interfaces } = self.common.policy()?;
        let own = self.services.iter().map(|(name, clause)| Ok((name.clone(), clause.policy()?)));
        let own = own.collect::<Result<_, String>>()?;
        Ok(Policies { common, on_deny: on_deny.unwrap_or_default(), rate, interfaces, own })
    }
}

impl PolicyClause {
    fn of(
        sources: &SourcePolicy,
        on_deny: Option<OnDeny>,
        rate: Option<SourceRate>,
        interfaces: &BTreeSet<InterfaceName>,
    ) -> Self {
        let of = |rule| {
            let entries = sources.entries().iter().filter(move |entry| entry.rule == rule);
            entries.map(|entry| entry.prefix).collect()
        };
        Self {
            allow: of(SourceRule::Allow),
            deny: of(SourceRule::Deny),
            on_deny: on_deny.map(|word| word.to_string()),
            rate: rate.map(|rate| rate.to_string()),
            interfaces: interfaces.clone(),
        }
    }

    fn policy(&self) -> Result<OwnPolicy, String> {
        let entry = |rule| move |prefix: &Prefix| SourceEntry { prefix: *prefix, rule };
        let entries: Vec<SourceEntry> = self
            .allow
            .iter()
            .map(entry(SourceRule::Allow))
            .chain(self.deny.iter().map(entry(SourceRule::Deny)))
            .collect();
        let sources = SourcePolicy::of(&entries)
            .map_err(|ties| format!("{} prefixes are allowed and denied at once", ties.len()))?;
        let (on_deny, rate) = (parsed(self.on_deny.as_deref())?, parsed(self.rate.as_deref())?);
        Ok(OwnPolicy { sources, on_deny, rate, interfaces: self.interfaces.clone() })
    }
}

fn parsed<T: FromStr<Err: Display>>(text: Option<&str>) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|error| format!("{text:?}: {error}"))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_was_meant() {
        let text = "policy = { deny = [\"198.51.100.0/24\", \"2001:db8::/32\"], allow = [\"198.51.100.7\"], on-deny = \"silent\" }\n\
                    [[service]]\nname = \"web\"\nregistered = true\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n\
                    policy = { rate = \"50/s burst 100 per /32 /64\", interfaces = [\"eth0\"], on-deny = \"refuse\", deny = \"203.0.113.9\" }\n";
        let planned = crate::config::Config::parse(std::path::Path::new("x.toml"), text).unwrap();
        let clauses = PolicyClauses::of(&planned.plan.policies);
        let told = serde_json::to_string(&clauses).unwrap();
        assert!(!clauses.is_empty() && told.contains("\"on-deny\":\"silent\""), "{told}");
        let read: PolicyClauses = serde_json::from_str(&told).unwrap();
        assert_eq!(read.policies().unwrap(), planned.plan.policies);
        assert!(PolicyClauses::of(&Policies::default()).is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, what) in [
            ("{\"allow\":[\"192.0.2.0/24\"],\"deny\":[\"192.0.2.0/24\"]}", "allowed and denied at once"),
            ("{\"rate\":\"often\"}", "\"often\": "),
        ] {
            let clauses: PolicyClauses = serde_json::from_str(text).unwrap();
            let why = clauses.policies().unwrap_err();
            assert!(why.contains(what), "{why}");
        }
    }
}
