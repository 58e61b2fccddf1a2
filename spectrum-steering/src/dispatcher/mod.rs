//! The loaded programs with their maps and links, and the object that controls them: bpf(2) happens here and
//! nowhere else. What the table says is decided in `plan`; which sockets are registered, by the caller.

mod attached;
mod denial_samples;
mod drop_log;
mod error;
mod former_counts;
mod generation;
mod pins;
mod placed_sockets;
mod probe;
mod secret;
mod shares;
mod sys;
mod xdp;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{ArrayOfMaps, Map, MapData, MapError, PerCpuValues, SockMap};
use aya::programs::{ProgramError, ProgramInfo, ProgramType, SkLookup};
use aya::{Ebpf, EbpfLoader};
use spectrum_common::{Counts, Node, Page, names};

pub use attached::{AttachedProgram, attached_programs, program_names};
pub use denial_samples::{DenialSamples, DeniedPacket};
pub use drop_log::DropLog;
pub use error::DispatcherError;
#[doc(hidden)]
pub use former_counts::{FormerCounts, FormerSums};
use generation::Generation;
use pins::Pins;
pub use pins::{
    PinnedGeneration, PinnedLink, PinnedLook, is_bpf_file_system, make_directory, pin_link, unpin,
};
use placed_sockets::PlacedSockets;
pub use probe::{Probe, test_run};
#[doc(hidden)]
pub use secret::Secret;
use shares::Places;
pub use xdp::{XdpLink, XdpMode};

use crate::model::{DestinationId, Family, Protocol, domain_of};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/spectrum.o"));

/// Changes no element that is there (BPF_NOEXIST).
const NO_EXIST: u64 = 1;

/// The dispatcher of one network namespace. Dropping it detaches the program and frees its maps: nothing of it
/// outlives the process, however that ends, unless it is pinned.
pub struct Dispatcher {
    /// None where another process has loaded the program.
    ebpf: Option<Ebpf>,
    pins: Option<Pins>,
    tables: ArrayOfMaps<MapData, MapData>,
    listeners: Arc<OwnedFd>,
    silent: SockMap<MapData>,
    accounts: ArrayOfMaps<MapData, MapData>,
    has_accounts: bool,
    shares: ArrayOfMaps<MapData, MapData>,
    shares_file: OwnedFd,
    memories: ArrayOfMaps<MapData, MapData>,
    memories_file: OwnedFd,
    /// The destinations that have any.
    shared: BTreeSet<DestinationId>,
    /// The places of registered sockets.
    places: Places,
    /// The slot beside the first one that the current table is in; 0: none.
    slot: u32,
    has_interface: bool,
    secret: Secret,
    link: Option<OwnedFd>,
    samples: Option<DenialSamples>,
    probe: Probe,
    capacity: usize,
}

/// The kernel's decision on a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Steered {
    /// Give it to a socket.
    Assigned {
        /// By which `ss -e` knows the socket. `None` when it is one of a SO_REUSEPORT group: a test run does not repeat
        /// the choice within the group (net/bpf/test_run.c, bpf_prog_test_run_sk_lookup).
        cookie: Option<u64>,
    },
    /// Refuse it: TCP gets a RST, UDP an ICMP port unreachable.
    Dropped,
    /// Look for a socket as if no program were there.
    Passed,
}

/// The kernel's account of a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Made {
    /// Bytes of machine code; 0 if the program is interpreted.
    pub machine_code: u32,
    /// Instructions that the verifier walked through. Before Linux 5.16 it does not say.
    pub verified: Option<u32>,
}

impl Made {
    fn of(info: &ProgramInfo) -> Self {
        Self { machine_code: info.size_jitted(), verified: info.verified_instruction_count() }
    }
}

/// True if the kernel has programs of the type sk_lookup. Needs CAP_BPF.
///
/// # Errors
/// The kernel does not say, as without `CAP_BPF`.
pub fn knows_sk_lookup() -> io::Result<bool> {
    aya::sys::is_program_supported(ProgramType::SkLookup).map_err(|error| match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    })
}

impl Dispatcher {
    /// Loads the program and its maps: it steers nothing yet. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (without the
    /// last the verifier demands guards against speculation that the program has not), and Linux 5.10, which also needs
    /// CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK.
    ///
    /// With `log_drops` the program logs each packet it drops, which costs time for each. Its maps have room for twice as many
    /// `destinations`, since a reload may give each a new id while the old one is in use.
    ///
    /// # Errors
    /// [`DispatcherError::Load`]: a capability is missing, the kernel is too old, or its verifier refuses the program;
    /// [`DispatcherError::Object`].
    pub fn load(log_drops: bool, destinations: usize) -> Result<Self, DispatcherError> {
        Self::load_with(log_drops, destinations, Secret::drawn())
    }

    /// The same, with the `secret` of the dispatcher before this one: clients have the slots that they had.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    #[doc(hidden)]
    pub fn load_with(log_drops: bool, destinations: usize, secret: Secret) -> Result<Self, DispatcherError> {
        Self::load_into(log_drops, destinations, secret, None)
    }

    /// The same, with the program and its maps pinned in `directory`, which is empty; no `secret` is a new one.
    ///
    /// # Errors
    /// As for [`load`](Self::load), and [`DispatcherError::Pin`].
    pub fn load_pinned(
        directory: &Path,
        log_drops: bool,
        destinations: usize,
        secret: Option<Secret>,
    ) -> Result<Self, DispatcherError> {
        let secret = secret.unwrap_or_else(Secret::drawn);
        Self::load_into(log_drops, destinations, secret, Some(Pins::at(directory)?))
    }

    fn load_into(
        log_drops: bool,
        destinations: usize,
        secret: Secret,
        mut pins: Option<Pins>,
    ) -> Result<Self, DispatcherError> {
        raise_memlock();
        let capacity = capacity_for(destinations);
        let entries = u32::try_from(capacity).unwrap_or(u32::MAX);
        let registered = u32::try_from(names::REGISTERED_SOCKETS).unwrap_or(u32::MAX);
        let has_interface = sys::tells_interface();
        let mut ebpf = EbpfLoader::new()
            // The kernel's own BTF is only needed for relocations, and the program has none.
            .btf(None)
            .map_max_entries(names::LISTENERS, entries.saturating_add(registered))
            .map_max_entries(names::SHARES, entries)
            .map_max_entries(names::MEMORIES, entries)
            .map_max_entries(names::COUNTERS, entries)
            .override_global(names::LOG_DROPS, &u8::from(log_drops), true)
            .override_global(names::HAS_INTERFACE, &u8::from(has_interface), true)
            .override_global(names::FIRST_REGISTERED, &entries, true)
            .override_global(names::SECRET, &secret.0.map(u64::to_ne_bytes), true)
            .load(OBJECT)
            .map_err(DispatcherError::load)?;
        if let Some(pins) = &mut pins {
            // Those of globals have a dot in their names, which no file of a BPF file system may have; the program keeps them.
            for (name, map) in ebpf.maps().filter(|(name, _)| !name.contains('.')) {
                pins.keep_map(map, name)?;
            }
            pins.keep_secret(secret)?;
        }
        let program = program(&mut ebpf)?;
        program.load().map_err(DispatcherError::verify)?;
        let id = program.info().map_err(DispatcherError::verify)?.id();
        let descriptor = program.fd().map_err(DispatcherError::verify)?.as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|source| DispatcherError::Load { source: Box::new(source) })?;
        if let Some(pins) = &mut pins {
            pins.keep_program(descriptor.as_fd())?;
        }
        let dispatcher = Self::of(Maps::Object(&mut ebpf), (descriptor, id), capacity, has_interface)?;
        let samples = Some(DenialSamples(Maps::Object(&mut ebpf).take(names::DENIALS)?));
        Ok(Self { ebpf: Some(ebpf), pins, secret, samples, ..dispatcher })
    }

    /// The dispatcher that is pinned in `directory`, to be changed, and its generation in force. It has no link: see
    /// [`PinnedLink::open`] and [`take_over`](Self::take_over).
    ///
    /// # Errors
    /// [`DispatcherError::Pin`] and [`DispatcherError::Charter`]: something is missing, or was made by another version;
    /// [`DispatcherError::Object`]: so it was.
    pub fn open_pinned(directory: &Path) -> Result<(Self, PinnedGeneration), DispatcherError> {
        raise_memlock();
        let mut pins = Pins::at(directory)?;
        let generation = PinnedGeneration::read(directory)?;
        let name = generation.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        pins.keep_only(name.to_owned(), generation.node_pages);
        let capacity = pins.capacity(names::COUNTERS)?;
        let dispatcher = Self::of(Maps::Pins(&pins), pins.program()?, capacity, sys::tells_interface())?;
        let (slot, secret) = (generation.slot, pins.secret()?);
        let has_accounts = pins.has(names::ACCOUNTS, 0)?;
        Ok((Self { pins: Some(pins), slot, secret, has_accounts, ..dispatcher }, generation))
    }

    /// The directory that it is pinned in, if it is.
    #[must_use]
    pub fn pinned_in(&self) -> Option<&Path> {
        self.pins.as_ref().map(Pins::directory)
    }

    /// The directory that it is pinned in has another name now.
    pub fn pins_are_moved_to(&mut self, directory: &Path) {
        if let Some(pins) = &mut self.pins {
            pins.are_moved_to(directory);
        }
    }

    /// Pins nothing any more. What is pinned is for the caller to remove.
    pub fn let_go_of_pins(&mut self) {
        self.pins = None;
    }

    /// The files of what it has pinned that somebody has removed.
    #[must_use]
    pub fn missing_pins(&self) -> Vec<PathBuf> {
        self.pins.as_ref().map(Pins::missing).unwrap_or_default()
    }

    /// Pins again what somebody has removed.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`].
    pub fn put_back_pins(&self) -> Result<(), DispatcherError> {
        self.pins.as_ref().map_or(Ok(()), Pins::put_back)
    }

    /// Marks that registered sockets are changed from here on, where they are pinned.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`].
    pub fn mark_changing(&self) -> Result<(), DispatcherError> {
        self.pins.as_ref().map_or(Ok(()), Pins::mark)
    }

    /// True if a process was killed while it changed what is registered.
    #[must_use]
    pub fn is_half_changed(&self) -> bool {
        self.pins.as_ref().is_some_and(Pins::is_marked)
    }

    /// Registered sockets are as the charter says.
    pub fn mark_changed(&self) {
        self.pins.as_ref().inspect(|pins| pins.unmark());
    }

    /// The kernel's id of the program that is pinned in `directory`.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`]: there is none, or it may not be opened.
    pub fn pinned_program(directory: &Path) -> Result<u32, DispatcherError> {
        Ok(Pins::at(directory)?.program()?.1)
    }

    /// The map of listeners that is pinned in `directory`, for [`copy_listeners`](Self::copy_listeners).
    ///
    /// # Errors
    /// [`DispatcherError::Pin`]: there is none, or it may not be opened.
    pub fn pinned_listeners(directory: &Path) -> Result<OwnedFd, DispatcherError> {
        Pins::at(directory)?.file(names::LISTENERS)
    }

    /// The secret of the program that is pinned in `directory`, for the one that takes its place.
    ///
    /// # Errors
    /// [`DispatcherError::Pin`]: there is none, or it may not be read.
    pub fn pinned_secret(directory: &Path) -> Result<Secret, DispatcherError> {
        Pins::at(directory)?.secret()
    }

    /// One with these maps, whose program is loaded.
    fn of(
        mut maps: Maps<'_>,
        (program, id): (OwnedFd, u32),
        capacity: usize,
        has_interface: bool,
    ) -> Result<Self, DispatcherError> {
        let tables = maps.take(names::TABLES)?;
        let listeners = match &maps.take(names::LISTENERS)? {
            Map::SockMap(map) => Arc::new(file(map)?),
            _ => return Err(missing(names::LISTENERS)),
        };
        let silent = maps.take(names::SILENT)?;
        let accounts = maps.take(names::ACCOUNTS)?;
        let (shares_file, shares) = maps.take_with_file(names::SHARES)?;
        let (memories_file, memories) = maps.take_with_file(names::MEMORIES)?;
        let counters: Map = maps.take(names::COUNTERS)?;
        let counters_file = match &counters {
            Map::PerCpuArray(map) => file(map)?,
            _ => return Err(missing(names::COUNTERS)),
        };
        let counters = counters.try_into().map_err(|_error| missing(names::COUNTERS))?;
        let early = maps.take(names::EARLY)?;
        let first = u32::try_from(capacity).unwrap_or(u32::MAX);
        let registered = PlacedSockets::of(Arc::clone(&listeners), first, maps.take(names::STEERED)?);
        Ok(Self {
            ebpf: None,
            pins: None,
            tables,
            silent,
            accounts,
            has_accounts: false,
            shares,
            shares_file,
            memories,
            memories_file,
            shared: BTreeSet::new(),
            places: Places::from(first),
            slot: 0,
            has_interface,
            // Whoever has loaded it says which.
            secret: Secret::drawn(),
            link: None,
            probe: Probe::of(program, id, counters, counters_file, registered, early),
            listeners,
            samples: None,
            capacity,
        })
    }

    /// Attaches the program to the network namespace that `netns` refers to: from now on every packet that looks for
    /// a listener there is decided upon. Needs CAP_NET_ADMIN in it.
    ///
    /// # Errors
    /// [`DispatcherError::Attach`]: 64 programs are attached there already, or the capability is missing.
    pub fn attach(&mut self, netns: impl AsFd) -> Result<(), DispatcherError> {
        let attached = sys::attach(self.probe.program(), netns.as_fd());
        self.link = Some(attached.map_err(|source| DispatcherError::Attach { source: Box::new(source) })?);
        Ok(())
    }

    /// Attaches the program by `link`, in place of the one that it had attached until now: no packet finds neither. What that has
    /// counted is `former`, and goes on here. A link that somebody has detached is let go of, and one to `netns` made.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach).
    #[doc(hidden)]
    pub fn take_over(
        &mut self,
        link: OwnedFd,
        former: FormerCounts,
        netns: impl AsFd,
    ) -> Result<(), DispatcherError> {
        match sys::exchange(link.as_fd(), self.probe.program()) {
            Ok(()) => self.link = Some(link),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => self.attach(netns)?,
            Err(source) => return Err(DispatcherError::Attach { source: Box::new(source) }),
        }
        self.goes_on_from(former);
        Ok(())
    }

    /// What programs before this one have counted is `former`, and goes on here.
    #[doc(hidden)]
    pub fn goes_on_from(&mut self, former: FormerCounts) {
        self.probe.goes_on_from(former);
    }

    /// The link, while it is attached.
    #[doc(hidden)]
    #[must_use]
    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Detaches the program: every packet passes. Does nothing when it is not attached.
    ///
    /// # Errors
    /// [`DispatcherError::Detach`]; it counts as detached all the same.
    pub fn detach(&mut self) -> Result<(), DispatcherError> {
        // Its descriptor is the only reference to it.
        drop(self.link.take());
        Ok(())
    }

    /// True if the program is attached to the network namespace that `netns` refers to: others may detach it.
    ///
    /// # Errors
    /// [`DispatcherError::Attach`]: the kernel does not say what is attached.
    pub fn is_attached(&self, netns: impl AsFd) -> Result<bool, DispatcherError> {
        let own = self.probe.program_id();
        let attached = sys::attached_to(netns.as_fd());
        let attached = attached.map_err(|source| DispatcherError::Attach { source: Box::new(source) })?;
        Ok(attached.contains(&own))
    }

    /// Makes `socket` the listener of destination `id` unless it has one; whether it had none.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub fn register_again(&mut self, id: DestinationId, socket: &impl AsFd) -> Result<bool, DispatcherError> {
        match sys::set_socket(self.listeners.as_fd(), id.0, socket.as_fd(), NO_EXIST) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(source) => Err(DispatcherError::Register { id, source: Box::new(source) }),
        }
    }

    /// The samples of packets that are turned away. `None` the second time.
    pub fn take_samples(&mut self) -> Option<DenialSamples> {
        self.samples.take()
    }

    /// The program's log of packets it drops, if it was loaded to log them. `None` the second time.
    pub fn take_drop_log(&mut self) -> Option<DropLog> {
        DropLog::of(self.ebpf.as_mut()?)
    }

    /// Makes `socket` the listener of destination `id`. The map holds no reference that keeps the socket open; of a
    /// SO_REUSEPORT group any one socket stands for all.
    ///
    /// # Errors
    /// [`DispatcherError::Register`]: `id` is not below [`capacity`](Self::capacity), or the socket neither listens nor is a
    /// bound UDP one.
    pub fn register(&mut self, id: DestinationId, socket: &impl AsFd) -> Result<(), DispatcherError> {
        sys::set_socket(self.listeners.as_fd(), id.0, socket.as_fd(), 0)
            .map_err(|source| DispatcherError::Register { id, source: Box::new(source) })
    }

    /// The map of listeners, for the dispatcher that takes the place of this one: see [`copy_listeners`](Self::copy_listeners).
    #[doc(hidden)]
    #[must_use]
    pub fn listeners(&self) -> BorrowedFd<'_> {
        self.listeners.as_fd()
    }

    /// Makes the sockets that `others`, the map of another dispatcher, has for `ids` the listeners of these here too; those that had one.
    /// Nobody need have their descriptors. Needs CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    #[doc(hidden)]
    pub fn copy_listeners(
        &mut self,
        others: BorrowedFd<'_>,
        ids: impl IntoIterator<Item = DestinationId>,
    ) -> Result<Vec<DestinationId>, DispatcherError> {
        let mut ids = ids.into_iter().peekable();
        let Some(first) = ids.peek().copied() else { return Ok(Vec::new()) };
        let failed = |id| move |source: io::Error| DispatcherError::Register { id, source: Box::new(source) };
        let copier = sys::copier(others, self.listeners.as_fd()).map_err(failed(first))?;
        let mut here = Vec::new();
        for id in ids {
            match sys::copy_socket(copier.as_fd(), id.0, id.0) {
                Ok(()) => here.push(id),
                // Whoever had it has closed it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(failed(id)(error)),
            }
        }
        Ok(here)
    }

    /// Makes `socket` the one that denied packets of `protocol` and `family` go to which nobody is to answer. It must be a listener
    /// like any other, and its filter drop everything; without it, and when it is closed, such packets are refused.
    ///
    /// # Errors
    /// [`DispatcherError::Silence`]: the socket neither listens nor is a bound UDP one.
    pub fn register_silent(
        &mut self,
        protocol: Protocol,
        family: Family,
        socket: &impl AsRawFd,
    ) -> Result<(), DispatcherError> {
        let silenced = self.silent.set(domain_of(protocol, family) as u32, socket, 0);
        silenced.map_err(|source| DispatcherError::Silence { protocol, family, source: Box::new(source) })
    }

    /// Leaves destination `id` without a listener: its packets are refused.
    ///
    /// # Errors
    /// [`DispatcherError::Unregister`], also where it had none.
    pub fn unregister(&mut self, id: DestinationId) -> Result<(), DispatcherError> {
        sys::clear_socket(self.listeners.as_fd(), id.0)
            .map_err(|source| DispatcherError::Unregister { id, source: Box::new(source) })
    }

    /// Makes `nodes` the steering table. Atomic: a packet sees either the one before or this one.
    ///
    /// # Errors
    /// [`DispatcherError::Publish`], for lack of memory most of the time: the table before still holds.
    pub fn publish(&mut self, nodes: &[Node]) -> Result<(), DispatcherError> {
        self.publish_with(nodes, &[])
    }

    /// The same with the lists of what was said at run time to which its gates lead, in the same step.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub fn publish_with(&mut self, nodes: &[Node], run_time: &[Node]) -> Result<(), DispatcherError> {
        self.publish_saying(nodes, run_time, &[])
    }

    /// The same of a pinned dispatcher, whose generation is to say `charter` of what it was made. Both are published together: whoever is
    /// killed amid this has changed both or nothing.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish), and [`DispatcherError::Pin`].
    pub fn publish_pinned(
        &mut self,
        nodes: &[Node],
        run_time: &[Node],
        charter: &[u8],
    ) -> Result<(), DispatcherError> {
        self.publish_saying(nodes, run_time, charter)
    }

    /// The generation in force of a pinned dispatcher is to say `charter` instead. What is steered where stays.
    ///
    /// # Errors
    /// As for [`publish_pinned`](Self::publish_pinned).
    pub fn publish_charter(&mut self, charter: &[u8]) -> Result<(), DispatcherError> {
        let failed = |source: MapError| DispatcherError::Publish { source: Box::new(source) };
        let Some(pins) = &mut self.pins else { return Ok(()) };
        let (former, node_pages) = pins.current()?;
        let generation = Generation::again(former.as_fd(), node_pages, charter)?;
        let name = pins.keep_generation(&generation)?;
        // Both have the very same nodes, so that nobody minds which of them is found.
        if self.slot != 0 {
            self.tables.set(self.slot, generation.map(), 0).map_err(failed)?;
        }
        self.tables.set(0, generation.map(), 0).map_err(failed)?;
        pins.keep_only(name, node_pages);
        Ok(())
    }

    fn publish_saying(
        &mut self,
        nodes: &[Node],
        run_time: &[Node],
        charter: &[u8],
    ) -> Result<(), DispatcherError> {
        let failed = |source: MapError| DispatcherError::Publish { source: Box::new(source) };
        let first = nodes.first().map(Node::as_step);
        if first.is_some_and(|step| step.has_rates != 0) && !self.has_accounts {
            self.accounts.set(0, &generation::accounts()?, 0).map_err(failed)?;
            self.has_accounts = true;
        }
        let has_gates = first.is_some_and(|step| step.slot != 0);
        let next = if self.slot == 1 { 2 } else { 1 };
        let generation = Generation::of(nodes, next, charter)?;
        let run_time = Generation::of(run_time, 0, &[])?;
        // Before it is in force, so that it can be found from then on.
        let pinned = self.pins.as_mut().map(|pins| pins.keep_generation(&generation)).transpose()?;
        if has_gates {
            self.tables.set(next + names::RUN_TIME_SLOTS, run_time.map(), 0).map_err(failed)?;
            self.tables.set(next, generation.map(), 0).map_err(failed)?;
        }
        self.tables.set(0, generation.map(), 0).map_err(failed)?;
        // Each change waits until nobody uses what was there. Whatever begins now takes the new table: the former is let go of.
        // What cannot be let go of costs memory until the next one, and nothing else.
        if self.slot != 0 {
            let former = self.tables.set(self.slot, generation.map(), 0);
            let former =
                former.and_then(|()| self.tables.set(self.slot + names::RUN_TIME_SLOTS, run_time.map(), 0));
            if let Err(error) = former {
                tracing::debug!(%error, "let go of the former table");
            }
        }
        self.slot = if has_gates { next } else { 0 };
        self.probe.published(nodes.len());
        if let (Some(pins), Some(name)) = (&mut self.pins, pinned) {
            pins.keep_only(name, Page::count_of(nodes.len()).max(1));
        }
        Ok(())
    }

    /// Makes `run_time` the lists of what was said at run time, which must have the places of those before. Atomic: a source is looked
    /// for in those of before or in these.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish), and where the table has no gates: nothing would lead to them.
    pub fn amend(&mut self, run_time: &[Node]) -> Result<(), DispatcherError> {
        if self.slot == 0 {
            let source = io::Error::other("the steering table has no gates");
            return Err(DispatcherError::Publish { source: Box::new(source) });
        }
        let generation = Generation::of(run_time, 0, &[])?;
        self.tables
            .set(self.slot + names::RUN_TIME_SLOTS, generation.map(), 0)
            .map_err(|source| DispatcherError::Publish { source: Box::new(source) })
    }

    /// A look at it, as it is now; a clone of it is for other threads.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// True if the program knows by which interface a packet came (Linux 5.17); else it lets in by any.
    #[must_use]
    pub fn knows_interface(&self) -> bool {
        self.has_interface
    }

    /// That by which slots are clients'.
    #[doc(hidden)]
    #[must_use]
    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// The number of ids of destinations that the maps have room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Begins to count anew for destination `id`, which must have no packets now.
    ///
    /// # Errors
    /// [`DispatcherError::Count`]: `id` is beyond the capacity.
    pub fn reset_counts(&mut self, id: DestinationId) -> Result<(), DispatcherError> {
        let reset = || -> Result<(), aya::maps::MapError> {
            let mut counters = self.probe.counters();
            let cpus = counters.get(&id.0, 0)?.len();
            let zeros = PerCpuValues::try_from(vec![sys::PodCounts(Counts::default()); cpus])?;
            counters.set(id.0, zeros, 0)
        };
        self.probe.forget_former(id);
        reset().map_err(|source| DispatcherError::Count { id, source: Box::new(source) })
    }

    /// Runs of the program and the nanoseconds they took together, which the kernel counts while
    /// `kernel.bpf_stats_enabled` is set.
    ///
    /// # Errors
    /// [`DispatcherError::Load`]: the kernel does not say.
    pub fn run_time(&self) -> Result<(u64, Duration), DispatcherError> {
        let info = self.program_info()?;
        Ok((info.run_count(), info.run_time()))
    }

    /// The kernel's account of the program from when it loaded it.
    ///
    /// # Errors
    /// [`DispatcherError::Load`]: the kernel does not say.
    pub fn made(&self) -> Result<Made, DispatcherError> {
        Ok(Made::of(&self.program_info()?))
    }
}

impl Dispatcher {
    fn program_info(&self) -> Result<ProgramInfo, DispatcherError> {
        let program = self.ebpf.as_ref().and_then(|ebpf| ebpf.program(names::PROGRAM));
        let program = program.ok_or_else(|| missing(names::PROGRAM))?;
        program.info().map_err(DispatcherError::verify)
    }
}

/// Where a dispatcher's maps come from.
enum Maps<'a> {
    /// What was just loaded.
    Object(&'a mut Ebpf),
    /// What another process has pinned.
    Pins(&'a Pins),
}

impl Maps<'_> {
    /// The array of maps `name`, once, with a descriptor of it.
    fn take_with_file(
        &mut self,
        name: &'static str,
    ) -> Result<(OwnedFd, ArrayOfMaps<MapData, MapData>), DispatcherError> {
        let map = self.take(name)?;
        let Map::ArrayOfMaps(data) = &map else { return Err(missing(name)) };
        Ok((file(data)?, map.try_into().map_err(|_error| missing(name))?))
    }

    /// The map `name`, once.
    fn take<M: TryFrom<Map>>(&mut self, name: &'static str) -> Result<M, DispatcherError> {
        let map = match self {
            Self::Object(ebpf) => ebpf.take_map(name).ok_or_else(|| missing(name))?,
            Self::Pins(pins) => pins.map(name)?,
        };
        map.try_into().map_err(|_error| missing(name))
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SkLookup, DispatcherError> {
    let program = ebpf.program_mut(names::PROGRAM).ok_or_else(|| missing(names::PROGRAM))?;
    program.try_into().map_err(DispatcherError::verify)
}

/// A descriptor of `map` besides the one that it has.
fn file(map: &MapData) -> Result<OwnedFd, DispatcherError> {
    let file = map.fd().as_fd().try_clone_to_owned();
    file.map_err(|source| DispatcherError::Load { source: Box::new(source) })
}

fn missing(name: &'static str) -> DispatcherError {
    DispatcherError::Object { name }
}

/// The number of ids that the maps have room for. Counters are there for each CPU, so there are no more than may be
/// needed.
fn capacity_for(destinations: usize) -> usize {
    let both = destinations.min(names::MOST_DESTINATIONS).saturating_mul(2);
    both.next_power_of_two().max(names::DEFAULT_DESTINATIONS)
}

/// Until Linux 5.11 the memory of maps counts against RLIMIT_MEMLOCK, 64 KiB by default. Later kernels charge the
/// cgroup; raising the limit is then needless, and failing to is no failure.
fn raise_memlock() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "raise RLIMIT_MEMLOCK");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_room_for_two_generations() {
        for (destinations, capacity) in [
            (0, 4_096),
            (2_048, 4_096),
            (2_049, 8_192),
            (8_000, 16_384),
            (65_536, 131_072),
            (100_000, 131_072),
        ] {
            assert_eq!(capacity_for(destinations), capacity, "{destinations}");
        }
    }
}
