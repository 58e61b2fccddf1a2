//! What may be asked of a dispatcher, also from another thread than the one that changes it. Changes nothing, but that a test run
//! counts as a packet.

mod sys;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{MapData, PerCpuArray};
use spectrum_common::{Counts, Page, RegisteredId};

use super::placed_sockets::PlacedSockets;
use super::sys::PodCounts;
use super::{DispatcherError, FormerCounts, Steered};
use crate::model::{DestinationId, Protocol};

pub(super) type PacketCounters = PerCpuArray<MapData, PodCounts>;

/// A dispatcher as it was when this was cloned, and its program and counters as they are. Clones share these, and keep them
/// loaded: not attached.
#[derive(Clone)]
pub struct Probe {
    program: Arc<OwnedFd>,
    program_id: u32,
    counters: Arc<Mutex<PacketCounters>>,
    counters_file: Arc<OwnedFd>,
    registered: PlacedSockets,
    early: Arc<PerCpuArray<MapData, u64>>,
    former: Arc<Mutex<FormerCounts>>,
    generation: u64,
    nodes: usize,
}

impl Probe {
    /// A look at `program`, which is loaded, is called `program_id` by the kernel, and has no table yet.
    pub(super) fn of(
        program: OwnedFd,
        program_id: u32,
        counters: PacketCounters,
        counters_file: OwnedFd,
        registered: PlacedSockets,
        early: PerCpuArray<MapData, u64>,
    ) -> Self {
        Self {
            program: Arc::new(program),
            program_id,
            counters: Arc::new(Mutex::new(counters)),
            counters_file: Arc::new(counters_file),
            registered,
            early: Arc::new(early),
            former: Arc::default(),
            generation: 0,
            nodes: 0,
        }
    }

    /// One more table is published, which has so many nodes.
    pub(super) fn published(&mut self, nodes: usize) {
        self.generation += 1;
        self.nodes = nodes;
    }

    /// What `former` says was counted before.
    pub(super) fn goes_on_from(&mut self, former: FormerCounts) {
        self.generation += former.published;
        *self.former() = former;
    }

    /// The part of [`counts`](Self::counts) that was counted by programs before this one.
    ///
    /// # Errors
    /// [`DispatcherError::Count`]: the kernel does not say.
    #[doc(hidden)]
    pub fn counts_before(&self, id: DestinationId) -> Result<Counts, DispatcherError> {
        self.former().counts(id)
    }

    /// Nothing was counted before for `id`.
    pub(super) fn forget_former(&self, id: DestinationId) {
        self.former().forget(id);
    }

    /// All that was counted until now, for whoever takes the place of this dispatcher: what is counted on meanwhile is in it too.
    ///
    /// # Errors
    /// There are no descriptors left, or the kernel does not say what was counted.
    #[doc(hidden)]
    pub fn all_counts(&self) -> Result<FormerCounts, DispatcherError> {
        let failed = |source: io::Error| DispatcherError::Load { source: Box::new(source) };
        let counters = self.counters_file.try_clone().map_err(failed)?;
        let early = self.dropped_early()?;
        self.former().followed_by(counters, self.generation, early)
    }

    fn former(&self) -> MutexGuard<'_, FormerCounts> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registered sockets.
    pub(super) fn registered(&self) -> &PlacedSockets {
        &self.registered
    }

    pub(super) fn counters(&self) -> MutexGuard<'_, PacketCounters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program, for [`test_run`].
    #[must_use]
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// The kernel's id of the program, as `bpftool prog show` prints it.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The number of tables published so far.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The nodes of the latest generation, [`spectrum_common::Node`]s in kernel memory.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The bytes of kernel memory of the latest generation, which has whole pages of nodes.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        Page::bytes_of(self.nodes)
    }

    /// The counters of packets to destination `id` since the program was loaded, all CPUs together.
    ///
    /// # Errors
    /// [`DispatcherError::Count`]: `id` is beyond the capacity.
    pub fn counts(&self, id: DestinationId) -> Result<Counts, DispatcherError> {
        let counted = sum_of(&self.counters(), id)?;
        Ok(self.former().counts(id)? + counted)
    }

    /// The cookie of the socket that is the listener of destination `id`, while there is one: a socket that is closed is none.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn listener_cookie(&self, id: DestinationId) -> io::Result<Option<u64>> {
        self.registered.cookie(id.0)
    }

    /// The cookie of the registered socket at `place`, while there is one: a socket that is closed is none.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn registered_cookie(&self, place: RegisteredId) -> io::Result<Option<u64>> {
        self.registered.cookie(place.0)
    }

    /// The packets that were given to the registered socket at `place`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn steered_to(&self, place: RegisteredId) -> io::Result<u64> {
        self.registered.steered(place).map_err(io::Error::other)
    }

    /// Packets that the XDP program has dropped, all CPUs together: they are counted as denied, too.
    ///
    /// # Errors
    /// [`DispatcherError::Early`]: the kernel does not say.
    pub fn dropped_early(&self) -> Result<u64, DispatcherError> {
        let counted = self.early.get(&0, 0);
        let counted = counted.map_err(|source| DispatcherError::Early { source: Box::new(source) })?;
        Ok(counted.iter().fold(self.former().early, |sum, count| sum.wrapping_add(*count)))
    }

    /// Asks the kernel where a packet from `from` to `to` goes, by running the program on it. That counts it as steered,
    /// missed or refused, too. Needs Linux 5.13.
    ///
    /// # Errors
    /// [`DispatcherError::Test`]: Linux before 5.13, `from` and `to` of two families, or no capability.
    pub fn test(
        &self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Steered, DispatcherError> {
        test_run(self.program(), protocol, from, to).map_err(|source| DispatcherError::Test { source })
    }
}

/// What `counters` has for `id`, all CPUs together.
pub(super) fn sum_of(counters: &PacketCounters, id: DestinationId) -> Result<Counts, DispatcherError> {
    let counted = counters.get(&id.0, 0);
    let counted = counted.map_err(|source| DispatcherError::Count { id, source: Box::new(source) })?;
    Ok(counted.iter().fold(Counts::default(), |sum, counts| sum + counts.0))
}

/// Runs an sk_lookup program that is loaded, ours or not, once, as if a packet from `from` to `to` had arrived. The
/// addresses must be of one family. Needs CAP_BPF, CAP_NET_ADMIN and Linux 5.13.
///
/// # Errors
/// EINVAL before Linux 5.13 and for addresses of two families, EPERM without the capabilities.
pub fn test_run(
    program: BorrowedFd<'_>,
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
) -> io::Result<Steered> {
    let run = match sys::test_run(program, protocol, from, to) {
        Ok(run) => run,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Ok(Steered::Assigned { cookie: None });
        }
        Err(error) => return Err(error),
    };
    Ok(match (run.verdict, run.cookie) {
        (0, _) => Steered::Dropped,
        (_, 0) => Steered::Passed,
        (_, cookie) => Steered::Assigned { cookie: Some(cookie) },
    })
}
