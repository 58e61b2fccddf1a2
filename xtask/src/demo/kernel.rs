//! What the kernel holds for the program, as the usual tools print it. Only what is of this network namespace counts.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::ebpf::toolchain::on_path;
use crate::namespace;
use crate::shell;

use super::PREFIXES;

/// A command and what it printed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct View {
    /// The command as it could be typed.
    pub(super) command: String,
    /// Its lines.
    pub(super) lines: Vec<String>,
}

/// The sk_lookup links of this namespace, then their programs.
pub(super) fn programs() -> Result<Vec<View>> {
    let mut views = Vec::new();
    let links: Value =
        serde_json::from_str(&shell::stdout(Command::new("bpftool").args(["-j", "link", "show"]))?)
            .context("read what bpftool says of links")?;
    let inode = namespace::inode()?;
    let ours = |link: &&Value| link.get("netns_ino").and_then(Value::as_u64) == Some(inode);
    for link in links.as_array().into_iter().flatten().filter(ours) {
        for (kind, field) in [("link", "id"), ("prog", "prog_id")] {
            if let Some(id) = link.get(field).and_then(Value::as_u64) {
                views
                    .push(view(Command::new("bpftool").args([kind, "show", "id", &id.to_string()]), |_| {
                        true
                    })?);
            }
        }
    }
    Ok(views)
}

/// The listening sockets: few, and on loopback.
pub(super) fn listeners() -> Result<View> {
    view(Command::new("ss").args(["-H", "-t", "-l", "-n"]), |_| true)
}

/// The `local` routes of the prefixes.
pub(super) fn routes() -> Result<Vec<View>> {
    PREFIXES
        .iter()
        .map(|prefix| {
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            let arguments = [family, "route", "show", "table", "local", "root", prefix];
            view(Command::new("ip").args(arguments), |_| true)
        })
        .collect()
}

/// The rules of the mangle tables, the chains that somebody made, and the tables of nftables that are ours.
pub(super) fn rules() -> Result<Vec<View>> {
    // A chain that came with the table has a policy, one that somebody made has "-".
    let made = |line: &str| line.starts_with("-A") || (line.starts_with(':') && line.contains(" - "));
    let iptables = ["iptables-save", "ip6tables-save"].into_iter().map(|program| {
        let mut command = Command::new(program);
        command.args(["-t", "mangle"]);
        view(&mut command, made)
    });
    let mut views: Vec<View> = iptables.collect::<Result<_>>()?;
    if let Some(nft) = on_path("nft") {
        let mut ours = false;
        views.push(view(Command::new(nft).args(["-s", "list", "ruleset"]), |line| {
            if line.starts_with("table ") {
                ours = line.contains(" spectrum-");
            }
            ours && !line.is_empty()
        })?);
    }
    // The program uses one firewall and leaves the others empty.
    views.retain(|view| !view.lines.is_empty());
    Ok(views)
}

fn view(command: &mut Command, mut wanted: impl FnMut(&str) -> bool) -> Result<View> {
    let printed = shell::stdout(command)?;
    let lines = printed
        .lines()
        .filter(|line| wanted(line))
        .map(|line| line.trim_end().replace('\t', "    "))
        .collect();
    Ok(View { command: shell::line(command), lines })
}
