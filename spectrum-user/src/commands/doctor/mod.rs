//! `doctor`: what this host can do and what it lacks. Reads facts, has them judged, and prints; changes nothing.

mod announcing;
mod facts;
mod trial;
mod workers;

use std::io::{self, Write};

use anyhow::bail;

use super::answer::print;
use super::columns::Columns;
use crate::cli::DoctorArgs;
use crate::config::{Config, Planned};
use crate::confinement::take_up_capabilities;
use crate::doctor::{Diagnosis, diagnose};
use spectrum_steering::host;

/// Prints the diagnosis.
///
/// # Errors
/// When no path works, after printing; when the configuration is bad or the namespace cannot be entered, before.
pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    take_up_capabilities()?;
    let wanted = match &args.config {
        Some(path) => {
            let Planned { config, plan } = Config::load(path)?;
            Some((config, plan))
        }
        None => None,
    };
    // Only the first namespace shows it, so it is read before another is entered.
    let jit = host::setting("net/core/bpf_jit_enable");
    // Before any thread exists: each is in the namespace that its parent was in.
    if let Some(netns) = &args.netns {
        host::enter_namespace(netns)?;
    }
    let diagnosis = diagnose(&facts::read(wanted, jit)?);

    print("write the diagnosis", &diagnosis, args.json, |out| write_text(&diagnosis, out))?;
    if diagnosis.path.mode.is_none() {
        bail!("no path works here: {}", diagnosis.path.why);
    }
    Ok(())
}

fn write_text(diagnosis: &Diagnosis, out: &mut dyn Write) -> io::Result<()> {
    let mut columns = Columns::of(["VERDICT", "CHECK", "FOUND", "MEANING"]);
    for finding in &diagnosis.findings {
        let meaning = match &finding.cure {
            Some(cure) => format!("{}; cure: {cure}", finding.meaning),
            None => finding.meaning.clone(),
        };
        columns.row([&finding.verdict.to_string(), &finding.check, &finding.value, &meaning]);
    }
    columns.write(out, "")?;
    for unknown in &diagnosis.unknown {
        writeln!(out, "could not look at {unknown}")?;
    }
    let path = &diagnosis.path;
    let taken = match (path.mode, path.firewall) {
        (Some(mode), Some(firewall)) => format!("takes {mode} by {firewall}"),
        (Some(mode), None) => format!("takes {mode}"),
        (None, _) => "finds no path".to_owned(),
    };
    let families = match path.families.iter().collect::<Vec<_>>()[..] {
        [only] => format!(" for {only} only"),
        _ => String::new(),
    };
    writeln!(out, "\n--mode {} {taken}{families}: {}", path.asked, path.why)
}
