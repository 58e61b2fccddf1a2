//! The values that the proxy speaks of: pure, no IO. The words are those of docs/glossary.md.

mod notation;
mod origin;
mod origin_setting;
mod origins;
mod policy;
mod probe;
mod resolver_options;
mod target;
mod udp_policy;

#[doc(hidden)]
pub use notation::Shift;
#[doc(hidden)]
pub use origin::OriginIdentity;
pub use origin::{Origin, OriginHost, OriginPort, OriginRole, ParseOriginError, Weight, WeightError};
#[doc(hidden)]
pub use origin_setting::OriginSetting;
pub use origins::{
    Balance, CheckClose, DatagramHeader, DialOn, DialSource, Ejection, HealthCheck, LocalOrigins,
    OriginProtocols, Origins, ProxyVersion, TrustedProxies, UniqueIds,
};
pub use policy::{Limits, Policy, Timeouts};
pub use probe::{DatagramProbe, HealthProbe, ParseProbeBytesError, ProbeBytes, ProbeTemplate, Question};
pub use resolver_options::ResolverOptions;
pub use spectrum_common::{
    Destination, DestinationId, Family, ParsePortRangeError, PortRange, Prefix, Protocol, ServiceName,
};
#[doc(hidden)]
pub use spectrum_common::{Hop, reached};
pub use target::{Responder, Target};
pub use udp_policy::{Quic, UdpPolicy};
