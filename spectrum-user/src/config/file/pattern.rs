//! The paths that a pattern such as `conf.d/*.toml` stands for. Opens none of them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// A directory of more names than this is no directory of configurations.
const MOST_NAMES: usize = 16_384;

/// The ends of names that editors and package managers give what is not to be read any more, or not yet.
const LEFT_OUT: [&str; 15] = [
    "~",
    "#",
    ".bak",
    ".new",
    ".old",
    ".orig",
    ".rej",
    ".save",
    ".swp",
    ".tmp",
    ".dpkg-bak",
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-old",
    ".dpkg-tmp",
];

/// The same of other package managers.
const LEFT_OUT_TOO: [&str; 6] = [".rpmnew", ".rpmorig", ".rpmsave", ".ucf-dist", ".ucf-new", ".ucf-old"];

/// Why a pattern stands for nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatternError {
    /// A directory cannot be listed.
    #[error("list {}: {source}", path.display())]
    List { path: PathBuf, source: io::Error },
    /// There are very many names.
    #[error("{} has more than {MOST_NAMES} names; give the configuration a directory of its own", path.display())]
    TooMany { path: PathBuf },
    /// It asks for directories of any depth.
    #[error("** is not understood; write each directory, as in \"conf.d/*/*.toml\"")]
    AnyDepth,
}

/// The paths, in the order of their names. A path without `*` and `?` stands for itself, whether it is there or not; one with them
/// for all that is there, except what is hidden, and what is left over from editing or from packages.
pub(super) fn paths(pattern: &Path) -> Result<Vec<PathBuf>, PatternError> {
    let mut paths = vec![PathBuf::new()];
    for component in pattern.components() {
        match component {
            Component::Normal(name) if name == "**" => return Err(PatternError::AnyDepth),
            Component::Normal(name) if is_wild(name) => {
                let mut matching = Vec::new();
                for directory in &paths {
                    // What matched above may be a file, which has nothing in it.
                    let names = match names(directory, name) {
                        Err(PatternError::List { source, .. })
                            if paths.len() > 1 && source.kind() == io::ErrorKind::NotADirectory =>
                        {
                            continue;
                        }
                        listed => listed?,
                    };
                    matching.extend(names);
                    if matching.len() > MOST_NAMES {
                        return Err(PatternError::TooMany { path: directory.clone() });
                    }
                }
                paths = matching;
            }
            _ => paths.iter_mut().for_each(|path| path.push(component)),
        }
    }
    Ok(paths)
}

/// The paths in `directory` whose names match, sorted.
fn names(directory: &Path, pattern: &OsStr) -> Result<Vec<PathBuf>, PatternError> {
    let failed = |source| PatternError::List { path: shown(directory).to_owned(), source };
    let mut names = Vec::new();
    for (count, entry) in std::fs::read_dir(shown(directory)).map_err(failed)?.enumerate() {
        if count >= MOST_NAMES {
            return Err(PatternError::TooMany { path: shown(directory).to_owned() });
        }
        let name = entry.map_err(failed)?.file_name();
        if !is_left_out(&name, pattern) && matches(pattern.as_bytes(), name.as_bytes()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn shown(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

fn is_wild(name: &OsStr) -> bool {
    name.as_bytes().iter().any(|byte| b"*?".contains(byte))
}

/// True of what is hidden, and of what is left over, unless the pattern itself says so.
fn is_left_out(name: &OsStr, pattern: &OsStr) -> bool {
    let ends_so = |name: &OsStr, end: &str| name.as_bytes().ends_with(end.as_bytes());
    let is_hidden = |name: &OsStr| name.as_bytes().starts_with(b".");
    is_hidden(name) && !is_hidden(pattern)
        || LEFT_OUT.iter().chain(&LEFT_OUT_TOO).any(|end| ends_so(name, end) && !ends_so(pattern, end))
}

/// True if `name` is as `pattern` has it, where `*` is any bytes and `?` one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Of the last star: the place behind it, and how far it reaches.
    let mut star = None;
    while let Some(byte) = name.get(read) {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, read));
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((behind, reach)) = star else { return false };
                star = Some((behind, reach + 1));
                (at, read) = (behind, reach + 1);
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn stars_are_any_bytes_and_question_marks_one() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml.bak", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("??-*.toml", "10-web.toml", true),
            ("??-*.toml", "1-web.toml", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_hidden_or_left_over_is_left_out_and_the_rest_is_sorted() {
        let top = std::env::temp_dir().join(format!("spectrum-pattern-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        for directory in ["b", "a"] {
            fs::create_dir_all(top.join(directory)).unwrap();
        }
        for name in [
            "b/2.toml",
            "b/10.toml",
            "a/z.toml",
            "a/.hidden.toml",
            "a/z.toml~",
            "a/z.toml.dpkg-old",
            "a/#z.toml#",
            "plain",
        ] {
            fs::write(top.join(name), "").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let paths = paths(&top.join(pattern)).unwrap();
            paths.iter().map(|path| path.strip_prefix(&top).unwrap().display().to_string()).collect()
        };
        assert_eq!(found("b/*.toml"), ["b/10.toml", "b/2.toml"]);
        assert_eq!(found("a/*"), ["a/z.toml"]);
        assert_eq!(found("a/.*"), ["a/.hidden.toml"]);
        assert_eq!(found("a/*.dpkg-old"), ["a/z.toml.dpkg-old"]);
        assert_eq!(found("*/*.toml"), ["a/z.toml", "b/10.toml", "b/2.toml"]);
        assert_eq!(found("a/*.conf"), [""; 0]);
        assert_eq!(found("none/z.toml"), ["none/z.toml"]);
        let error = |pattern: &str| paths(&top.join(pattern)).unwrap_err().to_string();
        assert!(error("none/*.toml").ends_with("none: No such file or directory (os error 2)"));
        assert!(error("**/z.toml").starts_with("** is not understood; write each directory"));
        fs::remove_dir_all(&top).unwrap();
    }
}
