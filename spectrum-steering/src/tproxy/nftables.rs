//! Running nft of the system. Knows no rule but what it is given.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use super::error::Purpose;
use super::program::{LOOK, find_or_fail, output};
use super::{FirewallProgram, InterruptGuard, TproxyError};
use crate::plan::Listing;
use crate::plan::firewall::nftables::tables;
use crate::plan::firewall::{Chain, ChainPart};

/// The nft program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Nft {
    program: PathBuf,
}

impl Nft {
    pub(super) fn find() -> Result<Self, TproxyError> {
        Ok(Self { program: find_or_fail("nft")? })
    }

    /// Carries out `text` as one transaction.
    pub(super) fn transact(&self, op: &'static str, text: &str) -> Result<(), TproxyError> {
        output(op, Command::new(&self.program).args(["-f", "-"]), text).map(drop)
    }

    /// Makes the tables for `purpose` of `chain`'s instance, as `text` says, or none.
    pub(super) fn apply(&self, purpose: Purpose, chain: &Chain, text: &str) -> Result<(), TproxyError> {
        self.transact("apply", text).inspect_err(|_| {
            // The kernel may have carried it out before nft failed, or was ended.
            let _whole = InterruptGuard::off();
            if let Err(error) = self.remove(Some(purpose), &[chain.clone()].into()) {
                tracing::debug!(%error, "remove what a failed nft may have made");
            }
        })
    }

    /// Removes the tables of the instances `doomed`, or only those for `purpose`.
    pub(super) fn remove(
        &self,
        purpose: Option<Purpose>,
        doomed: &BTreeSet<Chain>,
    ) -> Result<(), TproxyError> {
        let is_meant = |part: &ChainPart| purpose.is_none_or(|purpose| purpose == Purpose::of(&part.place));
        let text = tables(&self.list("list")?)
            .filter(|part| doomed.contains(&part.chain) && is_meant(part))
            .fold(String::new(), |text, part| text + "delete " + &part.to_string() + "\n");
        if text.is_empty() { Ok(()) } else { self.transact("remove", &text) }
    }

    /// True if any chain translates addresses.
    pub(super) fn translates(&self) -> Result<bool, TproxyError> {
        let chains = output("list", Command::new(&self.program).args(["list", "chains"]), "")?;
        Ok(chains.contains("type nat hook"))
    }

    fn list(&self, op: &'static str) -> Result<String, TproxyError> {
        output(op, Command::new(&self.program).args(["list", "tables"]), "")
    }
}

impl FirewallProgram for Nft {
    fn parts(&self) -> Result<BTreeSet<ChainPart>, TproxyError> {
        Ok(tables(&self.list("list")?).collect())
    }

    /// Without the elements of its maps, and without what is counted.
    fn print(&self, part: &ChainPart) -> Result<Option<String>, TproxyError> {
        let name = part.to_string();
        let mut command = Command::new(&self.program);
        match output(LOOK, command.args(["-s", "-t", "list"]).args(name.split_whitespace()), "") {
            // It says so of a table that is not there, and of other failures: a list of all has a table or has it not.
            Err(error @ TproxyError::ExtensionMissing { .. }) => {
                let is_there = tables(&self.list(LOOK)?).any(|there| there == *part);
                if is_there { Err(error) } else { Ok(None) }
            }
            print => print.map(Some),
        }
    }

    fn listing(&self) -> Result<Listing, TproxyError> {
        output("list", Command::new(&self.program).args(["-j", "list", "ruleset"]), "").map(Listing::Nftables)
    }

    fn sweep(&self, doomed: &BTreeSet<Chain>) -> Result<(), TproxyError> {
        self.remove(None, doomed)
    }

    fn is_untold(&self) -> bool {
        false
    }
}
