//! What is wrong with a configuration file: every problem with its place. Judges nothing.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::texts::Texts;

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

/// Problems while they are being found: by their byte in the texts, in any order.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    texts: &'t Texts<'t>,
    found: RefCell<Vec<Found>>,
    /// The offset of each line but the first, of each text; made when first asked for.
    line_starts: Vec<OnceCell<Vec<usize>>>,
}

/// A problem by its byte: what is wrong, and the key that begins it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Found {
    offset: usize,
    message: String,
    key: Option<String>,
}

impl Found {
    /// Something is wrong at the byte `offset`.
    pub(super) fn at(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into(), key: None }
    }

    /// Something is wrong with `key`, at the byte `offset`.
    pub(super) fn about(offset: usize, key: impl fmt::Display, reason: impl fmt::Display) -> Self {
        let key = key.to_string();
        Self { offset, message: format!("{key}: {reason}"), key: Some(key) }
    }
}

/// A place in one of the files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TextPlace {
    /// The file.
    pub(super) path: Arc<Path>,
    /// The line, the first is 1.
    pub(super) line: usize,
    /// The character in the line, the first is 1.
    pub(super) column: usize,
}

impl<'t> Problems<'t> {
    /// None so far.
    pub(super) fn in_texts(texts: &'t Texts<'t>) -> Self {
        let line_starts = texts.each().iter().map(|_| OnceCell::new()).collect();
        Self { texts, found: RefCell::default(), line_starts }
    }

    /// Something is wrong at the byte `offset`.
    pub(super) fn add(&self, offset: usize, message: impl Into<String>) {
        self.found.borrow_mut().push(Found::at(offset, message));
    }

    /// Something is wrong with `key`, at the byte `offset`.
    pub(super) fn add_about(&self, offset: usize, key: impl fmt::Display, reason: impl fmt::Display) {
        self.found.borrow_mut().push(Found::about(offset, key, reason));
    }

    /// Adds what was found before.
    pub(super) fn extend(&self, found: Vec<Found>) {
        self.found.borrow_mut().extend(found);
    }

    /// The number of problems so far.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// The line that the byte `offset` is in.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        let number = self.texts.at(offset);
        let (Some(text), Some(starts)) = (self.texts.text(number), self.line_starts.get(number)) else {
            return 1;
        };
        let starts =
            starts.get_or_init(|| text.content.match_indices('\n').map(|(newline, _)| newline + 1).collect());
        1 + starts.partition_point(|start| *start + text.base <= offset)
    }

    /// The file that has the byte `offset`.
    pub(super) fn path_of(&self, offset: usize) -> Option<&'t Path> {
        self.texts.text(self.texts.at(offset)).map(|text| &*text.path)
    }

    /// The place of the byte `offset` as who reads of a problem at the byte `other` is told of it: `line 3`, or
    /// `conf.d/web.toml:3` where that is another file.
    pub(super) fn beside(&self, offset: usize, other: usize) -> String {
        let (number, line) = (self.texts.at(offset), self.line_of(offset));
        match self.texts.text(number) {
            Some(text) if number != self.texts.at(other) => format!("{}:{line}", text.path.display()),
            _ => format!("line {line}"),
        }
    }

    /// The place of the byte `offset`: `conf.d/web.toml:3`.
    pub(super) fn place(&self, offset: usize) -> String {
        let path = self.texts.text(self.texts.at(offset)).map(|text| text.path.display().to_string());
        format!("{}:{}", path.unwrap_or_default(), self.line_of(offset))
    }

    /// The places of the bytes `offsets`, which are in order.
    pub(super) fn locate(&self, offsets: &[usize]) -> Vec<TextPlace> {
        let mut position = Position::begin(self.texts, 0);
        let located = offsets.iter().filter_map(|offset| {
            position = position.advanced(self.texts, *offset);
            position.place(self.texts)
        });
        located.collect()
    }

    /// The problems, in the order of their places.
    pub(super) fn into_error(self) -> ConfigError {
        let Self { texts, found, .. } = self;
        let mut found = found.into_inner();
        found.sort();
        // What holds for many is judged more than once.
        found.dedup();
        let mut position = Position::begin(texts, 0);
        let problems = found
            .into_iter()
            .filter_map(|Found { offset, message, key }| {
                position = position.advanced(texts, offset);
                let TextPlace { path, line, column } = position.place(texts)?;
                Some(Problem { path: path.to_path_buf(), line, column, key, message })
            })
            .collect();
        ConfigError::Invalid { problems }
    }
}

/// A position in a text. Found from an earlier one, so that many places in order cost one pass over the text.
#[derive(Clone, Copy, Debug)]
struct Position {
    text: usize,
    line: usize,
    column: usize,
    /// Within the text.
    offset: usize,
}

impl Position {
    fn begin(texts: &Texts<'_>, offset: usize) -> Self {
        Self { text: texts.at(offset), line: 1, column: 1, offset: 0 }
    }

    fn advanced(self, texts: &Texts<'_>, offset: usize) -> Self {
        let this = if texts.at(offset) == self.text { self } else { Self::begin(texts, offset) };
        let Some(text) = texts.text(this.text) else { return this };
        let offset = text.content.floor_char_boundary(offset.saturating_sub(text.base));
        let passed = text.content.get(this.offset..offset).unwrap_or_default();
        match passed.rsplit_once('\n') {
            None => Self { column: this.column + passed.chars().count(), offset, ..this },
            Some((lines, rest)) => Self {
                line: this.line + 1 + lines.bytes().filter(|byte| *byte == b'\n').count(),
                column: 1 + rest.chars().count(),
                offset,
                ..this
            },
        }
    }

    fn place(self, texts: &Texts<'_>) -> Option<TextPlace> {
        let path = Arc::clone(&texts.text(self.text)?.path);
        Some(TextPlace { path, line: self.line, column: self.column })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let text = "ä = 1\nb = 2\n\nc";
        let texts = Texts::begin(Path::new("f"), text);
        let problems = Problems::in_texts(&texts);
        for offset in [text.len(), 0, 7, 14, 3] {
            problems.add(offset, "wrong");
        }
        assert_eq!([0, 6, 7, 14].map(|offset| problems.line_of(offset)), [1, 1, 2, 4]);
        let places = problems.locate(&[0, 3, 7, 14]).into_iter().map(|place| (place.line, place.column));
        assert_eq!(places.collect::<Vec<_>>(), [(1, 1), (1, 3), (2, 1), (4, 1)]);
        assert_eq!(
            problems.into_error().to_string(),
            "f:1:1: wrong\nf:1:3: wrong\nf:2:1: wrong\nf:4:1: wrong\nf:4:2: wrong"
        );
    }

    #[test]
    fn places_of_several_files_name_theirs() {
        let mut texts = Texts::begin(Path::new("a"), "x\ny");
        assert_eq!((texts.push(Path::new("b"), "x\ny"), texts.push(Path::new("c"), "")), (1, 2));
        let problems = Problems::in_texts(&texts);
        // The end of the first, all of the second, and the empty third.
        for offset in [8, 3, 4, 6, 7] {
            problems.add(offset, "wrong");
        }
        assert_eq!(problems.beside(2, 0), "line 2");
        assert_eq!(problems.beside(2, 4), "a:2");
        assert_eq!(
            problems.into_error().to_string(),
            "a:2:2: wrong\nb:1:1: wrong\nb:2:1: wrong\nb:2:2: wrong\nc:1:1: wrong"
        );
    }

    #[test]
    fn of_very_many_problems_the_first_hundred_are_shown() {
        let texts = Texts::begin(Path::new("f"), "");
        let problems = Problems::in_texts(&texts);
        for number in 0..102 {
            problems.add(0, format!("{number:03}"));
        }
        let shown = problems.into_error().to_string();
        assert_eq!(shown.lines().count(), 101);
        assert!(shown.ends_with("f:1:1: 099\nand 2 more problems"), "{shown}");
    }
}
