//! What the documents say that a machine can check: links, flags, and the words of a record. Does not judge prose.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use spectrum_proxy::End;
use spectrum_user::cli::Cli;

const DOCUMENTS: [&str; 11] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/glossary.md",
    "docs/kernels.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/threat-model.md",
    "docs/transparent.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

/// Every text between `open` and the next `close`.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split(close).next())
}

/// The names that links give the sections of `text`, as GitHub makes it of their headings.
fn sections(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    headings
        .map(|heading| {
            heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn links_lead_to_files_and_sections_that_exist() {
    for document in DOCUMENTS {
        let text = read(document);
        let beside = root().join(document).parent().unwrap().to_owned();
        for link in between(&text, "](", ')').filter(|link| !link.starts_with("http")) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { root().join(document) } else { beside.join(file) };
            assert!(file.exists(), "{document} links to {link}");
            let known = || sections(&fs::read_to_string(&file).unwrap());
            assert!(section.is_empty() || known().contains(section), "{document} links to {link}");
        }
    }
}

#[test]
fn flags_after_the_program_s_name_exist() {
    let command = Cli::command();
    let known: BTreeSet<String> = std::iter::once(&command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
        .chain(["--help", "--version"].map(ToOwned::to_owned))
        .collect();
    for document in DOCUMENTS {
        let text = read(document);
        // In a table's cell or a line of code; other programs' flags stand after other names.
        for line in text.lines().filter(|line| line.contains("spectrum-user --") || line.contains("| `--")) {
            for flag in line.split([' ', '`', '\'', '"']).filter(|word| word.starts_with("--")) {
                assert!(known.contains(flag), "{document} speaks of {flag}");
            }
        }
    }
}

#[test]
fn every_end_of_a_connection_is_explained_with_its_status() {
    let text = read("docs/operations.md");
    let mut explained = BTreeMap::new();
    let table = text.lines().skip_while(|line| !line.starts_with("| `end` | `status` |")).skip(2);
    for row in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (words, statuses) = (cells[1].split(", "), cells[2].split(", "));
        assert_eq!(words.clone().count(), statuses.clone().count(), "{row}");
        for (word, status) in words.zip(statuses) {
            let word = word.trim_matches('`').to_owned();
            assert!(explained.insert(word, status.parse::<u16>().unwrap()).is_none(), "{row} comes twice");
        }
    }
    let ends: BTreeMap<String, u16> =
        End::ALL.iter().map(|end| (end.word().to_owned(), end.status())).collect();
    assert_eq!(explained, ends, "the table of docs/operations.md, and what the program has");
}
