//! The releases of Debian that a clean root can be of. Fetches nothing.

use std::fmt;

/// A release.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Release {
    /// Debian 12, which the documents speak of.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Release {
    /// All of them, the oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// Its name in the archive.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
