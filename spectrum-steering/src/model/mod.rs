//! The values that steering speaks of: pure, no IO. The words are those of docs/glossary.md.

mod binding;
mod domain;
mod source_policy;
mod source_rate;

pub use binding::Binding;
pub use domain::domain_of;
pub use source_policy::{
    InterfaceName, OnDeny, ParseInterfaceNameError, SourceEntry, SourcePolicy, SourceRule, SourceTie,
};
pub use source_rate::{ParseSourceRateError, SourceRate};
pub use spectrum_common::{
    Destination, DestinationId, Family, Hop, ParsePortRangeError, ParsePrefixError, ParseProtocolError,
    ParseServiceNameError, PortRange, Prefix, Protocol, ServiceName, VisibleWriter, parse_port_ranges,
    reached, visible,
};
