//! Whether packets on bridges meet the firewall's rules (`br_netfilter`). Changes no setting.

use super::setting;
use crate::model::Family;

/// The setting by which packets of `family` that are on a bridge meet the rules of IP, if it is on. What TPROXY chooses for
/// them there is forgotten when they leave the bridge: `ip_rcv_core` orphans them, and the rules are not asked again.
#[must_use]
pub fn bridged_to_rules(family: Family) -> Option<&'static str> {
    let name = match family {
        Family::Ipv4 => "net/bridge/bridge-nf-call-iptables",
        Family::Ipv6 => "net/bridge/bridge-nf-call-ip6tables",
    };
    setting(name).is_some_and(|on| on != 0).then_some(name)
}
