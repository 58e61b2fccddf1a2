//! One piece of shared memory and the blocks in it. Other processes write to it, of which one may have been broken into: whatever
//! stands there is read, and nothing of it believed but as a number. Knows of no other volume.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::block_key::{BlockKey, BlockKind};
use super::error::BookError;
use super::layout::{
    self, ABANDONED, BLOCKS_AT, CELLS, CELLS_AT, END, FRAME, FRAME_AT, MAGIC, MAGIC_AT, MOVED, NAMES_AT,
    NAMES_LENGTH_AT, OPENED, PROCESS_AT, PUBLISHED, STATE_AT, STRIDE, STRIDE_AT, TAKEN_AT,
};
use super::sys::SharedWords;
use spectrum_proxy::Counter;

/// The words of the largest block that is believed.
const MOST_STRIDE: usize = 1 << 16;

/// The place of a block among the others of its volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BlockNumber(usize);

/// Shared memory with blocks of counters.
#[derive(Debug)]
pub(super) struct Volume {
    memory: SharedWords,
    stride: usize,
    /// The places of each of our cells in a block; `None`: as in ours.
    places: Option<Vec<Vec<usize>>>,
}

/// A block that somebody counts in, or has.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) number: BlockNumber,
    pub(super) key: BlockKey,
    /// The number of the process that counts in it; 0: none any more.
    pub(super) process: u64,
    words: &'a [AtomicU64],
    cells: &'a [Counter],
    volume: &'a Volume,
}

/// The numbers in a block, each at its place of ours.
pub(in crate::observe) type Numbers = [u64; CELLS];

impl Volume {
    /// An empty one of so many words.
    pub(super) fn create(words: usize) -> Result<Self, BookError> {
        let system = |source| BookError::System { op: "make", source };
        let memory = SharedWords::create(words.max(BLOCKS_AT)).map_err(system)?;
        let volume = Self { memory, stride: STRIDE, places: None };
        let names = layout::cell_names().join("\n");
        let head = [
            (MAGIC_AT, MAGIC),
            (FRAME_AT, FRAME),
            (STRIDE_AT, STRIDE as u64),
            (NAMES_LENGTH_AT, names.len() as u64),
        ];
        for (at, value) in head {
            volume.word(at).store(value, Ordering::Relaxed);
        }
        for (at, bytes) in (NAMES_AT..BLOCKS_AT).zip(names.as_bytes().chunks(8)) {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            volume.word(at).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
        Ok(volume)
    }

    /// The one behind `file`, which a process of this or of another version has made.
    pub(super) fn open(file: OwnedFd) -> Result<Self, BookError> {
        let memory = SharedWords::open(file).map_err(|source| BookError::System { op: "map", source })?;
        if memory.words().len() < BLOCKS_AT {
            return Err(BookError::Foreign("it is too small"));
        }
        let mut volume = Self { memory, stride: STRIDE, places: None };
        if volume.read(MAGIC_AT) != MAGIC {
            return Err(BookError::Foreign("it holds no counters"));
        }
        if volume.read(FRAME_AT) != FRAME {
            return Err(BookError::Foreign("its layout has another version"));
        }
        let stride = usize::try_from(volume.read(STRIDE_AT)).ok();
        let stride = stride.filter(|stride| (CELLS_AT + 1..=MOST_STRIDE).contains(stride));
        volume.stride = stride.ok_or(BookError::Foreign("its blocks have an impossible size"))?;
        let names = volume.names().ok_or(BookError::Foreign("the names of its cells make no sense"))?;
        let ours = layout::cell_names();
        let theirs: Vec<&str> = names.split('\n').take(volume.stride - CELLS_AT).collect();
        if theirs != ours || volume.stride != STRIDE {
            volume.places = Some(places(&ours, &theirs));
        }
        Ok(volume)
    }

    fn names(&self) -> Option<String> {
        let length = usize::try_from(self.read(NAMES_LENGTH_AT)).ok()?;
        let words = self.memory.words().get(NAMES_AT..BLOCKS_AT)?;
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        (length <= bytes.len()).then(|| bytes.truncate(length))?;
        String::from_utf8(bytes).ok()
    }

    /// True if it is laid out as we do it, so that we can count in it.
    pub(super) fn is_ours(&self) -> bool {
        self.places.is_none()
    }

    /// What other processes map it by.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.memory.file()
    }

    /// A word of the head.
    pub(super) fn word(&self, at: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        // Whatever is opened has a whole head.
        self.memory.words().get(at).unwrap_or(&NONE)
    }

    #[cfg(test)]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    fn read(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    fn capacity(&self) -> usize {
        self.memory.words().len().saturating_sub(BLOCKS_AT) / self.stride
    }

    /// All blocks that make sense.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let taken = usize::try_from(self.word(TAKEN_AT).load(Ordering::Acquire)).unwrap_or(usize::MAX);
        (0..taken.min(self.capacity())).filter_map(|number| self.block(BlockNumber(number)))
    }

    /// A block that is published, if it makes sense.
    pub(super) fn block(&self, number: BlockNumber) -> Option<Block<'_>> {
        let (words, cells) = self.parts(number)?;
        // What is written before is seen from here on.
        if words.first()?.load(Ordering::Acquire) != PUBLISHED {
            return None;
        }
        let process = words.get(PROCESS_AT)?.load(Ordering::Acquire);
        Some(Block { number, key: BlockKey::read(words)?, process, words, cells, volume: self })
    }

    /// The words of a block, and its cells.
    fn parts(&self, number: BlockNumber) -> Option<(&[AtomicU64], &[Counter])> {
        let first = BLOCKS_AT.checked_add(number.0.checked_mul(self.stride)?)?;
        let all = first..first.checked_add(self.stride)?;
        let words = self.memory.words().get(all.clone())?;
        Some((words, self.memory.counters().get(all)?.get(CELLS_AT..)?))
    }

    /// The cells of a block.
    pub(super) fn cells(&self, number: BlockNumber) -> Option<&[Counter]> {
        Some(self.parts(number)?.1)
    }

    /// The first cell of a block, for who counts in it with several threads.
    pub(super) fn first_cell(&self, number: BlockNumber) -> Option<&AtomicU64> {
        self.parts(number)?.0.get(CELLS_AT)
    }

    /// A block for `key` that nobody had, for a process to count in; `None` if none is left.
    pub(super) fn take(&self, key: &BlockKey, process: u64) -> Option<BlockNumber> {
        let capacity = self.capacity();
        let next = |taken: u64| (usize::try_from(taken).ok()? < capacity).then(|| taken + 1);
        let taken = self.word(TAKEN_AT).fetch_update(Ordering::AcqRel, Ordering::Relaxed, next).ok()?;
        let number = BlockNumber(usize::try_from(taken).ok()?);
        // Who ends here leaves a block that is not published, and that nobody looks at.
        let (words, _) = self.parts(number)?;
        words.get(PROCESS_AT)?.store(process, Ordering::Relaxed);
        key.write(words);
        words.get(STATE_AT)?.store(PUBLISHED, Ordering::Release);
        Some(number)
    }

    /// Gives a block in which nobody counts any more to a process; false if another was quicker.
    pub(super) fn take_over(&self, number: BlockNumber, process: u64) -> bool {
        let owner = self.parts(number).and_then(|(words, _)| words.get(PROCESS_AT));
        owner.is_some_and(|owner| {
            owner.compare_exchange(0, process, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Frees the blocks of a process that is no more. What it had open is abandoned.
    pub(super) fn settle(&self, process: u64) {
        for block in self.blocks().filter(|block| block.process == process) {
            if let BlockKind::Sessions(_) = block.key.kind {
                let open = open(&block.numbers());
                block.add(ABANDONED, open);
            }
            block.release();
        }
    }
}

impl Block<'_> {
    /// Its numbers now.
    pub(super) fn numbers(&self) -> Numbers {
        let mut numbers = [0; CELLS];
        for (index, number) in numbers.iter_mut().enumerate() {
            let cells = self.places(index).iter().filter_map(|place| self.cells.get(*place));
            *number = cells.fold(0_u64, |sum, cell| sum.wrapping_add(cell.get()));
        }
        numbers
    }

    /// Adds to one of them. Only who counts in it may, or, when it is nobody's, who keeps the book.
    pub(super) fn add(&self, index: usize, number: u64) {
        if let Some(cell) = self.places(index).first().and_then(|place| self.cells.get(*place)) {
            cell.add(number);
        }
    }

    /// Leaves it to whoever wants to count the same.
    pub(super) fn release(&self) {
        if let Some(owner) = self.words.get(PROCESS_AT) {
            owner.store(0, Ordering::Release);
        }
    }

    fn places(&self, index: usize) -> &[usize] {
        match (&self.volume.places, self.key.kind) {
            (Some(places), BlockKind::Sessions(_)) => places.get(index).map_or(&[], Vec::as_slice),
            _ => OWN_PLACES.get(index..=index).unwrap_or(&[]),
        }
    }
}

/// The place of each of our cells in a block of ours.
static OWN_PLACES: [usize; CELLS] = {
    let mut places = [0; CELLS];
    let mut place = 0;
    while place < CELLS {
        places[place] = place;
        place += 1;
    }
    places
};

/// The places of the cells called `ours` among `theirs`. Ends that we do not know are ends all the same: with what was abandoned.
fn places(ours: &[String], theirs: &[&str]) -> Vec<Vec<usize>> {
    let of = |name: &String| theirs.iter().position(|theirs| theirs == name);
    let mut places: Vec<Vec<usize>> = ours.iter().map(|name| of(name).into_iter().collect()).collect();
    let is_unknown = |name: &str| name.starts_with(END) && !ours.iter().any(|ours| ours == name);
    let unknown = theirs.iter().enumerate().filter(|(_, name)| is_unknown(name)).map(|(place, _)| place);
    if let Some(abandoned) = places.get_mut(ABANDONED) {
        abandoned.extend(unknown);
    }
    places
}

/// Of the sessions that `numbers` tell of, those that are open.
pub(in crate::observe) fn open(numbers: &Numbers) -> u64 {
    let over = numbers.iter().take(ABANDONED + 1).fold(0_u64, |sum, number| sum.wrapping_add(*number));
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    let open = number(OPENED).wrapping_sub(over).wrapping_sub(number(MOVED));
    // One may be read as ended whose beginning was not seen.
    if open.cast_signed() < 0 { 0 } else { open }
}
