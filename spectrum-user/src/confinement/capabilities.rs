//! The capabilities that a configuration takes, of the steerer and of its worker process, each with what it is for. Drops
//! none: the sets of a process are the affair of `capability_sets`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::config::{Config, FirewallChoice, ModeChoice};
use crate::model::{DialSource, Service, Target};

/// The capabilities that something takes, and the reasons for each.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Needs(BTreeMap<u64, BTreeSet<Cow<'static, str>>>);

/// What of the host, and not of the configuration, decides about the capabilities of a steerer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Circumstances {
    /// There is a group that may ask the control socket, so that the socket is given to it.
    pub control_group: bool,
    /// The kernel counts the memory of eBPF maps as locked memory, as before Linux 5.11.
    pub maps_are_locked_memory: bool,
    /// The worker process runs as another user than the steerer.
    pub another_user: bool,
}

impl Needs {
    /// The needs of the worker process that serves `services`: none, unless one of them speaks for its clients. What else takes a
    /// capability, it asks its steerer for.
    #[must_use]
    pub fn of_worker(services: &[Service]) -> Self {
        let mut needs = Self::default();
        let speaks_for_clients = services.iter().any(|service| match &service.target {
            Target::Origins(origins) => origins.source == DialSource::Client,
            Target::Registered | Target::Respond(_) => false,
        });
        if speaks_for_clients {
            // Linux lets who has CAP_NET_RAW have transparent sockets too, which is far less than CAP_NET_ADMIN.
            needs.add(CapabilitySet::NET_RAW, "sockets with clients' addresses");
            needs.add(
                CapabilitySet::NET_BIND_SERVICE,
                "sockets with clients' ports, where those are below 1024",
            );
        }
        needs
    }

    /// The needs of a steerer of `config`, and of whatever its file may say later: path and firewall stay, and services may come that
    /// answer datagrams or speak for clients.
    #[must_use]
    pub fn of_steerer(config: &Config, circumstances: Circumstances) -> Self {
        let mut needs = Self::default();
        needs.add(CapabilitySet::NET_ADMIN, "routes, rules and transparent listeners");
        if config.mode != ModeChoice::Tproxy {
            needs.add(CapabilitySet::BPF, "the eBPF program and its maps");
            needs.add(CapabilitySet::PERFMON, "the verifier, which lets nobody else follow pointers");
            if circumstances.maps_are_locked_memory {
                needs.add(CapabilitySet::SYS_RESOURCE, "the memory of eBPF maps before Linux 5.11");
            }
        }
        if config.mode != ModeChoice::SkLookup && config.firewall != FirewallChoice::Nftables {
            needs.add(CapabilitySet::NET_RAW, "the legacy variant of iptables");
        }
        needs.add(CapabilitySet::NET_RAW, "answers to datagrams where the dialled port is somebody else's");
        needs.add(CapabilitySet::NET_RAW, "a worker process that speaks for clients");
        needs.add(CapabilitySet::NET_BIND_SERVICE, "answers to datagrams from dialled ports below 1024");
        needs.add(CapabilitySet::NET_BIND_SERVICE, "a worker process that speaks for clients");
        for capability in [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::SYS_PTRACE] {
            needs.add(capability, "the names of programs whose sockets are in the way");
        }
        if circumstances.control_group {
            needs.add(CapabilitySet::CHOWN, "the control socket, which is given to a group");
        }
        needs.add(CapabilitySet::SETPCAP, "the worker process, which gives up what it could ever have");
        if circumstances.another_user {
            for capability in [CapabilitySet::SETGID, CapabilitySet::SETUID] {
                needs.add(capability, "the worker process, which becomes another user");
            }
            needs.add(CapabilitySet::KILL, "signals to the worker process, which is another user's");
        }
        needs
    }

    /// The capabilities.
    #[must_use]
    pub fn set(&self) -> CapabilitySet {
        self.0.keys().fold(CapabilitySet::empty(), |set, bit| set | CapabilitySet::from_bits_retain(*bit))
    }

    /// The names of the capabilities, each with its reasons.
    pub fn told(&self) -> impl Iterator<Item = (String, Vec<String>)> {
        self.0.iter().map(|(bit, reasons)| {
            let reasons = reasons.iter().map(|reason| reason.clone().into_owned()).collect();
            (names(CapabilitySet::from_bits_retain(*bit)).concat(), reasons)
        })
    }

    /// The part of `held` that is to be kept: what is needed, and `CAP_SYS_ADMIN` where that stands for `CAP_BPF` and
    /// `CAP_PERFMON`, as it did before Linux 5.8.
    #[must_use]
    pub fn of(&self, held: CapabilitySet) -> CapabilitySet {
        let newer = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let is_stood_for = self.set().intersects(newer) && !held.contains(self.set() & newer);
        let elder = if is_stood_for { CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
        held & (self.set() | elder)
    }

    fn add(&mut self, capability: CapabilitySet, reason: &'static str) {
        self.0.entry(capability.bits()).or_default().insert(Cow::Borrowed(reason));
    }
}

/// The names of the capabilities in `set`, as capabilities(7) has them, those of newer kernels by their numbers.
#[must_use]
pub fn names(set: CapabilitySet) -> Vec<String> {
    let known: BTreeMap<u64, &str> =
        CapabilitySet::all().iter_names().map(|(name, capability)| (capability.bits(), name)).collect();
    let bits = (0..u64::BITS).filter(|bit| set.bits() >> bit & 1 == 1);
    bits.map(|bit| known.get(&(1 << bit)).map_or_else(|| format!("CAP_{bit}"), |name| format!("CAP_{name}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Planned;

    fn config(text: &str) -> Config {
        let Planned { config, .. } = Config::parse(Path::new("spectrum.toml"), text).unwrap();
        config
    }

    fn of_worker(text: &str) -> Vec<String> {
        names(Needs::of_worker(&config(text).services).set())
    }

    const TCP: &str =
        "[[service]]\nname = \"web\"\norigins = [\"10.0.0.5\"]\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";

    const TRANSPARENT: &str = "[[service]]\nname = \"web\"\norigins = [\"10.0.0.5\"]\ntransparent = true\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";

    #[test]
    fn a_worker_process_needs_capabilities_only_to_speak_for_clients() {
        assert_eq!(of_worker(TCP), [""; 0]);
        assert_eq!(of_worker(&TCP.replace("0/24\" ", "0/24\", protocol = \"udp\", ports = 53 ")), [""; 0]);
        assert_eq!(of_worker(TRANSPARENT), ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"]);
    }

    #[test]
    fn a_steerer_keeps_what_its_path_needs() {
        let of = |text: &str, circumstances| Needs::of_steerer(&config(text), circumstances).set();
        let alone = Circumstances::default();
        let always = CapabilitySet::NET_ADMIN
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::NET_BIND_SERVICE
            | CapabilitySet::NET_RAW
            | CapabilitySet::SETPCAP
            | CapabilitySet::SYS_PTRACE;
        let sk_lookup = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let mode = |mode: &str| format!("[dispatcher]\n{mode}\n{TCP}");
        assert_eq!(of(TCP, alone), always | sk_lookup);
        assert_eq!(of(&mode("mode = \"sk-lookup\""), alone), always | sk_lookup);
        assert_eq!(of(&mode("mode = \"tproxy\""), alone), always);
        let circumstances =
            Circumstances { control_group: true, maps_are_locked_memory: true, another_user: true };
        let others = CapabilitySet::CHOWN
            | CapabilitySet::KILL
            | CapabilitySet::SETGID
            | CapabilitySet::SETUID
            | CapabilitySet::SYS_RESOURCE;
        assert_eq!(of(TCP, circumstances), always | sk_lookup | others);
        assert_eq!(
            of(&mode("mode = \"tproxy\""), circumstances),
            always | (others - CapabilitySet::SYS_RESOURCE)
        );
    }

    #[test]
    fn a_steerer_can_hand_on_what_any_worker_process_needs() {
        let steerer = Needs::of_steerer(&config(TCP), Circumstances::default());
        assert!(steerer.set().contains(Needs::of_worker(&config(TRANSPARENT).services).set()));
    }

    #[test]
    fn needs_are_handed_to_another_process_as_they_are() {
        let needs = Needs::of_worker(&config(TRANSPARENT).services);
        let told = serde_json::to_string(&needs).unwrap();
        assert_eq!(serde_json::from_str::<Needs>(&told).unwrap(), needs);
    }

    #[test]
    fn the_elder_capability_is_kept_only_where_it_stands_for_the_newer_ones() {
        let needs = Needs::of_steerer(&config(TCP), Circumstances::default());
        let all = CapabilitySet::all();
        assert!(!needs.of(all).contains(CapabilitySet::SYS_ADMIN));
        assert!(needs.of(all - CapabilitySet::BPF).contains(CapabilitySet::SYS_ADMIN));
        let tproxy = Needs::of_steerer(
            &config(&format!("[dispatcher]\nmode = \"tproxy\"\n{TCP}")),
            Circumstances::default(),
        );
        assert!(!tproxy.of(all - CapabilitySet::BPF).contains(CapabilitySet::SYS_ADMIN));
    }

    #[test]
    fn every_need_has_a_reason_and_a_name() {
        let circumstances =
            Circumstances { control_group: true, maps_are_locked_memory: true, another_user: true };
        let needs = Needs::of_steerer(&config(TCP), circumstances);
        for (name, reasons) in needs.told() {
            assert!(name.starts_with("CAP_") && !reasons.is_empty(), "{name}: {reasons:?}");
        }
        assert_eq!(names(CapabilitySet::from_bits_retain(1 << 63 | 1)), ["CAP_CHOWN", "CAP_63"]);
    }
}
