//! The values everything else speaks of: pure, no IO. The words are those of docs/glossary.md.

mod binding;
mod destination;
mod origin;
mod port_range;
mod prefix;
mod protocol;
mod service;

pub use binding::Binding;
pub use destination::{Destination, DestinationId};
pub use origin::{Origin, OriginHost, ParseOriginError};
pub use port_range::{ParsePortRangeError, PortRange, parse_port_ranges};
pub use prefix::{ParsePrefixError, Prefix};
pub use protocol::{Family, ParseProtocolError, Protocol};
pub use service::{ParseResponderError, ParseServiceNameError, Responder, Service, ServiceName, Target};
