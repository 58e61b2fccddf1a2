//! What is different in two archives that should have the same bytes: which of their files, in what, and from where on. Says
//! nothing of why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::shell;

/// The most that is said.
const LINES: usize = 20;

/// The differences of two archives, a line each; none, if they have the same bytes. Unpacks them in `scratch`.
pub(crate) fn between(one: &Path, other: &Path, scratch: &Path) -> Result<Vec<String>> {
    let [bytes, others] =
        [one, other].map(|path| fs::read(path).with_context(|| format!("read {}", path.display())));
    if bytes? == others? {
        return Ok(Vec::new());
    }
    let (first, second) = (unpacked(one, &scratch.join("one"))?, unpacked(other, &scratch.join("other"))?);
    let names: BTreeSet<&PathBuf> = first.keys().chain(second.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        let line = match (first.get(name), second.get(name)) {
            (Some(one), Some(other)) => one.differs(other)?,
            (Some(_), None) => Some("is in the first alone".to_owned()),
            (None, _) => Some("is in the second alone".to_owned()),
        };
        lines.extend(line.map(|line| format!("{}: {line}", name.display())));
    }
    if lines.is_empty() {
        lines.push("the same files, in another order or packed otherwise".to_owned());
    }
    if lines.len() > LINES {
        let left = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("and {left} more"));
    }
    Ok(lines)
}

/// A file of an archive.
#[derive(Debug)]
struct Member {
    path: PathBuf,
    mode: u32,
    changed: i64,
    link: Option<PathBuf>,
}

impl Member {
    fn of(path: PathBuf) -> Result<Self> {
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        let link = metadata.is_symlink().then(|| fs::read_link(&path)).transpose().context("read a link")?;
        Ok(Self { path, mode: metadata.mode(), changed: metadata.mtime(), link })
    }

    fn is_file(&self) -> bool {
        self.mode & nix::libc::S_IFMT == nix::libc::S_IFREG
    }

    /// What is different in `other`, if anything.
    fn differs(&self, other: &Self) -> Result<Option<String>> {
        if self.mode != other.mode {
            return Ok(Some(format!("mode {:o}, and {:o}", self.mode, other.mode)));
        }
        if self.link != other.link {
            return Ok(Some(format!("leads to {:?}, and {:?}", self.link, other.link)));
        }
        if self.is_file() {
            let (one, others) = (self.content()?, other.content()?);
            if let Some(at) = first_difference(&one, &others) {
                return Ok(Some(self.described(&one, &others, at)));
            }
        }
        let times = (self.changed, other.changed);
        Ok((times.0 != times.1).then(|| format!("time {}, and {}", times.0, times.1)))
    }

    /// Its bytes, unpacked if it is packed itself.
    fn content(&self) -> Result<Vec<u8>> {
        if self.path.extension().is_some_and(|extension| extension == "gz") {
            let output = shell::output(Command::new("zcat").arg(&self.path))?;
            return Ok(output.stdout);
        }
        fs::read(&self.path).with_context(|| format!("read {}", self.path.display()))
    }

    fn described(&self, one: &[u8], other: &[u8], at: usize) -> String {
        if one.starts_with(b"\x7fELF") {
            let section = section(&self.path, at).unwrap_or_else(|| "no section".to_owned());
            return format!("{} bytes, and {}; from byte {at} on, in {section}", one.len(), other.len());
        }
        let line = String::from_utf8_lossy(&one[..at]).matches('\n').count();
        let shown = |text: &[u8]| {
            let line = text.split(|byte| *byte == b'\n').nth(line).unwrap_or_default();
            String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned()
        };
        format!("line {}: {:?}, and {:?}", line + 1, shown(one), shown(other))
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let within = one.iter().zip(other).position(|(one, other)| one != other);
    within.or_else(|| (one.len() != other.len()).then_some(one.len().min(other.len())))
}

/// The section of a program that has its byte `at`.
fn section(program: &Path, at: usize) -> Option<String> {
    let mut readelf = Command::new("readelf");
    let text = shell::stdout(readelf.args(["--sections", "--wide"]).arg(program)).ok()?;
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(']')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [name, kind, _, from, length] = words.get(..5)? else { return None };
        let number = |word: &str| usize::from_str_radix(word, 16).ok();
        let (from, length) = (number(from)?, number(length)?);
        (*kind != "NOBITS" && (from..from + length).contains(&at)).then(|| (*name).to_owned())
    })
}

/// What an archive has, by the names that it has there.
fn unpacked(archive: &Path, to: &Path) -> Result<BTreeMap<PathBuf, Member>> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let mut unpack = if archive.extension().is_some_and(|extension| extension == "deb") {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("--raw-extract").arg(archive).arg(to);
        dpkg
    } else {
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--preserve-permissions", "--file"]).arg(archive).arg("--directory").arg(to);
        tar
    };
    shell::run(&mut unpack)?;
    let mut members = BTreeMap::new();
    let mut directories = vec![to.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
            let name = path.strip_prefix(to).unwrap_or(&path).to_path_buf();
            let member = Member::of(path)?;
            if member.mode & nix::libc::S_IFMT == nix::libc::S_IFDIR {
                directories.push(member.path.clone());
            }
            members.insert(name, member);
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An archive of these files, with their modes and their content.
    fn archive(directory: &Path, name: &str, files: &[(&str, u32, &str)]) -> PathBuf {
        let tree = directory.join(name);
        fs::create_dir_all(&tree).unwrap();
        for (file, mode, content) in files {
            fs::write(tree.join(file), content).unwrap();
            fs::set_permissions(tree.join(file), fs::Permissions::from_mode(*mode)).unwrap();
        }
        let archive = directory.join(format!("{name}.tar"));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--mtime=@0", "--file"]).arg(&archive);
        shell::run(tar.arg("--directory").arg(&tree).arg(".")).unwrap();
        archive
    }

    #[test]
    fn what_is_different_is_named_with_its_file_and_its_line() {
        let scratch = xtask::workspace::target_dir().join(format!("difference-test.{}", std::process::id()));
        let one = archive(
            &scratch,
            "a",
            &[("gone", 0o644, ""), ("mode", 0o644, "x"), ("same", 0o644, "x"), ("text", 0o644, "a\nb\n")],
        );
        let other =
            archive(&scratch, "b", &[("mode", 0o755, "x"), ("same", 0o644, "x"), ("text", 0o644, "a\nc\n")]);
        let differences = between(&one, &other, &scratch.join("unpacked")).unwrap();
        let itself = between(&one, &one, &scratch.join("unpacked")).unwrap();
        fs::remove_dir_all(&scratch).unwrap();
        assert_eq!(
            differences,
            [
                "gone: is in the first alone",
                "mode: mode 100644, and 100755",
                "text: line 2: \"b\", and \"c\""
            ]
        );
        assert!(itself.is_empty(), "{itself:?}");
    }
}
