//! What is wrong with a configuration file: every problem with its place. Judges nothing.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

/// More lines than this hide the first one, which is the one to begin with.
const SHOWN: usize = 100;

/// The error of a file that is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The content of the file makes no sense.
    #[error("{}", ProblemLines(.problems))]
    Invalid {
        /// Every problem, in the order of the lines. Never empty.
        problems: Vec<Problem>,
    },
    /// There is nothing to judge.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
}

/// One thing that is wrong, and where. Prints as compilers do, so that editors can jump to it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// The file.
    #[serde(rename = "file", serialize_with = "as_text")]
    pub path: PathBuf,
    /// The line, the first is 1.
    pub line: usize,
    /// The character in the line, the first is 1.
    pub column: usize,
    /// The key, where it is about one, as the message has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key and the value, why it is wrong, and the cure.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, key: _, message } = self;
        write!(f, "{}:{line}:{column}: {message}", path.display())
    }
}

fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Problems a line each, and how many more there are.
struct ProblemLines<'a>(&'a [Problem]);

impl fmt::Display for ProblemLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\nand {more} more problems"),
        }
    }
}

/// Problems while they are being found: by their byte in the text, in any order.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    text: &'t str,
    /// The place, the fault, and the key that begins it.
    found: RefCell<Vec<(usize, String, Option<String>)>>,
    /// The offset of each line but the first; made when first asked for.
    line_starts: OnceCell<Vec<usize>>,
}

impl<'t> Problems<'t> {
    /// None so far.
    pub(super) fn in_text(text: &'t str) -> Self {
        Self { text, found: RefCell::default(), line_starts: OnceCell::new() }
    }

    /// Something is wrong at the byte `offset`.
    pub(super) fn add(&self, offset: usize, message: impl Into<String>) {
        self.found.borrow_mut().push((offset, message.into(), None));
    }

    /// Something is wrong with `key`, at the byte `offset`.
    pub(super) fn add_about(&self, offset: usize, key: impl fmt::Display, reason: impl fmt::Display) {
        let key = key.to_string();
        self.found.borrow_mut().push((offset, format!("{key}: {reason}"), Some(key)));
    }

    /// The number of problems so far.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// The line that the byte `offset` is in.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        let starts = self
            .line_starts
            .get_or_init(|| self.text.match_indices('\n').map(|(newline, _)| newline + 1).collect());
        1 + starts.partition_point(|start| *start <= offset)
    }

    /// The line and the character of each byte of `offsets`, which are in order.
    pub(super) fn locate(&self, offsets: &[usize]) -> Vec<(usize, usize)> {
        let mut position = Position { line: 1, column: 1, offset: 0 };
        let located = offsets.iter().map(|offset| {
            position = position.advanced(self.text, *offset);
            (position.line, position.column)
        });
        located.collect()
    }

    /// The problems of the file at `path`, in the order of their places.
    pub(super) fn into_error(self, path: &Path) -> ConfigError {
        let Self { text, found, .. } = self;
        let mut found = found.into_inner();
        found.sort();
        let mut position = Position { line: 1, column: 1, offset: 0 };
        let problems = found
            .into_iter()
            .map(|(offset, message, key)| {
                position = position.advanced(text, offset);
                Problem { path: path.to_owned(), line: position.line, column: position.column, key, message }
            })
            .collect();
        ConfigError::Invalid { problems }
    }
}

/// A position in a text. Found from an earlier one, so that many places in order cost one pass over the text.
#[derive(Clone, Copy, Debug)]
struct Position {
    line: usize,
    column: usize,
    offset: usize,
}

impl Position {
    fn advanced(self, text: &str, offset: usize) -> Self {
        let offset = text.floor_char_boundary(offset);
        let passed = text.get(self.offset..offset).unwrap_or_default();
        match passed.rsplit_once('\n') {
            None => Self { column: self.column + passed.chars().count(), offset, ..self },
            Some((lines, rest)) => Self {
                line: self.line + 1 + lines.bytes().filter(|byte| *byte == b'\n').count(),
                column: 1 + rest.chars().count(),
                offset,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let text = "ä = 1\nb = 2\n\nc";
        let problems = Problems::in_text(text);
        for offset in [text.len(), 0, 7, 14, 3] {
            problems.add(offset, "wrong");
        }
        assert_eq!([0, 6, 7, 14].map(|offset| problems.line_of(offset)), [1, 1, 2, 4]);
        assert_eq!(problems.locate(&[0, 3, 7, 14]), [(1, 1), (1, 3), (2, 1), (4, 1)]);
        assert_eq!(
            problems.into_error(Path::new("f")).to_string(),
            "f:1:1: wrong\nf:1:3: wrong\nf:2:1: wrong\nf:4:1: wrong\nf:4:2: wrong"
        );
    }

    #[test]
    fn of_very_many_problems_the_first_hundred_are_shown() {
        let problems = Problems::in_text("");
        for number in 0..102 {
            problems.add(0, format!("{number:03}"));
        }
        let shown = problems.into_error(Path::new("f")).to_string();
        assert_eq!(shown.lines().count(), 101);
        assert!(shown.ends_with("f:1:1: 099\nand 2 more problems"), "{shown}");
    }
}
