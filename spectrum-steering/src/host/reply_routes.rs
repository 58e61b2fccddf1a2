//! The rules and routes that deliver here what origins answer to clients' addresses. Touches no table but those whose
//! numbers are ours, and no rule of another protocol number.
//!
//! ```text
//! ip rule add fwmark 0x53000000/0xff000000 lookup T protocol 83
//! ip rule add from 127.0.0.0/8 iif lo ipproto tcp lookup T protocol 83
//! ip rule add from 127.0.0.0/8 iif lo ipproto udp lookup T protocol 83
//! ip route add local default dev lo table T protocol 83
//! ```
//!
//! The others are for origins on this host: what they answer is routed before any firewall could mark it, and TCP or UDP
//! from a loopback address to one that is not this host's cannot be anything else. The kernel puts rules after the one for
//! the table `local` and before all others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::TryStreamExt as _;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};
use tokio::task::JoinHandle;

use super::NetError;
use super::routes::{CAPABILITY, LOOPBACK, ROUTE_PROTOCOL, address_family, connect, io_error};
use crate::model::Family;
use crate::plan::reply_table::{MARK, MARK_MASK, ReplyTable};

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// A netlink socket for reply routes. Dropping it removes none.
#[derive(Debug)]
pub struct ReplyRoutes {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl ReplyRoutes {
    /// Opens the netlink socket, in the network namespace of the calling thread and on the running tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open() -> Result<Self, NetError> {
        let (handle, connection) = connect()?;
        Ok(Self { handle, connection })
    }

    /// Adds the rules and the route of `family` by way of `table`. What is there already is no error. On failure what was
    /// added remains, for [`remove`](Self::remove).
    ///
    /// # Errors
    /// [`NetError`]: no `CAP_NET_ADMIN`, or a kernel without rules for routing. What was added by then stays.
    pub async fn add(&self, table: ReplyTable, family: Family) -> Result<(), NetError> {
        // A rule without a route changes nothing, and a route is found again by the rules that lead to it.
        for rule in self.absent_rules(table, family).await? {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule;
            settle("add reply rule for", family, request.execute().await, libc::EEXIST)?;
        }
        let request = self.handle.route().add(route(table, family)?);
        settle("add reply route for", family, request.execute().await, libc::EEXIST)?;
        self.still_connected("add reply routes for", family)
    }

    /// True if the rules and the route of `family` by way of `table` are all there.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub async fn is_whole(&self, table: ReplyTable, family: Family) -> Result<bool, NetError> {
        if !self.absent_rules(table, family).await?.is_empty() {
            return Ok(false);
        }
        let mut filter = RouteMessage::default();
        filter.header.address_family = address_family(family);
        filter.attributes.push(RouteAttribute::Table(table.number()));
        let routes: Result<Vec<RouteMessage>, _> =
            self.handle.route().get(filter).execute().try_collect().await;
        match routes.map_err(io_error) {
            Ok(routes) => {
                self.still_connected("list reply routes for", family)?;
                let of = RouteAttribute::Table(table.number());
                Ok(routes.iter().any(|route| route.attributes.contains(&of)))
            }
            // A table is there as long as it has a route.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(NetError::os("list reply routes for", family, source, CAPABILITY)),
        }
    }

    /// The rules that are not there. The kernel would take one that is once more, with another priority.
    async fn absent_rules(&self, table: ReplyTable, family: Family) -> Result<Vec<RuleMessage>, NetError> {
        let present = self.rules_of_ours(family).await?;
        let is_present = |wanted: &RuleMessage| {
            present.iter().any(|(of, rule)| *of == table && protocol(rule) == protocol(wanted))
        };
        Ok(rules(table, family).into_iter().filter(|wanted| !is_present(wanted)).collect())
    }

    /// The tables in the namespace that rules of ours lead to, whichever process added them.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub async fn list_ours(&self) -> Result<BTreeSet<ReplyTable>, NetError> {
        let mut tables = BTreeSet::new();
        for family in FAMILIES {
            tables.extend(self.rules_of_ours(family).await?.into_iter().map(|(table, _)| table));
        }
        Ok(tables)
    }

    /// Removes `table`'s route and every rule of ours that leads to it, of both families.
    pub async fn remove(&self, table: ReplyTable) -> Vec<NetError> {
        let mut errors = Vec::new();
        for family in FAMILIES {
            errors.extend(self.remove_family(table, family).await);
        }
        errors
    }

    /// Removes those of `family`. What is gone already is no error.
    pub async fn remove_family(&self, table: ReplyTable, family: Family) -> Vec<NetError> {
        let mut errors = Vec::new();
        let removed = match route(table, family) {
            Ok(route) => self.handle.route().del(route).execute().await,
            Err(error) => return vec![error],
        };
        errors.extend(settle("remove reply route for", family, removed, libc::ESRCH).err());
        match self.rules_of_ours(family).await {
            Ok(rules) => {
                for (_, rule) in rules.into_iter().filter(|(of, _)| *of == table) {
                    let removed = self.handle.rule().del(rule).execute().await;
                    errors.extend(settle("remove reply rule for", family, removed, libc::ENOENT).err());
                }
            }
            Err(error) => errors.push(error),
        }
        errors.extend(self.still_connected("remove reply routes for", family).err());
        errors
    }

    /// After a failed system call the connection is over, and rtnetlink takes the end of the answers for success.
    fn still_connected(&self, op: &'static str, family: Family) -> Result<(), NetError> {
        if self.connection.is_finished() {
            let source = std::io::Error::other("the netlink connection was lost");
            return Err(NetError::os(op, family, source, CAPABILITY));
        }
        Ok(())
    }

    async fn rules_of_ours(&self, family: Family) -> Result<Vec<(ReplyTable, RuleMessage)>, NetError> {
        let version = match family {
            Family::Ipv4 => IpVersion::V4,
            Family::Ipv6 => IpVersion::V6,
        };
        let listed: Result<Vec<RuleMessage>, _> =
            self.handle.rule().get(version).execute().try_collect().await;
        let rules = match listed.map_err(io_error) {
            Ok(rules) => rules,
            // The kernel does without this family, or without rules.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                Vec::new()
            }
            Err(source) => return Err(NetError::os("list routing rules of", family, source, CAPABILITY)),
        };
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
        Ok(rules
            .into_iter()
            .filter(|rule| rule.attributes.contains(&ours))
            .filter_map(|rule| Some((table_of(&rule)?, rule)))
            .collect())
    }
}

impl Drop for ReplyRoutes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The protocol of a rule for packets from this host; `None` of the one for marked packets.
fn protocol(rule: &RuleMessage) -> Option<IpProtocol> {
    rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::IpProtocol(protocol) => Some(*protocol),
        _ => None,
    })
}

fn table_of(rule: &RuleMessage) -> Option<ReplyTable> {
    rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(number) => ReplyTable::numbered(*number),
        _ => None,
    })
}

fn rules(table: ReplyTable, family: Family) -> [RuleMessage; 3] {
    let mut marked = RuleMessage::default();
    marked.header.family = address_family(family);
    marked.header.action = RuleAction::ToTable;
    marked.attributes.push(RuleAttribute::Table(table.number()));
    marked.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    let mut own = marked.clone();
    marked.attributes.push(RuleAttribute::FwMark(MARK));
    marked.attributes.push(RuleAttribute::FwMask(MARK_MASK));
    let (source, length) = match family {
        Family::Ipv4 => (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        Family::Ipv6 => (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    };
    own.header.src_len = length;
    own.attributes.push(RuleAttribute::Source(source));
    own.attributes.push(RuleAttribute::Iifname(LOOPBACK.to_owned()));
    let [tcp, udp] = [IpProtocol::Tcp, IpProtocol::Udp].map(|protocol| {
        let mut rule = own.clone();
        rule.attributes.push(RuleAttribute::IpProtocol(protocol));
        rule
    });
    [marked, tcp, udp]
}

/// `local default dev lo table T`.
fn route(table: ReplyTable, family: Family) -> Result<RouteMessage, NetError> {
    let loopback = if_nametoindex(LOOPBACK)
        .map_err(|errno| NetError::os("find interface", LOOPBACK, errno, CAPABILITY))?;
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes.push(RouteAttribute::Table(table.number()));
    message.attributes.push(RouteAttribute::Oif(loopback));
    Ok(message)
}

/// The result of an answer where `done` means that there was nothing left to do.
fn settle(
    op: &'static str,
    family: Family,
    answer: Result<(), rtnetlink::Error>,
    done: i32,
) -> Result<(), NetError> {
    match answer.map_err(io_error) {
        Err(source) if source.raw_os_error() != Some(done) => {
            Err(NetError::os(op, family, source, CAPABILITY))
        }
        _ => Ok(()),
    }
}
