//! Verbs of the program in a namespace, each run to its end. Starts no instance.

use serde_json::Value;

use crate::instance::{Finished, Launch};
use crate::netns::Netns;

/// Runs the verb that `line` is.
#[must_use]
pub fn verb(netns: &Netns, line: &str) -> Finished {
    Launch::new(netns).arguments(line).finish()
}

/// The same for one that must succeed: what it printed.
pub fn done(netns: &Netns, line: &str) -> String {
    let finished = verb(netns, line);
    assert_eq!(finished.code(), 0, "{finished}");
    finished.stdout
}

/// The same for one that must fail, and say these words.
pub fn refused(netns: &Netns, line: &str, words: &[&str]) {
    let finished = verb(netns, line);
    assert_ne!(finished.code(), 0, "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished}");
}

/// The status of what there is, as the program prints it for others.
///
/// # Panics
/// It prints none.
#[must_use]
pub fn status(netns: &Netns) -> Value {
    serde_json::from_str(&done(netns, "status --json")).unwrap()
}
