//! What may stand behind UDP bindings, for flags and files alike. Reads neither.

use crate::model::{Binding, OriginProtocols, Protocol, Responder, Target};

/// The protocols that a service binds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BoundProtocols {
    pub(super) tcp: bool,
    pub(super) udp: bool,
}

impl BoundProtocols {
    /// Those of `bindings`; TCP where there are none, as where a binding does not say.
    pub(super) fn of(bindings: &[Binding]) -> Self {
        let binds = |protocol| bindings.iter().any(|binding| binding.protocol == protocol);
        Self { tcp: binds(Protocol::Tcp) || bindings.is_empty(), udp: binds(Protocol::Udp) }
    }

    /// By which of them origins are dialled.
    pub(super) fn of_origins(self) -> OriginProtocols {
        if self.tcp && self.udp { OriginProtocols::Both } else { OriginProtocols::One }
    }
}

/// UDP bindings in front of a greeting, which is for who has not said anything yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("hello is for TCP")]
pub struct UdpTargetError;

/// Refuses bindings that `target` cannot answer.
pub(super) fn require_answer(bindings: &[Binding], target: &Target) -> Result<(), UdpTargetError> {
    let is_hello = matches!(target, Target::Respond(Responder::Hello));
    if is_hello && BoundProtocols::of(bindings).udp { Err(UdpTargetError) } else { Ok(()) }
}
