//! The commands by which an administrator lets packets past a rule that drops them. Runs none.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::chains::ChainName;
use crate::model::{Binding, PortRange};
use crate::plan::exemption::condition;

/// A cure names so many bindings.
const CURED: usize = 16;

/// The commands that accept packets to `bindings` before anything else in a chain.
pub(super) fn acceptance(chain: &ChainName, bindings: &[&Binding]) -> String {
    let distinct: BTreeSet<String> = bindings.iter().map(|binding| accepting(chain, binding)).collect();
    let mut commands = distinct.iter().take(CURED).cloned().collect::<Vec<_>>().join("; ");
    if distinct.len() > CURED {
        // Writing to a string cannot fail.
        let _ = write!(commands, " # and so on, for {} more bindings", distinct.len() - CURED);
    }
    commands
}

fn accepting(ChainName { program, table, chain, .. }: &ChainName, binding: &Binding) -> String {
    let Binding { protocol, prefix, ports } = binding;
    let [table, chain] = [table, chain].map(|name| word(name));
    if program.starts_with("nft ") {
        return format!(
            "nft insert rule {} {table} {chain} {} accept",
            program.trim_start_matches("nft "),
            condition(binding)
        );
    }
    let mut command = format!("{program} -t {table} -I {chain} -d {prefix} -p {protocol}");
    if *ports != PortRange::ALL {
        let _ = write!(command, " --dport {}", ports.to_string().replace('-', ":"));
    }
    command + " -j ACCEPT"
}

/// `name` as one word to a shell.
#[must_use]
pub fn word(name: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./=".contains(character);
    if name.chars().all(is_plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}
