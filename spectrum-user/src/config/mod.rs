//! What the user asked for, understood: flags or a file become one [`Config`]. Asks the system for nothing but the file.

mod config_text;
mod error;
mod file;
mod firewall;
mod flags;
mod instance_keys;
mod key_list;
mod keys;
mod mode;
mod nat;
mod origin_places;
mod policy_places;
mod protocols;
mod repair_limit;
mod schema;
mod texts;
mod udp;

pub(crate) use file::nearest::nearest;

pub use config_text::ConfigText;
pub use error::{ConfigError, Problem};
pub use firewall::FirewallChoice;
pub use flags::{Flags, FlagsError};
pub use instance_keys::InstanceKeys;
pub use key_list::{Holds, KEYS, KeyForm, KeySpec};
pub use keys::{KeyChange, Keys, SaidBy, SaidKey, ServiceKeys, changes};
pub use mode::ModeChoice;
pub use nat::NatChoice;
pub use origin_places::OriginPlaces;
pub use policy_places::{PolicyPlace, PolicyPlaces, ReadDatabase};
pub use protocols::Protocols;
pub use repair_limit::RepairLimit;
pub use schema::schema;
pub use udp::UdpTargetError;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::model::{
    Announcing, Force, InterfaceName, LogOptions, ResolverOptions, Service, ServiceName, SocketSource,
};
use crate::plan::Plan;

/// A configuration and its plan, which is made once, when it is judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    /// The configuration.
    pub config: Config,
    /// The plan of a first start with it.
    pub plan: Plan,
}

impl Config {
    /// The files that say it, as paths are shown.
    #[must_use]
    pub fn shown_files(&self) -> Vec<String> {
        self.files.iter().map(|path| path.display().to_string()).collect()
    }
}

/// The whole configuration, by whatever means it was said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// How the instance lives.
    pub instance: InstanceKeys,
    /// The path to steer by.
    pub mode: ModeChoice,
    /// The firewall that carries the rules of the TPROXY path.
    pub firewall: FirewallChoice,
    /// The treatment of connections to what is bound by others' NAT rules.
    pub nat: NatChoice,
    /// The limit on putting back what others remove.
    pub repairs: RepairLimit,
    /// The host's own addresses that may be served although that cuts something.
    pub force: Force,
    /// The address of metrics and health; `None`: they are not served.
    pub admin: Option<SocketAddr>,
    /// The options of the log.
    pub log: LogOptions,
    /// The options for resolving names of origins.
    pub resolver: ResolverOptions,
    /// The prefixes that are announced, and when.
    pub announcing: Announcing,
    /// The interfaces by which denied packets come that XDP is to drop.
    pub xdp: BTreeSet<InterfaceName>,
    /// At least one, each with at least one binding; names differ.
    pub services: Vec<Service>,
    /// The sockets of other programs that are looked for, by the services that they are for.
    pub socket_sources: BTreeMap<ServiceName, Vec<SocketSource>>,
    /// The places in the file, or flags, of their origins.
    pub origin_places: OriginPlaces,
    /// The places of the entries of its source policies, which its plan has.
    pub policy_places: PolicyPlaces,
    /// The files that say it, in the order in which they were read; none: flags do.
    pub files: Vec<Arc<Path>>,
    /// Their texts.
    pub texts: Arc<[ConfigText]>,
    /// What was typed, key by key.
    pub keys: Keys,
}
