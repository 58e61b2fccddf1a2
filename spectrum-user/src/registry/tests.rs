//! Tests of the registry, in temporary directories. Locks belong to open files, so one process can play several.

use super::*;

const PATIENCE: Duration = Duration::from_millis(50);

/// A directory of one test's own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("spectrum-registry-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn registry(&self) -> Registry {
        Registry::open(&self.0, 4_026_531_840).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn claim(registry: &Registry, texts: &[&str]) -> Result<Claim, RegistryError> {
    registry.lock(PATIENCE).unwrap().claim(&prefixes(texts))
}

#[test]
fn disjoint_prefixes_are_claimed_side_by_side() {
    let scratch = Scratch::new("disjoint");
    let registry = scratch.registry();
    let a = claim(&registry, &["192.0.2.0/24", "2001:db8::/64"]).unwrap();
    let b = claim(&registry, &["198.51.100.0/24", "2001:db8:0:1::/64"]).unwrap();
    assert_ne!(a.instance().chain, b.instance().chain);
    let live = registry.lock(PATIENCE).unwrap().live().unwrap();
    assert_eq!(live.len(), 2);
    assert!(live.contains(a.instance()) && live.contains(b.instance()));
}

#[test]
fn a_prefix_that_overlaps_a_live_one_is_refused_with_the_pid() {
    let scratch = Scratch::new("overlap");
    let registry = scratch.registry();
    let _live = claim(&registry, &["192.0.2.0/24", "192.0.2.128/25", "2001:db8::/64"]).unwrap();
    for wanted in
        ["192.0.2.0/24", "192.0.0.0/16", "192.0.2.77/32", "192.0.2.200/32", "2001:db8::1/128", "::/0"]
    {
        let message = claim(&registry, &["198.51.100.0/24", wanted]).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("claim prefix {wanted}: process {} has ", std::process::id())),
            "{message}"
        );
    }
    assert_eq!(registry.lock(PATIENCE).unwrap().live().unwrap().len(), 1);
}

#[test]
fn a_claim_ends_with_its_owner() {
    let scratch = Scratch::new("ends");
    let registry = scratch.registry();
    drop(claim(&registry, &["192.0.2.0/24"]).unwrap());
    claim(&registry, &["192.0.2.0/24"]).unwrap();
}

#[test]
fn a_killed_owner_leaves_a_file_that_counts_for_nothing() {
    let scratch = Scratch::new("killed");
    let registry = scratch.registry();
    let killed = claim(&registry, &["192.0.2.0/24"]).unwrap();
    let text = fs::read(&killed.path).unwrap();
    let path = killed.path.clone();
    drop(killed);
    fs::create_dir_all(&registry.dir).unwrap();
    fs::write(&path, text).unwrap();
    assert!(registry.lock(PATIENCE).unwrap().live().unwrap().is_empty());
    assert!(!path.exists());
}

#[test]
fn corrupt_files_of_the_dead_are_removed() {
    let scratch = Scratch::new("corrupt-dead");
    let registry = scratch.registry();
    for name in ["1.json", "2.json", "3.new"] {
        fs::write(registry.dir.join(name), if name == "1.json" { "" } else { "{\"pid\":" }).unwrap();
    }
    let lock = registry.lock(PATIENCE).unwrap();
    assert!(lock.live().unwrap().is_empty());
    assert_eq!(fs::read_dir(&registry.dir).unwrap().count(), 1, "only the lock remains");
    drop(lock);
    assert!(!registry.dir.exists(), "nor does that when nobody needs it");
}

#[test]
fn a_corrupt_file_of_the_living_is_an_error_that_names_it() {
    let scratch = Scratch::new("corrupt-live");
    let registry = scratch.registry();
    let live = claim(&registry, &["192.0.2.0/24"]).unwrap();
    fs::write(&live.path, "nonsense").unwrap();
    let message = claim(&registry, &["198.51.100.0/24"]).unwrap_err().to_string();
    assert!(message.contains(live.path.to_str().unwrap()), "{message}");
}

#[test]
fn foreign_files_are_left_alone() {
    let scratch = Scratch::new("foreign");
    let registry = scratch.registry();
    let note = registry.dir.join("README");
    fs::write(&note, "mine").unwrap();
    registry.lock(PATIENCE).unwrap().live().unwrap();
    assert!(note.exists());
}

#[test]
fn an_amended_claim_covers_what_it_says_now() {
    let scratch = Scratch::new("amend");
    let registry = scratch.registry();
    let mut ours = claim(&registry, &["192.0.2.0/24"]).unwrap();
    let _other = claim(&registry, &["203.0.113.0/24"]).unwrap();
    let lock = registry.lock(PATIENCE).unwrap();
    lock.amend(&mut ours, Some(Mode::Tproxy), &prefixes(&["192.0.2.0/25", "198.51.100.0/24"])).unwrap();
    assert!(lock.live().unwrap().contains(ours.instance()));
    assert_eq!(ours.instance().mode, Some(Mode::Tproxy));
    lock.claim(&prefixes(&["192.0.2.128/25"])).unwrap();
    assert!(lock.claim(&prefixes(&["198.51.100.0/24"])).is_err());
    assert!(lock.amend(&mut ours, Some(Mode::Tproxy), &prefixes(&["203.0.113.7"])).is_err());
}

#[test]
fn the_lock_is_waited_for_no_longer_than_told() {
    let scratch = Scratch::new("busy");
    let registry = scratch.registry();
    let held = registry.lock(PATIENCE).unwrap();
    assert!(matches!(registry.lock(PATIENCE), Err(RegistryError::Busy { .. })));
    drop(held);
    registry.lock(PATIENCE).unwrap();
}

#[test]
fn the_directory_goes_with_the_last_instance() {
    let scratch = Scratch::new("last");
    let registry = scratch.registry();
    let one = claim(&registry, &["192.0.2.0/24"]).unwrap();
    let other = claim(&registry, &["198.51.100.0/24"]).unwrap();
    drop(one);
    assert!(registry.lock(PATIENCE).unwrap().live().unwrap().contains(other.instance()));
    drop(other);
    assert!(!registry.dir.exists());
    // A registry that was opened before is as good as a new one.
    drop(claim(&registry, &["192.0.2.0/24"]).unwrap());
    assert!(!registry.dir.exists());
    assert!(scratch.0.exists(), "the directory of all namespaces stays");
}

#[test]
fn who_waited_for_a_lock_that_is_removed_takes_the_one_in_its_place() {
    let scratch = Scratch::new("removed");
    let registry = scratch.registry();
    let path = registry.dir.join(LOCK);
    let held = registry.lock(PATIENCE).unwrap();
    // Opened by somebody who waits, then removed and released.
    let waiting = File::open(&path).unwrap();
    drop(held);
    waiting.try_lock().unwrap();
    assert!(!is_at(&waiting, &path).unwrap());
    let _lock = registry.lock(PATIENCE).unwrap();
    assert!(!is_at(&waiting, &path).unwrap(), "the lock is another file than the one waited for");
}

#[test]
fn of_many_who_come_and_go_no_two_have_the_lock_and_nothing_stays() {
    let scratch = Scratch::new("many-come");
    let inside = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let (scratch, inside) = (&scratch, &inside);
            scope.spawn(move || {
                for _ in 0..30 {
                    let registry = scratch.registry();
                    let lock = registry.lock(Duration::from_mins(1)).unwrap();
                    assert_eq!(inside.fetch_add(1, order), 0, "another has the lock");
                    let claim = lock.claim(&prefixes(&[&format!("10.0.{thread}.0/24")])).unwrap();
                    assert!(lock.live().unwrap().contains(claim.instance()));
                    assert_eq!(inside.fetch_sub(1, order), 1);
                    drop(lock);
                    assert!(claim.path.exists());
                    drop(claim);
                }
            });
        }
    });
    let registry = scratch.registry();
    drop(registry.lock(PATIENCE).unwrap());
    assert!(!registry.dir.exists());
}

#[test]
fn a_run_dir_that_cannot_be_made_names_the_cure() {
    let error = Registry::open(Path::new("/proc/there-is-no-spectrum"), 1).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("SPECTRUM_RUN_DIR"), "{error}: {source}");
}

#[test]
fn many_claims_are_compared_quickly() {
    let scratch = Scratch::new("many");
    let registry = scratch.registry();
    let host = |i: u32| Prefix::host(std::net::Ipv4Addr::from(i).into());
    let lock = registry.lock(PATIENCE).unwrap();
    let _even = lock.claim(&(0..50_000).map(|i| host(0x0a00_0000 + 2 * i)).collect::<Vec<_>>()).unwrap();
    let _odd = lock.claim(&(0..50_000).map(|i| host(0x0a00_0001 + 2 * i)).collect::<Vec<_>>()).unwrap();
}
