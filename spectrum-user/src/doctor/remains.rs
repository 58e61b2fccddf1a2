//! What is in the namespace already: leftovers of dead instances, programs of others, and what a configuration runs into.
//! Removes nothing.

use super::findings::Findings;
use super::host_facts::{BindingsSource, HostFacts, Subject};
use crate::plan::{Effect, Obstacle};
use spectrum_steering::dispatcher::AttachedProgram;

/// A namespace takes no more (include/linux/bpf-netns.h).
pub(super) const MOST_PROGRAMS: usize = 64;

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    if let Some(leftovers) = findings.known("leftovers", &facts.leftovers) {
        if leftovers.is_empty() {
            findings.ok("leftovers", "none", "no route or rule of a dead instance is there");
        } else {
            findings.warn(
                "leftovers",
                leftovers.len().to_string(),
                &format!("a dead instance left {}, which the next start removes", leftovers.join(", ")),
                "spectrum-user clean",
            );
        }
    }
    for missing in &facts.missing {
        findings.warn(
            "instances",
            "something is missing",
            &format!("{missing}: its clients are not served as they should be"),
            "spectrum-user reload puts it back; its log says who removed it",
        );
    }
    if let Some(programs) = findings.known("other programs", &facts.other_programs) {
        others(programs, facts.sk_lookup_instances, findings);
    }
    let Some(Subject { plan, from: BindingsSource::Configuration }) = &facts.subject else { return };
    if let Some(claimed) = findings.known("claims", &facts.claimed) {
        if claimed.is_empty() {
            findings.ok("claims", "none", "no running instance has any of the prefixes");
        } else {
            findings.miss(
                "claims",
                format!("{} taken", claimed.len()),
                &format!("{}: a start refuses that", some_of(claimed)),
                "other prefixes, or stop that instance; if it runs this file itself, reload it instead",
            );
        }
    }
    if let Some(covered) = findings.known("addresses", &facts.covered) {
        if covered.is_empty() {
            findings.ok(
                "addresses",
                "none covered",
                "no binding cuts what listens on addresses of the host's interfaces",
            );
        } else {
            findings.miss(
                "addresses",
                format!("{} covered", covered.len()),
                &format!(
                    "{}, and the bindings cut what listens there: a start refuses that",
                    covered.join(", ")
                ),
                "other prefixes or ports; --force ADDRESS where it is meant",
            );
        }
    }
    if let Some(admin) = facts.admin {
        match plan.hiding_admin(admin) {
            None => findings.ok("admin", admin.to_string(), "no binding hides metrics and health"),
            Some(hiding) => findings.miss(
                "admin",
                admin.to_string(),
                &format!("metrics and health are hidden {hiding}: a start refuses that"),
                "another address or port for [admin] listen; --force where it is meant",
            ),
        }
    }
    if let Some(listings) = findings.known("obstacles", &facts.listings) {
        let obstacles = plan.obstacles(listings);
        for obstacle in &obstacles {
            let Obstacle { chain, rule, effect, hindered, cure } = obstacle;
            let meaning = format!("{rule} {} {hindered}", effect.words());
            match effect {
                Effect::Exempted => findings.ok(
                    "obstacle",
                    chain,
                    &format!("{meaning}: a running instance exempts what it binds"),
                ),
                Effect::Drops => findings.warn("obstacle", chain, &meaning, cure),
                Effect::MayTake | Effect::MayTakeOwn | Effect::Takes => findings.warn(
                    "obstacle",
                    chain,
                    &format!("{meaning} before they are steered; an instance exempts what it binds, with nat = \"exempt\""),
                    cure,
                ),
            }
        }
        if obstacles.is_empty() {
            findings.ok("obstacles", "none", "no rule drops or takes what is to be served");
        }
    }
}

/// The first few of what may be thousands.
fn some_of(lines: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = lines.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match lines.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Programs that are not those of live instances.
fn others(programs: &[AttachedProgram], ours: usize, findings: &mut Findings) {
    let check = "other programs";
    let named = |program: &AttachedProgram| match &program.name {
        Some(name) => format!("{} ({name})", program.id),
        None => program.id.to_string(),
    };
    let is_like_ours = |program: &&AttachedProgram| {
        program.name.as_deref().is_none_or(|name| name == spectrum_common::names::PROGRAM)
    };
    // Of more than there are instances some are somebody else's, whichever they are.
    let foreign: Vec<String> = if programs.iter().filter(is_like_ours).count() > ours {
        programs.iter().map(named).collect()
    } else {
        programs.iter().filter(|program| !is_like_ours(program)).map(named).collect()
    };
    if programs.len() >= MOST_PROGRAMS {
        findings.miss(
            check,
            format!("{} are attached", programs.len()),
            "the namespace takes no more: sk_lookup is not possible here",
            "detach one: bpftool link",
        );
    } else if foreign.is_empty() {
        findings.ok(check, "none", "nobody else chooses sockets in this namespace");
    } else {
        findings.warn(
            check,
            foreign.join(", "),
            "they may choose another socket after ours has chosen",
            "bpftool link tells whose they are",
        );
    }
}
