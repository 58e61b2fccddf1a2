//! The tree that debhelper makes the package of: what the repository has below `packaging`, what is generated, and the
//! program, each where it belongs. Runs no tool of Debian's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::file_page;
use crate::manual;
use crate::version::Version;

/// What goes into the package as it lies in the repository: the file, and the directory that it is put into.
const AS_THEY_ARE: [(&str, &str); 14] = [
    ("packaging/spectrum.toml", "etc/spectrum"),
    ("packaging/fail2ban/spectrum.conf", "etc/fail2ban/action.d"),
    ("packaging/examples/bird.conf", "usr/share/doc/spectrum/examples"),
    ("packaging/examples/frr.conf", "usr/share/doc/spectrum/examples"),
    ("packaging/examples/game-host.toml", "usr/share/doc/spectrum/examples"),
    ("packaging/examples/honeypot.toml", "usr/share/doc/spectrum/examples"),
    ("config/spectrum.toml", "usr/share/doc/spectrum/examples"),
    ("packaging/container/Containerfile", "usr/share/doc/spectrum/examples"),
    ("packaging/grafana/spectrum.json", "usr/share/spectrum/grafana"),
    ("packaging/prometheus/spectrum.rules.yml", "usr/share/spectrum/prometheus"),
    ("packaging/prometheus/spectrum.rules.test.yml", "usr/share/spectrum/prometheus"),
    ("docs/fleet.md", "usr/share/doc/spectrum"),
    ("docs/operations.md", "usr/share/doc/spectrum"),
    ("docs/transparent.md", "usr/share/doc/spectrum"),
];

/// Completions: what the repository has, and the name under which a shell looks for it.
const COMPLETIONS: [(&str, &str); 3] = [
    ("packaging/completions/spectrum-user.bash", "usr/share/bash-completion/completions/spectrum-user"),
    ("packaging/completions/spectrum-user.fish", "usr/share/fish/vendor_completions.d/spectrum-user.fish"),
    ("packaging/completions/spectrum-user.zsh", "usr/share/zsh/vendor-completions/_spectrum-user"),
];

/// A tree for debhelper.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Its root, with `debian` in it.
    pub(crate) root: PathBuf,
    /// The names that debhelper's `spectrum.install` has to list.
    installed: Vec<String>,
}

impl Tree {
    /// Makes it at `root`, in place of what was there, of the work tree `source`.
    pub(crate) fn make(root: &Path, source: &Path, version: &Version, program: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))?;
        }
        let mut tree = Self { root: root.to_owned(), installed: Vec::new() };
        let read = |path: &str| fs::read_to_string(source.join(path)).with_context(|| format!("read {path}"));
        for entry in fs::read_dir(source.join("packaging/debian")).context("read packaging/debian")? {
            let path = entry.context("read packaging/debian")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tree.put(&format!("debian/{name}"), fs::read(&path).with_context(|| format!("read {name}"))?)?;
        }
        tree.executable("debian/rules")?;

        for (from, directory) in AS_THEY_ARE {
            let name = from.rsplit('/').next().unwrap_or(from);
            tree.install(&format!("{directory}/{name}"), read(from)?)?;
        }
        for (from, to) in COMPLETIONS {
            tree.install(to, read(from)?)?;
        }
        tree.install(
            "usr/bin/spectrum-user",
            fs::read(program).with_context(|| format!("read {}", program.display()))?,
        )?;
        tree.executable("files/usr/bin/spectrum-user")?;

        let date = version.date("+%Y-%m-%d")?;
        let mut pages = manual::pages(&date)?;
        pages.insert("spectrum.toml.5".to_owned(), file_page::page(&read(file_page::EXAMPLE)?, &date));
        let mut manpages = Vec::new();
        for (name, page) in pages {
            tree.put(&format!("man/{name}"), page)?;
            manpages.push(format!("man/{name}\n"));
        }
        tree.put("debian/spectrum.manpages", manpages.concat())?;

        let unit = read("packaging/systemd/spectrum.service")?;
        tree.put("debian/spectrum@.service", template(&unit))?;
        tree.put("debian/spectrum.service", unit)?;
        tree.put("debian/spectrum.docs", format!("{}\n", "README.md"))?;
        tree.put("README.md", read("README.md")?)?;
        tree.put("CHANGELOG.md", read("CHANGELOG.md")?)?;
        tree.put("debian/changelog", changelog(version)?)?;
        let installed: Vec<String> = tree
            .installed
            .iter()
            .map(|path| {
                format!("files/{path} {}\n", path.rsplit_once('/').map_or("", |(directory, _)| directory))
            })
            .collect();
        tree.put("debian/spectrum.install", installed.concat())?;
        Ok(tree)
    }

    /// Puts a file where the package will have it.
    fn install(&mut self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.installed.push(path.to_owned());
        self.put(&format!("files/{path}"), content)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let to = self.root.join(path);
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        fs::write(&to, content).with_context(|| format!("write {}", to.display()))
    }

    fn executable(&self, path: &str) -> Result<()> {
        fs::set_permissions(self.root.join(path), fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {path} executable"))
    }
}

/// The unit for one of several instances, made of the one for a host that has one: nothing else is different.
pub(crate) fn template(unit: &str) -> String {
    unit.replace("Description=spectrum: any port", "Description=spectrum %i: any port")
        .replace("/etc/spectrum/spectrum.toml", "/etc/spectrum/%i.toml")
        .replace("/etc/default/spectrum", "/etc/default/spectrum-%i")
        .replace("StateDirectory=spectrum/spectrum", "StateDirectory=spectrum/%i")
}

fn changelog(version: &Version) -> Result<String> {
    Ok(format!(
        "spectrum ({}) unstable; urgency=medium\n\n  * Built from its repository; what changed is in CHANGELOG.md.\n\n \
         -- The spectrum authors <spectrum@example.org>  {}\n",
        version.debian,
        version.date("+%a, %d %b %Y %H:%M:%S +0000")?
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use spectrum_user::config::Config;
    use xtask::workspace;

    use super::*;

    fn read(path: &str) -> String {
        fs::read_to_string(workspace::root().join(path)).unwrap()
    }

    #[test]
    fn an_instance_of_the_template_has_a_file_and_a_name_of_its_own() {
        let unit = template(&read("packaging/systemd/spectrum.service"));
        assert!(unit.contains("--config /etc/spectrum/%i.toml "), "{unit}");
        assert!(unit.contains("EnvironmentFile=-/etc/default/spectrum-%i\n"), "{unit}");
        assert!(unit.contains("Description=spectrum %i: "), "{unit}");
        assert!(unit.contains("StateDirectory=spectrum/%i\n"), "{unit}");
    }

    #[test]
    fn every_example_is_a_configuration_and_the_one_that_is_installed_serves_nothing() {
        for example in
            ["packaging/examples/game-host.toml", "packaging/examples/honeypot.toml", file_page::EXAMPLE]
        {
            let parsed = Config::parse(Path::new(example), &read(example));
            assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
        }
        let installed = read("packaging/spectrum.toml");
        let error = Config::parse(Path::new("spectrum.toml"), &installed).unwrap_err().to_string();
        assert!(error.contains("no service; add [[service]]") && error.lines().count() == 1, "{error}");
        // As the comments have it, it is one.
        let service = installed.replace("# [[service]]", "[[service]]").replace("# name", "name");
        let service = service.replace("# bindings", "bindings").replace("# origins", "origins");
        let parsed = Config::parse(Path::new("spectrum.toml"), &service);
        assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
    }
}
