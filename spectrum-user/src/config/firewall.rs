//! Which firewall carries the rules of the TPROXY path. Whether it can is found out by trying.

use spectrum_common::UnknownWord;
use strum::{Display, EnumString, VariantNames};

/// The user's choice of a firewall.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<FirewallChoice>)]
pub enum FirewallChoice {
    /// nftables where it takes the rules, else iptables.
    #[default]
    Auto,
    /// iptables or an error.
    Iptables,
    /// nftables or an error.
    Nftables,
}
