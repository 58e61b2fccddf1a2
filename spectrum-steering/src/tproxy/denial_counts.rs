//! How many packets the rules of nftables have turned away by source policies. Counts nothing itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use spectrum_common::DenyReason;

use super::TproxyError;
use super::program::{find_or_fail, output};
use crate::model::{Family, Protocol};
use crate::plan::firewall::nftables::counter;
use crate::plan::firewall::{ChainPart, ChainPlace};

/// The counters of an instance's tables, as they were when they were read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DenialCounts(BTreeMap<(Family, String), u64>);

impl DenialCounts {
    /// Those of the tables among `parts`; of iptables, whose rules turn nobody away, there are none. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// nft is not there, or fails.
    pub fn of(parts: &[ChainPart]) -> Result<Self, TproxyError> {
        let tables = parts.iter().filter(|part| matches!(part.place, ChainPlace::Table(_)));
        let mut counts = BTreeMap::new();
        for table in tables {
            let mut command = Command::new(find_or_fail("nft")?);
            command.args(["-j", "list", "counters"]).args(table.to_string().split_whitespace());
            counts.extend(counters(&output("list", &mut command, "")?));
        }
        Ok(Self(counts))
    }

    /// The packets to the listener at `listener` that were turned away for `reason`; `None`: nobody is, by that.
    #[must_use]
    pub fn get(&self, reason: DenyReason, protocol: Protocol, listener: SocketAddr) -> Option<u64> {
        self.0.get(&(Family::of(listener.ip()), counter(reason, protocol, listener))).copied()
    }
}

/// The counters in what `nft -j` printed.
fn counters(printed: &str) -> Vec<((Family, String), u64)> {
    let parsed: serde_json::Value = serde_json::from_str(printed).unwrap_or_default();
    let objects = parsed.get("nftables").and_then(serde_json::Value::as_array);
    let counters = objects.into_iter().flatten().filter_map(|object| {
        let counter = object.get("counter")?;
        let family = if counter.get("family")? == "ip" { Family::Ipv4 } else { Family::Ipv6 };
        Some(((family, counter.get("name")?.as_str()?.to_owned()), counter.get("packets")?.as_u64()?))
    });
    counters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_listener_and_the_reason() {
        let printed = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "ip", "name": "denied-tcp-40001", "table": "spectrum-1", "handle": 2, "packets": 3, "bytes": 180}},
            {"counter": {"family": "ip6", "name": "rate-udp-40001-7", "table": "spectrum-1", "handle": 2, "packets": 4, "bytes": 1}}]}"#;
        let counts = DenialCounts(counters(printed).into_iter().collect());
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let [v4, v6] = ["127.0.0.1:40001", "[::7]:40001"].map(|text| text.parse().unwrap());
        assert_eq!(counts.get(DenyReason::Denied, tcp, v4), Some(3));
        assert_eq!(counts.get(DenyReason::Rate, udp, v6), Some(4));
        assert_eq!(counts.get(DenyReason::Rate, tcp, v4), None);
        assert!(counters("").is_empty());
    }
}
