//! What may be asked of a dispatcher from another thread than the one that changes it. Changes nothing, but that a test run
//! counts as a packet.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use spectrum_common::{Counts, Page};

use super::{CounterReader, Dispatcher, DispatcherError, Steered, test_run};
use crate::model::{DestinationId, Protocol};

/// A dispatcher as it was when this was taken, and its program and counters as they are. Clones share these, and keep them
/// loaded: not attached.
#[derive(Clone)]
pub struct Probe {
    program: Arc<OwnedFd>,
    program_id: u32,
    counters: CounterReader,
    generation: u64,
    nodes: usize,
}

impl Dispatcher {
    /// A look at it for other threads.
    ///
    /// # Errors
    /// [`DispatcherError::Test`]: out of descriptors.
    pub fn probe(&self) -> Result<Probe, DispatcherError> {
        let program = self.program_fd()?.try_clone_to_owned();
        Ok(Probe {
            program: Arc::new(program.map_err(|source| DispatcherError::Test { source })?),
            program_id: self.program_id()?,
            counters: self.counter_reader(),
            generation: self.generation(),
            nodes: self.nodes(),
        })
    }
}

impl Probe {
    /// The kernel's id of the program, as `bpftool prog show` prints it.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The number of tables that had been published.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The nodes of that generation.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The kernel memory of that generation, as [`Dispatcher::table_bytes`] says it.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        Page::bytes_of(self.nodes)
    }

    /// The counters of packets to destination `id`, as [`Dispatcher::counts`] says it.
    ///
    /// # Errors
    /// As for [`Dispatcher::counts`].
    pub fn counts(&self, id: DestinationId) -> Result<Counts, DispatcherError> {
        self.counters.counts(id)
    }

    /// The kernel's decision on a packet, as [`Dispatcher::test`] says it.
    ///
    /// # Errors
    /// As for [`Dispatcher::test`].
    pub fn test(
        &self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Steered, DispatcherError> {
        test_run(self.program.as_fd(), protocol, from, to).map_err(|source| DispatcherError::Test { source })
    }
}
