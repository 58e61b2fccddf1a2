//! The files of a configuration: one, or those of a directory, and what they include. Understands nothing of them but `include`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::pattern;
use super::source::{self, FileId, Read};
use crate::config::ConfigError;
use crate::config::error::Found;
use crate::config::texts::Texts;

/// The most files that a configuration may have.
const MOST_FILES: usize = 4_096;

/// What is said of more.
const TOO_MANY: &str = "4096 files are the most that a configuration may have; write some of them as one";

/// The most times that one file includes the next.
const DEEPEST: usize = 8;

/// What is read of a directory.
const OF_A_DIRECTORY: &str = "*.toml";

/// The files, and what is wrong with how they were found. Never empty.
#[derive(Debug)]
pub(super) struct FileSet {
    pub(super) texts: Texts<'static>,
    pub(super) found: Vec<Found>,
}

/// Reads what is at `path`: a file or pipe, or all files `*.toml` of a directory in the order of their names; and what they include.
///
/// # Errors
/// What is at `path`, or one of the directory's files, cannot be read. What is wrong with an included file is a problem of the
/// file that includes it.
pub(super) fn read(path: &Path) -> Result<FileSet, ConfigError> {
    let unread = |path: &Path, source| ConfigError::Read { path: path.to_owned(), source };
    let mut gathering = Gathering::default();
    if path.is_dir() {
        let files = pattern::paths(&path.join(OF_A_DIRECTORY))
            .map_err(|error| unread(path, io::Error::other(error)))?;
        if files.is_empty() {
            let reason = "it is a directory without any file *.toml; put one there, or name a file";
            return Err(unread(path, io::Error::other(reason)));
        }
        if files.len() > MOST_FILES {
            return Err(unread(path, io::Error::other(TOO_MANY)));
        }
        for file in files {
            gathering.read_listed(&file).map_err(|source| unread(&file, source))?;
        }
    } else {
        gathering.read_listed(path).map_err(|source| unread(path, source))?;
    }
    let Gathering { texts, found, .. } = gathering;
    let texts = texts.ok_or_else(|| unread(path, io::ErrorKind::NotFound.into()))?;
    Ok(FileSet { texts, found })
}

/// Files while they are being found.
#[derive(Default)]
struct Gathering {
    texts: Option<Texts<'static>>,
    found: Vec<Found>,
    /// The files that were read, each with what led to it.
    seen: HashMap<FileId, String>,
    /// Those that are being read, each including the next.
    chain: Vec<(Option<FileId>, PathBuf)>,
    bytes: u64,
    /// There were more files than there may be.
    is_full: bool,
}

/// A pattern of an `include`.
struct Included {
    /// Its path as messages have it.
    key: String,
    pattern: String,
    /// The byte at which it stands, counted through all texts.
    offset: usize,
    /// The same as a place for messages about another file.
    place: String,
}

impl Gathering {
    /// Reads a file that no other includes.
    fn read_listed(&mut self, path: &Path) -> io::Result<()> {
        let read = source::read(path, self.bytes)?;
        if let Some(before) = read.id.as_ref().and_then(|id| self.seen.get(id)) {
            return Err(io::Error::other(format!("it is read already, {before}; have it read once")));
        }
        self.take(path, read, "as one of those of --config".to_owned());
        Ok(())
    }

    /// Keeps what was read, and goes on with what that includes.
    fn take(&mut self, path: &Path, read: Read, led_by: String) {
        let Read { bytes, id } = read;
        self.bytes += bytes.len() as u64;
        if let Some(id) = id {
            self.seen.insert(id, led_by);
        }
        let (text, damage) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(valid))
            }
        };
        let included = if damage.is_none() { includes(&text) } else { Vec::new() };
        let included: Vec<_> = included
            .into_iter()
            .map(|(at, key, pattern)| {
                let line = 1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
                (at, key, pattern, format!("{}:{line}", path.display()))
            })
            .collect();
        let base = match &mut self.texts {
            None => {
                self.texts = Some(Texts::begin(path, text));
                0
            }
            Some(texts) => {
                let number = texts.push(path, text);
                texts.text(number).map_or(0, |text| text.base)
            }
        };
        if let Some(valid) = damage {
            self.found.push(Found::at(base + valid, "not UTF-8, which TOML is written in"));
        }
        self.chain.push((id, path.to_owned()));
        for (at, key, pattern, place) in included {
            self.include(path, id, &Included { key, pattern, offset: base + at, place });
        }
        self.chain.pop();
    }

    /// Reads what `included` says, which stands in the file at `path`.
    fn include(&mut self, path: &Path, id: Option<FileId>, included: &Included) {
        let Included { pattern, .. } = included;
        let is_nowhere = id.is_none() || ["/dev", "/proc"].iter().any(|special| path.starts_with(special));
        if is_nowhere && Path::new(pattern).is_relative() {
            let reason = "what comes through a pipe has no directory; write a path that begins with /";
            return self.refuse(included, reason);
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        match pattern::paths(&directory.join(pattern)) {
            Ok(paths) => paths.iter().for_each(|path| self.read_included(path, included)),
            Err(error) => self.refuse(included, error),
        }
    }

    fn read_included(&mut self, path: &Path, included: &Included) {
        if self.texts.as_ref().is_some_and(|texts| texts.each().len() >= MOST_FILES) {
            // The rest of them would say the same.
            if !std::mem::replace(&mut self.is_full, true) {
                self.refuse(included, TOO_MANY);
            }
            return;
        }
        if self.chain.len() > DEEPEST {
            let chain = self.chain_to(path);
            let reason = format_args!(
                "{chain}: files may include each other {DEEPEST} times in a row at most; \
                include it from the first"
            );
            return self.refuse(included, reason);
        }
        let read = match source::read(path, self.bytes) {
            Ok(read) => read,
            Err(error) => {
                let cure = match error.kind() {
                    io::ErrorKind::NotFound => "; make it, or take it out of include",
                    io::ErrorKind::PermissionDenied => "; let who runs spectrum-user read it",
                    _ => "",
                };
                let cure = if path.is_dir() { "; write the files, as in \"conf.d/*.toml\"" } else { cure };
                return self.refuse(included, format_args!("read {}: {error}{cure}", path.display()));
            }
        };
        if self.chain.iter().any(|(id, _)| id.is_some() && *id == read.id) {
            let reason = "files that include each other have no end; take one of them out of include";
            let chain = self.chain_to(path);
            return self.refuse(included, format_args!("{chain}: {reason}"));
        }
        if let Some(before) = read.id.as_ref().and_then(|id| self.seen.get(id)) {
            let before = before.clone();
            return self.refuse(
                included,
                format_args!("{} is read already, {before}; have it read once", path.display()),
            );
        }
        self.take(path, read, format!("by {} of {}", included.key, included.place));
    }

    /// The files of which each includes the next: `spectrum.toml > conf.d/a.toml > spectrum.toml`.
    fn chain_to(&self, path: &Path) -> String {
        let files = self.chain.iter().map(|(_, path)| path.as_path()).chain([path]);
        files.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" > ")
    }

    fn refuse(&mut self, Included { key, pattern, offset, .. }: &Included, reason: impl fmt::Display) {
        self.found.push(Found::about(*offset, key, format_args!("{pattern:?}: {reason}")));
    }
}

/// The patterns that `text` includes: where each stands, its path, and itself. What is not TOML or no pattern is refused by who reads
/// the whole.
fn includes(text: &str) -> Vec<(usize, String, String)> {
    // Most files include nothing, and parsing takes its time.
    if !text.contains("include") || super::token_beyond(super::MOST_TOKENS, text).is_some() {
        return Vec::new();
    }
    let blanked = super::without_mark(text);
    let (root, errors) = DeTable::parse_recoverable(blanked.as_deref().unwrap_or(text));
    let Some(value) = root.get_ref().get("include").filter(|_| errors.is_empty()) else { return Vec::new() };
    match value.get_ref() {
        DeValue::String(pattern) => {
            vec![(value.span().start, "include".to_owned(), pattern.clone().into_owned())]
        }
        DeValue::Array(list) => {
            let patterns = list.iter().enumerate().filter_map(|(index, element)| {
                let pattern = element.get_ref().as_str()?;
                Some((element.span().start, format!("include[{index}]"), pattern.to_owned()))
            });
            patterns.collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
