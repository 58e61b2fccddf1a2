//! Running iptables-save and iptables-restore of the system, in their nft and legacy variants. Knows no rule but what it
//! is given.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use super::program::{LOOK, find_or_fail, find_program, output, shown};
use super::{FirewallProgram, TproxyError};
use crate::model::Family;
use crate::plan::Listing;
use crate::plan::firewall::iptables::{chains, is_bare, removal, replacement};
use crate::plan::firewall::{Chain, ChainPart, ChainPlace};

/// The seconds that iptables waits for other programs that change the firewall.
const PATIENCE: &str = "5";

/// Which part of the kernel the rules live in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Variant {
    /// The tables of `x_tables` itself. A look at one makes it.
    Legacy,
    /// `nf_tables`.
    Nft,
}

/// The iptables programs of one family and variant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Iptables {
    family: Family,
    variant: Variant,
    restore: PathBuf,
    save: PathBuf,
    /// True if other programs' rules are changed by the plain name.
    is_default: bool,
}

impl Iptables {
    /// The programs that `iptables` or `ip6tables` stands for on this system.
    pub(super) fn find(family: Family) -> Result<Self, TproxyError> {
        let stem = stem(family);
        let restore = find_or_fail(&format!("{stem}-restore"))?;
        let save = find_or_fail(&format!("{stem}-save"))?;
        let version = output("ask the version of", Command::new(&restore).arg("--version"), "")?;
        let variant = if version.contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
        Ok(Self { family, variant, restore, save, is_default: true })
    }

    /// The programs of every variant that is installed: a predecessor may have used the other one.
    pub(super) fn find_all(family: Family) -> Vec<Self> {
        let stem = stem(family);
        let own = Self::find(family).ok();
        let others =
            [(Variant::Nft, "nft"), (Variant::Legacy, "legacy")].into_iter().filter_map(|(variant, name)| {
                if own.as_ref().is_some_and(|own| own.variant == variant) {
                    return None;
                }
                let restore = find_program(&format!("{stem}-{name}-restore"))?;
                let save = find_program(&format!("{stem}-{name}-save"))?;
                Some(Self { family, variant, restore, save, is_default: false })
            });
        let others: Vec<Self> = others.collect();
        own.into_iter().chain(others).collect()
    }

    /// The mangle table as `iptables-save` prints it, asked for `op`; empty when there is none.
    pub(super) fn save(&self, op: &'static str) -> Result<String, TproxyError> {
        if self.variant == Variant::Legacy && !self.legacy_table_exists()? {
            return Ok(String::new());
        }
        output(op, Command::new(&self.save).args(["-t", "mangle"]), "")
    }

    /// `chain` as this program shows it.
    pub(super) fn part(&self, chain: Chain) -> ChainPart {
        ChainPart { chain, place: ChainPlace::Mangle(self.label()) }
    }

    /// Applies `text` at once or not at all, without touching what it does not name.
    pub(super) fn restore(&self, op: &'static str, text: &str) -> Result<(), TproxyError> {
        output(op, Command::new(&self.restore).args(["--noflush", "--wait", PATIENCE]), text).map(drop)
    }

    /// As [`restore`](Self::restore), in a namespace that nobody else has: the lock, which all namespaces share, is left
    /// to those who need it.
    pub(super) fn try_out(&self, text: &str) -> Result<(), TproxyError> {
        let mut command = Command::new(&self.restore);
        command.args(["--noflush", "--wait", PATIENCE]).env("XTABLES_LOCKFILE", "/dev/null");
        output("apply", &mut command, text).map(drop)
    }

    /// Applies `text` in place of the rules of `chain`, at once or not at all.
    pub(super) fn replace(&self, chain: &Chain, text: &str) -> Result<(), TproxyError> {
        self.restore("replace", &replacement(&self.save("list")?, chain, text))
    }

    /// Removes the chains `doomed` and the jumps to them; whether there were any.
    pub(super) fn remove(&self, doomed: &BTreeSet<Chain>) -> Result<bool, TproxyError> {
        match removal(&self.save("list")?, doomed) {
            Some(text) => self.restore("remove", &text).map(|()| true),
            None => Ok(false),
        }
    }

    /// True if the mangle table is there, or may be: iptables-save prints one where there is none.
    pub(super) fn has_table(&self) -> Result<bool, TproxyError> {
        match (self.variant, find_program("nft")) {
            (Variant::Legacy, _) => self.legacy_table_exists(),
            (Variant::Nft, None) => Ok(true),
            (Variant::Nft, Some(nft)) => {
                let tables = output("list", Command::new(nft).args(["list", "tables"]), "")?;
                let ours = format!("table {} mangle", self.nft_family());
                Ok(tables.lines().any(|table| table == ours))
            }
        }
    }

    /// Removes the table that iptables made for our rules and leaves behind, unless it holds anything. Without the
    /// `nft` program it stays: it does nothing. A legacy table stays as long as the namespace.
    pub(super) fn drop_bare_table(&self) {
        let family = self.nft_family();
        if self.variant == Variant::Nft
            && let Some(nft) = find_program("nft")
            && let Ok(listing) =
                output("list", Command::new(&nft).args(["list", "table", family, "mangle"]), "")
            && is_bare(&listing)
            && let Err(error) =
                output("remove", Command::new(&nft).args(["delete", "table", family, "mangle"]), "")
        {
            tracing::debug!(%error, family, "leave the empty table mangle");
        }
    }

    /// The program and its variant, in words: `ip6tables (legacy)`.
    pub(super) fn label(&self) -> String {
        let variant = match self.variant {
            Variant::Legacy => "legacy",
            Variant::Nft => "nft",
        };
        format!("{} ({variant})", stem(self.family))
    }

    /// True if it is what `iptables` or `ip6tables` stands for.
    pub(super) fn is_default(&self) -> bool {
        self.is_default
    }

    fn nft_family(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
        }
    }

    /// True if the namespace has the legacy mangle table, without making it.
    fn legacy_table_exists(&self) -> Result<bool, TproxyError> {
        Ok(self.legacy_tables()?.lines().any(|name| name == "mangle"))
    }

    /// The legacy tables of the namespace, a line each.
    fn legacy_tables(&self) -> Result<String, TproxyError> {
        let path = legacy_names(self.family);
        match fs::read_to_string(path) {
            Ok(names) => Ok(names),
            // The kernel has no legacy tables, or none yet.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(TproxyError::Denied { op: "list", program: shown(&self.save) })
            }
            Err(source) => Err(TproxyError::Run { program: path.to_owned(), source }),
        }
    }
}

impl FirewallProgram for Iptables {
    fn parts(&self) -> Result<BTreeSet<ChainPart>, TproxyError> {
        Ok(chains(&self.save("list")?).into_iter().map(|chain| self.part(chain)).collect())
    }

    /// The rules of the chain and the jumps to it.
    fn print(&self, part: &ChainPart) -> Result<Option<String>, TproxyError> {
        let name = part.chain.as_str();
        let is_of = |line: &&str| line.split_whitespace().any(|word| word.trim_start_matches(':') == name);
        let saved = self.save(LOOK)?;
        let lines: String = saved.split_inclusive('\n').filter(is_of).collect();
        Ok(Some(lines).filter(|lines| !lines.is_empty()))
    }

    fn listing(&self) -> Result<Listing, TproxyError> {
        let is_empty = self.is_untold() && self.legacy_tables()?.is_empty();
        let text = if is_empty { String::new() } else { output("list", &mut Command::new(&self.save), "")? };
        let variant = match self.variant {
            _ if self.is_default => "",
            Variant::Legacy => "-legacy",
            Variant::Nft => "-nft",
        };
        Ok(Listing::Iptables { program: stem(self.family).to_owned() + variant, family: self.family, text })
    }

    fn sweep(&self, doomed: &BTreeSet<Chain>) -> Result<(), TproxyError> {
        if self.remove(doomed)? {
            self.drop_bare_table();
        }
        Ok(())
    }

    /// True if the rules are in the tables of `x_tables` itself.
    fn is_untold(&self) -> bool {
        self.variant == Variant::Legacy
    }
}

/// True if the namespace has the legacy table nat, or may have it.
pub(super) fn has_legacy_nat(family: Family) -> bool {
    match fs::read_to_string(legacy_names(family)) {
        Ok(names) => names.lines().any(|name| name == "nat"),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// The file in which the kernel names the legacy tables of a family: the thread's and not the process's, whose main
/// thread may be in another namespace.
fn legacy_names(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    }
}

/// The stem of a family's programs' names.
pub(super) fn stem(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}
