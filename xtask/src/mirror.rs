//! Where Debian's archives are for this host. Asks no mirror anything.

use std::fs;
use std::path::{Path, PathBuf};

/// One of Debian's archives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mirror {
    /// Releases, and what is between them.
    Debian,
    /// Security updates.
    Security,
}

impl Mirror {
    /// The address that `sources` give, else the one for everybody.
    pub fn uri(self, sources: &str) -> &str {
        let (name, default) = match self {
            Self::Debian => ("/debian", "http://deb.debian.org/debian"),
            Self::Security => ("/debian-security", "http://deb.debian.org/debian-security"),
        };
        sources
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_whitespace)
            .map(|word| word.trim_end_matches('/'))
            .find(|word| word.starts_with("http") && word.ends_with(name))
            .unwrap_or(default)
    }
}

/// All that this host's apt is told about where to look.
#[must_use]
pub fn host_sources() -> String {
    let directory = Path::new("/etc/apt/sources.list.d");
    let parts = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    parts
        .chain([PathBuf::from("/etc/apt/sources.list")])
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_those_of_the_host() {
        let sources = "# deb http://old.example/debian x main\nURIs: http://mirror.example/debian/\nURIs: https://mirror.example/debian-security";
        assert_eq!(Mirror::Debian.uri(sources), "http://mirror.example/debian");
        assert_eq!(Mirror::Security.uri(sources), "https://mirror.example/debian-security");
        assert_eq!(Mirror::Debian.uri(""), "http://deb.debian.org/debian");
    }
}
