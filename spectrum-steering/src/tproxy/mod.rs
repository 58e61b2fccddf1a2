//! The TPROXY path's effect on the kernel: firewall rules, applied, replaced and removed. Decides nothing about what
//! they say.

mod error;
mod exemption;
mod interrupt;
mod iptables;
mod listings;
mod look;
mod nftables;
mod notices;
mod program;
mod reply_mark;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use error::{Purpose, TproxyError};
pub use exemption::ExemptionTable;
pub use interrupt::InterruptGuard;
use iptables::Iptables;
pub use listings::{listings, may_translate};
pub use look::FirewallLook;
use look::print_of;
use nftables::{Kind, Nft};
pub use notices::{FirewallNotice, FirewallNotices, Touched};
pub use reply_mark::ReplyMark;
pub use trial::{Trial, try_all};

use crate::model::Family;
use crate::plan::firewall::nftables::Ruleset;
use crate::plan::firewall::{Chain, ChainPart, ChainPlace, Firewall, iptables as texts};

/// A firewall of the kernel's that can carry the rules.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Backend {
    /// A chain of iptables and one of ip6tables.
    Iptables,
    /// A table of our own per family.
    Nftables,
}

impl Backend {
    /// The order in which to try them where the user does not care. A table of our own is out of the way of everybody
    /// else's rules, whichever programs made them, its cost does not grow with the bindings, and it is kinder to other
    /// sockets. What a host already uses is no reason for the one or the other: the kernel runs both.
    pub const PREFERENCE: [Self; 2] = [Self::Nftables, Self::Iptables];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

/// The rules that this process applied. They stay until [`undo`](Self::undo): dropping it removes nothing.
#[derive(Debug)]
pub struct Tproxy {
    chain: Chain,
    applied: Applied,
    /// The listing of each part, as it was when it had been applied.
    prints: BTreeMap<ChainPart, String>,
}

#[derive(Debug)]
enum Applied {
    Iptables(BTreeMap<Family, AppliedFamily>),
    /// `leftover` removes what an earlier replacement could not.
    Nftables {
        nft: Nft,
        ruleset: Ruleset,
        leftover: Option<String>,
    },
}

#[derive(Debug)]
struct AppliedFamily {
    iptables: Iptables,
    /// True if there was a mangle table before.
    table: bool,
    /// The rules, to be put back when what replaces them fails halfway.
    text: String,
}

impl Tproxy {
    /// Applies `firewall` under the name `chain` with the first of `backends` that takes it: all of it or nothing.
    /// Families without rules need no iptables. Blocks the calling thread.
    ///
    /// # Errors
    /// Each firewall's error, where there are several as [`TproxyError::None`]; nothing was applied.
    /// [`TproxyError::Interrupted`].
    pub fn apply(backends: &[Backend], chain: &Chain, firewall: &Firewall) -> Result<Self, TproxyError> {
        let mut errors = Vec::new();
        for backend in backends {
            let applied = match backend {
                Backend::Iptables => apply_iptables(chain, firewall),
                Backend::Nftables => apply_nftables(chain, firewall),
            };
            match applied {
                Ok(applied) => {
                    let refused = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    if refused.is_empty() {
                        tracing::info!("firewall rules are in {backend}");
                    } else {
                        tracing::info!(refused, "firewall rules are in {backend}");
                    }
                    let mut made = Self { chain: chain.clone(), applied, prints: BTreeMap::new() };
                    made.prints = made.first_prints();
                    return Ok(made);
                }
                // The next one is not wanted either.
                Err(error @ TproxyError::Interrupted { .. }) => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Err(if errors.len() == 1 { errors.remove(0) } else { TproxyError::None(errors) })
    }

    /// The firewall that has the rules.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.applied {
            Applied::Iptables(_) => Backend::Iptables,
            Applied::Nftables { .. } => Backend::Nftables,
        }
    }

    /// The parts that were applied, by the names that the firewall's programs show.
    #[must_use]
    pub fn parts(&self) -> Vec<ChainPart> {
        let chain = || self.chain.clone();
        match &self.applied {
            Applied::Iptables(applied) => {
                applied.values().map(|applied| applied.iptables.part(chain())).collect()
            }
            Applied::Nftables { ruleset, .. } => {
                let table =
                    |family: Family| ChainPart { chain: chain(), place: ChainPlace::Table(family.into()) };
                ruleset.families().map(table).collect()
            }
        }
    }

    /// Puts `firewall` in place of what was applied before. A packet meets the rules of before or those of after, never
    /// some of each and never none. When it fails, the rules of before stay, or are put back: with iptables
    /// each family is a commit of its own. Blocks the calling thread.
    ///
    /// # Errors
    /// [`TproxyError`]: the rules of before are in force. [`TproxyError::Undo`]: not all of them are.
    pub fn replace(&mut self, firewall: &Firewall) -> Result<(), TproxyError> {
        // What is put back when it fails must not be given up for the reason that it failed.
        let _whole = InterruptGuard::off();
        let replaced = self.exchange(firewall);
        self.prints = self.first_prints();
        replaced
    }

    fn exchange(&mut self, firewall: &Firewall) -> Result<(), TproxyError> {
        match &mut self.applied {
            Applied::Iptables(applied) => replace_iptables(applied, &self.chain, firewall),
            Applied::Nftables { nft, ruleset, leftover } => {
                if let Some(leftover) = leftover.take()
                    && let Err(error) = nft.transact("remove", &leftover)
                {
                    // The removal that was said to fail may have done its work.
                    tracing::debug!(%error, "remove what an earlier replacement left");
                }
                let next = ruleset.next(&self.chain, firewall)?;
                let replacement = next.replacement(ruleset);
                let exchanged = nft
                    .transact("prepare", &replacement.preparation)
                    .and_then(|()| nft.transact("replace", &replacement.exchange));
                if let Err(source) = exchanged {
                    if let Err(error) = nft.transact("remove", &replacement.retreat) {
                        tracing::debug!(%error, "remove what a failed replacement prepared");
                        *leftover = Some(replacement.retreat);
                    }
                    return Err(source);
                }
                if let Err(error) = nft.transact("remove", &replacement.cleanup) {
                    tracing::warn!(
                        "remove the replaced firewall rules, which steer nothing any more: {error}"
                    );
                    *leftover = Some(replacement.cleanup);
                }
                *ruleset = next;
                Ok(())
            }
        }
    }

    /// A look whether it is as it was applied.
    #[must_use]
    pub fn look(&self) -> FirewallLook {
        let mut look = FirewallLook::default();
        for part in self.parts() {
            let print = self.prints.get(&part);
            match &self.applied {
                Applied::Iptables(applied) => {
                    let mut all = applied.values();
                    if let Some(one) = all.find(|one| one.iptables.part(self.chain.clone()) == part) {
                        look.add_iptables(&one.iptables, part, print);
                    }
                }
                Applied::Nftables { nft, .. } => look.add_nft(nft, part, print),
            }
        }
        look
    }

    /// True where nobody tells when the rules are changed, so that they have to be looked at again and again.
    #[must_use]
    pub fn is_untold(&self) -> bool {
        match &self.applied {
            Applied::Iptables(applied) => applied.values().any(|applied| applied.iptables.is_legacy()),
            Applied::Nftables { .. } => false,
        }
    }

    /// Applies again what was applied, in place of what is left of it. Blocks the calling thread.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn put_back(&mut self) -> Result<(), TproxyError> {
        match &mut self.applied {
            Applied::Iptables(applied) => {
                for applied in applied.values() {
                    applied.iptables.replace(&self.chain, &applied.text)?;
                }
            }
            // The names are those of this generation: the next one replaces it as if nothing had happened.
            Applied::Nftables { nft, ruleset, leftover } => {
                nft.transact("put back", &ruleset.creation())?;
                *leftover = None;
            }
        }
        self.prints = self.first_prints();
        Ok(())
    }

    fn first_prints(&self) -> BTreeMap<ChainPart, String> {
        match &self.applied {
            Applied::Iptables(applied) => applied
                .values()
                .filter_map(|applied| {
                    let saved = applied.iptables.save("list");
                    let saved = saved
                        .inspect_err(|error| tracing::debug!(%error, "look at what was applied"))
                        .ok()?;
                    Some((applied.iptables.part(self.chain.clone()), print_of(&saved, &self.chain)))
                })
                .collect(),
            Applied::Nftables { nft, .. } => self
                .parts()
                .into_iter()
                .filter_map(|part| Some((part.clone(), nft.first_print(&part)?)))
                .collect(),
        }
    }

    /// Removes what was applied. What is gone already is no error. Blocks the calling thread.
    #[must_use]
    pub fn undo(self) -> Vec<TproxyError> {
        match self.applied {
            Applied::Iptables(applied) => undo_iptables(&self.chain, applied),
            Applied::Nftables { nft, .. } => {
                nft.remove(Kind::Steering, &BTreeSet::from([self.chain])).err().into_iter().collect()
            }
        }
    }
}

fn apply_nftables(chain: &Chain, firewall: &Firewall) -> Result<Applied, TproxyError> {
    let ruleset = Ruleset::compile(chain, firewall)?;
    let nft = Nft::find()?;
    nft.apply(Kind::Steering, chain, &ruleset.creation())?;
    Ok(Applied::Nftables { nft, ruleset, leftover: None })
}

fn apply_iptables(chain: &Chain, firewall: &Firewall) -> Result<Applied, TproxyError> {
    // All programs are found before the first is run.
    let found: Vec<(Family, Iptables, String)> = texts::texts(chain, firewall)?
        .into_iter()
        .map(|(family, text)| Ok((family, Iptables::find(family)?, text)))
        .collect::<Result<_, TproxyError>>()?;
    let mut applied = BTreeMap::new();
    for (family, iptables, text) in found {
        match apply_family(iptables, chain, &text) {
            Ok(done) => {
                applied.insert(family, done);
            }
            Err(source) => {
                let _whole = InterruptGuard::off();
                let undo = undo_iptables(chain, applied);
                return Err(if undo.is_empty() {
                    source
                } else {
                    TproxyError::Undo { source: Box::new(source), undo }
                });
            }
        }
    }
    Ok(Applied::Iptables(applied))
}

fn apply_family(iptables: Iptables, chain: &Chain, text: &str) -> Result<AppliedFamily, TproxyError> {
    let table = iptables.has_table()?;
    if let Err(error) = iptables.restore("apply", text) {
        // What was ended may have done its work. Where it has not, this waits for no lock.
        if matches!(error, TproxyError::Hung { .. } | TproxyError::Interrupted { .. }) {
            let _whole = InterruptGuard::off();
            if let Err(error) = iptables.remove(&BTreeSet::from([chain.clone()])) {
                tracing::debug!(%error, "remove what an iptables that was ended may have made");
            }
            if !table {
                iptables.drop_bare_table();
            }
        }
        return Err(error);
    }
    Ok(AppliedFamily { iptables, table, text: text.to_owned() })
}

fn replace_iptables(
    applied: &mut BTreeMap<Family, AppliedFamily>,
    chain: &Chain,
    firewall: &Firewall,
) -> Result<(), TproxyError> {
    let texts = texts::texts(chain, firewall)?;
    let before: BTreeMap<Family, String> =
        applied.iter().map(|(family, applied)| (*family, applied.text.clone())).collect();
    exchange_iptables(applied, chain, &texts).map_err(|source| {
        let undo = put_back_iptables(applied, chain, &before);
        if undo.is_empty() { source } else { TproxyError::Undo { source: Box::new(source), undo } }
    })
}

/// Family by family, each a commit of its own. When one fails, those before it have the new rules already.
fn exchange_iptables(
    applied: &mut BTreeMap<Family, AppliedFamily>,
    chain: &Chain,
    texts: &BTreeMap<Family, String>,
) -> Result<(), TproxyError> {
    for (family, text) in texts {
        if let Some(applied) = applied.get_mut(family) {
            applied.iptables.replace(chain, text)?;
            applied.text.clone_from(text);
        } else {
            applied.insert(*family, apply_family(Iptables::find(*family)?, chain, text)?);
        }
    }
    let gone: Vec<Family> = applied.keys().copied().filter(|family| !texts.contains_key(family)).collect();
    for family in &gone {
        if let Some(done) = applied.get(family) {
            done.iptables.remove(&BTreeSet::from([chain.clone()]))?;
        }
    }
    for done in gone.iter().filter_map(|family| applied.remove(family)) {
        if !done.table {
            done.iptables.drop_bare_table();
        }
    }
    Ok(())
}

/// Whatever [`exchange_iptables`] did before it failed, and whether the command that failed did its work or not: makes
/// every family have its rules of `before` again.
fn put_back_iptables(
    applied: &mut BTreeMap<Family, AppliedFamily>,
    chain: &Chain,
    before: &BTreeMap<Family, String>,
) -> Vec<TproxyError> {
    let mut errors = Vec::new();
    for (family, applied) in applied.iter_mut() {
        if let Some(text) = before.get(family) {
            errors.extend(applied.iptables.replace(chain, text).err());
            applied.text.clone_from(text);
        }
    }
    // A family that was to be new may have its rules even though the command that applied them failed.
    let doomed = BTreeSet::from([chain.clone()]);
    for family in [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| !before.contains_key(family)) {
        let table = applied.remove(&family).is_none_or(|applied| applied.table);
        if let Ok(iptables) = Iptables::find(family) {
            errors.extend(iptables.remove(&doomed).err());
            if !table {
                iptables.drop_bare_table();
            }
        }
    }
    errors
}

fn undo_iptables(chain: &Chain, applied: BTreeMap<Family, AppliedFamily>) -> Vec<TproxyError> {
    let doomed = BTreeSet::from([chain.clone()]);
    applied
        .into_values()
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

/// Every chain and table of ours in the namespace, whichever process made it and with whichever program. Without the
/// programs there are none. Blocks the calling thread.
///
/// # Errors
/// A firewall's program fails in another way than by not being there.
pub fn list_ours() -> Result<BTreeSet<ChainPart>, TproxyError> {
    let mut ours = BTreeSet::new();
    let found = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .flat_map(Iptables::find_all)
        .map(|iptables| iptables.parts())
        .chain(Nft::find_any().map(|nft| nft.parts()));
    for parts in found {
        match parts {
            Ok(parts) => ours.extend(parts),
            // A kernel that cannot have rules of this kind has none.
            Err(TproxyError::ExtensionMissing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ours)
}

/// Removes the chains `doomed`, of both families and variants, with the jumps to them, and the tables of the same
/// instances. Blocks the calling thread.
#[must_use]
pub fn remove(doomed: &BTreeSet<Chain>) -> Vec<TproxyError> {
    if doomed.is_empty() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for iptables in [Family::Ipv4, Family::Ipv6].into_iter().flat_map(Iptables::find_all) {
        match iptables.remove(doomed) {
            Ok(true) => iptables.drop_bare_table(),
            Ok(false) | Err(TproxyError::ExtensionMissing { .. }) => {}
            Err(error) => errors.push(error),
        }
    }
    match Nft::find_any().map(|nft| nft.remove(Kind::Any, doomed)) {
        None | Some(Ok(_) | Err(TproxyError::ExtensionMissing { .. })) => {}
        Some(Err(error)) => errors.push(error),
    }
    errors
}
