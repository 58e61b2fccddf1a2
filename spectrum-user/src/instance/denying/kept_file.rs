//! The file that keeps what was said at run time of whom services let in, a line a prefix, so that a restart knows it. A thread writes
//! it, so that no disk keeps anybody waiting but those who asked. Judges nothing of what is in it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use crate::control::{Asked, DenyAnswer};
use crate::model::{DenialKey, HeldDenial, SourceRule};
use crate::view::Damage;

/// A prefix, and what holds of it.
type Entry = (DenialKey, HeldDenial);

/// The name of the file, which no other file of an instance has.
const NAME: &str = "denied";

/// So often a lock is taken that somebody removes meanwhile.
const TRIES: usize = 8;

/// The end of the name of its lock.
const LOCK: &str = "lock";

/// No file of ours is longer, in bytes.
const LONGEST: u64 = 32 << 20;

/// Those that may wait for being written down; who comes then is answered at once, and told.
const WAITING: usize = 64;

const HEAD: &str = "# What was denied at run time by spectrum-user deny; the program reads it at its start, and writes it anew.\n";

/// The file, and the thread that writes it.
#[derive(Debug)]
pub(super) struct KeptDenials {
    sender: Option<SyncSender<Keeping>>,
    damage: Damage,
    lock: SharedLock,
}

/// The lock of the file, held while there is one and this is the instance whose it is.
#[derive(Clone, Debug, Default)]
struct SharedLock(Arc<Mutex<Option<(PathBuf, File)>>>);

impl SharedLock {
    /// Takes the lock of the file at `path`, unless it is held.
    fn take(&self, path: &Path) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some((path.with_extension(LOCK), locked(path)?));
        }
        Ok(())
    }

    fn is_held(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Lets go of it, and leaves nothing.
    fn let_go(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, file)) = held.take() {
            // While it is held, so that nobody's is removed.
            let _ = fs::remove_file(path);
            drop(file);
        }
    }
}

impl Drop for KeptDenials {
    fn drop(&mut self) {
        self.lock.let_go();
    }
}

/// A state to write, and those who wait for that.
struct Keeping {
    held: Vec<Entry>,
    answers: Vec<(Asked, DenyAnswer)>,
}

/// It is `told` from now on, in the log if that is news.
fn damaged(damage: &Damage, told: Option<String>) {
    let text = told.clone();
    if damage.set(told)
        && let Some(text) = text
    {
        tracing::error!("{text}");
    }
}

impl KeptDenials {
    /// Takes up the file in `dir`, with what it says that holds still.
    pub(super) fn open(dir: anyhow::Result<PathBuf>) -> (Self, Vec<Entry>) {
        let damage = Damage::default();
        let unkept = |damage: Damage, why: String| {
            damaged(&damage, Some(nowhere(&why)));
            (Self { sender: None, damage, lock: SharedLock::default() }, Vec::new())
        };
        let dir = match dir {
            Ok(dir) => dir,
            Err(error) => return unkept(damage, format!("{error:#}")),
        };
        let path = dir.join(NAME);
        let lock = SharedLock::default();
        if path.exists()
            && let Err(error) = lock.take(&path)
        {
            return unkept(damage, unlocked(&path, &error));
        }
        let held = match read(&path) {
            Ok((held, None)) => held,
            Ok((held, Some(mistake))) => {
                damaged(
                    &damage,
                    Some(format!(
                        "read {}, which says what is denied at run time: {mistake}; the rest of it holds (the next deny writes it \
                     anew)",
                        path.display()
                    )),
                );
                held
            }
            Err(error) => {
                damaged(
                    &damage,
                    Some(format!(
                        "read {}, which says what is denied at run time: {error}; nothing of it holds",
                        path.display()
                    )),
                );
                Vec::new()
            }
        };
        let (sender, keepings) = mpsc::sync_channel(WAITING);
        let own = (damage.clone(), lock.clone());
        let spawned = thread::Builder::new()
            .name("denials".into())
            .spawn(move || keep(&path, &keepings, &own.0, &own.1));
        if let Err(error) = spawned {
            return unkept(damage, format!("start a thread: {error}"));
        }
        (Self { sender: Some(sender), damage, lock }, held)
    }

    /// Writes `held` down soon, then answers those who wait for it.
    pub(super) fn keep(&self, held: Vec<Entry>, answers: Vec<(Asked, DenyAnswer)>) {
        let keeping = Keeping { held, answers };
        let Some(sender) = &self.sender else { return keeping.answered(self.damage.get().as_ref()) };
        match sender.try_send(keeping) {
            Ok(()) => {}
            Err(TrySendError::Full(keeping)) => {
                let late = "the disk is slow: it is not written down yet".to_owned();
                keeping.answered(Some(&late));
            }
            Err(TrySendError::Disconnected(keeping)) => keeping.answered(self.damage.get().as_ref()),
        }
    }

    pub(super) fn damage(&self) -> Damage {
        self.damage.clone()
    }
}

impl Keeping {
    fn answered(self, unsaved: Option<&String>) {
        for (asked, answer) in self.answers {
            asked.done(&DenyAnswer { unsaved: unsaved.cloned(), ..answer });
        }
    }
}

/// Writes the last of what there is to be written, again and again.
fn keep(path: &Path, keepings: &Receiver<Keeping>, damage: &Damage, lock: &SharedLock) {
    while let Ok(mut last) = keepings.recv() {
        while let Ok(next) = keepings.try_recv() {
            last.held = next.held;
            last.answers.extend(next.answers);
        }
        let begun = Instant::now();
        damaged(damage, kept(path, &last.held, lock).err());
        last.answered(damage.get().as_ref());
        // However many say something, the disk has half of the time for others.
        thread::sleep(begun.elapsed().min(Duration::from_secs(1)));
    }
}

/// Writes `held` down, if this is the instance whose file it is; or why not.
fn kept(path: &Path, held: &[Entry], lock: &SharedLock) -> Result<(), String> {
    if held.is_empty() && !lock.is_held() {
        return Ok(());
    }
    lock.take(path).map_err(|error| nowhere(&unlocked(path, &error)))?;
    store(path, held).map_err(|error| {
        format!(
            "write down what is denied at run time in {}: {error}; it holds until this process ends",
            path.display()
        )
    })?;
    if held.is_empty() {
        lock.let_go();
    }
    Ok(())
}

fn nowhere(why: &str) -> String {
    format!("keep what is denied at run time: {why}; what is said holds until this process ends")
}

fn unlocked(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            format!("another instance keeps its own in {path} (give each a STATE_DIRECTORY of its own)")
        }
        _ => format!("lock {path}: {error}"),
    }
}

/// The lock of the file at `path`, which stands beside it, since that one is replaced.
fn locked(path: &Path) -> io::Result<File> {
    let lock = path.with_extension(LOCK);
    for _ in 0..TRIES {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&lock)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Whoever had it may have removed it meanwhile.
        if fs::metadata(&lock).is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there.ino())) {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Replaces the file in one step, so that a crash leaves the one or the other.
fn store(path: &Path, held: &[Entry]) -> io::Result<()> {
    if held.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let new = path.with_extension("new");
    let written = (|| {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        file.write_all(text(held).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn text(held: &[Entry]) -> String {
    let (now, clock) = (Instant::now(), SystemTime::now());
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = HEAD.to_owned();
    for ((service, prefix), HeldDenial { rule, until, uid, since, packets: _ }) in held {
        let word = if *rule == SourceRule::Deny { "deny" } else { "except" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{word} {prefix} since={}", seconds(*since));
        if let Some(until) = until {
            let end = clock.checked_add(until.saturating_duration_since(now)).unwrap_or(clock);
            // The second in which it ends is over then.
            let _ = write!(text, " until={}", seconds(end).saturating_add(1));
        }
        if let Some(uid) = uid {
            let _ = write!(text, " uid={uid}");
        }
        if let Some(service) = service {
            let _ = write!(text, " service={service}");
        }
        text.push('\n');
    }
    text
}

/// The entries of the file that are not over, and the first line that makes no sense, if there is one.
fn read(path: &Path) -> io::Result<(Vec<Entry>, Option<String>)> {
    let file =
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), None)),
            Err(error) => return Err(error),
        };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (now, clock) = (Instant::now(), SystemTime::now());
    let (mut held, mut mistake) = (Vec::new(), None);
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parsed(line, now, clock) {
            Line::Holds(entry) => held.push(*entry),
            Line::IsOver => {}
            Line::Senseless => {
                mistake.get_or_insert_with(|| format!("line {number} makes no sense"));
            }
        }
    }
    Ok((held, mistake))
}

/// A line of the file.
enum Line {
    Holds(Box<Entry>),
    IsOver,
    Senseless,
}

fn parsed(line: &str, now: Instant, clock: SystemTime) -> Line {
    line_of(line, now, clock).unwrap_or(Line::Senseless)
}

/// The line; `None` where it makes no sense.
fn line_of(line: &str, now: Instant, clock: SystemTime) -> Option<Line> {
    let mut words = line.split(' ');
    let rule = match words.next()? {
        "deny" => SourceRule::Deny,
        "except" => SourceRule::Allow,
        _ => return None,
    };
    let prefix = words.next()?.parse().ok()?;
    let mut denial = HeldDenial { rule, until: None, uid: None, since: UNIX_EPOCH, packets: 0 };
    let mut service = None;
    let at = |seconds: &str| UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?));
    for word in words {
        match word.split_once('=')? {
            ("since", seconds) => denial.since = at(seconds)?,
            ("until", seconds) => match at(seconds)?.duration_since(clock) {
                Ok(left) => denial.until = now.checked_add(left),
                Err(_past) => return Some(Line::IsOver),
            },
            ("uid", uid) => denial.uid = Some(uid.parse().ok()?),
            ("service", name) => service = Some(name.parse().ok()?),
            // A later version may say more.
            _ => {}
        }
    }
    Some(Line::Holds(Box::new(((service, prefix), denial))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Denials, DenyWord};

    /// A directory of one test's own, removed when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("spectrum-denied-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn path(&self) -> PathBuf {
            self.0.join(NAME)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn held() -> Vec<Entry> {
        let mut denials = Denials::default();
        let key = |service: Option<&str>, prefix: &str| {
            (service.map(|name| name.parse().unwrap()), prefix.parse().unwrap())
        };
        denials
            .say(
                DenyWord::Deny,
                [key(None, "10.0.0.0/8"), key(Some("games"), "2001:db8::/64")],
                None,
                Some(7),
            )
            .unwrap();
        denials
            .say(DenyWord::Except, [key(None, "10.1.0.0/16")], Some(Duration::from_mins(10)), None)
            .unwrap();
        denials
            .say(DenyWord::Deny, [key(None, "10.2.0.0/16")], Some(Duration::from_millis(1)), None)
            .unwrap();
        denials.iter().map(|(key, denial)| (key.clone(), *denial)).collect()
    }

    #[test]
    fn what_is_written_is_read_but_for_what_is_over() {
        let dir = Scratch::new("kept");
        let mut before = held();
        // Long ago.
        before[2].1.until = Some(Instant::now());
        store(&dir.path(), &before).unwrap();
        let text = fs::read_to_string(dir.path()).unwrap();
        assert!(
            text.contains("\ndeny 2001:db8::/64 since=") && text.contains(" uid=7 service=games\n"),
            "{text}"
        );
        let expired = text.replace("deny 10.2.0.0/16 since", "deny 10.2.0.0/16 until=1000 since");
        fs::write(dir.path(), expired).unwrap();
        let (after, mistake) = read(&dir.path()).unwrap();
        assert_eq!(mistake, None);
        let keys: Vec<String> = after.iter().map(|((_, prefix), _)| prefix.to_string()).collect();
        assert_eq!(keys, ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/64"]);
        assert_eq!(after[1].1.rule, SourceRule::Allow);
        let left = after[1].1.until.unwrap().duration_since(Instant::now());
        assert!((Duration::from_secs(590)..Duration::from_secs(602)).contains(&left), "{left:?}");
        assert_eq!((after[2].0.0.clone(), after[2].1.uid), (Some("games".parse().unwrap()), Some(7)));
        store(&dir.path(), &[]).unwrap();
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_told_and_the_others_hold() {
        let dir = Scratch::new("damaged");
        for bad in [
            "deny",
            "allow 10.0.0.0/8",
            "deny 10.0.0.1/8",
            "deny 10.0.0.0/8 until=x",
            "\u{fffd}",
            "deny ::/0 7",
        ] {
            fs::write(dir.path(), format!("{HEAD}deny 192.0.2.0/24\n{bad}\nexcept 192.0.2.1/32 later=1\n"))
                .unwrap();
            let (held, mistake) = read(&dir.path()).unwrap();
            assert_eq!((held.len(), mistake.as_deref()), (2, Some("line 3 makes no sense")), "{bad}");
        }
        fs::remove_file(dir.path()).unwrap();
        fs::create_dir(dir.path()).unwrap();
        assert!(read(&dir.path()).is_err());
        assert!(store(&dir.path(), &held()).is_err());
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "nothing half written is left");
    }

    #[test]
    fn of_two_instances_one_keeps_its_file() {
        let dir = Scratch::new("two");
        let (first, second) = (SharedLock::default(), SharedLock::default());
        kept(&dir.path(), &[], &first).unwrap();
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "there is nothing to be kept");
        kept(&dir.path(), &held(), &first).unwrap();
        let refused = kept(&dir.path(), &held(), &second).unwrap_err();
        assert!(refused.contains("another instance keeps its own"), "{refused}");
        kept(&dir.path(), &[], &second).unwrap();
        assert!(dir.path().exists(), "it is the other's");
        let (other, read) = KeptDenials::open(Ok(dir.0.clone()));
        assert!(other.damage().get().unwrap().contains("another instance") && read.is_empty());
        kept(&dir.path(), &[], &first).unwrap();
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "not even a lock is left");
        kept(&dir.path(), &held(), &second).unwrap();
    }
}
