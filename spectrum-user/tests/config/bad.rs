//! Bad configuration files, each with everything that is said about it. Judges none of them.
//!
//! A case is a file below `bad`. What is said of it stands in its last lines behind `#!`, which are no part of it:
//! `#! line:column: message`, in the order printed.

use std::fs;
use std::path::{Path, PathBuf};

/// A file and its problems.
pub(super) struct Bad {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// `line:column: message`, in the order printed.
    pub(super) problems: Vec<String>,
}

impl Bad {
    fn read(path: PathBuf) -> Self {
        let whole = fs::read_to_string(&path).unwrap();
        let (text, said) = whole.split_at(whole.find("#! ").unwrap_or(whole.len()));
        let problems = said.lines().map(|line| line.trim_start_matches("#! ").to_owned()).collect();
        Self { path, text: text.to_owned(), problems }
    }
}

/// All of them, in the order of their names.
pub(super) fn files() -> Vec<Bad> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad");
    let mut paths: Vec<PathBuf> = entries(&root).into_iter().flat_map(|area| entries(&area)).collect();
    paths.sort();
    paths.into_iter().map(Bad::read).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}
