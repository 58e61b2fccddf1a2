//! Rules about documents for readers: how long the one is that everybody reads first. Judges no sentence.

use super::{Finding, about};

/// As many words as somebody new reads in a quarter of an hour.
const WORDS: usize = 3500;

/// ARCHITECTURE.md stays short enough to be read whole; figures, trials and details have documents of their own.
pub(super) fn architecture_is_at_most_3500_words(path: &str, text: &str) -> Vec<Finding> {
    let words = text.split_whitespace().count();
    if path != "ARCHITECTURE.md" || words <= WORDS {
        return Vec::new();
    }
    vec![about(
        path,
        format!(
            "has {words} words, {WORDS} at most: figures and what was tried go to docs/performance.md, \
             details to the head of the file that they are about"
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_document_is_short_and_others_may_be_long() {
        let long = "word ".repeat(WORDS + 1);
        assert_eq!(architecture_is_at_most_3500_words("ARCHITECTURE.md", &long).len(), 1);
        assert!(architecture_is_at_most_3500_words("ARCHITECTURE.md", &"word ".repeat(WORDS)).is_empty());
        assert!(architecture_is_at_most_3500_words("docs/performance.md", &long).is_empty());
    }
}
