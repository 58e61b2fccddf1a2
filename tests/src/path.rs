//! The two ways of steering, and the firewalls that carry the rules of one, that every steering case runs over. Holds no case.

use std::fmt;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::netns::Netns;
use crate::require::{Need, find_in_path};

/// The way of packets to the listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// The eBPF program.
    SkLookup,
    /// TPROXY rules through iptables over the legacy interface.
    TproxyIptablesLegacy,
    /// TPROXY rules through iptables over nftables.
    TproxyIptablesNft,
    /// TPROXY rules in a table of nftables.
    TproxyNftables,
}

/// An address family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The directory that is the whole search path of the program under test. Lies in the private /run of a namespace.
pub const TOOLS: &str = "/run/tools";

impl Path {
    /// All paths.
    pub const ALL: [Self; 4] =
        [Self::SkLookup, Self::TproxyNftables, Self::TproxyIptablesNft, Self::TproxyIptablesLegacy];

    /// Its name for `--mode`, and in the ready line.
    pub fn mode(self) -> &'static str {
        match self {
            Self::SkLookup => "sk-lookup",
            Self::TproxyIptablesLegacy | Self::TproxyIptablesNft | Self::TproxyNftables => "tproxy",
        }
    }

    /// Its place among the paths.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::SkLookup => 0,
            Self::TproxyIptablesLegacy => 1,
            Self::TproxyIptablesNft => 2,
            Self::TproxyNftables => 3,
        }
    }

    /// The flags that insist on the path.
    pub fn flags(self) -> &'static str {
        match self {
            Self::SkLookup => "--mode sk-lookup",
            Self::TproxyIptablesLegacy | Self::TproxyIptablesNft => "--mode tproxy --firewall iptables",
            Self::TproxyNftables => "--mode tproxy --firewall nftables",
        }
    }

    /// The path's needs of the machine.
    pub fn needs(self) -> &'static [Need] {
        match self {
            Self::SkLookup => &[Need::Netns, Need::Program, Need::Bpf],
            Self::TproxyIptablesLegacy => &[Need::Netns, Need::Program, Need::IptablesLegacy],
            Self::TproxyIptablesNft => &[Need::Netns, Need::Program, Need::IptablesNft],
            Self::TproxyNftables => &[Need::Netns, Need::Program, Need::Nftables],
        }
    }

    /// Makes [`TOOLS`] in the namespace hold this path's variant of iptables, or nft, and nothing else; for `sk_lookup`, nothing
    /// at all. False when the variant is not installed.
    pub fn install(self, netns: &Netns) -> bool {
        let multi = match self {
            Self::SkLookup => None,
            Self::TproxyIptablesLegacy => Some("xtables-legacy-multi"),
            Self::TproxyIptablesNft => Some("xtables-nft-multi"),
            Self::TproxyNftables => Some("nft"),
        };
        netns.run(|| {
            std::fs::create_dir_all(TOOLS).expect("make the directory of tools");
            let Some(multi) = multi else { return true };
            let Some(multi) = find_in_path(multi) else { return false };
            if self == Self::TproxyNftables {
                symlink(&multi, format!("{TOOLS}/nft")).expect("link a tool");
                return true;
            }
            for family in ["iptables", "ip6tables"] {
                for verb in ["", "-restore", "-save"] {
                    symlink(&multi, format!("{TOOLS}/{family}{verb}")).expect("link a tool");
                }
            }
            true
        })
    }

    /// A command line (split at spaces) run with this path's tools, to be started inside the namespace.
    pub fn command(self, line: &str) -> Command {
        let mut words = line.split(' ');
        let mut command = Command::new(format!("{TOOLS}/{}", words.next().unwrap_or_default()));
        command.args(words).env("PATH", TOOLS);
        command
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SkLookup => "sk_lookup",
            Self::TproxyIptablesLegacy => "tproxy_iptables_legacy",
            Self::TproxyIptablesNft => "tproxy_iptables_nft",
            Self::TproxyNftables => "tproxy_nftables",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// Makes eight tests of each case, a function of `&mut Case`: every path, over IPv4 and IPv6. They take turns where
/// [`share`](crate::share) says so.
#[macro_export]
macro_rules! on_every_path {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            $crate::on_every_path!(@test sk_lookup_ipv4, $case, SkLookup, V4, Every);
            $crate::on_every_path!(@test sk_lookup_ipv6, $case, SkLookup, V6, Every);
            $crate::on_every_path!(@test tproxy_iptables_legacy_ipv4, $case, TproxyIptablesLegacy, V4, Every);
            $crate::on_every_path!(@test tproxy_iptables_legacy_ipv6, $case, TproxyIptablesLegacy, V6, Every);
            $crate::on_every_path!(@test tproxy_iptables_nft_ipv4, $case, TproxyIptablesNft, V4, Every);
            $crate::on_every_path!(@test tproxy_iptables_nft_ipv6, $case, TproxyIptablesNft, V6, Every);
            $crate::on_every_path!(@test tproxy_nftables_ipv4, $case, TproxyNftables, V4, Every);
            $crate::on_every_path!(@test tproxy_nftables_ipv6, $case, TproxyNftables, V6, Every);
        }
    )+};
    (@families $case:ident $variants:ident: $($test:ident $path:ident),+) => {$(
        $crate::on_every_path!(@test $test, $case, $path, V4, $variants);
    )+};
    (@test $test:ident, $case:ident, $path:ident, $family:ident, $variants:ident) => {
        #[test]
        fn $test() {
            $crate::case::check_variant(
                concat!(stringify!($case), "::", stringify!($test)),
                $crate::share::Variants::$variants,
                $crate::path::Path::$path,
                $crate::path::Family::$family,
                super::$case,
            );
        }
    };
}

/// Makes four tests of each case, a function of `&mut Case` that does not care for the case's family: one a path.
#[macro_export]
macro_rules! on_each_path {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            $crate::on_every_path!(
                @families $case Each:
                sk_lookup SkLookup,
                tproxy_iptables_legacy TproxyIptablesLegacy,
                tproxy_iptables_nft TproxyIptablesNft,
                tproxy_nftables TproxyNftables
            );
        }
    )+};
}

/// Makes two tests of each case whose matter is the same on every path: one a kind of path, each with a family of its own.
#[macro_export]
macro_rules! on_one_path {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            $crate::on_every_path!(@test sk_lookup_ipv4, $case, SkLookup, V4, Few);
            $crate::on_every_path!(@test tproxy_nftables_ipv6, $case, TproxyNftables, V6, Few);
        }
    )+};
}

/// Like [`on_each_path!`], on the paths that need iptables.
#[macro_export]
macro_rules! on_iptables {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            $crate::on_every_path!(
                @families $case Few:
                tproxy_iptables_legacy TproxyIptablesLegacy,
                tproxy_iptables_nft TproxyIptablesNft
            );
        }
    )+};
}
