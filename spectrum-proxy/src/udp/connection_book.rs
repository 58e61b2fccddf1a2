//! Which session of which worker has a QUIC connection id, for all workers: a client that comes from another address is not always
//! brought to the worker that knows it. Asked of unknown clients only; keeps no session.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::connection_id::ConnectionId;
use super::table::SessionId;
use super::train::Train;
use crate::model::ServiceName;

/// Workers that ask at the same time seldom ask for the same part.
const SHARDS: usize = 64;

/// The most ids that one session has here. Of a client that has more connections the latest are known.
const IDS: usize = 4;

/// The most trains of other workers that wait for one: 16 MB, if all are as long as they may be.
const WAITING: usize = 256;

/// The session that has an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    pub(super) worker: usize,
    pub(super) session: SessionId,
}

/// What a client that has another address now sent to a worker that does not know it.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) session: SessionId,
    pub(super) service: ServiceName,
    pub(super) client: SocketAddr,
    pub(super) dialled: SocketAddr,
    hops: u8,
    class: u8,
    payload: Box<[u8]>,
    segment: usize,
}

impl Passed {
    pub(super) fn new(
        session: SessionId,
        service: &ServiceName,
        ends: [SocketAddr; 2],
        train: &Train<'_>,
    ) -> Self {
        let ([client, dialled], service) = (ends, service.clone());
        let Train { hops, class, payload, segment, .. } = *train;
        Self { session, service, client, dialled, hops, class, payload: payload.into(), segment }
    }

    /// What was sent.
    pub(super) fn train(&self) -> Train<'_> {
        Train {
            sender: Some(self.client),
            dialled: Some(self.dialled),
            hops: self.hops,
            class: self.class,
            payload: &self.payload,
            segment: self.segment,
            is_whole: true,
        }
    }
}

/// The ids, and the ways from worker to worker. Clones are about the same ones.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionBook(Arc<Book>);

#[derive(Debug)]
struct Book {
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Key, Owners>>>,
    /// The number of ids of each length.
    lengths: [AtomicUsize; ConnectionId::LONGEST + 1],
    ways: Vec<Sender<Passed>>,
}

/// Two origins may choose the same id. What was dialled tells their clients apart, as long as it is not the same.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    dialled: SocketAddr,
    id: ConnectionId,
}

#[derive(Debug)]
enum Owners {
    One(Owner),
    /// Nobody knows whose it is until all but one are gone.
    Several(Vec<Owner>),
}

/// What reaches a worker from the others.
#[derive(Debug)]
pub(crate) struct Mailbox(pub(super) Receiver<Passed>);

impl ConnectionBook {
    /// A book for so many workers, and what each of them is reached by.
    pub(crate) fn of(workers: usize) -> (Self, Vec<Mailbox>) {
        let (ways, mailboxes) = (0..workers)
            .map(|_| {
                let (way, waiting) = mpsc::channel(WAITING);
                (way, Mailbox(waiting))
            })
            .unzip();
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let lengths = std::array::from_fn(|_| AtomicUsize::new(0));
        (Self(Arc::new(Book { hasher: RandomState::new(), shards, lengths, ways })), mailboxes)
    }

    /// The only session that has the id of which `datagram` to `dialled` says that it is for it.
    pub(super) fn owner(&self, dialled: SocketAddr, datagram: &[u8]) -> Option<Owner> {
        let known = |length: &usize| {
            self.0.lengths.get(*length).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
        };
        // An id may begin with the whole of another one's.
        let lengths = (ConnectionId::SHORTEST..=ConnectionId::LONGEST).rev().filter(known);
        let found = lengths.into_iter().find_map(|length| {
            let key = Key { dialled, id: ConnectionId::of_receiver(datagram, length)? };
            match self.0.shard(&key)?.get(&key)? {
                Owners::One(owner) => Some(Some(*owner)),
                Owners::Several(_) => Some(None),
            }
        });
        found.flatten()
    }

    /// Hands what was sent to the worker that has the session. False if that one does not keep up, or is gone.
    pub(super) fn pass(&self, worker: usize, passed: Passed) -> bool {
        self.0.ways.get(worker).is_some_and(|way| way.try_send(passed).is_ok())
    }

    /// True if nothing waits for the worker that others have passed on.
    pub(super) fn has_passed_all(&self, worker: usize) -> bool {
        self.0.ways.get(worker).is_none_or(|way| way.capacity() == way.max_capacity())
    }

    /// The ids of one more session.
    pub(super) fn ids_of(&self, dialled: SocketAddr, owner: Owner) -> KnownIds {
        KnownIds { book: self.clone(), dialled, owner, ids: Vec::new() }
    }

    /// The number of ids.
    #[cfg(test)]
    fn count(&self) -> usize {
        let kept: usize = self.0.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        let counted: usize = self.0.lengths.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert_eq!(kept, counted);
        kept
    }
}

impl Book {
    #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
    fn shard(&self, key: &Key) -> Option<MutexGuard<'_, HashMap<Key, Owners>>> {
        let shard = self.shards.get(self.hasher.hash_one(key) as usize % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn insert(&self, key: Key, owner: Owner) {
        let Some(mut shard) = self.shard(&key) else { return };
        match shard.entry(key) {
            Entry::Vacant(place) => {
                place.insert(Owners::One(owner));
                self.lengths.get(key.id.length()).inspect(|count| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            }
            Entry::Occupied(mut known) => match known.get_mut() {
                Owners::One(other) => {
                    let both = vec![*other, owner];
                    known.insert(Owners::Several(both));
                }
                Owners::Several(others) => others.push(owner),
            },
        }
    }

    fn remove(&self, key: Key, owner: Owner) {
        let Some(mut shard) = self.shard(&key) else { return };
        let Entry::Occupied(mut known) = shard.entry(key) else { return };
        match known.get_mut() {
            Owners::One(_) => {
                known.remove();
                self.lengths.get(key.id.length()).inspect(|count| {
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Owners::Several(owners) => {
                owners.retain(|one| *one != owner);
                if let [last] = owners[..] {
                    known.insert(Owners::One(last));
                }
            }
        }
    }
}

/// The ids of one session, which are forgotten with it.
#[derive(Debug)]
pub(super) struct KnownIds {
    book: ConnectionBook,
    dialled: SocketAddr,
    owner: Owner,
    /// The one first that is known longest.
    ids: Vec<ConnectionId>,
}

impl KnownIds {
    /// The session's origin has chosen `id` for itself.
    pub(super) fn learn(&mut self, id: ConnectionId) {
        if self.ids.contains(&id) {
            return;
        }
        if self.ids.len() == IDS {
            let oldest = self.ids.remove(0);
            self.forget(oldest);
        }
        self.ids.push(id);
        self.book.0.insert(Key { dialled: self.dialled, id }, self.owner);
    }

    /// The ids, in the order in which they were learnt.
    pub(super) fn all(&self) -> &[ConnectionId] {
        &self.ids
    }

    fn forget(&self, id: ConnectionId) {
        self.book.0.remove(Key { dialled: self.dialled, id }, self.owner);
    }
}

impl Drop for KnownIds {
    fn drop(&mut self) {
        self.ids.iter().for_each(|id| self.forget(*id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dialled(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    fn owner(number: u32) -> Owner {
        Owner { worker: number as usize % 3, session: SessionId::from_bits(number.into()) }
    }

    fn id(bytes: &[u8]) -> ConnectionId {
        ConnectionId::new(bytes).unwrap()
    }

    /// What a client sends in the middle of a connection.
    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x41], id, b"and what else"].concat()
    }

    #[test]
    fn an_id_leads_to_its_session_until_that_is_over() {
        let (book, _) = ConnectionBook::of(3);
        let mut ids = book.ids_of(dialled(1), owner(7));
        assert_eq!(book.owner(dialled(1), &short(b"12345678")), None);
        ids.learn(id(b"12345678"));
        ids.learn(id(b"12345678"));
        assert_eq!(book.owner(dialled(1), &short(b"12345678")), Some(owner(7)));
        assert_eq!(book.owner(dialled(2), &short(b"12345678")), None, "it was dialled elsewhere");
        assert_eq!(book.owner(dialled(1), b"\x4112345"), None, "it is cut");
        drop(ids);
        assert_eq!(book.owner(dialled(1), &short(b"12345678")), None);
        assert_eq!(book.count(), 0);
    }

    #[test]
    fn an_id_of_two_sessions_is_nobody_s_until_one_of_them_is_over() {
        let (book, _) = ConnectionBook::of(3);
        let mut sessions: Vec<_> = (0..3).map(|number| book.ids_of(dialled(1), owner(number))).collect();
        for ids in &mut sessions {
            ids.learn(id(b"1234"));
        }
        assert_eq!(book.owner(dialled(1), &short(b"1234")), None);
        drop(sessions.remove(0));
        assert_eq!(book.owner(dialled(1), &short(b"1234")), None);
        drop(sessions.remove(1));
        assert_eq!(book.owner(dialled(1), &short(b"1234")), Some(owner(1)));
        drop(sessions);
        assert_eq!(book.count(), 0);
    }

    #[test]
    fn a_session_has_the_latest_few_of_its_ids() {
        let (book, _) = ConnectionBook::of(1);
        let mut ids = book.ids_of(dialled(1), owner(1));
        for number in 0..10_u8 {
            ids.learn(id(&[number; 8]));
        }
        assert_eq!(book.count(), IDS);
        assert_eq!(book.owner(dialled(1), &short(&[9; 8])), Some(owner(1)));
        assert_eq!(book.owner(dialled(1), &short(&[0; 8])), None);
    }

    #[test]
    fn a_worker_that_does_not_keep_up_holds_nobody_up() {
        let (book, mut mailboxes) = ConnectionBook::of(2);
        let payload = short(b"12345678");
        let train = Train {
            sender: None,
            dialled: None,
            hops: 64,
            class: 2,
            payload: &payload,
            segment: payload.len(),
            is_whole: true,
        };
        let service = ServiceName::default();
        let passed = || Passed::new(SessionId::from_bits(7), &service, [dialled(1), dialled(2)], &train);
        assert_eq!((0..WAITING + 10).filter(|_| book.pass(1, passed())).count(), WAITING);
        let one = mailboxes[1].0.try_recv().unwrap();
        assert_eq!((one.train().payload, one.train().class, one.train().count()), (&payload[..], 2, 1));
        assert_eq!((one.client, one.dialled), (dialled(1), dialled(2)));
        assert!(book.pass(1, passed()));
        mailboxes.clear();
        assert!(!book.pass(0, passed()) && !book.pass(2, passed()));
    }

    proptest! {
        /// Whatever is learnt and forgotten: an id leads to a session that has it, and that no other has.
        #[test]
        fn the_book_says_what_a_search_finds(steps in prop::collection::vec((0..8_u32, 0..12_u8, any::<bool>()), 0..200)) {
            let (book, _) = ConnectionBook::of(3);
            let mut sessions: HashMap<u32, KnownIds> = HashMap::new();
            // Of several lengths, some of which begin with the whole of another.
            let ids: Vec<Vec<u8>> = (0..12_u8).map(|number| vec![number / 4; 4 + usize::from(number % 4)]).collect();
            for (number, which, ends) in steps {
                if ends {
                    sessions.remove(&number);
                } else {
                    let new = || book.ids_of(dialled(1), owner(number));
                    sessions.entry(number).or_insert_with(new).learn(id(&ids[usize::from(which)]));
                }
                for one in &ids {
                    let datagram = [&[0x41], &one[..], &[0xff; 9]].concat();
                    let having: Vec<u32> =
                        sessions.iter().filter(|(_, known)| known.ids.contains(&id(one))).map(|(number, _)| *number).collect();
                    let shorter = (4..one.len()).rev().map(|length| id(&one[..length]));
                    let found = book.owner(dialled(1), &datagram);
                    match having[..] {
                        [only] => prop_assert_eq!(found, Some(owner(only))),
                        // Whoever has a shorter one may be meant.
                        [] => if let Some(found) = found {
                            let mut shorter = shorter;
                            prop_assert!(shorter.any(|id| sessions.values().any(|known| known.owner == found && known.ids.contains(&id))));
                        },
                        _ => prop_assert_eq!(found, None),
                    }
                }
            }
            sessions.clear();
            prop_assert_eq!(book.count(), 0);
        }
    }
}
