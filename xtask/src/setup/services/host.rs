//! The services of this host: whether it has one, whether it runs, and what keeps it from running. Decides about none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::ebpf::toolchain::on_path;
use crate::privilege;
use crate::shell;

/// The directories of units, but for those that are made anew with each boot.
const UNITS: [&str; 4] =
    ["etc/systemd/system", "usr/local/lib/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"];

/// A host, or what stands for it in a test.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: PathBuf,
}

/// The presence of a service on a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// Nothing that could be started.
    Absent,
    /// It could be started, and is not; whether it will be at the next boot does not matter here.
    Idle,
    /// It runs.
    Running,
}

/// A command of root's.
pub(super) type Words = Vec<String>;

impl Host {
    /// This one.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// The presence of `service` on it.
    pub(super) fn standing(&self, service: &str) -> Standing {
        if !self.has(service) {
            Standing::Absent
        } else if self.runs(service) {
            Standing::Running
        } else {
            Standing::Idle
        }
    }

    /// True if a unit or an init script could start it. What a removed package leaves behind cannot.
    fn has(&self, service: &str) -> bool {
        // A masked unit is a link to /dev/null, which is no file.
        let unit = format!("{service}.service");
        if UNITS.iter().any(|directory| self.root.join(directory).join(&unit).is_file()) {
            return true;
        }
        let script = format!("/etc/init.d/{service}");
        self.root.join(script.trim_start_matches('/')).is_file() && {
            let status = fs::read_to_string(self.root.join("var/lib/dpkg/status")).unwrap_or_default();
            !is_left_behind(&script, &status)
        }
    }

    fn runs(&self, service: &str) -> bool {
        let mut command = if self.is_booted_with_systemd() {
            let mut systemctl = Command::new("systemctl");
            systemctl.args(["--quiet", "is-active", service]);
            systemctl
        } else {
            let script = self.script(service);
            if !script.is_file() {
                return false;
            }
            let mut status = Command::new(script);
            status.arg("status");
            status
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// The commands that keep `service` from running: now, if it runs, and from the next boot on.
    pub(super) fn quieting(&self, service: &str, standing: Standing, has_systemctl: bool) -> Vec<Words> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Words>();
        let mut commands = Vec::new();
        if standing == Standing::Running {
            commands.push(self.stopping(service));
        }
        let has_unit = UNITS
            .iter()
            .any(|directory| self.root.join(directory).join(format!("{service}.service")).is_file());
        if has_systemctl && has_unit {
            // It tells update-rc.d as well, where there is a script of that name.
            commands.push(words(&format!("systemctl disable {service}")));
            return commands;
        }
        // Without links to modify it fails, and has nothing to do.
        if self.script_starts_at_boot(service) {
            commands.push(words(&format!("update-rc.d {service} disable")));
        }
        let links = self.unit_links(service);
        if !links.is_empty() {
            commands.push(removing(&links));
        }
        commands
    }

    fn stopping(&self, service: &str) -> Words {
        if self.is_booted_with_systemd() {
            ["systemctl", "stop", service].map(str::to_owned).to_vec()
        } else {
            vec![self.script(service).display().to_string(), "stop".to_owned()]
        }
    }

    /// The commands that make `service` again what it was: it had `links`, and did not run if it was idle.
    pub(super) fn restoring(
        &self,
        service: &str,
        was: Standing,
        links: &[PathBuf],
        is: Standing,
    ) -> Vec<Words> {
        let mut commands = Vec::new();
        if (was, is) == (Standing::Idle, Standing::Running) {
            commands.push(self.stopping(service));
        }
        let new: Vec<PathBuf> =
            self.links(service).into_iter().filter(|link| !links.contains(link)).collect();
        if !new.is_empty() {
            commands.push(removing(&new));
        }
        commands
    }

    /// Keeps `service`, which a package has brought, from running.
    pub(super) fn quiet(&self, service: &str) -> Result<()> {
        run(&self.quieting(service, self.standing(service), on_path("systemctl").is_some()))
    }

    /// Makes `service` again what it was before a package of that name came.
    pub(super) fn restore(&self, service: &str, was: Standing, links: &[PathBuf]) -> Result<()> {
        run(&self.restoring(service, was, links, self.standing(service)))
    }

    fn is_booted_with_systemd(&self) -> bool {
        self.root.join("run/systemd/system").is_dir()
    }

    fn script(&self, service: &str) -> PathBuf {
        self.root.join("etc/init.d").join(service)
    }

    fn script_starts_at_boot(&self, service: &str) -> bool {
        !self.script_links(service).is_empty()
    }

    /// The links by which anything would start `service` at boot.
    pub(super) fn links(&self, service: &str) -> Vec<PathBuf> {
        let mut links = self.script_links(service);
        links.extend(self.unit_links(service));
        links
    }

    fn script_links(&self, service: &str) -> Vec<PathBuf> {
        let starts = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix('S').and_then(|rest| rest.get(2..)).is_some_and(|rest| rest == service)
        };
        let levels = ["2", "3", "4", "5", "S"].map(|level| self.root.join(format!("etc/rc{level}.d")));
        levels.iter().flat_map(|level| entries(level)).filter(starts).collect()
    }

    /// The links by which systemd would start it at boot: packages make them where there is no systemctl, too.
    fn unit_links(&self, service: &str) -> Vec<PathBuf> {
        let wanting = |path: &Path| {
            path.extension().is_some_and(|extension| extension == "wants" || extension == "requires")
        };
        entries(&self.root.join("etc/systemd/system"))
            .into_iter()
            .filter(|path| wanting(path))
            .map(|directory| directory.join(format!("{service}.service")))
            .filter(|link| link.is_symlink())
            .collect()
    }
}

fn removing(links: &[PathBuf]) -> Words {
    let mut remove = vec!["rm".to_owned(), "-f".to_owned()];
    remove.extend(links.iter().map(|link| link.display().to_string()));
    remove
}

fn run(commands: &[Words]) -> Result<()> {
    let mut done = Ok(());
    for words in commands {
        // What one of them could not do the next may.
        let one = as_root(words).and_then(|mut command| shell::announce_and_run(&mut command));
        done = done.and(one);
    }
    done
}

/// `words` as root.
pub(super) fn as_root<W: AsRef<str>>(words: &[W]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("run nothing as root")?;
    let mut command = privilege::as_root(program.as_ref(), &[])?;
    command.args(arguments.iter().map(AsRef::as_ref));
    Ok(command)
}

/// True if `file` belongs to a package that is removed but for its configuration, by dpkg's `status`.
fn is_left_behind(file: &str, status: &str) -> bool {
    status.split("\n\n").any(|package| {
        package.lines().any(|line| line.starts_with("Status: ") && line.ends_with(" config-files"))
            && package.lines().any(|line| {
                line.strip_prefix(' ')
                    .and_then(|rest| rest.split(' ').next())
                    .is_some_and(|path| path == file)
            })
    })
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(read) = fs::read_dir(directory) else { return Vec::new() };
    let mut entries: Vec<PathBuf> = read.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort_unstable();
    entries
}

#[cfg(test)]
mod tests;
