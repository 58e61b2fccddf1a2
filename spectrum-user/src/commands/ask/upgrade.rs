//! The verb that has an instance become another version of the program: asks for it, and then asks until the one or the other answers.

use std::path::absolute;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::{OP, ask, pinned};
use crate::cli::UpgradeArgs;
use crate::commands::answer::print;
use crate::control::{Request, UpgradeQuery};
use crate::view::{LastUpgradeView, UpgradesView, View};

/// The time for the other version to take over, with all that it has to compile and to load.
const PATIENCE: Duration = Duration::from_mins(2);

/// Between two questions whether it has.
const GLANCE: Duration = Duration::from_millis(50);

/// Prints what the upgrade came to, on one line.
pub(in crate::commands) fn upgrade(args: &UpgradeArgs) -> anyhow::Result<()> {
    let UpgradeArgs { to, instance: args } = args;
    if pinned(args)?.is_some() {
        if to.is_some() {
            bail!(
                "upgrade: what is pinned has no process that could become another version; have that version say upgrade itself"
            );
        }
        return crate::commands::pinned::upgrade(args);
    }
    let to = to.as_ref().map(absolute).transpose().context("understand --to")?;
    let before: UpgradesView = ask(args, &Request::Upgrade(UpgradeQuery { to }))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now: View = ask(args, &Request::Status)?;
        let UpgradesView { done, refused, last } = &now.upgrades;
        let LastUpgradeView { from, failure, .. } = last.clone().unwrap_or_default();
        if *refused > before.refused {
            bail!("upgrade: {}", failure.unwrap_or_default());
        }
        if *done > before.done {
            let pid = now.pid;
            return print(OP, &now.upgrades, args.json, |out| {
                writeln!(out, "upgraded process={pid} from={from} to={} upgrades={done}", now.version)
            });
        }
        if Instant::now() > deadline {
            bail!("upgrade: nobody has said within {} s what became of it (see its log)", PATIENCE.as_secs());
        }
        sleep(GLANCE);
    }
}
