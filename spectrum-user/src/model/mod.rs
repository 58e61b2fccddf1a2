//! The values everything else speaks of: pure, no IO. The words are those of docs/glossary.md.

mod address_and_port;
mod binding;
mod destination;
mod force;
mod log_options;
mod notation;
mod onward;
mod origin;
mod origin_setting;
mod origins;
mod policy;
mod port_range;
mod prefix;
mod protocol;
mod resolver_options;
mod service;
mod visible;

pub use address_and_port::{ParseAddressAndPortError, parse_address_and_port};
pub use binding::Binding;
pub use destination::{Destination, DestinationId};
pub use force::{Force, Forced};
pub use log_options::{
    LogFormat, LogOptions, ParseLogWordError, ParseSampleError, RecordKeys, Records, Sample,
};
pub use notation::Shift;
pub use onward::{Onward, reached};
pub use origin::{
    Origin, OriginHost, OriginIdentity, OriginPort, OriginRole, ParseOriginError, Weight, WeightError,
};
pub use origin_setting::OriginSetting;
pub use origins::{
    Balance, CheckClose, DialOn, DialSource, Ejection, HealthCheck, LocalOrigins, Origins, ParseBalanceError,
    ParseCheckCloseError, ParseDialOnError, ParseProxyVersionError, ProxyVersion, TrustedProxies, UniqueIds,
};
pub use policy::{Limits, Policy, Timeouts};
pub use port_range::{ParsePortRangeError, PortRange, parse_port_ranges};
pub use prefix::{ParsePrefixError, Prefix};
pub use protocol::{Family, ParseProtocolError, Protocol};
pub use resolver_options::ResolverOptions;
pub use service::{ParseResponderError, ParseServiceNameError, Responder, Service, ServiceName, Target};
pub use visible::{VisibleWriter, visible};
