//! Which path a start would take, and why. Tries none.

use std::collections::BTreeSet;

use serde::Serialize;

use super::host_facts::{Carrier, Families, HostFacts, Unknown};
use super::remains::MOST_PROGRAMS;
use crate::config::{FirewallChoice, ModeChoice};
use crate::model::Family;

/// The path that a start would take.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Choice {
    /// The mode that was asked for: `auto`, or the path that is insisted on.
    pub asked: String,
    /// `sk-lookup` or `tproxy`; nothing where no path works.
    pub mode: Option<&'static str>,
    /// The firewall that would carry the rules of TPROXY.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall: Option<&'static str>,
    /// The families that can be served.
    pub families: BTreeSet<Family>,
    /// Why this one, or why none.
    pub why: String,
}

impl Choice {
    /// The path that follows from `facts`.
    pub(super) fn of(facts: &HostFacts) -> Self {
        let none = |why: String| Self {
            asked: facts.mode.to_string(),
            mode: None,
            firewall: None,
            families: BTreeSet::new(),
            why,
        };
        let families = facts.families();
        let able = facts.loopback.as_ref().map_or_else(|_| families.set().clone(), Clone::clone);
        let local = families.served_by(&able);
        if local.is_empty() {
            return none(
                "lo is down or lacks the loopback address of a family that is to be served".to_owned(),
            );
        }
        let mut reasons = Vec::new();
        if facts.mode != ModeChoice::Tproxy {
            match sk_lookup(facts) {
                Ok(()) => {
                    let why = "the kernel loads our program and takes it".to_owned();
                    return Self { mode: Some("sk-lookup"), families: local, ..none(why) };
                }
                Err(reason) => reasons.push(format!("sk_lookup is not possible: {reason}")),
            }
        }
        if facts.mode != ModeChoice::SkLookup {
            if let Err(Unknown(why)) = &facts.firewalls {
                reasons.push(format!("TPROXY was not tried: {why}"));
            }
            for (carrier, name) in carriers(facts) {
                match tproxy(facts, &families, carrier, &local) {
                    Ok(served) => {
                        reasons.push(format!("{name} takes the rules of TPROXY"));
                        let why = reasons.join("; ");
                        return Self {
                            mode: Some("tproxy"),
                            firewall: Some(name),
                            families: served,
                            ..none(why)
                        };
                    }
                    Err(reason) => reasons.push(format!("TPROXY by {name} is not possible: {reason}")),
                }
            }
        }
        none(reasons.join("; "))
    }
}

fn sk_lookup(facts: &HostFacts) -> Result<(), String> {
    let program = facts.program.as_ref().map_err(ToString::to_string)?;
    program.filled.as_ref().map_err(ToString::to_string)?;
    // Where attaching could not be tried there is no reason to think that it would fail.
    if let Ok(attached) = &program.attached {
        attached.as_ref().map_err(ToString::to_string)?;
    }
    if facts.other_programs.as_ref().is_ok_and(|programs| programs.len() >= MOST_PROGRAMS) {
        return Err(format!("{MOST_PROGRAMS} programs are attached to the namespace already"));
    }
    if facts.rights.as_ref().is_ok_and(|rights| !rights.allow("CAP_NET_ADMIN")) {
        return Err("attaching the program and adding routes need CAP_NET_ADMIN".to_owned());
    }
    Ok(())
}

/// The families that can be served with the rules in `carrier`.
fn tproxy(
    facts: &HostFacts,
    families: &Families,
    carrier: Carrier,
    local: &BTreeSet<Family>,
) -> Result<BTreeSet<Family>, String> {
    let trials = facts.firewalls.as_deref().unwrap_or_default();
    let mut able = BTreeSet::new();
    let mut reasons: Vec<String> = Vec::new();
    for trial in trials.iter().filter(|trial| trial.carrier == carrier && local.contains(&trial.family)) {
        match &trial.outcome {
            Ok(()) => {
                able.insert(trial.family);
            }
            Err(refusal) => reasons.push(refusal.to_string()),
        }
    }
    reasons.dedup();
    let served = families.served_by(&able);
    if served.is_empty() { Err(reasons.join(", ")) } else { Ok(served) }
}

/// Those that may be taken, in the order in which they were tried: a start tries them in the same.
fn carriers(facts: &HostFacts) -> Vec<(Carrier, &'static str)> {
    let mut carriers = Vec::new();
    for trial in facts.firewalls.iter().flatten() {
        let named = match (trial.carrier, facts.firewall) {
            (Carrier::Iptables, FirewallChoice::Auto | FirewallChoice::Iptables) => "iptables",
            (Carrier::Nftables, FirewallChoice::Auto | FirewallChoice::Nftables) => "nftables",
            _ => continue,
        };
        if !carriers.contains(&(trial.carrier, named)) {
            carriers.push((trial.carrier, named));
        }
    }
    carriers
}
