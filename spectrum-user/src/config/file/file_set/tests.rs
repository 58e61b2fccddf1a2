//! Directories of configuration files, read as they are on a disk. Knows nothing of what the files say.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError, Planned};

/// A directory of its own for each test, removed afterwards.
struct Directory(PathBuf);

impl Directory {
    fn with(name: &str, files: &[(&str, &str)]) -> Self {
        let top = std::env::temp_dir().join(format!("spectrum-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(&top).unwrap();
        let directory = Self(top);
        for (path, text) in files {
            directory.write(path, text);
        }
        directory
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn load(&self, path: &str) -> Result<Planned, ConfigError> {
        Config::load(&self.0.join(path))
    }

    /// The services, and the files, of a good one.
    fn good(&self, path: &str) -> (Vec<String>, Vec<String>) {
        let config = self.load(path).unwrap_or_else(|error| panic!("{error}")).config;
        let services = config.services.iter().map(|service| service.name.to_string());
        let files = config.files.iter().map(|file| self.short(&file.display().to_string()));
        (services.collect(), files.collect())
    }

    /// What is said of a bad one, with paths from this directory on.
    fn bad(&self, path: &str) -> String {
        let error = self.load(path).map(|planned| planned.config.files).unwrap_err();
        self.short(&format!("{:#}", anyhow::Error::from(error)))
    }

    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.display()), "").replace(&self.0.display().to_string(), ".")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"192.0.2.0/24\", ports = {port} }}]\n\
         origins = [\"203.0.113.10:{port}\"]\n"
    )
}

#[test]
fn a_directory_is_all_of_its_files_in_the_order_of_their_names() {
    let directory = Directory::with(
        "all",
        &[
            ("20-web.toml", &service("web", 80)),
            ("10-games.toml", &service("games", 81)),
            ("00-general.toml", "[dispatcher]\nmode = \"tproxy\"\n[log]\nrecords = \"none\"\n"),
            ("90-general.toml", "[dispatcher]\nfirewall = \"nftables\"\n"),
            (".hidden.toml", "no TOML"),
            ("20-web.toml~", "no TOML"),
            ("20-web.toml.dpkg-old", "no TOML"),
            ("README", "no TOML"),
        ],
    );
    let (services, files) = directory.good(".");
    assert_eq!(services, ["games", "web"]);
    assert_eq!(
        files,
        ["./00-general.toml", "./10-games.toml", "./20-web.toml", "./90-general.toml"]
            .map(|file| file.trim_start_matches("./"))
    );
    let config = directory.load(".").unwrap().config;
    assert_eq!((config.mode.to_string(), config.firewall.to_string()), ("tproxy".into(), "nftables".into()));
    assert!(config.origin_places.place(1, 0).ends_with("/20-web.toml:4:12"));
}

#[test]
fn files_are_included_from_where_the_including_one_is() {
    let directory = Directory::with(
        "include",
        &[
            (
                "spectrum.toml",
                &format!("include = [\"conf.d/*.toml\", \"more.toml\"]\n{}", service("first", 1)),
            ),
            ("conf.d/b.toml", &format!("include = \"deep/*.toml\"\n{}", service("b", 2))),
            ("conf.d/a.toml", &service("a", 3)),
            ("conf.d/deep/c.toml", &service("c", 4)),
            ("more.toml", &service("more", 5)),
        ],
    );
    let (services, files) = directory.good("spectrum.toml");
    assert_eq!(services, ["first", "a", "b", "c", "more"]);
    assert_eq!(files, ["spectrum.toml", "conf.d/a.toml", "conf.d/b.toml", "conf.d/deep/c.toml", "more.toml"]);
}

#[test]
fn what_stands_in_two_files_is_told_by_both_places() {
    let directory = Directory::with(
        "twice",
        &[
            ("a.toml", &format!("[admin]\nlisten = \"127.0.0.1:1\"\n{}", service("web", 80))),
            ("b.toml", &format!("[admin]\nlisten = \"127.0.0.1:2\"\n{}", service("web", 81))),
            ("c.toml", &service("other", 80)),
        ],
    );
    assert_eq!(
        directory.bad("."),
        "b.toml:2:1: admin.listen: stands in a.toml:2 already; remove one of them"
    );
    directory.write("b.toml", &service("web", 81));
    assert_eq!(
        directory.bad("."),
        "b.toml:2:8: service \"web\" name: \"web\": a.toml:4 has a service of this name; rename one\n\
         c.toml:3:24: service \"other\" bindings[0].prefix: tcp 192.0.2.0/24 80: service \"web\" binds the same in a.toml:5; \
         remove one"
    );
    directory.write("b.toml", "admin = 3\n");
    assert_eq!(directory.bad("."), "b.toml:1:1: admin: stands in a.toml:1 already; remove one of them");
}

#[test]
fn every_mistake_of_every_file_is_told_in_its_place() {
    let directory = Directory::with(
        "mistakes",
        &[
            ("a.toml", "[log]\nrecords = \"some\"\n"),
            ("b.toml", &format!("{}balanse = 1\n", service("b", 80))),
        ],
    );
    assert_eq!(
        directory.bad("."),
        "a.toml:2:11: log.records: \"some\": expected all, failures or none\n\
         b.toml:5:1: service \"b\" balanse: unknown key; did you mean balance?"
    );
    directory.write("a.toml", "[log\n");
    directory.write("b.toml", "x = \n");
    let told = directory.bad(".");
    assert!(told.starts_with("a.toml:1:") && told.contains("\nb.toml:1:"), "{told}");
}

#[test]
fn circles_and_depth_are_told_by_their_chain() {
    let directory = Directory::with(
        "circle",
        &[
            ("a.toml", "include = \"b.toml\"\n"),
            ("b.toml", "\ninclude = [\"c.toml\"]\n"),
            ("c.toml", "include = \"a.toml\""),
        ],
    );
    assert_eq!(
        directory.bad("a.toml"),
        "c.toml:1:11: include: \"a.toml\": a.toml > b.toml > c.toml > a.toml: files that include each other have no end; take \
         one of them out of include"
    );
    for number in 0..9 {
        directory.write(&format!("{number}.toml"), &format!("include = \"{}.toml\"\n", number + 1));
    }
    directory.write("9.toml", "");
    assert_eq!(
        directory.bad("0.toml"),
        "8.toml:1:11: include: \"9.toml\": 0.toml > 1.toml > 2.toml > 3.toml > 4.toml > 5.toml > 6.toml > 7.toml > 8.toml > \
         9.toml: files may include each other 8 times in a row at most; include it from the first"
    );
    directory.write("9.toml", &service("last", 80));
    assert_eq!(directory.good("1.toml").0, ["last"]);
}

#[test]
fn a_file_that_is_read_twice_is_refused_whatever_it_is_called() {
    let directory = Directory::with(
        "again",
        &[("a.toml", "include = [\"d/*.toml\",\n\"link.toml\"]\n"), ("d/b.toml", &service("b", 80))],
    );
    symlink("d/b.toml", directory.0.join("link.toml")).unwrap();
    assert_eq!(
        directory.bad("a.toml"),
        "a.toml:2:1: include[1]: \"link.toml\": link.toml is read already, by include[0] of a.toml:1; have it read once"
    );
}

#[test]
fn what_cannot_be_included_is_told_with_the_cure() {
    let directory = Directory::with("missing", &[("d/b.toml", "")]);
    for (pattern, expected) in [
        (
            "none.toml",
            "read none.toml: No such file or directory (os error 2); make it, or take it out of include",
        ),
        ("none/*.toml", "list none: No such file or directory (os error 2)"),
        ("**/*.toml", "** is not understood; write each directory, as in \"conf.d/*/*.toml\""),
        (
            "d",
            "read d: it is a directory; name a file or a pipe that holds the configuration; write the files, as in \
             \"conf.d/*.toml\"",
        ),
    ] {
        directory.write("a.toml", &format!("include = [\"{pattern}\"]\n"));
        assert_eq!(directory.bad("a.toml"), format!("a.toml:1:12: include[0]: {pattern:?}: {expected}"));
    }
    for (include, expected) in [
        ("3", "include: expected a string, found an integer"),
        ("[]", "include: the list is empty; leave include out to include nothing"),
    ] {
        directory.write("a.toml", &format!("include = {include}\n{}", service("a", 80)));
        assert!(directory.bad("a.toml").contains("include: "), "{expected}");
    }
    assert!(Config::load(Path::new("/nonexistent")).is_err());
    fs::remove_file(directory.0.join("a.toml")).unwrap();
    assert_eq!(
        directory.bad("."),
        "read configuration .: it is a directory without any file *.toml; put one there, or name a file"
    );
}

#[test]
fn many_small_files_are_read_and_too_many_are_not() {
    let directory = Directory::with("many", &[("a.toml", "include = \"many/*.toml\"\n")]);
    for number in 0..4_096 {
        directory.write(&format!("many/{number:04}.toml"), "");
    }
    assert_eq!(
        directory.bad("a.toml"),
        "a.toml:1:11: include: \"many/*.toml\": 4096 files are the most that a configuration may have; write some of them as \
         one"
    );
    fs::remove_file(directory.0.join("many/0000.toml")).unwrap();
    directory.write("many/0001.toml", &service("one", 80));
    let (services, files) = directory.good("a.toml");
    assert_eq!((services.len(), files.len()), (1, 4_096));
}
