//! The dispatcher's maps as bpftool shows them. Needs bpftool.

use serde_json::Value;

use crate::instance::Instance;
use crate::netns::Netns;
use crate::state::BpfObjects;

/// The counters of a destination's packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Given to the listener.
    pub steered: u64,
    /// Refused for want of a listener.
    pub missed: u64,
}

/// The id of the map of this name that `instance` holds.
pub fn map_named(netns: &Netns, instance: &Instance, name: &str) -> u32 {
    let held = BpfObjects::of_process(instance.pid());
    let found = held.ids("map").find(|id| {
        let map: Value = json(netns, &format!("show id {id}"));
        map["name"] == name
    });
    found.unwrap_or_else(|| panic!("no map {name} in {held:?}"))
}

/// The counters of the destination with this id, all processors together.
pub fn counts(netns: &Netns, instance: &Instance, destination: u8) -> Counts {
    let map = map_named(netns, instance, "COUNTERS");
    let entry = json(netns, &format!("lookup id {map} key {destination} 0 0 0"));
    let mut sum = Counts::default();
    for of_cpu in entry["values"].as_array().expect("a value for each processor") {
        let bytes = bytes(&of_cpu["value"]);
        let word = |at: usize| u64::from_ne_bytes(bytes[at * 8..][..8].try_into().expect("eight bytes"));
        sum.steered += word(0);
        sum.missed += word(1);
    }
    sum
}

/// Takes the listener of the destination with this id away, behind the program's back.
pub fn forget_listener(netns: &Netns, instance: &Instance, destination: u32) {
    let map = map_named(netns, instance, "LISTENERS");
    let [a, b, c, d] = destination.to_ne_bytes();
    netns.command(&format!("bpftool map delete id {map} key {a} {b} {c} {d}"));
}

/// The id of the steering table that is in force, and the bytes that the kernel accounts to it.
pub fn table(netns: &Netns, instance: &Instance) -> (u32, u64) {
    let tables = map_named(netns, instance, "TABLES");
    let entry = json(netns, &format!("lookup id {tables} key 0 0 0 0"));
    let id = u32::from_ne_bytes(bytes(&entry["value"]).try_into().expect("the id of a map"));
    let table = json(netns, &format!("show id {id}"));
    (id, table["bytes_memlock"].as_u64().expect("a number of bytes"))
}

/// A key or value as bpftool prints one.
fn bytes(value: &Value) -> Vec<u8> {
    let words = value.as_array().expect("the bytes of a value");
    words
        .iter()
        .map(|byte| byte.as_str().expect("a byte").trim_start_matches("0x"))
        .map(|digits| u8::from_str_radix(digits, 16).expect("a byte"))
        .collect()
}

fn json(netns: &Netns, words: &str) -> Value {
    let text = netns.command(&format!("bpftool -j map {words}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
