//! The TPROXY rules that steer as the steering table does, for either firewall of the kernel. Runs nothing.

mod denial;
pub(crate) mod iptables;
pub(crate) mod marking;
pub(crate) mod nftables;
mod part;
mod sharing;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::model::Binding;
pub use denial::Denial;
pub use part::{ChainPart, ChainPlace, TableFamily};
pub use sharing::{SharedSlot, Sharing};

/// A binding and the listener that its packets go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The binding that is matched.
    pub binding: Binding,
    /// The listener that it goes to, of the binding's family.
    pub listener: SocketAddr,
}

/// The rules to be applied, whichever firewall carries them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Firewall {
    rules: Vec<Rule>,
    denials: Vec<Denial>,
    shares: Vec<Sharing>,
}

impl Firewall {
    /// The firewall with `rules`. Their order does not matter: precedence is that of [`Binding::precedence`].
    #[must_use]
    pub fn of(mut rules: Vec<Rule>) -> Self {
        rules.sort_by(|a, b| a.binding.precedence(&b.binding));
        Self { rules, denials: Vec::new(), shares: Vec::new() }
    }

    /// The same, but for the sources that are denied.
    #[must_use]
    pub fn denying(self, denials: Vec<Denial>) -> Self {
        Self { denials, ..self }
    }

    /// The same, but that rules which name one of `shares` lead to sockets of other programs.
    #[must_use]
    pub fn sharing(self, shares: Vec<Sharing>) -> Self {
        Self { shares, ..self }
    }

    /// The sockets of other programs that rules lead to.
    pub(crate) fn shares(&self) -> &[Sharing] {
        &self.shares
    }

    /// Whom it denies.
    pub(crate) fn denials(&self) -> &[Denial] {
        &self.denials
    }

    /// The rules in the order of precedence.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// The name of what an instance has in the firewall: `SPECTRUM-` and its id is a chain of iptables, `spectrum-` and its
/// id a table of nftables; with `spectrum-nat-` it is the one that exempts from NAT.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
#[serde(transparent)]
pub struct Chain(String);

impl Chain {
    const PREFIX: &str = "SPECTRUM-";
    const TABLE_PREFIX: &str = "spectrum-";
    const EXEMPTING_PREFIX: &str = "spectrum-nat-";

    /// The chain of the instance `id`.
    #[must_use]
    pub fn of(id: impl fmt::Display) -> Self {
        Self(format!("{}{id}", Self::PREFIX))
    }

    /// The chain of the instance whose table has this name.
    pub(crate) fn of_table(name: &str) -> Result<Self, ParseChainError> {
        match name.strip_prefix(Self::TABLE_PREFIX) {
            Some(id) if is_id(id) => Ok(Self::of(id)),
            _ => Err(ParseChainError),
        }
    }

    /// The chain of the instance whose table that exempts from NAT has this name.
    pub(crate) fn of_exempting_table(name: &str) -> Result<Self, ParseChainError> {
        match name.strip_prefix(Self::EXEMPTING_PREFIX) {
            Some(id) if is_id(id) => Ok(Self::of(id)),
            _ => Err(ParseChainError),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the same instance's table.
    #[must_use]
    pub fn table(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// The name of the same instance's table that exempts what it binds from NAT.
    #[must_use]
    pub(crate) fn exempting_table(&self) -> String {
        format!("{}{}", Self::EXEMPTING_PREFIX, self.0.trim_start_matches(Self::PREFIX))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Chain {
    type Err = ParseChainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.strip_prefix(Self::PREFIX) {
            Some(id) if is_id(id) => Ok(Self(name.to_owned())),
            _ => Err(ParseChainError),
        }
    }
}

/// True if an instance may be called so: up to eight hexadecimal digits. Somebody else's table that only begins like ours must
/// not be swept.
fn is_id(text: &str) -> bool {
    (1..=8).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name is not that of one of our chains or tables.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a chain of spectrum's")]
pub struct ParseChainError;

/// More than a firewall can sensibly carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TooManyBindings {
    /// Rules, which are tried one after the other.
    #[error(
        "carry {count} bindings of one family in iptables: it compares every new connection with each in turn, and \
         {limit} are the most that makes sense (use --firewall nftables, or sk_lookup)"
    )]
    Iptables {
        /// The number that there would be.
        count: usize,
        /// The highest number possible.
        limit: usize,
    },
    /// Sockets of other programs: where such a server has ended, iptables has no way to refuse its clients in that place.
    #[error(
        "carry registered services in iptables: it cannot refuse the clients of a server that has ended (use --firewall nftables, or \
         sk_lookup)"
    )]
    IptablesRegistered,
    /// Elements of maps, which take long to load.
    #[error(
        "carry {count} address and port ranges in nftables: loading more than {limit} takes too long (use sk_lookup, \
         or fewer bindings and denied prefixes)"
    )]
    Nftables {
        /// The number that there would be.
        count: usize,
        /// The highest number possible.
        limit: usize,
    },
}
