//! The ways by which trusted proxies' datagrams come, each with a short id for as long as a session has come by it. Reads no header.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::{Rc, Weak};

use super::incoming_header::HeaderFormat;

/// Who sends datagrams for others, to which address and port of ours, and what each begins with. One socket of a proxy's may speak for
/// many clients.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub(super) struct Via {
    pub(super) sender: SocketAddr,
    pub(super) dialled: SocketAddr,
    pub(super) format: HeaderFormat,
}

/// The number of a way, which no other has at the same time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct ViaId(NonZeroU32);

/// A way that sessions have come by. It is forgotten with the last of them.
#[derive(Debug)]
pub(super) struct HeldVia {
    pub(super) via: Via,
    pub(super) id: ViaId,
    registry: Rc<RefCell<Registry>>,
}

#[derive(Debug, Default)]
struct Registry {
    held: HashMap<Via, Weak<HeldVia>>,
    /// Numbers that were given back.
    free: Vec<NonZeroU32>,
    /// The highest that was ever given.
    last: u32,
}

impl Drop for HeldVia {
    fn drop(&mut self) {
        let mut registry = self.registry.borrow_mut();
        registry.held.remove(&self.via);
        registry.free.push(self.id.0);
        if registry.held.is_empty() {
            // The memory of a flood is not kept.
            *registry = Registry::default();
        }
    }
}

/// A worker's ways.
#[derive(Debug, Default)]
pub(super) struct Vias(Rc<RefCell<Registry>>);

impl Vias {
    /// The id of `via`, if any session has come by it.
    pub(super) fn find(&self, via: &Via) -> Option<ViaId> {
        Some(self.0.borrow().held.get(via)?.upgrade()?.id)
    }

    /// The way for one more session.
    pub(super) fn hold(&self, via: Via) -> Rc<HeldVia> {
        let mut registry = self.0.borrow_mut();
        if let Some(held) = registry.held.get(&via).and_then(Weak::upgrade) {
            return held;
        }
        let number = registry.free.pop().unwrap_or_else(|| {
            registry.last = registry.last.saturating_add(1);
            NonZeroU32::MIN.saturating_add(registry.last - 1)
        });
        let held = Rc::new(HeldVia { via, id: ViaId(number), registry: Rc::clone(&self.0) });
        registry.held.insert(via, Rc::downgrade(&held));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(port: u16, format: HeaderFormat) -> Via {
        let dialled = "198.51.100.2:443".parse().unwrap();
        Via { sender: SocketAddr::from(([192, 0, 2, 1], port)), dialled, format }
    }

    #[test]
    fn a_way_keeps_its_id_for_as_long_as_anybody_has_it() {
        let vias = Vias::default();
        let one = via(1, HeaderFormat::V2);
        assert_eq!(vias.find(&one), None);
        let held = [one, via(2, HeaderFormat::V2), via(1, HeaderFormat::Spp)].map(|via| vias.hold(via));
        let ids = held.each_ref().map(|held| held.id);
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
        let again = vias.hold(one);
        assert_eq!((again.id, vias.find(&one)), (ids[0], Some(ids[0])));
        drop(held);
        assert_eq!(vias.find(&one), Some(ids[0]), "somebody has it still");
        assert_eq!(vias.find(&via(2, HeaderFormat::V2)), None);
        assert_ne!(vias.hold(via(3, HeaderFormat::V2)).id, ids[0]);
        drop(again);
        assert!(vias.0.borrow().held.is_empty() && vias.0.borrow().free.is_empty());
    }
}
