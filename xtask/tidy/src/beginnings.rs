//! The first words of doc comments: a reader looks for the thing, which "What …" or "Where …" names last. Judges no other
//! sentence.

use super::{Finding, at};

/// Words that begin a clause about a thing before the thing is named.
const CLAUSES: [&str; 10] =
    ["How", "That", "What", "When", "Where", "Whether", "Which", "Who", "Whose", "Why"];

/// One in so many may begin so all the same, where nothing else is as short.
const RARELY: usize = 20;

/// The doc comments of the tree, counted.
#[derive(Debug, Default)]
pub(super) struct Beginnings {
    all: usize,
    clauses: Vec<Finding>,
}

impl Beginnings {
    /// Counts those of the file `path`.
    pub(super) fn read(&mut self, path: &str, text: &str) {
        let mut inside = false;
        for (index, line) in text.lines().enumerate() {
            let doc = line.trim_start().strip_prefix("///").filter(|rest| !rest.starts_with('/'));
            if let (Some(doc), false) = (doc, inside) {
                self.all += 1;
                let first = doc.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next();
                if let Some(word) = first.filter(|word| CLAUSES.contains(word)) {
                    let message = format!("a doc comment begins with its subject, not with \"{word}\"");
                    self.clauses.push(at(path, index + 1, message));
                }
            }
            inside = doc.is_some();
        }
    }

    /// Every clause, if there are too many.
    pub(super) fn findings(self) -> Vec<Finding> {
        if self.clauses.len() * RARELY <= self.all { Vec::new() } else { self.clauses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        let mut beginnings = Beginnings::default();
        beginnings.read("a.rs", text);
        beginnings.findings().len()
    }

    #[test]
    fn clauses_are_found_at_the_beginning_alone() {
        assert_eq!(found("/// What is there.\nstruct A;\n"), 1);
        assert_eq!(found("/// The thing.\n/// What is there.\nstruct A;\n"), 0);
        assert_eq!(found("/// Whatever is there.\nstruct A;\n"), 0);
        assert_eq!(found("// What is there.\n//// What else.\nstruct A;\n"), 0);
    }

    #[test]
    fn one_in_twenty_is_let_pass() {
        let good = "/// The thing.\nstruct A;\n".repeat(19);
        assert_eq!(found(&format!("{good}/// What is there.\nstruct A;\n")), 0);
        assert_eq!(found(&format!("{good}/// What is there.\nstruct A;\n/// Who asks.\nstruct B;\n")), 2);
    }
}
