//! The error of a text that should be one of few words. Does not know what may have been meant.

use std::fmt;

/// The error of a text that is none of an enum's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {}", Either(.words))]
pub struct UnknownWord {
    words: &'static [&'static str],
}

impl UnknownWord {
    /// The error of a text that is none of `T`'s words.
    #[must_use]
    pub fn of<T: strum::VariantNames>(_typed: &str) -> Self {
        Self { words: T::VARIANTS }
    }
}

/// Alternatives: `a`, `a or b`, `a, b or c`.
#[derive(Clone, Copy, Debug)]
pub struct Either<'a>(pub &'a [&'a str]);

impl fmt::Display for Either<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            [word] => f.write_str(word),
            [first @ .., last] => write!(f, "{} or {last}", first.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_read_as_a_sentence() {
        assert_eq!(Either(&["a"]).to_string(), "a");
        assert_eq!(Either(&["a", "b"]).to_string(), "a or b");
        assert_eq!(UnknownWord { words: &["a", "b", "c"] }.to_string(), "expected a, b or c");
    }
}
