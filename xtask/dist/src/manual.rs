//! The manual pages of the program and of each of its verbs, from the command line's own definitions. Says nothing that
//! `--help` does not, but for files, exit codes and where to read on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_mangen::Man;

use spectrum_user::cli::Cli;

use crate::roff::escaped;

/// The title of the pages as a whole.
const MANUAL: &str = "spectrum";

/// The pages by the names of their files.
pub(crate) fn pages(date: &str) -> Result<BTreeMap<String, String>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let verbs: Vec<clap::Command> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    let mut pages = BTreeMap::new();
    for verb in &verbs {
        let name = format!("{}-{}", command.get_name(), verb.get_name());
        pages.insert(format!("{name}.1"), page(verb.clone(), &name, date, &[command.get_name()])?);
    }
    let name = command.get_name().to_owned();
    let others: Vec<String> = verbs.iter().map(|verb| format!("{name}-{}", verb.get_name())).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    pages.insert(format!("{name}.1"), page(command, &name, date, &others)?);
    Ok(pages)
}

fn page(command: clap::Command, name: &str, date: &str, others: &[&str]) -> Result<String> {
    let man =
        Man::new(command).title(name.to_owned()).section("1").date(date.to_owned()).manual(MANUAL.to_owned());
    let mut page = Vec::new();
    man.render(&mut page).with_context(|| format!("write the manual page of {name}"))?;
    let mut page = String::from_utf8(page).context("write a manual page in UTF-8")?;
    page.push_str(&closing(others));
    Ok(page)
}

/// What every page ends with.
fn closing(others: &[&str]) -> String {
    let mut text = String::from(".SH \"EXIT STATUS\"\n");
    for (code, meaning) in [
        ("0", "Done."),
        ("1", "Failed. The last line on standard error says at what."),
        ("2", "The command line was not understood."),
        ("77", "Not permitted. The message names the capability."),
        ("78", "Bad configuration: each problem with file, line, column, key and cure."),
    ] {
        let _ = writeln!(text, ".TP\n\\fB{code}\\fR\n{}", escaped(meaning));
    }
    text.push_str(".SH FILES\n");
    for (path, meaning) in [
        ("/etc/spectrum/spectrum.toml", "The configuration that the unit spectrum.service reads."),
        ("/run/spectrum", "What instances have claimed, and the sockets at which they are asked."),
        ("/usr/share/doc/spectrum", "How to run it, and examples."),
    ] {
        let _ = writeln!(text, ".TP\n\\fI{}\\fR\n{}", escaped(path), escaped(meaning));
    }
    text.push_str(".SH \"SEE ALSO\"\n");
    let mut pages: Vec<String> = others.iter().map(|name| format!("\\fB{}\\fR(1)", escaped(name))).collect();
    pages.push("\\fBspectrum.toml\\fR(5)".to_owned());
    text.push_str(&pages.join(",\n"));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_somebody_types_has_a_page_with_every_flag() {
        let pages = pages("2026-01-02").unwrap();
        let mut command = Cli::command();
        command.build();
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
        let all = verbs.map(|verb| (format!("spectrum-user-{}.1", verb.get_name()), verb.clone()));
        let mut all: Vec<_> = all.collect();
        all.push(("spectrum-user.1".to_owned(), command.clone()));
        assert_eq!(pages.len(), all.len(), "a page of no verb");
        for (name, verb) in all {
            let page = pages.get(&name).unwrap_or_else(|| panic!("no page {name}"));
            for long in
                verb.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(clap::Arg::get_long)
            {
                let flag = escaped(&format!("--{long}"));
                assert!(page.contains(&flag), "{name} says nothing of --{long}");
            }
        }
    }

    #[test]
    fn what_nobody_types_has_no_page() {
        let pages = pages("2026-01-02").unwrap();
        assert!(!pages.keys().any(|name| name.contains("worker-process") || name.contains("complete")));
    }
}
