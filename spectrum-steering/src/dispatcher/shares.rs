//! The registered sockets of a dispatcher, and how the clients of a destination are divided among them. `slots_of` decides how;
//! who is registered, the caller.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{MapData, MapError};
use aya_obj::generated::BPF_F_MMAPABLE;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use spectrum_common::{MEMORY_WORDS, RegisteredId, SLOTS, SocketShare, names, slots_of};

use super::{Dispatcher, DispatcherError, sys};
use crate::model::DestinationId;

/// For so long the place of a socket is nobody's: longer than a client is remembered.
const REST: Duration = Duration::from_mins(1);

/// The places behind those of the destinations.
#[derive(Debug)]
pub(super) struct Places {
    next: u32,
    end: u32,
    /// The one after that which was given away last.
    following: u32,
    /// Those that were given back, in the order of that: each with when it has rested, if it has not long ago.
    resting: VecDeque<(Option<Instant>, RegisteredId)>,
    /// Those that others have given away.
    taken: BTreeSet<u32>,
}

impl Places {
    /// The places from `first` on, all free.
    pub(super) fn from(first: u32) -> Self {
        let count = u32::try_from(names::REGISTERED_SOCKETS).unwrap_or(u32::MAX);
        let (end, resting, taken) = (first.saturating_add(count), VecDeque::new(), BTreeSet::new());
        Self { next: first, end, following: first, resting, taken }
    }

    /// The same where others have given away `taken`, and those before `following` lately: these come last.
    fn after(first: u32, following: RegisteredId, taken: BTreeSet<u32>) -> Self {
        let places = Self::from(first);
        let next = following.0.clamp(first, places.end);
        let resting = (first..next).map(|place| (None, RegisteredId(place))).collect();
        Self { next, following: next, resting, taken, ..places }
    }

    /// A place that has been nobody's for a while, if there is one.
    fn take(&mut self, now: Instant) -> Option<RegisteredId> {
        loop {
            let free = if self.next < self.end {
                self.next += 1;
                RegisteredId(self.next - 1)
            } else {
                let has_rested =
                    |(until, _): &mut (Option<Instant>, RegisteredId)| until.is_none_or(|until| until <= now);
                self.resting.pop_front_if(has_rested)?.1
            };
            if !self.taken.contains(&free.0) {
                self.following = free.0 + 1;
                return Some(free);
            }
        }
    }

    fn give_back(&mut self, place: RegisteredId, now: Instant) {
        self.taken.remove(&place.0);
        self.resting.push_back((now.checked_add(REST), place));
    }
}

impl Dispatcher {
    /// Gives `socket` a place among the registered ones. No packet comes to it before it has a share. The map holds no reference that
    /// keeps the socket open: when its last descriptor is closed, its place is empty.
    ///
    /// # Errors
    /// [`DispatcherError::Admit`]: there is no free place, or the socket neither listens nor is a bound UDP one.
    pub fn admit(&mut self, socket: &impl AsFd) -> Result<RegisteredId, DispatcherError> {
        let listeners = Arc::clone(&self.listeners);
        self.admit_by(|place| sys::set_socket(listeners.as_fd(), place.0, socket.as_fd(), super::NO_EXIST))
    }

    /// Gives the socket at `place` of `others`, the map of another dispatcher, a place among the registered ones here too. Nobody need
    /// have its descriptor. `None`: it was closed. Needs CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// As for [`admit`](Self::admit).
    #[doc(hidden)]
    pub fn admit_from(
        &mut self,
        others: BorrowedFd<'_>,
        place: RegisteredId,
    ) -> Result<Option<RegisteredId>, DispatcherError> {
        let failed = |source: io::Error| DispatcherError::Admit { source: Box::new(source) };
        let copier = sys::copier(others, self.listeners.as_fd()).map_err(failed)?;
        if sys::cookie(others, place.0).map_err(failed)?.is_none() {
            return Ok(None);
        }
        match self.admit_by(|free| sys::copy_socket(copier.as_fd(), place.0, free.0)) {
            // Closed since.
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            admitted => admitted.map(Some),
        }
    }

    /// Has `put` put a socket at a free place.
    fn admit_by(
        &mut self,
        put: impl Fn(RegisteredId) -> io::Result<()>,
    ) -> Result<RegisteredId, DispatcherError> {
        let now = Instant::now();
        loop {
            let place = self.places.take(now).ok_or_else(|| DispatcherError::Admit {
                source: format!(
                    "{} sockets are registered, or were within the last {} s",
                    names::REGISTERED_SOCKETS,
                    REST.as_secs()
                )
                .into(),
            })?;
            let forgotten = self.probe.registered().forget(place).map_err(io::Error::other);
            match forgotten.and_then(|()| put(place)) {
                Ok(()) => return Ok(place),
                // Of maps that were there before this process somebody else has it.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(source) => {
                    self.places.give_back(place, now);
                    return Err(DispatcherError::Admit { source: Box::new(source) });
                }
            }
        }
    }

    /// The maps are others', who have given away the places `taken`, that before `following` last, and divide the clients of the destinations
    /// `shared`.
    #[doc(hidden)]
    pub fn goes_on_with(
        &mut self,
        shared: impl IntoIterator<Item = DestinationId>,
        taken: impl IntoIterator<Item = RegisteredId>,
        following: RegisteredId,
    ) {
        let taken = taken.into_iter().map(|place| place.0).collect();
        self.places = Places::after(self.first_place(), following, taken);
        self.shared = shared.into_iter().collect();
    }

    /// The place that the next registered socket gets, where others begin with it.
    #[doc(hidden)]
    #[must_use]
    pub fn following_place(&self) -> RegisteredId {
        RegisteredId(self.places.following)
    }

    fn first_place(&self) -> u32 {
        u32::try_from(self.capacity).unwrap_or(u32::MAX)
    }

    /// Empties every place of registered sockets but `kept`.
    #[doc(hidden)]
    pub fn dismiss_others(&mut self, kept: &BTreeSet<RegisteredId>) {
        let first = self.first_place();
        for place in (first..self.places.end).map(RegisteredId).filter(|place| !kept.contains(place)) {
            // Most are empty, which is an error to the kernel.
            let _empty = sys::clear_socket(self.listeners.as_fd(), place.0);
        }
    }

    /// Leaves destination `id` without any socket, of whoever had it before, and forgets its clients. Nothing may lead to it.
    ///
    /// # Errors
    /// [`DispatcherError::Share`]: the kernel would not.
    #[doc(hidden)]
    pub fn empty(&mut self, id: DestinationId) -> Result<(), DispatcherError> {
        // Most have none, which is an error to the kernel.
        if let Err(error) = self.unregister(id) {
            tracing::trace!(%error, "empty a place");
        }
        self.share(id, &[])
    }

    /// Empties the place of a registered socket, which must have no share any more.
    ///
    /// # Errors
    /// [`DispatcherError::Dismiss`], also where it was empty, as that of a socket is which was closed. The place is free all the same.
    pub fn dismiss(&mut self, place: RegisteredId) -> Result<(), DispatcherError> {
        self.places.give_back(place, Instant::now());
        sys::clear_socket(self.listeners.as_fd(), place.0)
            .map_err(|source| DispatcherError::Dismiss { place, source: Box::new(source) })
    }

    /// Divides the clients of destination `id` among `shares`, which apply while it has no listener of its own. Atomic. Whoever came lately
    /// goes on where it went, as long as that socket has its place; where no share has a weight, nobody else comes. With no shares the
    /// destination has no registered sockets, and all is forgotten.
    ///
    /// # Errors
    /// [`DispatcherError::Share`], for lack of memory most of the time: the shares before still hold.
    pub fn share(&mut self, id: DestinationId, shares: &[SocketShare]) -> Result<(), DispatcherError> {
        let failed = |source: MapError| DispatcherError::Share { id, source: Box::new(source) };
        // Each change of a map of maps waits until no packet is being looked up by what was there.
        if shares.is_empty() {
            self.shared.remove(&id);
            clear(self.shares_file.as_fd(), id)?;
            return clear(self.memories_file.as_fd(), id);
        }
        if !self.shared.contains(&id) {
            let memory = array("MEMORY", MEMORY_WORDS, 0).map_err(failed)?;
            self.memories.set(id.0, &memory, 0).map_err(failed)?;
            self.shared.insert(id);
        }
        let slots = slots_of(shares);
        if slots.is_empty() {
            return clear(self.shares_file.as_fd(), id);
        }
        let map = array("SLOTS", SLOTS, BPF_F_MMAPABLE).map_err(failed)?;
        let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.bits().to_ne_bytes()).collect();
        sys::fill(map.fd(), &bytes, 0)
            .map_err(|source| DispatcherError::Share { id, source: Box::new(source) })?;
        self.shares.set(id.0, &map, 0).map_err(failed)
    }

    /// The destinations whose clients are divided.
    #[must_use]
    pub fn shared(&self) -> &BTreeSet<DestinationId> {
        &self.shared
    }
}

/// Takes away what a map of maps has for `id`, if it has anything.
fn clear(map: BorrowedFd<'_>, id: DestinationId) -> Result<(), DispatcherError> {
    match sys::clear_socket(map, id.0) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            Err(DispatcherError::Share { id, source: Box::new(error) })
        }
        _ => Ok(()),
    }
}

/// An array of words, by the name that bpftool prints.
pub(super) fn array(name: &str, entries: u32, flags: u32) -> Result<MapData, MapError> {
    #[expect(clippy::cast_possible_truncation, reason = "a key has four bytes, a word eight")]
    let definition = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        size_of::<u64>() as u32,
        entries,
        flags,
    );
    MapData::create(definition, name, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_away_again_when_it_has_rested() {
        let mut places = Places { end: 10, ..Places::from(8) };
        let start = Instant::now();
        let [one, other] = [8, 9].map(RegisteredId);
        assert_eq!(
            [places.take(start), places.take(start), places.take(start)],
            [Some(one), Some(other), None]
        );
        places.give_back(other, start);
        places.give_back(one, start + REST / 2);
        assert_eq!(places.take(start + REST / 2), None);
        assert_eq!(places.take(start + REST), Some(other));
        assert_eq!(places.take(start + REST), None);
        assert_eq!(places.take(start + REST * 2), Some(one));
    }

    #[test]
    fn what_others_have_given_away_is_nobody_elses_and_what_they_had_lately_comes_last() {
        let mut places = Places { end: 12, ..Places::after(8, RegisteredId(10), BTreeSet::from([8, 10])) };
        let now = Instant::now();
        let taken = [(); 4].map(|()| places.take(now).map(|place| place.0));
        assert_eq!((taken, places.following), ([Some(11), Some(9), None, None], 10));
        places.give_back(RegisteredId(8), now);
        assert_eq!(places.take(now + REST), Some(RegisteredId(8)));
    }
}
