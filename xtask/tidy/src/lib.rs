//! The rules of the code base that no compiler knows, each a pure function over a path and its text. Knows no git:
//! every file of the tree counts, committed or not.

mod api;
mod arrows;
mod beginnings;
mod code;
mod manifest;
mod naming;
mod picture;
mod prose;
mod source;
mod vocabulary;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use api::Apis;
use beginnings::Beginnings;
use picture::Picture;
use vocabulary::Vocabulary;

/// A place where a rule is broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The file, relative to the workspace's root.
    pub path: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The fault that was found.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// One rule: what it finds in the file `path`, relative to the root, whose content is `text`.
type Rule = fn(path: &str, text: &str) -> Vec<Finding>;

const SOURCE_RULES: [Rule; 8] = [
    arrows::modules_import_along_the_arrows,
    naming::files_are_named_by_the_noun_they_define,
    source::attributes_that_ignore_give_a_reason,
    source::files_are_at_most_1000_lines,
    source::files_open_with_a_doc_comment,
    source::promises_have_a_number,
    source::unsafe_stays_where_it_is_allowed,
    source::lines_have_no_invisible_characters,
];

/// The findings of all rules in the tree below `root`.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut beginnings = Beginnings::default();
    let mut picture = Picture::default();
    let mut vocabulary = Vocabulary::default();
    for path in files(root)? {
        let text = || fs::read_to_string(root.join(&path)).with_context(|| format!("read {path}"));
        if is_source(&path) {
            let text = text()?;
            findings.extend(SOURCE_RULES.iter().flat_map(|rule| rule(&path, &text)));
            beginnings.read(&path, &text);
            picture.read_source(&path, &text);
            vocabulary.read(&path, &text);
        } else if path.ends_with("Cargo.toml") {
            findings.extend(manifest::crates_inherit_the_lints(&path, &text()?));
        } else if has_extension(&path, "md") {
            let text = text()?;
            findings.extend(prose::architecture_is_at_most_3500_words(&path, &text));
            if path == picture::DOCUMENT {
                picture.read_document(&text);
            }
        }
    }
    findings.extend(beginnings.findings());
    findings.extend(picture.findings());
    findings.extend(vocabulary.findings());
    findings.extend(apis(root)?.findings(|path| fs::read_to_string(root.join(path)).unwrap_or_default()));
    Ok(findings)
}

/// Writes down the public APIs of the libraries as they are now.
pub fn renew_apis(root: &Path) -> Result<()> {
    for (path, text) in apis(root)?.files() {
        fs::write(root.join(&path), text).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

fn apis(root: &Path) -> Result<Apis> {
    let mut apis = Apis::default();
    for path in files(root)?.into_iter().filter(|path| is_source(path)) {
        apis.read(&path, &fs::read_to_string(root.join(&path)).with_context(|| format!("read {path}"))?);
    }
    Ok(apis)
}

/// The sources that are long enough to ask why, longest first.
pub fn long_files(root: &Path) -> Result<Vec<(String, usize)>> {
    let mut long = Vec::new();
    for path in files(root)?.into_iter().filter(|path| is_source(path)) {
        let lines =
            fs::read_to_string(root.join(&path)).with_context(|| format!("read {path}"))?.lines().count();
        if lines > source::QUESTION {
            long.push((path, lines));
        }
    }
    long.sort_by_key(|(_, lines)| std::cmp::Reverse(*lines));
    Ok(long)
}

fn is_source(path: &str) -> bool {
    has_extension(path, "rs")
}

fn has_extension(path: &str, wanted: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == wanted)
}

/// Every file below `root` that is ours, relative to it and sorted.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "target" || name.starts_with('.') {
                continue;
            }
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if let Ok(path) = entry.path().strip_prefix(root) {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// A finding about one line.
fn at(path: &str, line: usize, message: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), line, message: message.into() }
}

/// A finding about a file.
fn about(path: &str, message: impl Into<String>) -> Finding {
    at(path, 0, message)
}
