//! What the documents say that a machine can check: links, flags, and the words of a record. Does not judge prose.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use spectrum_proxy::End;
use spectrum_user::cli::Cli;

const DOCUMENTS: [&str; 14] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/fleet.md",
    "docs/from-tubular.md",
    "docs/glossary.md",
    "docs/kernels.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/registered.md",
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
fn the_unit_that_is_shown_is_that_of_the_package() {
    let text = read("docs/operations.md");
    let shown = between(&text, "```ini\n", '`').find(|block| block.starts_with("[Unit]\n")).unwrap();
    assert_eq!(shown, read("packaging/systemd/spectrum.service"));
}

/// What stands for something in a line that is shown, and something that it may stand for.
const MEANT: [(&str, &str); 14] = [
    ("$MAINPID", "4711"),
    ("$SPECTRUM_FLAGS", "--workers=2"),
    ("ADDRESS:PORT", "192.0.2.1:80"),
    ("ADDR", "127.0.0.1:9180"),
    ("DIR", "/etc/spectrum"),
    ("FILE", "spectrum.toml"),
    ("ID", "3fa2c1"),
    ("N", "2"),
    ("ORIGIN", "203.0.113.10"),
    ("PREFIX", "192.0.2.0/24"),
    ("SERVICE", "web"),
    ("TEXT", "maintenance"),
    ("\"$pid\"", "4711"),
    ("\"$unit\"", "4711"),
];

/// The words of a line that begins with the program's name or a verb of its, as a shell hands them over: up to what is the
/// shell's own, or a comment.
fn words(line: &str) -> Vec<String> {
    let line = line.replace(['[', ']'], "");
    let of_shell =
        |word: &&str| ["#", ">", "|", "&&", "2>&1", "2>/dev/null", "<"].contains(word) || word.is_empty();
    // What is explained stands two spaces behind.
    let words = line.split(' ').take_while(|word| !of_shell(word));
    let is_last = |word: &&str| word.ends_with([';', ',', ')']);
    let mut taken = Vec::new();
    for word in words {
        let plain = word.trim_matches(['\'', ';', ',', ')']);
        let meant = MEANT.iter().find(|(stands, _)| *stands == plain || *stands == word);
        taken.push(meant.map_or(plain, |(_, meaning)| meaning).to_owned());
        if is_last(&word) {
            break;
        }
    }
    taken
}

/// The lines of `text` that somebody could type: of the program by its name, also after sudo or a path, and of its verbs in
/// code that has a flag. Those that are a line of their own are whole.
fn command_lines(text: &str, verbs: &[String]) -> Vec<(bool, Vec<String>)> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let begins = ["spectrum-user ", "cargo xtask run -- "];
        let plain = line.trim_start_matches([' ', '#', '$']).trim_start_matches("sudo ");
        let plain = plain.split_once("=/usr/bin/").map_or(plain, |(_, rest)| rest);
        let plain = plain.trim_start_matches("-/usr/bin/");
        if let Some(rest) = begins.iter().find_map(|begin| plain.strip_prefix(begin)) {
            lines.push((true, rest.to_owned()));
        }
        for code in line.split('`').skip(1).step_by(2) {
            let named = code.trim_start_matches("sudo ").strip_prefix("spectrum-user ");
            let verb = code.split(' ').next().filter(|word| verbs.iter().any(|verb| verb == word));
            if let Some(line) = named.or(verb.filter(|_| code.contains(" --")).map(|_| code)) {
                lines.push((false, line.to_owned()));
            }
        }
    }
    let lines = lines.iter().map(|(is_whole, line)| (*is_whole, words(line)));
    lines.filter(|(_, words)| !words.is_empty()).collect()
}

#[test]
fn every_command_line_that_is_shown_is_understood() {
    let command = Cli::command();
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let others = [
        "config/spectrum.toml",
        "docs/upgrade.md",
        "packaging/spectrum.toml",
        "packaging/container/Containerfile",
        "packaging/systemd/spectrum.service",
    ];
    let mut understood = 0;
    for document in DOCUMENTS.into_iter().chain(others) {
        for (is_whole, words) in command_lines(&read(document), &verbs) {
            let line = std::iter::once("spectrum-user").chain(words.iter().map(String::as_str));
            match Cli::parse_words(line.map(Into::into)) {
                Ok(_) => understood += 1,
                // What is told of a verb need not be all that it takes.
                Err(error) if !is_whole && error.kind() != ErrorKind::UnknownArgument => {}
                Err(error) => assert!(!error.use_stderr(), "{document} shows {words:?}: {error}"),
            }
        }
    }
    assert!(understood > 40, "only {understood} lines were found");
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
