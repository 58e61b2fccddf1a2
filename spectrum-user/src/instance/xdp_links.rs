//! The XDP program on the interfaces that are named: each may come and go. Decides nothing about packets.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use anyhow::bail;

use crate::model::InterfaceName;
use crate::view::XdpView;
use spectrum_steering::dispatcher::{Dispatcher, DispatcherError, XdpLink};

/// The links of all interfaces that are wanted; of one that is not there, none.
#[derive(Debug, Default)]
pub(super) struct XdpLinks(BTreeMap<InterfaceName, Option<XdpLink>>);

impl XdpLinks {
    /// True if none is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Attaches to `interfaces`. One that is not there yet fails nothing the first time: it is waited for as for one that went.
    pub(super) fn add<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a InterfaceName>,
        dispatcher: &mut Dispatcher,
    ) -> anyhow::Result<()> {
        let mut absent = Vec::new();
        for interface in interfaces {
            let is_known = self.0.contains_key(interface);
            // What is left of a link leads nowhere.
            self.0.insert(interface.clone(), None);
            match dispatcher.attach_xdp(interface) {
                Ok(link) => {
                    tracing::info!(%interface, mode = %link.mode(), "dropping by XDP who is denied without a word");
                    self.0.insert(interface.clone(), Some(link));
                }
                Err(error @ DispatcherError::NoInterface { .. }) if is_known => {
                    absent.push(error.to_string());
                }
                Err(error @ DispatcherError::NoInterface { .. }) => {
                    tracing::warn!(
                        "{error}; until it comes its packets are judged by the socket lookup alone"
                    );
                }
                Err(error) => {
                    if !is_known {
                        self.0.remove(interface);
                    }
                    return Err(error.into());
                }
            }
        }
        if !absent.is_empty() {
            bail!("{}", absent.join("; "));
        }
        Ok(())
    }

    /// Detaches from `interfaces`.
    pub(super) fn remove<'a>(&mut self, interfaces: impl Iterator<Item = &'a InterfaceName>) {
        for interface in interfaces {
            // Its descriptor is the only reference to it.
            self.0.remove(interface);
        }
    }

    /// Those on which it is not, or which are not there.
    pub(super) fn missing(&self) -> io::Result<Vec<InterfaceName>> {
        let mut missing = Vec::new();
        for (interface, link) in &self.0 {
            if !link.as_ref().map_or(Ok(false), XdpLink::is_attached)? {
                missing.push(interface.clone());
            }
        }
        Ok(missing)
    }

    /// As everybody is told.
    pub(super) fn views(&self) -> Arc<[XdpView]> {
        let view = |(interface, link): (&InterfaceName, &Option<XdpLink>)| XdpView {
            interface: interface.to_string(),
            mode: link.as_ref().map(XdpLink::mode),
        };
        self.0.iter().map(view).collect()
    }

    /// All of them.
    pub(super) fn links(&self) -> impl Iterator<Item = (&InterfaceName, Option<&XdpLink>)> {
        self.0.iter().map(|(interface, link)| (interface, link.as_ref()))
    }

    /// Takes `link` up as it is.
    pub(super) fn adopt(&mut self, interface: InterfaceName, link: Option<XdpLink>) {
        self.0.insert(interface, link);
    }

    /// Has all of them run the program of `dispatcher`. One that does not is missing from then on.
    pub(super) fn take_over(&mut self, dispatcher: &mut Dispatcher) {
        for link in self.0.values_mut() {
            let taken = link.as_ref().map(|link| dispatcher.take_over_xdp(link));
            if let Some(Err(error)) = taken {
                tracing::warn!("{error}; it is attached anew");
                *link = None;
            }
        }
    }
}
