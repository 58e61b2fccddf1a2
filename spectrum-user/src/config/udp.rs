//! What may stand behind UDP bindings: the one place that says so, for flags and files alike.

use crate::model::{Binding, Protocol, Responder, Target};

/// UDP bindings in front of something that speaks only TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("UDP can only echo or discard so far")]
pub struct UdpTargetError;

/// Refuses bindings that `target` cannot answer.
pub(super) fn require_answer(bindings: &[Binding], target: &Target) -> Result<(), UdpTargetError> {
    let speaks_udp = matches!(target, Target::Respond(Responder::Discard | Responder::Echo));
    if speaks_udp || bindings.iter().all(|binding| binding.protocol == Protocol::Tcp) {
        Ok(())
    } else {
        Err(UdpTargetError)
    }
}
