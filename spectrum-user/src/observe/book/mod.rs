//! The book of all counters, in memory that the steerer and its worker processes share: it outlives each of them. A process has
//! blocks of it, in which it alone counts, one for each service, protocol and worker; who reads sums them. When a process has
//! ended, what it had open is abandoned, and its blocks go to the next one that counts the same. Does not know what is counted.

mod block_key;
mod error;
mod layout;
mod process_number;
mod sys;
#[cfg(test)]
mod tests;
mod volume;

pub use error::BookError;
pub use process_number::ProcessNumber;

pub(super) use block_key::{BlockKey, BlockKind};
pub(super) use layout::{ABANDONED, DIALS, DURATIONS, ENDS, HISTOGRAM, MOVED, OPENED, TRAFFIC};
pub(super) use volume::{Numbers, open};

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ServiceName;
use layout::{KEEPER_AT, PROCESSES_AT, UNCOUNTED_AT, WORDS};
use spectrum_proxy::Counter;
use volume::{Block, BlockNumber, Volume};

/// The counters of an instance, as one of its processes sees them. Clones are the same book.
#[derive(Clone, Debug)]
pub struct Book(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    /// What is counted in from now on. Whoever counts has references to its cells, so it stays for as long as the process.
    current: &'static Volume,
    /// This process.
    process: ProcessNumber,
    /// The processes so far, for who keeps the book: what is shared may have been written by whoever has broken in.
    begun: AtomicU64,
    /// Blocks of it that nobody counts in, as they were when it was opened.
    free: Mutex<HashMap<BlockKey, Vec<BlockNumber>>>,
    /// Single numbers of this process that [`Book::count`] counts; `None`: there was no room.
    singles: Mutex<BTreeMap<String, Option<&'static Counter>>>,
    /// Volumes of versions that have other counters, for as long as processes of theirs count in them.
    former: Mutex<Vec<Volume>>,
}

impl Book {
    /// An empty one, which the calling process keeps.
    ///
    /// # Errors
    /// The system has no memory for it, or a filter of its calls is in the way.
    pub fn create() -> Result<Self, BookError> {
        Self::create_of(WORDS)
    }

    fn create_of(words: usize) -> Result<Self, BookError> {
        Ok(Self::kept(Volume::create(words)?, 0))
    }

    /// The one behind `file`, for a worker process that its keeper has begun as `process`.
    ///
    /// # Errors
    /// It is not a book, or one of a version with other counters.
    pub fn open(file: OwnedFd, process: ProcessNumber) -> Result<Self, BookError> {
        let volume = Volume::open(file)?;
        if !volume.is_ours() {
            return Err(BookError::Foreign("it has other counters"));
        }
        Ok(Self::of(volume, process))
    }

    /// The one that a former keeper has left behind in `files`, the current one first, for a keeper that takes its place. One whose
    /// counters are not quite ours is read, by their names, until the last of its processes has ended, and we count in a new one.
    /// What is none is left, which is said in the log.
    ///
    /// # Errors
    /// A new one is needed, and the system has no memory for it.
    pub fn adopt(files: Vec<OwnedFd>) -> Result<Self, BookError> {
        Self::adopt_of(files, WORDS)
    }

    fn adopt_of(files: Vec<OwnedFd>, words: usize) -> Result<Self, BookError> {
        let mut volumes = Vec::new();
        for file in files {
            match Volume::open(file) {
                Ok(volume) => volumes.push(volume),
                Err(error) => {
                    tracing::warn!(%error, "counters of before cannot be read, and begin anew at 0");
                }
            }
        }
        let begun = volumes.iter().map(|volume| volume.word(PROCESSES_AT).load(Ordering::Relaxed)).max();
        for volume in &volumes {
            volume.settle(volume.word(KEEPER_AT).load(Ordering::Relaxed));
        }
        let is_current = volumes.first().is_some_and(Volume::is_ours);
        let current = if is_current { volumes.remove(0) } else { Volume::create(words)? };
        let book = Self::kept(current, begun.unwrap_or(0));
        *book.former() = volumes;
        book.absorb();
        Ok(book)
    }

    fn kept(volume: Volume, begun: u64) -> Self {
        let process = ProcessNumber::after(begun.min(u64::MAX / 2));
        volume.word(PROCESSES_AT).store(process.get(), Ordering::Relaxed);
        volume.word(KEEPER_AT).store(process.get(), Ordering::Relaxed);
        Self::of(volume, process)
    }

    fn of(volume: Volume, process: ProcessNumber) -> Self {
        let mut free = HashMap::<BlockKey, Vec<BlockNumber>>::new();
        for block in volume.blocks().filter(|block| block.process == 0) {
            free.entry(block.key).or_default().push(block.number);
        }
        let current = Box::leak(Box::new(volume));
        let begun = AtomicU64::new(process.get());
        Self(Arc::new(Shelf {
            current,
            process,
            begun,
            free: Mutex::new(free),
            singles: Mutex::default(),
            former: Mutex::default(),
        }))
    }

    /// The file that a worker process opens it by.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.0.current.file()
    }

    /// What it is adopted by, of which the first is [`Book::file`]: descriptors that are closed on exec.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn files(&self) -> io::Result<Vec<OwnedFd>> {
        let former = self.former();
        std::iter::once(self.0.current)
            .chain(former.iter())
            .map(|volume| volume.file().try_clone_to_owned())
            .collect()
    }

    /// The number of one more worker process, by which it opens the book. Only who keeps the book gives numbers.
    #[must_use]
    pub fn begin_process(&self) -> ProcessNumber {
        let process = ProcessNumber::after(self.0.begun.fetch_add(1, Ordering::Relaxed));
        self.0.current.word(PROCESSES_AT).store(process.get(), Ordering::Relaxed);
        process
    }

    /// Counts as abandoned what `process` had open. To be called by who keeps the book, once the process is no more.
    pub fn end_process(&self, process: ProcessNumber) {
        self.0.current.settle(process.get());
        self.former().iter().for_each(|volume| volume.settle(process.get()));
        self.absorb();
    }

    /// The number of events that were not counted, since there was no room for one more service.
    #[must_use]
    pub fn uncounted(&self) -> u64 {
        self.0.current.word(UNCOUNTED_AT).load(Ordering::Relaxed)
    }

    /// Counts an event that has no block to be counted in.
    pub(super) fn not_counted(&self) {
        self.0.current.word(UNCOUNTED_AT).fetch_add(1, Ordering::Relaxed);
    }

    /// The cells of a block of this process for `key`, which goes on from the numbers that are in it: its caller's alone to count
    /// in. `None`: there is no room.
    pub(super) fn claim(&self, key: &BlockKey) -> Option<&'static [Counter]> {
        self.0.current.cells(self.claim_block(key)?)
    }

    /// The number called `name` of this process, for several threads to count in.
    pub(super) fn claim_single(&self, name: ServiceName) -> Option<&'static AtomicU64> {
        self.0.current.first_cell(self.claim_block(&BlockKey { kind: BlockKind::Single, name })?)
    }

    fn claim_block(&self, key: &BlockKey) -> Option<BlockNumber> {
        let Shelf { current, process, .. } = &*self.0;
        loop {
            let free = self.free().get_mut(key).and_then(Vec::pop);
            match free {
                Some(number) if current.take_over(number, process.get()) => return Some(number),
                // Another process was quicker.
                Some(_) => {}
                None => return current.take(key, process.get()),
            }
        }
    }

    /// One more of the single number that is called `of` and, behind a dot, `word`. For what does not happen often.
    pub fn count(&self, of: &str, word: &str) {
        let name = format!("{of}.{word}");
        // Under the lock threads count one after the other, as if they were one.
        let mut singles = self.0.singles.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = singles.entry(name).or_insert_with_key(|name| {
            self.claim(&BlockKey { kind: BlockKind::Single, name: name.parse().ok()? })?.first()
        });
        counter.map_or_else(|| self.not_counted(), |counter| counter.add(1));
    }

    /// The sums of all numbers of each kind, of processes that are and that were.
    pub(super) fn read(&self, mut add: impl FnMut(&BlockKey, &Numbers)) {
        let former = self.former();
        for block in std::iter::once(self.0.current).chain(former.iter()).flat_map(Volume::blocks) {
            add(&block.key, &block.numbers());
        }
    }

    /// The single numbers whose names begin with `of` and a dot, by what follows.
    #[must_use]
    pub fn singles(&self, of: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::<String, u64>::new();
        self.read(|key, numbers| {
            let rest = key.name.as_str().strip_prefix(of).and_then(|rest| rest.strip_prefix('.'));
            if let (BlockKind::Single, Some(rest), Some(number)) = (key.kind, rest, numbers.first()) {
                let sum = sums.entry(rest.to_owned()).or_default();
                *sum = sum.wrapping_add(*number);
            }
        });
        sums
    }

    /// Takes over what former volumes have counted in which no process counts any more.
    fn absorb(&self) {
        self.former().retain(|volume| {
            let is_read_on = volume.blocks().any(|block| block.process != 0);
            is_read_on || !volume.blocks().all(|block| self.absorb_block(&block))
        });
    }

    /// False if there is no room for it. What was taken over before it is 0 from then on.
    fn absorb_block(&self, block: &Block<'_>) -> bool {
        let Some(number) = self.claim_block(&block.key) else { return false };
        let Some(own) = self.0.current.block(number) else { return false };
        for (index, count) in block.numbers().into_iter().enumerate() {
            own.add(index, count);
            block.add(index, count.wrapping_neg());
        }
        own.release();
        self.free().entry(own.key.clone()).or_default().push(number);
        true
    }

    fn free(&self) -> MutexGuard<'_, HashMap<BlockKey, Vec<BlockNumber>>> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn former(&self) -> MutexGuard<'_, Vec<Volume>> {
        self.0.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
