//! What an instance raises in the system, in the order of raising it. Raises nothing itself.

use std::fmt;

use crate::model::{DestinationId, Family, Prefix};

/// One thing that an instance has in the system. What is greater stands on what is less: it is raised later and lowered
/// earlier.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Resource {
    /// The state file, by which others know what is claimed.
    Claim,
    /// The control socket.
    Control,
    /// The eBPF program's attachment to the network namespace.
    Attachment,
    /// A destination's entry in the map of listeners.
    Registration(DestinationId),
    /// A local route.
    Route(Prefix),
    /// The rules and the route for what origins answer to clients' addresses.
    Reply(Family),
    /// The table that marks such answers.
    Mark,
    /// The table that exempts from NAT.
    Exemption,
    /// The firewall rules that steer.
    Rules,
}

/// The kind of a thing. Things of a kind are looked at together.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ResourceKind {
    /// [`Resource::Claim`].
    Claim,
    /// [`Resource::Control`].
    Control,
    /// [`Resource::Attachment`].
    Attachment,
    /// [`Resource::Registration`].
    Registration,
    /// [`Resource::Route`].
    Route,
    /// [`Resource::Reply`].
    Reply,
    /// [`Resource::Mark`].
    Mark,
    /// [`Resource::Exemption`].
    Exemption,
    /// [`Resource::Rules`].
    Rules,
}

impl Resource {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Claim => ResourceKind::Claim,
            Self::Control => ResourceKind::Control,
            Self::Attachment => ResourceKind::Attachment,
            Self::Registration(_) => ResourceKind::Registration,
            Self::Route(_) => ResourceKind::Route,
            Self::Reply(_) => ResourceKind::Reply,
            Self::Mark => ResourceKind::Mark,
            Self::Exemption => ResourceKind::Exemption,
            Self::Rules => ResourceKind::Rules,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim => f.write_str("the state file"),
            Self::Control => f.write_str("the control socket"),
            Self::Attachment => f.write_str("the attachment of the sk_lookup program"),
            Self::Registration(id) => write!(f, "the listener of destination {id} in the program's map"),
            Self::Route(prefix) => write!(f, "local route {prefix}"),
            Self::Reply(family) => write!(f, "the rules and route for answers of origins over {family}"),
            Self::Mark => f.write_str("the table that marks answers of origins"),
            Self::Exemption => f.write_str("the table that exempts from NAT"),
            Self::Rules => f.write_str("the firewall rules that steer"),
        }
    }
}

impl ResourceKind {
    /// All of them, in the order of raising.
    pub const ALL: [Self; 9] = [
        Self::Claim,
        Self::Control,
        Self::Attachment,
        Self::Registration,
        Self::Route,
        Self::Reply,
        Self::Mark,
        Self::Exemption,
        Self::Rules,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Control => "control",
            Self::Attachment => "attachment",
            Self::Registration => "registration",
            Self::Route => "route",
            Self::Reply => "reply",
            Self::Mark => "mark",
            Self::Exemption => "exemption",
            Self::Rules => "rules",
        }
    }

    /// True if clients are served without it.
    #[must_use]
    pub fn is_aside(self) -> bool {
        matches!(self, Self::Claim | Self::Control)
    }
}
