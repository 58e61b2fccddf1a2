//! What the kernel tells of changes to nf_tables: that tables of an instance were touched by somebody else. Looks at nothing
//! itself.

use std::collections::BTreeSet;
use std::io;

use nix::sys::socket::SockProtocol;

use super::program::is_child;
use crate::netlink::{Author, Groups, NetlinkMessage, NoticeReception, attribute, number, text};
use crate::plan::firewall::Chain;

/// The group NFNLGRP_NFTABLES.
const GROUPS: u32 = 1 << (7 - 1);

/// Of NFNETLINK's parts the one of nf_tables (NFNL_SUBSYS_NFTABLES), in the upper byte of a message's kind.
const NF_TABLES: u16 = 10 << 8;

/// A transaction has been carried out (NFT_MSG_NEWGEN): what it did was told before.
const GENERATION: u16 = NF_TABLES | 15;

/// struct nfgenmsg.
const HEADER: usize = 4;

/// In every message about a thing in a table, the table's name. In one about a generation, its number.
const TABLE: u16 = 1;

/// The maker of a generation: the process id (NFTA_GEN_PROC_PID) and the command (NFTA_GEN_PROC_NAME).
const PROCESS: u16 = 2;
const COMMAND: u16 = 3;

/// The table of iptables' rules that the chains of the TPROXY path are in.
const MANGLE: &str = "mangle";

/// Hears what the kernel tells of tables.
#[derive(Debug)]
pub struct FirewallNotices {
    groups: Groups,
    table: String,
    exempting: String,
    /// The things that the transaction touched that is being told.
    touched: BTreeSet<Touched>,
}

/// The things of an instance that may be touched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Touched {
    /// A table of nobody's of us, which may translate addresses.
    Elsewhere,
    /// The table that exempts from NAT.
    Exemption,
    /// The tables that iptables' rules are in, perhaps without ours.
    Mangle,
    /// The table that marks answers.
    Mark,
    /// The tables that steer.
    Steering,
}

/// The deeds of others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FirewallNotice {
    /// Not all was heard: anything may have been touched.
    Lost,
    /// This was touched.
    Touched(BTreeSet<Touched>, Option<Author>),
}

impl FirewallNotices {
    /// Begins to hear of what `chain`'s instance has, in the network namespace of the calling thread and on the running
    /// tokio runtime. Needs CAP_NET_ADMIN, and a kernel with nf_tables.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn hear(chain: &Chain) -> io::Result<Self> {
        Ok(Self {
            groups: Groups::hear(SockProtocol::NetlinkNetFilter, GROUPS)?,
            table: chain.table(),
            exempting: chain.exempting_table(),
            touched: BTreeSet::new(),
        })
    }

    /// The next that others did. After an error no more will come.
    ///
    /// # Errors
    /// The socket broke. What was only lost is told as all that may have happened.
    pub async fn next(&mut self) -> io::Result<FirewallNotice> {
        loop {
            let Self { groups, table, exempting, touched } = self;
            let mut others = BTreeSet::new();
            let mut author = None;
            let hearing = groups.next(|message| {
                if message.kind != GENERATION {
                    touched.extend(of(message, table, exempting));
                    return;
                }
                let done = std::mem::take(touched);
                // The port is the process id as we see it, the attribute as the host does.
                if !done.is_empty() && !is_child(message.port) {
                    others.extend(done);
                    author = author_of(message).or_else(|| Author::at_port(message.port));
                }
            });
            if hearing.await? == NoticeReception::Lost {
                touched.clear();
                return Ok(FirewallNotice::Lost);
            }
            if !others.is_empty() {
                return Ok(FirewallNotice::Touched(others, author));
            }
        }
    }
}

/// The thing that `message` says was touched.
fn of(message: NetlinkMessage<'_>, table: &str, exempting: &str) -> Option<Touched> {
    if message.kind & 0xff00 != NF_TABLES {
        return None;
    }
    // struct nfgenmsg begins with the family.
    let family = i32::from(*message.body.first()?);
    let name = attribute(message.body.get(HEADER..)?, TABLE).and_then(text)?;
    match family {
        libc::NFPROTO_INET if name == table => Some(Touched::Mark),
        libc::NFPROTO_INET if name == exempting => Some(Touched::Exemption),
        libc::NFPROTO_IPV4 | libc::NFPROTO_IPV6 if name == table => Some(Touched::Steering),
        libc::NFPROTO_IPV4 | libc::NFPROTO_IPV6 if name == MANGLE => Some(Touched::Mangle),
        // Those of other instances take nothing of ours.
        _ if Chain::of_table(name).or_else(|_| Chain::of_exempting_table(name)).is_ok() => None,
        libc::NFPROTO_INET | libc::NFPROTO_IPV4 | libc::NFPROTO_IPV6 => Some(Touched::Elsewhere),
        _ => None,
    }
}

fn author_of(message: NetlinkMessage<'_>) -> Option<Author> {
    let body = message.body.get(HEADER..)?;
    let pid = attribute(body, PROCESS).and_then(number)?;
    Some(Author::named(pid, attribute(body, COMMAND).and_then(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(family: i32, name: &str) -> Option<Touched> {
        let mut body = vec![u8::try_from(family).unwrap(), 0, 0, 0];
        body.extend(u16::try_from(4 + name.len() + 1).unwrap().to_ne_bytes());
        body.extend(TABLE.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        of(
            NetlinkMessage { kind: NF_TABLES | 8, flags: 0, port: 1, body: &body },
            "spectrum-7",
            "spectrum-nat-7",
        )
    }

    #[test]
    fn our_tables_are_told_from_those_that_our_chains_are_in_and_from_others() {
        assert_eq!(touched(libc::NFPROTO_IPV4, "spectrum-7"), Some(Touched::Steering));
        assert_eq!(touched(libc::NFPROTO_INET, "spectrum-7"), Some(Touched::Mark));
        assert_eq!(touched(libc::NFPROTO_INET, "spectrum-nat-7"), Some(Touched::Exemption));
        assert_eq!(touched(libc::NFPROTO_IPV6, "mangle"), Some(Touched::Mangle));
        for (family, name) in [
            (libc::NFPROTO_IPV4, "spectrum-71"),
            (libc::NFPROTO_INET, "spectrum-nat-71"),
            (libc::NFPROTO_ARP, "spectrum-7"),
            (libc::NFPROTO_ARP, "filter"),
        ] {
            assert_eq!(touched(family, name), None, "{name}");
        }
        for (family, name) in [(libc::NFPROTO_IPV4, "nat"), (libc::NFPROTO_INET, "mangle")] {
            assert_eq!(touched(family, name), Some(Touched::Elsewhere), "{name}");
        }
    }
}
