//! What is to be announced to routers, and when. Announces nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Prefix, ServiceName};

/// The time for which routers still send what was announced, with some to spare.
const LAME_DUCK: Duration = Duration::from_secs(5);

/// The prefixes that are announced while they can be served, and the rules for that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcing {
    /// Each prefix, with the conditions of the services that have bindings in it.
    pub prefixes: BTreeMap<Prefix, Vec<AnnounceCondition>>,
    /// So long a condition must hold before what was withdrawn for it is announced again.
    pub rise: Duration,
    /// So long it must not hold before what is announced is withdrawn.
    pub fall: Duration,
    /// So long what was withdrawn for a condition stays withdrawn at least.
    pub hold: Duration,
    /// The time for which everything is served after it was withdrawn because of the end, where it was said.
    pub lame_duck: Option<Duration>,
}

/// The condition of a service under which its prefixes are announced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnnounceCondition {
    /// The service.
    pub service: ServiceName,
    /// The least number of its origins that must be up.
    pub origins: u16,
}

impl Announcing {
    /// The time for which everything is served after it was withdrawn because of the end.
    #[must_use]
    pub fn lame_duck(&self) -> Duration {
        let default = if self.prefixes.is_empty() { Duration::ZERO } else { LAME_DUCK };
        self.lame_duck.unwrap_or(default)
    }
}

impl Default for Announcing {
    fn default() -> Self {
        Self {
            prefixes: BTreeMap::new(),
            rise: Duration::from_secs(3),
            fall: Duration::from_secs(1),
            hold: Duration::from_secs(10),
            lame_duck: None,
        }
    }
}
