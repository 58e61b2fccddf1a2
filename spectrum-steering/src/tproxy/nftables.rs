//! Running nft of the system. Knows no rule but what it is given.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use super::program::{LOOK, find_or_fail, find_program, output};
use super::{InterruptGuard, TproxyError};
use crate::plan::firewall::nftables::tables;
use crate::plan::firewall::{Chain, ChainPart, ChainPlace, TableFamily};

/// The nft program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Nft {
    program: PathBuf,
}

/// A kind of an instance's tables. Each comes and goes at other times.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Any,
    Exemption,
    Replies,
    Steering,
}

impl Kind {
    /// True if our tables in `place` are of this kind.
    fn includes(self, place: &ChainPlace) -> bool {
        let of = match place {
            ChainPlace::Exemption => Self::Exemption,
            ChainPlace::Table(TableFamily::Inet) => Self::Replies,
            ChainPlace::Mangle(_) | ChainPlace::Table(TableFamily::Ip | TableFamily::Ip6) => Self::Steering,
        };
        self == Self::Any || self == of
    }
}

impl Nft {
    pub(super) fn find() -> Result<Self, TproxyError> {
        Ok(Self { program: find_or_fail("nft")? })
    }

    /// The program, if it is installed. Without it, nobody made tables of ours.
    pub(super) fn find_any() -> Option<Self> {
        find_program("nft").map(|program| Self { program })
    }

    /// Carries out `text` as one transaction.
    pub(super) fn transact(&self, op: &'static str, text: &str) -> Result<(), TproxyError> {
        output(op, Command::new(&self.program).args(["-f", "-"]), text).map(drop)
    }

    /// Makes the tables of `kind` of `chain`'s instance, as `text` says, or none.
    pub(super) fn apply(&self, kind: Kind, chain: &Chain, text: &str) -> Result<(), TproxyError> {
        self.transact("apply", text).inspect_err(|_| {
            // The kernel may have carried it out before nft failed, or was ended.
            let _whole = InterruptGuard::off();
            if let Err(error) = self.remove(kind, &BTreeSet::from([chain.clone()])) {
                tracing::debug!(%error, "remove what a failed nft may have made");
            }
        })
    }

    /// Our tables.
    pub(super) fn parts(&self) -> Result<BTreeSet<ChainPart>, TproxyError> {
        Ok(tables(&self.list("list")?).collect())
    }

    /// Removes the tables of `kind` of the instances `doomed`; whether there were any.
    pub(super) fn remove(&self, kind: Kind, doomed: &BTreeSet<Chain>) -> Result<bool, TproxyError> {
        let listed = self.list("list")?;
        let text = tables(&listed)
            .filter(|part| doomed.contains(&part.chain) && kind.includes(&part.place))
            .fold(String::new(), |text, part| text + "delete " + &part.to_string() + "\n");
        if text.is_empty() {
            return Ok(false);
        }
        self.transact("remove", &text).map(|()| true)
    }

    /// Every rule of every table, as JSON.
    pub(super) fn ruleset(&self) -> Result<String, TproxyError> {
        output("list", Command::new(&self.program).args(["-j", "list", "ruleset"]), "")
    }

    /// True if any chain translates addresses.
    pub(super) fn translates(&self) -> Result<bool, TproxyError> {
        let chains = output("list", Command::new(&self.program).args(["list", "chains"]), "")?;
        Ok(chains.contains("type nat hook"))
    }

    /// A table as it is listed, without the elements of its maps.
    fn print(&self, part: &ChainPart) -> Result<String, TproxyError> {
        let name = part.to_string();
        output(LOOK, Command::new(&self.program).args(["-t", "list"]).args(name.split_whitespace()), "")
    }

    /// The same of what has just been made, to be compared with later. What cannot be had is not missed.
    pub(super) fn first_print(&self, part: &ChainPart) -> Option<String> {
        let print = self.print(part);
        print.inspect_err(|error| tracing::debug!(%error, "look at what was made")).ok()
    }

    /// True if a table is as `first` was.
    pub(super) fn is_as(&self, part: &ChainPart, first: Option<&String>) -> Result<bool, TproxyError> {
        match self.print(part) {
            Ok(now) => Ok(first.is_none_or(|first| *first == now)),
            // It says so of a table that is not there, and of other failures: a list of all has a table or has it not.
            Err(error @ TproxyError::ExtensionMissing { .. }) => {
                let is_there = tables(&self.list(LOOK)?).any(|there| there == *part);
                if is_there { Err(error) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    fn list(&self, op: &'static str) -> Result<String, TproxyError> {
        output(op, Command::new(&self.program).args(["list", "tables"]), "")
    }
}
