//! The TPROXY path's effect on the kernel: firewall rules, applied and removed. Decides nothing about what they say.

mod error;
mod iptables;

use std::collections::BTreeSet;

pub use error::TproxyError;
use iptables::Iptables;

use crate::model::Family;
use crate::plan::firewall::{Chain, Firewall};

/// The rules that this process applied. They stay until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct Tproxy {
    chain: Chain,
    applied: Vec<Applied>,
}

#[derive(Debug)]
struct Applied {
    iptables: Iptables,
    /// Whether there was a mangle table before.
    table: bool,
}

impl Tproxy {
    /// Applies `firewall`, whose rules are in `chain`: each family's at once or not at all, and if one family's fail,
    /// none stay. Families without rules need no iptables. Blocks the calling thread.
    pub fn apply(chain: &Chain, firewall: &Firewall) -> Result<Self, TproxyError> {
        let mut tproxy = Self { chain: chain.clone(), applied: Vec::new() };
        // All programs are found before the first is run.
        let found: Vec<(Iptables, &str)> = firewall
            .texts()
            .map(|(family, text)| Ok((Iptables::find(family)?, text)))
            .collect::<Result<_, TproxyError>>()?;
        for (iptables, text) in found {
            let applied = iptables.has_table().and_then(|table| {
                iptables.restore("apply", text)?;
                Ok(Applied { iptables, table })
            });
            match applied {
                Ok(applied) => tproxy.applied.push(applied),
                Err(source) => {
                    let undo = tproxy.undo();
                    return Err(if undo.is_empty() {
                        source
                    } else {
                        TproxyError::Undo { source: Box::new(source), undo }
                    });
                }
            }
        }
        Ok(tproxy)
    }

    /// Removes what [`apply`](Self::apply) applied. What is gone already is no error. Blocks the calling thread.
    #[must_use]
    pub fn undo(self) -> Vec<TproxyError> {
        let doomed = BTreeSet::from([self.chain]);
        self.applied
            .iter()
            .rev()
            .filter_map(|applied| {
                let removed = applied.iptables.remove(&doomed);
                if !applied.table {
                    applied.iptables.drop_bare_table();
                }
                removed.err()
            })
            .collect()
    }
}

/// Every chain of ours in the namespace, whichever process made it and with whichever variant of iptables. Without
/// iptables there are none. Blocks the calling thread.
pub fn list_ours() -> Result<BTreeSet<Chain>, TproxyError> {
    let mut ours = BTreeSet::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for iptables in Iptables::find_all(family) {
            match iptables.chains() {
                Ok(chains) => ours.extend(chains),
                // A kernel that cannot have rules of this variant has none.
                Err(TproxyError::ExtensionMissing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ours)
}

/// Removes the chains `doomed`, of both families and variants, with the jumps to them. Blocks the calling thread.
#[must_use]
pub fn remove(doomed: &BTreeSet<Chain>) -> Vec<TproxyError> {
    if doomed.is_empty() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for iptables in Iptables::find_all(family) {
            match iptables.remove(doomed) {
                Ok(true) => iptables.drop_bare_table(),
                Ok(false) | Err(TproxyError::ExtensionMissing { .. }) => {}
                Err(error) => errors.push(error),
            }
        }
    }
    errors
}

impl Tproxy {
    /// Stub until the backends can.
    pub fn replace(&mut self, _firewall: &Firewall) -> Result<(), TproxyError> {
        Err(TproxyError::ProgramMissing { program: "replace".into() })
    }
}
