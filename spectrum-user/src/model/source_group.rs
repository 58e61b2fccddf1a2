//! Groups of sources that no prefix is typed for: those of a country, or of an autonomous system. Knows none of their networks.

use std::fmt;
use std::str::FromStr;

/// A group of sources, of which a database knows the networks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SourceGroup {
    /// Those of the autonomous system of this number.
    AutonomousSystem(u32),
    /// Those of the country of this code of ISO 3166-1, in capital letters.
    Country([u8; 2]),
}

impl SourceGroup {
    const AS: &str = "as:";
    const COUNTRY: &str = "country:";

    /// The group that `typed` means, where it is one and not a prefix.
    #[must_use]
    pub fn typed(typed: &str) -> Option<Result<Self, ParseSourceGroupError>> {
        let begins =
            |word: &str| typed.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        let has_cure = Self::meant(typed).is_some();
        (begins(Self::AS) || begins(Self::COUNTRY) || has_cure).then(|| typed.parse())
    }

    /// The group of the country with this code, whatever its letters are.
    #[must_use]
    pub fn country(code: &str) -> Option<Self> {
        let &[one, other] = code.as_bytes() else { return None };
        let is_code = one.is_ascii_alphabetic() && other.is_ascii_alphabetic();
        is_code.then(|| Self::Country([one.to_ascii_uppercase(), other.to_ascii_uppercase()]))
    }

    /// The kind of it, in the plural.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::AutonomousSystem(_) => "autonomous systems",
            Self::Country(_) => "countries",
        }
    }

    /// The one that a bare word stands for: no prefix is written so.
    fn meant(typed: &str) -> Option<Self> {
        let number = || {
            let digits =
                typed.get(..2).filter(|start| start.eq_ignore_ascii_case("as")).and(typed.get(2..))?;
            digits.parse().ok().map(Self::AutonomousSystem)
        };
        Self::country(typed).or_else(number)
    }
}

impl fmt::Display for SourceGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AutonomousSystem(number) => write!(f, "{}{number}", Self::AS),
            Self::Country([one, other]) => {
                write!(f, "{}{}{}", Self::COUNTRY, char::from(*one), char::from(*other))
            }
        }
    }
}

impl FromStr for SourceGroup {
    type Err = ParseSourceGroupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, rest) = match text.split_once(':') {
            Some((word, rest)) => (word.to_ascii_lowercase(), rest),
            None => {
                return Err(Self::meant(text)
                    .map_or(ParseSourceGroupError::Unknown, |meant| ParseSourceGroupError::Bare { meant }));
            }
        };
        match word.as_str() {
            "as" => match rest.parse() {
                Ok(number) if !rest.starts_with('+') => Ok(Self::AutonomousSystem(number)),
                _ => Err(match Self::meant(rest) {
                    Some(meant @ Self::AutonomousSystem(_)) => ParseSourceGroupError::Bare { meant },
                    _ => ParseSourceGroupError::Number,
                }),
            },
            "country" => {
                let group = Self::country(rest).ok_or(ParseSourceGroupError::Country)?;
                // Codes that people know from elsewhere and that no database has.
                let meant = match group {
                    Self::Country([b'U', b'K']) => Self::Country(*b"GB"),
                    Self::Country([b'E', b'L']) => Self::Country(*b"GR"),
                    _ => return Ok(group),
                };
                Err(ParseSourceGroupError::Bare { meant })
            }
            _ => Err(ParseSourceGroupError::Unknown),
        }
    }
}

/// The text is no group of sources.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseSourceGroupError {
    /// It is written otherwise.
    #[error("write \"{meant}\"")]
    Bare {
        /// The group that is meant.
        meant: SourceGroup,
    },
    /// What stands behind `country:` is no code.
    #[error("expected the two letters of ISO 3166 behind country:, as in \"country:KP\"")]
    Country,
    /// What stands behind `as:` is no number.
    #[error("expected a number from 0 to 4294967295 behind as:, as in \"as:64496\"")]
    Number,
    /// It is of no kind that there is.
    #[error("expected \"country:KP\" or \"as:64496\"")]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_typed_as_they_are_shown_and_nothing_else_is_one() {
        for typed in ["country:KP", "as:64496", "as:0", "as:4294967295"] {
            assert_eq!(SourceGroup::typed(typed).unwrap().unwrap().to_string(), typed);
        }
        assert_eq!(SourceGroup::typed("Country:kp").unwrap().unwrap().to_string(), "country:KP");
        for prefix in ["192.0.2.0/24", "::/0", "ac::/16", "nonsense", "", "a"] {
            assert_eq!(SourceGroup::typed(prefix), None, "{prefix}");
        }
        for (typed, told) in [
            ("KP", "write \"country:KP\""),
            ("as64496", "write \"as:64496\""),
            ("as:AS64496", "write \"as:64496\""),
            ("country:UK", "write \"country:GB\""),
            ("country:Korea", "expected the two letters of ISO 3166 behind country:, as in \"country:KP\""),
            ("as:4294967296", "expected a number from 0 to 4294967295 behind as:, as in \"as:64496\""),
            ("as:+1", "expected a number from 0 to 4294967295 behind as:, as in \"as:64496\""),
        ] {
            assert_eq!(SourceGroup::typed(typed).unwrap().unwrap_err().to_string(), told);
        }
    }
}
