//! Asking the loaded program about packets that nobody sent: the kernel's judgement without a connection. Does not say
//! what the judgement should be.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::netns::Netns;

/// A packet that looks for a listener.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// The IP protocol number.
    pub protocol: u32,
    /// The sender.
    pub client: SocketAddr,
    /// The address and port that it goes to.
    pub dialled: SocketAddr,
}

/// The program's judgement of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It chose a socket.
    Assigned,
    /// It had the packet dropped.
    Dropped,
    /// It left the packet alone.
    Passed,
}

/// Runs the program with this id on the packet, inside `netns`, where the listeners are. Needs Linux 5.13.
pub fn judge(netns: &Netns, program: u32, lookup: Lookup) -> Judgement {
    netns.run(|| fs::write("/run/lookup.in", context(lookup))).expect("write the context");
    let run = format!("bpftool -j prog run id {program} ctx_in /run/lookup.in ctx_out /run/lookup.out");
    let output = netns.output(&run);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON of bpftool");
    // The kernel does not repeat the choice within a SO_REUSEPORT group, and says so with EOPNOTSUPP; but it says it
    // of a chosen socket only.
    if answer["error"].as_str().is_some_and(|error| error.contains("Operation not supported")) {
        return Judgement::Assigned;
    }
    assert!(output.status.success(), "{lookup:?}: {answer}");
    let out = netns.run(|| fs::read("/run/lookup.out")).expect("read the context");
    // The first eight bytes come back as the cookie of the chosen socket.
    let is_assigned = out[..8].iter().any(|byte| *byte != 0);
    match (answer["retval"].as_u64(), is_assigned) {
        (Some(0), _) => Judgement::Dropped,
        (Some(1), true) => Judgement::Assigned,
        (Some(1), false) => Judgement::Passed,
        _ => panic!("{lookup:?}: {answer}"),
    }
}

/// `struct bpf_sk_lookup`: addresses and the remote port in network order, the local port in host order.
fn context(lookup: Lookup) -> Vec<u8> {
    let Lookup { protocol, client, dialled } = lookup;
    let family: u32 = if dialled.is_ipv4() { 2 } else { 10 };
    let mut context = vec![0; 8];
    context.extend(family.to_ne_bytes());
    context.extend(protocol.to_ne_bytes());
    context.extend(address(client.ip()));
    context.extend(client.port().to_be_bytes());
    context.extend([0; 2]);
    context.extend(address(dialled.ip()));
    context.extend(u32::from(dialled.port()).to_ne_bytes());
    context.extend([0; 4]);
    context
}

fn address(address: IpAddr) -> [u8; 20] {
    let mut bytes = [0; 20];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes[4..].copy_from_slice(&v6.octets()),
    }
    bytes
}
