//! The rules that steer, in a chain of iptables and one of ip6tables: applied, exchanged and removed, a family at a time. Makes no
//! rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::handed_on::{FamilyAccount, RulesAccount};
use super::iptables::Iptables;
use super::{AppliedRules, FirewallProgram, InterruptGuard, TproxyError};
use crate::model::Family;
use crate::plan::firewall::{Chain, ChainPart, Firewall, iptables as texts};

/// The rules as they are applied.
#[derive(Debug)]
pub(super) struct IptablesRules {
    chain: Chain,
    families: BTreeMap<Family, AppliedFamily>,
}

/// The rules of a family.
#[derive(Debug)]
struct AppliedFamily {
    iptables: Arc<Iptables>,
    /// True if there was a mangle table before.
    table: bool,
    /// The rules, to be put back when what replaces them fails halfway.
    text: String,
}

impl IptablesRules {
    /// Applies `firewall` under the name `chain`, or nothing of it.
    pub(super) fn apply(chain: &Chain, firewall: &Firewall) -> Result<Self, TproxyError> {
        // All programs are found before the first is run.
        let found: Vec<(Family, Iptables, String)> = texts::texts(chain, firewall)?
            .into_iter()
            .map(|(family, text)| Ok((family, Iptables::find(family)?, text)))
            .collect::<Result<_, TproxyError>>()?;
        let mut rules = Self { chain: chain.clone(), families: BTreeMap::new() };
        for (family, iptables, text) in found {
            match AppliedFamily::apply(iptables, chain, text) {
                Ok(applied) => {
                    rules.families.insert(family, applied);
                }
                Err(source) => {
                    let _whole = InterruptGuard::off();
                    return Err(source.after(Box::new(rules).undo()));
                }
            }
        }
        Ok(rules)
    }

    /// Those that another process has applied, each by the program that it did it with.
    pub(super) fn adopt(
        chain: Chain,
        families: BTreeMap<Family, FamilyAccount>,
    ) -> Result<Self, TproxyError> {
        let adopted = families.into_iter().map(|(family, FamilyAccount { part, table, text })| {
            let mut programs = Iptables::find_all(family).into_iter();
            let iptables = programs.find(|one| one.part(chain.clone()) == part);
            // Where that is gone, whatever there is now says what is missing.
            let iptables = iptables.map_or_else(|| Iptables::find(family), Ok)?;
            Ok((family, AppliedFamily { iptables: Arc::new(iptables), table, text }))
        });
        let families = adopted.collect::<Result<_, TproxyError>>()?;
        Ok(Self { chain, families })
    }

    fn doomed(&self) -> BTreeSet<Chain> {
        BTreeSet::from([self.chain.clone()])
    }

    /// Family by family, each a commit of its own. When one fails, those before it have the new rules already.
    fn advance(&mut self, texts: &BTreeMap<Family, String>) -> Result<(), TproxyError> {
        for (family, text) in texts {
            if let Some(applied) = self.families.get_mut(family) {
                applied.replace(&self.chain, text)?;
                applied.text.clone_from(text);
            } else {
                let applied = AppliedFamily::apply(Iptables::find(*family)?, &self.chain, text.clone())?;
                self.families.insert(*family, applied);
            }
        }
        let doomed = self.doomed();
        let is_gone = |family: &Family| !texts.contains_key(family);
        for (_, gone) in self.families.iter().filter(|(family, _)| is_gone(family)) {
            gone.iptables.remove(&doomed)?;
        }
        for (_, gone) in self.families.extract_if(.., |family, _| is_gone(family)) {
            gone.leave_table();
        }
        Ok(())
    }

    /// Whatever [`advance`](Self::advance) did before it failed, and whether the command that failed did its work or not: makes
    /// every family have its rules of `before` again.
    fn retreat(&mut self, before: &BTreeMap<Family, String>) -> Vec<TproxyError> {
        let mut errors = Vec::new();
        for (family, applied) in &mut self.families {
            if let Some(text) = before.get(family) {
                errors.extend(applied.replace(&self.chain, text).err());
                applied.text.clone_from(text);
            }
        }
        // A family that was to be new may have its rules even though the command that applied them failed.
        let doomed = self.doomed();
        for family in [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| !before.contains_key(family)) {
            let table = self.families.remove(&family).is_none_or(|applied| applied.table);
            if let Ok(iptables) = Iptables::find(family) {
                errors.extend(iptables.remove(&doomed).err());
                if !table {
                    iptables.drop_bare_table();
                }
            }
        }
        errors
    }
}

impl AppliedRules for IptablesRules {
    fn parts(&self) -> Vec<(Arc<dyn FirewallProgram>, ChainPart)> {
        let part = |AppliedFamily { iptables, .. }: &AppliedFamily| {
            (Arc::clone(iptables) as _, iptables.part(self.chain.clone()))
        };
        self.families.values().map(part).collect()
    }

    fn exchange(&mut self, firewall: &Firewall) -> Result<(), TproxyError> {
        // What is put back when it fails must not be given up for the reason that it failed.
        let _whole = InterruptGuard::off();
        let texts = texts::texts(&self.chain, firewall)?;
        let before: BTreeMap<Family, String> =
            self.families.iter().map(|(family, applied)| (*family, applied.text.clone())).collect();
        self.advance(&texts).map_err(|source| source.after(self.retreat(&before)))
    }

    fn amend(&mut self, firewall: &Firewall) -> Result<bool, TproxyError> {
        // Of whom a policy turns away it has interfaces alone.
        Ok(self.is_of(firewall))
    }

    fn put_back(&mut self) -> Result<(), TproxyError> {
        self.families.values().try_for_each(|applied| applied.replace(&self.chain, &applied.text))
    }

    fn is_of(&self, firewall: &Firewall) -> bool {
        texts::texts(&self.chain, firewall).is_ok_and(|texts| {
            texts.iter().eq(self.families.iter().map(|(family, applied)| (family, &applied.text)))
        })
    }

    fn account(&self) -> RulesAccount {
        let families = self.families.iter().map(|(family, AppliedFamily { iptables, table, text })| {
            let part = iptables.part(self.chain.clone());
            (*family, FamilyAccount { part, table: *table, text: text.clone() })
        });
        RulesAccount::Iptables { chain: self.chain.clone(), families: families.collect() }
    }

    fn undo(self: Box<Self>) -> Vec<TproxyError> {
        let doomed = self.doomed();
        let undo = |applied: AppliedFamily| {
            let removed = applied.iptables.remove(&doomed);
            applied.leave_table();
            removed.err()
        };
        self.families.into_values().rev().filter_map(undo).collect()
    }
}

impl AppliedFamily {
    fn apply(iptables: Iptables, chain: &Chain, text: String) -> Result<Self, TproxyError> {
        let applied = Self { table: iptables.has_table()?, iptables: Arc::new(iptables), text };
        applied.iptables.restore("apply", &applied.text).inspect_err(|error| {
            // What was ended may have done its work. Where it has not, this waits for no lock.
            if matches!(error, TproxyError::Hung { .. } | TproxyError::Interrupted { .. }) {
                let _whole = InterruptGuard::off();
                if let Err(error) = applied.iptables.remove(&BTreeSet::from([chain.clone()])) {
                    tracing::debug!(%error, "remove what an iptables that was ended may have made");
                }
                applied.leave_table();
            }
        })?;
        Ok(applied)
    }

    fn replace(&self, chain: &Chain, text: &str) -> Result<(), TproxyError> {
        self.iptables.replace(chain, text)
    }

    /// Leaves the mangle table as it was, once the rules are out of it.
    fn leave_table(&self) {
        if !self.table {
            self.iptables.drop_bare_table();
        }
    }
}
