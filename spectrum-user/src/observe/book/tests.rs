//! What holds of a book: among processes that come, go and are killed, versions that count other things, and garbage. What is
//! counted is said beside what counts it.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::layout::{
    BLOCKS_AT, CELLS, CELLS_AT, FRAME_AT, NAMES_AT, NAMES_LENGTH_AT, STRIDE, STRIDE_AT, TAKEN_AT,
};
use super::*;
use crate::model::Protocol;
use crate::observe::counters::{Counters, Totals, WorkerCounters};
use crate::observe::record::tests::report;
use spectrum_proxy::{End, Report, TrafficCount};

/// A book with room for so many blocks.
fn book(blocks: usize) -> Book {
    Book::create_of(BLOCKS_AT + blocks * STRIDE).unwrap()
}

fn file(book: &Book) -> OwnedFd {
    book.file().try_clone_to_owned().unwrap()
}

/// The book as one more worker process sees it.
fn beside(book: &Book) -> (Book, ProcessNumber) {
    let process = book.begin_process();
    (Book::open(file(book), process).unwrap(), process)
}

/// Has `worker` open so many sessions and end the others.
fn count(worker: &WorkerCounters, opened: usize, ended: usize) -> Report {
    let report = report();
    (0..opened).for_each(|_| worker.opened(&report.service, report.protocol));
    (0..ended).for_each(|_| worker.ended(&report));
    report
}

/// Opened, open and abandoned sessions of the service that [`count`] counts.
fn sums(book: &Book) -> (u64, u64, u64) {
    let report = report();
    let totals = Counters::of(book).totals(|_| true);
    let totals = totals.get(&(report.service, report.protocol)).cloned().unwrap_or_default();
    let over = totals.ends.values().sum::<u64>() + totals.abandoned;
    assert_eq!(totals.opened, totals.open + over, "{totals:?}");
    (totals.opened, totals.open, totals.abandoned)
}

fn blocks(book: &Book) -> usize {
    book.0.current.blocks().count()
}

#[test]
fn what_one_process_counts_another_reads_while_it_counts() {
    let book = book(8);
    let (one, _) = beside(&book);
    let (other, _) = beside(&book);
    let (one, other) = (Counters::of(&one).worker(), Counters::of(&other).worker());
    count(&one, 2, 1);
    count(&other, 3, 0);
    assert_eq!(sums(&book), (5, 4, 0));
    count(&one, 1, 2);
    assert_eq!(sums(&book), (6, 3, 0));
}

#[test]
fn what_a_process_had_open_is_abandoned_when_it_has_ended_and_the_next_one_goes_on_in_its_blocks() {
    let book = book(4);
    for life in 1..=50 {
        let (process, number) = beside(&book);
        let workers = [(); 2].map(|()| Counters::of(&process).worker());
        for worker in &workers {
            count(worker, 3, 1);
        }
        assert_eq!(sums(&book), (6 * life, 4, 4 * (life - 1)));
        book.end_process(number);
        assert_eq!(sums(&book), (6 * life, 0, 4 * life));
    }
    assert_eq!((blocks(&book), book.uncounted()), (2, 0), "as many as there were workers at once");
}

#[test]
fn a_process_that_still_drains_keeps_its_blocks_to_itself() {
    let book = book(4);
    let (drains, first) = beside(&book);
    let drains = Counters::of(&drains).worker();
    count(&drains, 5, 0);
    let (next, _) = beside(&book);
    let next = Counters::of(&next).worker();
    count(&next, 1, 0);
    count(&drains, 0, 2);
    assert_eq!((sums(&book), blocks(&book)), ((6, 4, 0), 2));
    book.end_process(first);
    assert_eq!(sums(&book), (6, 1, 3), "what the other has open is still open");
}

#[test]
fn what_finds_no_room_is_counted_as_not_counted() {
    let book = book(2);
    let counters = Counters::of(&book);
    let workers = [(); 3].map(|()| counters.worker());
    for worker in &workers {
        let (report, traffic) = (count(worker, 2, 1), OnceCell::new());
        worker.serving(&report.service, report.protocol, &traffic);
    }
    assert_eq!((sums(&book), book.uncounted()), ((4, 2, 0), 2));
    assert_eq!(blocks(&book), 2);
}

#[test]
fn a_block_of_which_only_a_part_was_written_is_not_there() {
    let book = book(4);
    count(&Counters::of(&book).worker(), 1, 0);
    // A process was killed after it had taken the next block.
    book.0.current.word(TAKEN_AT).fetch_add(1, Ordering::Relaxed);
    let (next, _) = beside(&book);
    count(&Counters::of(&next).worker(), 1, 1);
    assert_eq!((sums(&book), blocks(&book)), ((2, 1, 0), 2));
}

#[test]
fn workers_of_all_processes_that_begin_at_once_have_blocks_of_their_own() {
    let book = book(64);
    let (before, number) = beside(&book);
    (0..8).for_each(|_| {
        count(&Counters::of(&before).worker(), 1, 1);
    });
    book.end_process(number);
    let processes = [(); 4].map(|()| beside(&book).0);
    thread::scope(|scope| {
        for process in &processes {
            for _ in 0..4 {
                scope.spawn(|| {
                    let worker = Counters::of(process).worker();
                    (0..100).for_each(|_| {
                        count(&worker, 2, 1);
                    });
                });
            }
        }
    });
    assert_eq!((sums(&book), blocks(&book)), ((8 + 16 * 200, 16 * 100, 0), 16));
}

/// Says to the second process of [`a_process_that_is_killed_leaves_its_sums`] where the book is, and its number.
const SECOND: &str = "SPECTRUM_TEST_BOOK";

#[test]
fn a_process_that_is_killed_leaves_its_sums() {
    if let Ok(said) = std::env::var(SECOND) {
        let (path, number) = said.split_once(' ').unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let worker = Counters::of(&Book::open(file.into(), number.parse().unwrap()).unwrap()).worker();
        count(&worker, 1000, 400);
        loop {
            count(&worker, 1, 1);
        }
    }
    let book = book(8);
    let file = format!("/proc/{}/fd/{}", std::process::id(), book.file().as_raw_fd());
    let own = Counters::of(&book).worker();
    count(&own, 7, 3);
    let (mut opened, mut abandoned) = (7, 0);
    for life in 0..3 {
        let number = book.begin_process();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "observe::book::tests::a_process_that_is_killed_leaves_its_sums"])
            .env(SECOND, format!("{file} {number}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while sums_of_running(&book).opened < opened + 2000 {
            assert!(Instant::now() < deadline && process.try_wait().unwrap().is_none(), "life {life}");
            thread::yield_now();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let was_open = sums(&book).1 - 4;
        assert!((600..=601).contains(&was_open), "{was_open}");
        book.end_process(number);
        abandoned += was_open;
        let (now, open, left) = sums(&book);
        assert_eq!((open, left), (4, abandoned), "life {life}");
        assert!(now >= opened + 2000);
        opened = now;
    }
    assert_eq!(blocks(&book), 2);
}

fn sums_of_running(book: &Book) -> Totals {
    let report = report();
    Counters::of(book).totals(|_| true).remove(&(report.service, report.protocol)).unwrap_or_default()
}

#[test]
fn who_takes_the_place_of_the_keeper_goes_on_where_it_was() {
    let keeper = book(8);
    let worker = Counters::of(&keeper).worker();
    count(&worker, 2, 1);
    let (drains, number) = beside(&keeper);
    let drains = Counters::of(&drains).worker();
    count(&drains, 10, 0);
    // What the process itself had open before it executed another program is gone.
    let after = Book::adopt(keeper.files().unwrap()).unwrap();
    assert_eq!(sums(&after), (12, 10, 1));
    count(&Counters::of(&after).worker(), 3, 0);
    count(&drains, 0, 4);
    assert_eq!((sums(&after), blocks(&after)), ((15, 9, 1), 2));
    assert!(after.begin_process() > number);
    after.end_process(number);
    assert_eq!(sums(&after), (15, 3, 7));
    assert_eq!(after.files().unwrap().len(), 1);
}

/// Makes `book` one of a version whose cells are called by `names`, and in another order.
fn rename(book: &Book, names: &[String]) {
    let volume = book.0.current;
    let text = names.join("\n");
    volume.word(NAMES_LENGTH_AT).store(text.len() as u64, Ordering::Relaxed);
    for (at, bytes) in (NAMES_AT..BLOCKS_AT).zip(text.as_bytes().chunks(8)) {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        volume.word(at).store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
}

#[test]
fn the_counters_of_another_version_are_carried_over_as_far_as_their_names_are_known() {
    let before = book(8);
    let keeper = Counters::of(&before).worker();
    let report = count(&keeper, 20, 5);
    let traffic = OnceCell::new();
    keeper.serving(&report.service, report.protocol, &traffic);
    let own = before.0.current.blocks().next().unwrap().number;
    before.0.current.cells(own).unwrap()[TRAFFIC.start].add(1000);
    let lost = before.claim_single("lost.log".parse().unwrap()).unwrap();
    lost.store(3, Ordering::Relaxed);
    let (drains, number) = beside(&before);
    let drains = Counters::of(&drains).worker();
    count(&drains, 4, 1);
    // That version calls one end otherwise, and knows nothing of what we count last but one.
    let mut names = layout::cell_names();
    names[report.end.index()] = "end out-of-fashion".to_owned();
    names[OPENED - 1] = "something else".to_owned();
    rename(&before, &names);

    let after = Book::adopt(before.files().unwrap()).unwrap();
    let ends = |book: &Book| sums_of_running(book).ends;
    assert_eq!(sums(&after), (24, 3, 15 + 6), "an end that we do not know is one all the same");
    assert_eq!(ends(&after), BTreeMap::new());
    assert_eq!(sums_of_running(&after).traffic(TrafficCount::BytesFromClient), 1000);
    assert_eq!(after.singles("lost"), BTreeMap::from([("log".to_owned(), 3)]));
    assert!(matches!(Book::open(file(&before), number), Err(BookError::Foreign(_))));
    assert_eq!(after.files().unwrap().len(), 2, "somebody still counts there");

    // Who is upgraded once more meanwhile takes both.
    let after = Book::adopt(after.files().unwrap()).unwrap();
    count(&drains, 1, 0);
    count(&Counters::of(&after).worker(), 1, 1);
    assert_eq!(sums(&after), (26, 4, 21));
    after.end_process(number);
    assert_eq!(sums(&after), (26, 0, 25));
    assert_eq!(after.files().unwrap().len(), 1, "what is over was added to ours");
    assert_eq!(ends(&after), BTreeMap::from([(report.end, 1)]));
    assert_eq!(after.singles("lost"), BTreeMap::from([("log".to_owned(), 3)]));
    assert!(after.begin_process() > number);
}

#[test]
fn what_is_no_book_is_refused_and_begun_anew() {
    let other = book(4);
    other.0.current.word(FRAME_AT).fetch_add(1, Ordering::Relaxed);
    let tiny = nix::sys::memfd::memfd_create(c"tiny", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&tiny, 4096).unwrap();
    let unsealed = tiny.try_clone().unwrap();
    let files = || [file(&other), unsealed.try_clone().unwrap(), File::open("/dev/null").unwrap().into()];
    for file in files() {
        assert!(Volume::open(file).is_err());
    }
    nix::fcntl::fcntl(&tiny, nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_SHRINK)).unwrap();
    assert!(matches!(Volume::open(tiny), Err(BookError::Foreign("it is too small"))));
    let anew = Book::adopt(files().into()).unwrap();
    count(&Counters::of(&anew).worker(), 1, 0);
    assert_eq!((sums(&anew), anew.files().unwrap().len()), ((1, 1, 0), 1));
}

#[test]
fn a_book_cannot_shrink_or_grow() {
    let book = book(4);
    for bytes in [0, 1 << 30] {
        assert!(nix::unistd::ftruncate(book.file(), bytes).is_err());
    }
}

/// A small generator (xorshift64*): the same numbers from the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Whoever has broken into a worker process writes what it likes, where it likes. Sums may be wrong then, and nothing else.
#[test]
fn garbage_makes_wrong_sums_and_nothing_worse() {
    let report = report();
    for seed in 1..=300 {
        let mut random = Random(seed);
        let book = book(6);
        let own = Counters::of(&book).worker();
        count(&own, 3, 1);
        let (process, number) = beside(&book);
        let worker = Counters::of(&process).worker();
        count(&worker, 3, 1);
        let words = book.0.current.words();
        let share = random.next() % 64 + 1;
        for (at, word) in words.iter().enumerate() {
            // Some leave the head alone, or all but the heads of blocks: what is far off is refused soon.
            let is_head = at < BLOCKS_AT;
            let is_cell = !is_head && (at - BLOCKS_AT) % STRIDE >= CELLS_AT;
            if (seed % 3 == 0 && is_head)
                || (seed % 5 == 0 && is_cell)
                || !random.next().is_multiple_of(share)
            {
                continue;
            }
            let value = match random.next() % 4 {
                0 => random.next(),
                1 => random.next() % 70,
                2 => u64::MAX - random.next() % 3,
                _ => random.next() % 4,
            };
            word.store(value, Ordering::Relaxed);
        }
        let use_it = |book: &Book| {
            let worker = Counters::of(book).worker();
            count(&worker, 3, 2);
            for totals in Counters::of(book).totals(|_| true).values() {
                let _ = (
                    totals.durations.count(),
                    totals.durations.sum(),
                    totals.traffic(TrafficCount::Withheld),
                );
            }
            let _ = (book.singles("lost"), book.uncounted(), book.claim_single("x".parse().unwrap()));
        };
        use_it(&book);
        use_it(&process);
        book.end_process(number);
        book.end_process(book.begin_process());
        count(&own, 1, 1);
        use_it(&book);
        if let Ok(opened) = Book::open(file(&book), number) {
            use_it(&opened);
        }
        let after = Book::adopt_of(book.files().unwrap(), book.0.current.words().len()).unwrap();
        use_it(&after);
        after.end_process(number);
        use_it(&after);
        worker.ended(&report);
    }
}

#[test]
fn no_two_workers_count_on_one_line() {
    let book = book(4);
    let counters = Counters::of(&book);
    for _ in 0..2 {
        count(&counters.worker(), 1, 0);
    }
    let starts: Vec<usize> = book
        .0
        .current
        .blocks()
        .map(|block| std::ptr::from_ref(book.0.current.cells(block.number).unwrap()).addr())
        .collect();
    assert!(starts.iter().all(|start| start % 128 == 0), "{starts:?}");
    assert!(starts[1] - starts[0] >= CELLS * 8);
    assert_eq!(book.0.current.word(STRIDE_AT).load(Ordering::Relaxed), STRIDE as u64);
}

#[test]
fn single_numbers_go_on_from_process_to_process() {
    let book = book(4);
    (0..2).for_each(|_| book.count("repairs", "rules"));
    book.count("reloads", "done");
    let after = Book::adopt_of(book.files().unwrap(), 0).unwrap();
    after.count("repairs", "rules");
    assert_eq!(after.singles("repairs"), BTreeMap::from([("rules".to_owned(), 3)]));
    assert_eq!((after.singles("reloads").len(), blocks(&after)), (1, 2));
}

#[test]
fn both_protocols_of_a_service_are_apart() {
    let book = book(4);
    let (counters, report) = (Counters::of(&book), report());
    let worker = counters.worker();
    worker.opened(&report.service, Protocol::Tcp);
    worker.opened(&report.service, Protocol::Udp);
    worker.ended(&Report { protocol: Protocol::Udp, end: End::Idle, ..report.clone() });
    let totals = counters.totals(|_| true);
    let open =
        [Protocol::Tcp, Protocol::Udp].map(|protocol| totals[&(report.service.clone(), protocol)].open);
    assert_eq!(open, [1, 0]);
}
