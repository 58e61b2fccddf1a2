//! The values everything else speaks of: pure, no IO. The words are those of docs/glossary.md; those of steering and of the proxy
//! are theirs.

mod announcing;
mod bgp_daemon;
mod denials;
mod force;
mod log_options;
mod registered_socket;
mod resource;
mod service;
mod socket_choice;
mod socket_source;
mod source_group;

pub use announcing::{AnnounceCondition, Announcing};
pub use bgp_daemon::{BgpDaemon, PassedOn};
pub use denials::{DenialChange, DenialKey, Denials, DenyWord, HeldDenial, SharedDenials, TooManyDenials};
pub use force::{Force, Forced};
pub use log_options::{LogFormat, LogOptions, ParseSampleError, RecordKeys, Records, Sample};
pub use registered_socket::{GroupSocket, MOST_SOCKETS, RegisteredSocket, beside, key_of, shares};
pub use resource::{Resource, ResourceKind};
pub use service::{Service, registered};
pub use socket_choice::{SocketChoiceError, SocketShape, answer_notes, choose_sockets};
pub use socket_source::{ParseSocketSourceError, SocketHolder, SocketSource};
pub use source_group::{ParseSourceGroupError, SourceGroup};
pub use spectrum_common::{
    Destination, DestinationId, Family, Hop, ParseAddressAndPortError, ParsePortRangeError, ParsePrefixError,
    ParseProtocolError, ParseServiceNameError, PortRange, Prefix, Protocol, ServiceName, VisibleWriter,
    parse_address_and_port, parse_port_ranges, reached, visible,
};
pub use spectrum_proxy::model::{
    Balance, CheckClose, DatagramHeader, DatagramProbe, DialOn, DialSource, Ejection, HealthCheck,
    HealthProbe, Limits, LocalOrigins, Origin, OriginHost, OriginIdentity, OriginPort, OriginProtocols,
    OriginRole, OriginSetting, Origins, ParseOriginError, ParseProbeBytesError, Policy, ProbeBytes,
    ProbeTemplate, ProxyVersion, Question, Quic, ResolverOptions, Responder, Shift, Target, Timeouts,
    TrustedProxies, UdpPolicy, UniqueIds, Weight, WeightError,
};
pub use spectrum_steering::model::{
    Binding, InterfaceName, OnDeny, SourceEntry, SourcePolicy, SourceRate, SourceRule, SourceTie,
};
