//! A look at the firewall: whether what was applied is there as it was applied. Any thread can take it, for a bounded time. Changes
//! nothing.

use super::TproxyError;
use super::iptables::Iptables;
use super::nftables::Nft;
use super::program::LOOK;
use crate::plan::firewall::{Chain, ChainPart};

/// A look that can be taken. Two are equal if they look for the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FirewallLook(Vec<Applied>);

/// A part that was applied, and how it was listed then, as far as that could be had.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Applied {
    by: Program,
    part: ChainPart,
    print: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Program {
    Iptables(Iptables),
    Nft(Nft),
}

impl FirewallLook {
    pub(super) fn add_nft(&mut self, nft: &Nft, part: ChainPart, print: Option<&String>) {
        self.0.push(Applied { by: Program::Nft(nft.clone()), part, print: print.cloned() });
    }

    pub(super) fn add_iptables(&mut self, iptables: &Iptables, part: ChainPart, print: Option<&String>) {
        self.0.push(Applied { by: Program::Iptables(iptables.clone()), part, print: print.cloned() });
    }

    /// The parts that are not as they were applied. Blocks the calling thread.
    ///
    /// # Errors
    /// The firewall's program does not list them.
    pub fn damaged(&self) -> Result<Vec<ChainPart>, TproxyError> {
        let mut damaged = Vec::new();
        for Applied { by, part, print } in &self.0 {
            let is_as = match by {
                Program::Iptables(iptables) => {
                    let now = print_of(&iptables.save(LOOK)?, &part.chain);
                    print.as_ref().map_or(!now.is_empty(), |first| *first == now)
                }
                Program::Nft(nft) => nft.is_as(part, print.as_ref())?,
            };
            if !is_as {
                damaged.push(part.clone());
            }
        }
        Ok(damaged)
    }
}

/// The part of what `iptables-save -t mangle` printed of `chain`: its rules and the jumps to it.
pub(super) fn print_of(saved: &str, chain: &Chain) -> String {
    let name = chain.as_str();
    let is_of = |line: &&str| line.split_whitespace().any(|word| word.trim_start_matches(':') == name);
    saved.lines().filter(is_of).fold(String::new(), |print, line| print + line + "\n")
}
