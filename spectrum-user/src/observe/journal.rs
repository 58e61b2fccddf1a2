//! systemd's journal at the other end of standard error, and how lines tell it how grave they are. Writes nothing, and asks
//! nobody.

use std::env;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// The variable in which systemd says which stream is the journal's, since what a program starts may have another one.
const STREAM: &str = "JOURNAL_STREAM";

/// How grave a line is, as syslog(3) counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Priority {
    /// Something went wrong.
    Error = 3,
    /// Something may go wrong.
    Warning = 4,
    /// What is told in any case.
    Info = 6,
    /// What is told to who looks for a mistake.
    Debug = 7,
}

impl Priority {
    /// `lines`, each of which begins with it.
    #[must_use]
    pub fn mark(self, lines: &str) -> String {
        let number = self as u8;
        lines.split_inclusive('\n').fold(String::with_capacity(lines.len() + 8), |mut marked, line| {
            marked.push('<');
            marked.push(char::from(b'0' + number));
            marked.push('>');
            marked + line
        })
    }
}

impl From<tracing::Level> for Priority {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// True if what is written to `stream` goes to the journal.
#[must_use]
pub fn is_journal(stream: impl AsFd) -> bool {
    env::var(STREAM).is_ok_and(|said| is_named(&said, stream))
}

/// True if `said` names `stream` by its device and inode.
fn is_named(said: &str, stream: impl AsFd) -> bool {
    let named = said
        .split_once(':')
        .and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    fstat(stream).is_ok_and(|stat| named == Some((stat.st_dev, stat.st_ino)))
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;

    #[test]
    fn every_line_says_how_grave_it_is() {
        assert_eq!(Priority::Error.mark("a\nb\n"), "<3>a\n<3>b\n");
        assert_eq!(Priority::from(tracing::Level::WARN).mark("a"), "<4>a");
        assert_eq!(Priority::Debug.mark(""), "");
    }

    #[test]
    fn only_the_very_stream_is_the_journal() {
        let (reader, writer) = pipe().unwrap();
        let stat = fstat(&writer).unwrap();
        assert!(is_named(&format!("{}:{}", stat.st_dev, stat.st_ino), &writer));
        let (_, other) = pipe().unwrap();
        assert!(!is_named(&format!("{}:{}", stat.st_dev, stat.st_ino), &other));
        for said in ["", "1", "a:b", "1:", ":"] {
            assert!(!is_named(said, &reader), "{said}");
        }
    }
}
