//! The rule that marks origins' answers to clients' addresses, as text for `nft -f -`. Steers nothing: that the mark
//! leads here is a routing rule's affair.
//!
//! ```text
//! table inet spectrum-4711 {
//!     chain prerouting {
//!         type filter hook prerouting priority mangle
//!         meta l4proto { tcp, udp } fib daddr type != local socket transparent 1 meta mark set …
//!     }
//! }
//! ```
//!
//! `socket` finds the connection that a packet belongs to, and so tells an answer from a connection that the origin makes
//! itself through this host. Packets to addresses of this host, the dialled ones among them, are left out before that: they
//! arrive anyway, and looking for their listeners would run the `sk_lookup` program once more and have it count them twice.

use super::Chain;
use crate::plan::reply_table::{MARK, MARK_MASK};

/// The transaction that makes the table of `chain`'s instance, in place of any of the same name.
#[must_use]
pub(crate) fn creation(chain: &Chain) -> String {
    let table = format!("table {FAMILY} {}", chain.table());
    let rest = !MARK_MASK;
    format!(
        "{table}\ndelete {table}\n{table} {{\n  chain prerouting {{\n    type filter hook prerouting priority mangle;\n    \
         meta l4proto {{ tcp, udp }} fib daddr type != local socket transparent 1 meta mark set meta mark & {rest:#010x} | {MARK:#010x}\n  \
         }}\n}}\n"
    )
}

/// The family of the table, which no table of the TPROXY path has: one for IPv4 and IPv6 together.
pub(crate) const FAMILY: &str = "inet";
