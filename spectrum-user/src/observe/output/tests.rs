//! What is handed over arrives whatever becomes of who reads it, or is counted. Looks at no format.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, PipeReader, Read as _, pipe};
use std::sync::Mutex;

use super::*;
use crate::observe::record::tests::report;

/// An output whose lines are compared; a log line of the writer's own would be one too many.
fn started(stderr: impl AsFd + Send + 'static) -> Output {
    let nowhere = OpenOptions::new().write(true).open("/dev/null").unwrap();
    Output::start(LogFormat::Text, nowhere, stderr).unwrap()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::sleep(Duration::from_millis(5));
    }
}

fn lines_of(reader: PipeReader) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let read = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            read.lock().unwrap().push(line.unwrap());
        }
    });
    lines
}

/// A place of its own for a FIFO or a file.
fn place(name: &str) -> std::path::PathBuf {
    let place = std::env::temp_dir().join(format!("spectrum-output-{}-{name}", std::process::id()));
    let _ = fs::remove_file(&place);
    place
}

#[test]
fn lines_and_records_are_written_in_the_order_they_came() {
    let (reader, writer) = pipe().unwrap();
    let output = started(writer);
    output.write(LossKind::Line, b"first\n");
    output.record(&report());
    output.write(LossKind::Line, b"last\n");
    assert!(output.finish(Duration::from_secs(20)));
    let lines = lines_of(reader);
    eventually("three lines", || lines.lock().unwrap().len() == 3);
    let lines = lines.lock().unwrap();
    assert_eq!((lines[0].as_str(), lines[2].as_str()), ("first", "last"));
    assert!(lines[1].contains(" connection service=default "), "{lines:?}");
}

#[test]
fn a_reader_that_stops_reading_costs_records_and_no_time_and_leaves_room_for_lines() {
    let (reader, writer) = pipe().unwrap();
    let output = started(writer);
    let began = Instant::now();
    let mut sent = 0;
    while output.losses().of(LossKind::Record) == 0 {
        output.record(&report());
        sent += 1;
        assert!(began.elapsed() < Duration::from_secs(20), "never full");
    }
    // Not the queue but what the stream keeps.
    eventually("a full backlog", || {
        let before = output.losses().of(LossKind::Record);
        output.record(&report());
        sent += 1;
        thread::sleep(Duration::from_millis(60));
        output.losses().of(LossKind::Record) > before
    });
    output.write(LossKind::Line, b"what explains it\n");
    let asked = Instant::now();
    assert!(!output.finish(Duration::from_millis(200)));
    assert!(asked.elapsed() < Duration::from_secs(10));
    let lines = lines_of(reader);
    assert!(output.finish(Duration::from_secs(20)));
    let kept = sent - output.losses().of(LossKind::Record);
    eventually("all that was kept", || lines.lock().unwrap().len() as u64 == kept + 1);
    let lines = lines.lock().unwrap();
    assert_eq!(lines.last().unwrap(), "what explains it");
    // Whole ones have as many fields as the first.
    let fields = lines[0].split(' ').count();
    let is_whole = |line: &String| line.contains(" connection ") && line.split(' ').count() == fields;
    assert!(lines[..lines.len() - 1].iter().all(is_whole), "{lines:?}");
}

#[test]
fn no_line_is_torn_by_a_reader_that_comes_back() {
    let fifo = place("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let open = |fifo: &std::path::Path| OpenOptions::new().read(true).write(true).open(fifo).unwrap();
    let both = open(&fifo);
    let output = started(OpenOptions::new().write(true).open(&fifo).unwrap());
    output.write(LossKind::Line, b"before\n");
    let mut first = File::open(&fifo).unwrap();
    drop(both);
    let mut seen = [0; 7];
    first.read_exact(&mut seen).unwrap();
    // A line that no pipe takes whole: part of it is there when the reader dies.
    let long = "x".repeat(200_000);
    output.write(LossKind::Line, format!("{long}\n").as_bytes());
    let mut part = vec![0; 5000];
    first.read_exact(&mut part).unwrap();
    drop(first);
    assert!(output.finish(Duration::from_secs(20)), "a reader that is gone is not waited for");
    output.write(LossKind::Line, b"after\n");
    let second = BufReader::new(File::open(&fifo).unwrap());
    let mut whole = 0;
    for line in second.lines() {
        let line = line.unwrap();
        whole += usize::from(line == long);
        if line == "after" {
            break;
        }
    }
    assert_eq!(whole, 1);
    assert_eq!(output.losses().of(LossKind::Line), 0);
    fs::remove_file(&fifo).unwrap();
}

#[test]
fn a_full_disk_is_not_waited_for_and_loses_only_what_there_is_no_room_to_keep() {
    let output = started(OpenOptions::new().write(true).open("/dev/full").unwrap());
    output.write(LossKind::Line, b"nobody reads this\n");
    let asked = Instant::now();
    assert!(output.finish(Duration::from_secs(20)));
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!(output.losses().of(LossKind::Line), 0);
    let line = vec![b'x'; 64 * 1024];
    for _ in 0..40 {
        output.write(LossKind::Line, &line);
        assert!(output.finish(Duration::from_secs(20)));
    }
    assert!(
        (20..=30).contains(&output.losses().of(LossKind::Line)),
        "{}",
        output.losses().of(LossKind::Line)
    );
}

#[test]
fn a_pipe_that_somebody_made_nonblocking_loses_nothing() {
    let (reader, writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let output = started(writer);
    let line = format!("{}\n", "y".repeat(9000));
    for _ in 0..50 {
        output.write(LossKind::Line, line.as_bytes());
    }
    let lines = lines_of(reader);
    assert!(output.finish(Duration::from_secs(20)));
    eventually("all lines", || lines.lock().unwrap().len() == 50);
    assert!(lines.lock().unwrap().iter().all(|line| line.len() == 9000));
}
