//! The verb by which a running instance tries a version of the program before it becomes that. Nobody types it; it touches nothing.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};

use super::run::configured_as;
use crate::cli::{Cli, UpgradeTrialArgs};
use crate::instance::try_out;

/// Says on one line which ledger this version reads, if it could take over the one on standard input.
pub(super) fn upgrade_trial(args: &UpgradeTrialArgs) -> anyhow::Result<()> {
    let words = std::iter::once(OsString::from("spectrum-user")).chain(args.words.iter().cloned());
    let cli = Cli::parse_words(words).context("understand the words that the instance was started with")?;
    if cli.command.is_some() {
        bail!("take over from what is no instance");
    }
    let answer = try_out(io::stdin().as_fd(), |texts| configured_as(&cli.run, texts))?;
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    io::stdout().write_all(&line).context("answer")
}
