//! Which firewall carries the rules of the TPROXY path. Whether it can is found out by trying.

use std::fmt;
use std::str::FromStr;

/// The user's choice of a firewall.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum FirewallChoice {
    /// nftables where it takes the rules, else iptables.
    #[default]
    Auto,
    /// iptables or an error.
    Iptables,
    /// nftables or an error.
    Nftables,
}

impl FirewallChoice {
    /// The words.
    pub const WORDS: &'static [&'static str] = &["auto", "iptables", "nftables"];
}

impl fmt::Display for FirewallChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

impl FromStr for FirewallChoice {
    type Err = ParseFirewallError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed {
            "auto" => Ok(Self::Auto),
            "iptables" => Ok(Self::Iptables),
            "nftables" => Ok(Self::Nftables),
            _ => Err(ParseFirewallError),
        }
    }
}

/// The error of a text that is not a [`FirewallChoice`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected auto, iptables or nftables")]
pub struct ParseFirewallError;
