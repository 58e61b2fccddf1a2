//! What this host knows about reaching package registries, carried into a root: proxies, authorities, name servers.
//! Names no registry, and carries no password.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::interrupt::Interrupt;
use xtask::shell;

use super::waited::run_to_end;

/// A host's directory of authorities of its own.
const AUTHORITIES: &str = "usr/local/share/ca-certificates";

/// Variables that tell programs how to reach registries.
const VARIABLES: [&str; 10] = [
    "ALL_PROXY",
    "all_proxy",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Those of this process.
pub(super) fn environment() -> Vec<(&'static str, String)> {
    VARIABLES.iter().filter_map(|name| Some((*name, env::var(name).ok()?))).collect()
}

/// Writes into `root` what programs there read.
pub(super) fn carry_into(root: &Path, interrupt: &Interrupt) -> Result<()> {
    for file in ["/etc/resolv.conf", "/etc/hosts"].map(Path::new) {
        if let Ok(text) = fs::read(file) {
            put(root, &file.to_string_lossy(), &text)?;
        }
    }
    let options = shell::stdout(Command::new("apt-config").arg("dump"))?;
    put(root, "/etc/apt/apt.conf.d/90registries", network_options(&options).as_bytes())?;
    if let Ok(cargo) = fs::read(cargo_home().join("config.toml")) {
        put(root, "/root/.cargo/config.toml", &cargo)?;
    }
    let mut authorities = 0;
    for entry in fs::read_dir(Path::new("/").join(AUTHORITIES)).into_iter().flatten().flatten() {
        if let Ok(text) = fs::read(entry.path()) {
            put(root, &entry.path().to_string_lossy(), &text)?;
            authorities += 1;
        }
    }
    if authorities > 0 {
        let mut update = Command::new("chroot");
        run_to_end(update.arg(root).args(["sh", "-c", "update-ca-certificates > /dev/null"]), interrupt)?;
    }
    Ok(())
}

/// The directory in which cargo keeps what is the user's.
pub(super) fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_default()
}

fn put(root: &Path, file: &str, text: &[u8]) -> Result<()> {
    let path = root.join(file.trim_start_matches('/'));
    let directory = path.parent().context("put a file into nothing")?;
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("write {}", path.display()))
}

/// Of what `apt-config dump` prints the lines about how to fetch.
fn network_options(dump: &str) -> String {
    let wanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        ["acquire::http::", "acquire::https::", "acquire::check-", "acquire::force", "acquire::retries"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    dump.lines().filter(wanted).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_apts_options_only_those_of_the_network_are_carried() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy.example\";\n\
                    Acquire::Check-Date \"false\";\nAcquire::Languages \"none\";\nDir::Etc \"x\";\n";
        assert_eq!(
            network_options(dump),
            "Acquire::http::Proxy \"http://proxy.example\";\nAcquire::Check-Date \"false\";\n"
        );
    }
}
