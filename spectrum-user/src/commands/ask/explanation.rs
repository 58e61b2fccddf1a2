//! An explanation as people read it. Explains nothing itself.

use std::io::{self, Write};

use super::status::cookies;
use crate::control::{Decider, Explanation, Outcome, Treatment};
use crate::view::BindingView;

/// Writes `explanation`, a fact a line.
pub(super) fn write(explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
    let Explanation { protocol, dialled, from, outcome, .. } = explanation;
    writeln!(out, "{protocol} {dialled} from {from}")?;
    let mut fact = |name: &str, text: &str| writeln!(out, "  {name:<10}{text}");

    let outcome = match outcome {
        Outcome::Passed => "passed: none of our business",
        Outcome::Refused => "refused",
        Outcome::Steered => "steered",
    };
    match &explanation.detail {
        Some(detail) => fact("outcome", &format!("{outcome}; {detail}"))?,
        None => fact("outcome", outcome)?,
    }
    if let Some(binding) = &explanation.binding {
        fact("binding", &shown(binding))?;
    }
    fact("why", &explanation.why)?;
    let mut name = "hides";
    for hidden in &explanation.hides {
        fact(name, &shown(hidden))?;
        name = "";
    }
    if explanation.binding.is_some() && explanation.hides.is_empty() {
        fact("hides", "nothing")?;
    }
    if let Some(nearest) = &explanation.nearest {
        fact("nearest", &shown(nearest))?;
    }
    if let Some(listener) = &explanation.listener {
        fact("listener", &format!("{} {}", listener.address, cookies(&listener.cookies)))?;
    }
    if let Some(Treatment { target, policy, origins }) = &explanation.treatment {
        let mut name = "answers";
        // What stands between semicolons stands for itself.
        for line in target.split("; ").chain(policy.iter().map(String::as_str)) {
            fact(name, line)?;
            name = "";
        }
        let mut name = "origins";
        for origin in origins {
            let address = origin.address.as_deref().unwrap_or(&origin.plan.origin);
            fact(name, &format!("{address} {}", origin.condition_line()))?;
            name = "";
        }
    }
    let asked = match (explanation.decided_by, &explanation.not_asked) {
        (Decider::Kernel, _) => "the kernel, by a test run of the attached program".to_owned(),
        (Decider::Host, Some(reason)) => format!("the host's copy of the decision: {reason}"),
        (Decider::Host, None) => "the host's copy of the decision".to_owned(),
    };
    fact("asked", &asked)?;
    for note in &explanation.notes {
        fact("note", note)?;
    }
    if let Some(disagreement) = &explanation.disagreement {
        writeln!(
            out,
            "WARNING: the kernel and the configuration disagree: {disagreement}. This is a defect; report it."
        )?;
    }
    Ok(())
}

fn shown(binding: &BindingView) -> String {
    let BindingView { protocol, prefix, ports, service, destination } = binding;
    format!("{protocol} {prefix} {ports} -> service {service}, destination {destination}")
}
