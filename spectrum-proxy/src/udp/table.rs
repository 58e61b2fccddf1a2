//! Which sessions a worker has, and which of them is to go first. Whatever it is asked costs the same, however many there
//! are. Knows neither sockets nor what a session does.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::crowds::Crowds;
use super::via::ViaId;

/// A service of one family, whose sessions are told from others'.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct GroupId(pub(super) u32);

/// What tells sessions apart. Not the listener: a service may get another one while its sessions go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key {
    pub(super) group: GroupId,
    pub(super) client: SocketAddr,
    pub(super) dialled: SocketAddr,
    /// The trusted proxy that speaks for the client.
    pub(super) via: Option<ViaId>,
}

impl Hash for Key {
    /// Hashes what tells addresses apart, at once: this is done for every datagram.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.group.0);
        for address in [self.client, self.dialled] {
            match address {
                SocketAddr::V4(v4) => {
                    state.write_u64(u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port()));
                }
                SocketAddr::V6(v6) => {
                    state.write_u128(v6.ip().to_bits());
                    state.write_u64(u64::from(v6.scope_id()) << 16 | u64::from(v6.port()));
                }
            }
        }
    }
}

/// A session of the table. One that is gone has an id that no other gets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct SessionId {
    index: u32,
    life: u32,
}

impl SessionId {
    /// The id as a number, for the kernel to keep.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.life) << 32 | u64::from(self.index)
    }

    /// The id that such a number was made of.
    #[expect(clippy::cast_possible_truncation, reason = "each half is taken for itself")]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, life: (bits >> 32) as u32 }
    }
}

/// How much is known in favour of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rank {
    /// Nobody has answered it: its client may not exist.
    Unanswered,
    /// Somebody has.
    Answered,
}

/// No slot.
const NONE: u32 = u32::MAX;

/// The sessions of a worker.
#[derive(Debug)]
pub(super) struct SessionTable<T> {
    places: HashMap<Key, u32>,
    slots: Vec<Slot<T>>,
    /// Slots without a session.
    free: Vec<u32>,
    groups: Vec<Group>,
    crowds: Crowds,
    /// Groups that have a session, in no order.
    peopled: Vec<GroupId>,
}

#[derive(Debug)]
struct Slot<T> {
    life: u32,
    before: u32,
    after: u32,
    /// `None` where it is free.
    entry: Option<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    key: Key,
    rank: Rank,
    used: Instant,
    value: T,
}

/// The sessions of one group by rank, in each of them the one first that was used least recently.
#[derive(Clone, Copy, Debug)]
struct Group {
    lists: [List; 2],
    /// The group's place among those that have a session.
    place: usize,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };

impl<T> SessionTable<T> {
    pub(super) fn new() -> Self {
        Self {
            places: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            groups: Vec::new(),
            crowds: Crowds::default(),
            peopled: Vec::new(),
        }
    }

    /// One more group.
    pub(super) fn add_group(&mut self) -> GroupId {
        let group = GroupId(u32::try_from(self.groups.len()).unwrap_or(u32::MAX));
        self.groups.push(Group { lists: [EMPTY; 2], place: usize::MAX });
        self.crowds.add_group();
        group
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The number of sessions of `group`.
    pub(super) fn count(&self, group: GroupId) -> usize {
        self.crowds.size(group.0)
    }

    pub(super) fn find(&self, key: &Key) -> Option<SessionId> {
        let index = *self.places.get(key)?;
        Some(SessionId { index, life: self.slots.get(index as usize)?.life })
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&T> {
        self.entry(id).map(|entry| &entry.value)
    }

    /// The group of one.
    pub(super) fn group_of(&self, id: SessionId) -> Option<GroupId> {
        self.entry(id).map(|entry| entry.key.group)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.life == id.life)?;
        slot.entry.as_mut().map(|entry| &mut entry.value)
    }

    /// The one with this key, which is used now.
    pub(super) fn touch(&mut self, id: SessionId, now: Instant) {
        self.move_to_end(id, now, None);
    }

    /// The same, and somebody has answered it.
    pub(super) fn answered(&mut self, id: SessionId, now: Instant) {
        self.move_to_end(id, now, Some(Rank::Answered));
    }

    /// Puts a session in. Of one key there is one: the caller has looked.
    pub(super) fn insert(&mut self, key: Key, rank: Rank, now: Instant, value: T) -> SessionId {
        let entry = Some(Entry { key, rank, used: now, value });
        let index = if let Some(index) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.entry = entry;
            }
            index
        } else {
            self.slots.push(Slot { life: 0, before: NONE, after: NONE, entry });
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        self.places.insert(key, index);
        self.append(index, key.group, rank);
        let place = self.peopled.len();
        self.crowds.join(key.group.0);
        if self.crowds.size(key.group.0) == 1
            && let Some(group) = self.groups.get_mut(key.group.0 as usize)
        {
            group.place = place;
            self.peopled.push(key.group);
        }
        SessionId { index, life: self.slots.get(index as usize).map_or(0, |slot| slot.life) }
    }

    /// When a session was used last.
    pub(super) fn used(&self, id: SessionId) -> Option<Instant> {
        Some(self.entry(id)?.used)
    }

    /// Gives a session another key of the same group, which no other has: the caller has looked.
    pub(super) fn rekey(&mut self, id: SessionId, key: Key) {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.life == id.life);
        let Some(entry) = slot.and_then(|slot| slot.entry.as_mut()) else { return };
        let former = std::mem::replace(&mut entry.key, key);
        self.places.remove(&former);
        self.places.insert(key, id.index);
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<(Key, T)> {
        self.entry(id)?;
        self.unlink(id.index);
        let slot = self.slots.get_mut(id.index as usize)?;
        let entry = slot.entry.take()?;
        // Who asks for the former session must not get the next one.
        slot.life = slot.life.wrapping_add(1);
        self.free.push(id.index);
        self.places.remove(&entry.key);
        self.crowds.leave(entry.key.group.0);
        let group = self.groups.get_mut(entry.key.group.0 as usize)?;
        if self.crowds.size(entry.key.group.0) == 0 {
            let place = std::mem::replace(&mut group.place, usize::MAX);
            self.peopled.swap_remove(place);
            if let Some(moved) = self.peopled.get(place).copied()
                && let Some(moved) = self.groups.get_mut(moved.0 as usize)
            {
                moved.place = place;
            }
        }
        if self.places.is_empty() {
            // The memory of a flood is not kept. Lives go on where they were, so nothing that was is found again.
            self.places.shrink_to_fit();
        }
        Some((entry.key, entry.value))
    }

    /// The one that `group` can best do without: that nobody answered, if there is any, and of these the one silent longest.
    pub(super) fn least_of(&self, group: GroupId) -> Option<SessionId> {
        let lists = self.group(group)?.lists;
        lists.iter().find(|list| list.first != NONE).and_then(|list| self.id(list.first))
    }

    /// The one that is to make room for one more of `group`: the least of its own, or of the group that has most where it has
    /// less than comes to each.
    pub(super) fn dispensable(&self, group: GroupId) -> Option<SessionId> {
        let own = self.count(group);
        let others = self.crowds.peopled() - usize::from(own > 0);
        if own * (others + 1) >= self.len() {
            return self.least_of(group);
        }
        self.least_of(GroupId(self.crowds.largest()?))
    }

    /// The groups that have any sessions.
    pub(super) fn peopled(&self) -> Vec<GroupId> {
        self.peopled.clone()
    }

    /// The session of `group` and `rank` that is silent longest, and since when.
    pub(super) fn oldest_of(&self, group: GroupId, rank: Rank) -> Option<(SessionId, Instant)> {
        let first = self.group(group)?.lists.get(rank as usize)?.first;
        let slot = self.slots.get(first as usize)?;
        Some((SessionId { index: first, life: slot.life }, slot.entry.as_ref()?.used))
    }

    /// The sessions of `group`: those that nobody answered first, and of either those first that are silent longest.
    pub(super) fn ids_of(&self, group: GroupId) -> Vec<SessionId> {
        let mut ids = Vec::new();
        for list in self.group(group).map(|group| group.lists).into_iter().flatten() {
            let mut next = list.first;
            while let Some(id) = self.id(next) {
                ids.push(id);
                next = self.slots.get(next as usize).map_or(NONE, |slot| slot.after);
            }
        }
        ids
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.places = HashMap::new();
        self.peopled.clear();
        self.free.clear();
        for group in &mut self.groups {
            *group = Group { lists: [EMPTY; 2], place: usize::MAX };
        }
        self.crowds.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|slot| Some(slot.entry?.value)).collect()
    }

    fn group(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(group.0 as usize)
    }

    fn id(&self, index: u32) -> Option<SessionId> {
        self.slots.get(index as usize).map(|slot| SessionId { index, life: slot.life })
    }

    fn entry(&self, id: SessionId) -> Option<&Entry<T>> {
        self.slots.get(id.index as usize).filter(|slot| slot.life == id.life)?.entry.as_ref()
    }

    fn move_to_end(&mut self, id: SessionId, now: Instant, rank: Option<Rank>) {
        let Some(slot) = self.slots.get_mut(id.index as usize).filter(|slot| slot.life == id.life) else {
            return;
        };
        let (is_last, Some(entry)) = (slot.after == NONE, slot.entry.as_mut()) else { return };
        entry.used = now;
        let rank = rank.unwrap_or(entry.rank);
        if is_last && rank == entry.rank {
            return;
        }
        let group = entry.key.group;
        self.unlink(id.index);
        if let Some(entry) = self.slots.get_mut(id.index as usize).and_then(|slot| slot.entry.as_mut()) {
            entry.rank = rank;
        }
        self.append(id.index, group, rank);
    }

    fn list(&mut self, group: GroupId, rank: Rank) -> Option<&mut List> {
        self.groups.get_mut(group.0 as usize)?.lists.get_mut(rank as usize)
    }

    fn append(&mut self, index: u32, group: GroupId, rank: Rank) {
        let Some(list) = self.list(group, rank) else { return };
        let before = std::mem::replace(&mut list.last, index);
        if before == NONE {
            list.first = index;
        } else if let Some(slot) = self.slots.get_mut(before as usize) {
            slot.after = index;
        }
        if let Some(slot) = self.slots.get_mut(index as usize) {
            (slot.before, slot.after) = (before, NONE);
        }
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let Some((group, rank)) = slot.entry.as_ref().map(|entry| (entry.key.group, entry.rank)) else {
            return;
        };
        let (before, after) =
            (std::mem::replace(&mut slot.before, NONE), std::mem::replace(&mut slot.after, NONE));
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.after = after,
            None => {
                if let Some(list) = self.list(group, rank) {
                    list.first = after;
                }
            }
        }
        match self.slots.get_mut(after as usize) {
            Some(slot) => slot.before = before,
            None => {
                if let Some(list) = self.list(group, rank) {
                    list.last = before;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
