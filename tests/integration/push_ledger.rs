//! A ledger that is damaged, foreign, or has no room: said clearly, and nothing is lost or deleted without a record.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use archiver::embedded::{Fault, Request};

use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{Entry, Running, TestEnv, files, noise, write};
use crate::support::namespace;

const DELETE: [&str; 2] = ["--after", "delete"];
const ARCHIVED: u64 = 150;
const NEW: u64 = 20;

/// A bench whose ledger knows files that were archived, with others that were not yet, and the count of what it asked
/// the server for.
struct Used {
    bench: Bench,
    _server: Embedded,
    requests: Arc<AtomicUsize>,
    /// All that there ever was.
    model: BTreeMap<PathBuf, Entry>,
    /// The ledger before anything happened to it.
    whole: Vec<u8>,
}

/// Local files live on here under a second name, so that they can come back as the same versions.
const STASH: &str = "stash";

impl Used {
    fn new() -> Self {
        let env = TestEnv::new();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let server = Embedded::with_faults(&env, move |_: &Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            Fault::None
        });
        let bench = Bench::embedded(env, &server);
        let stash = bench.env.path().join(STASH);
        for number in 0..ARCHIVED {
            let name = format!("known/{}/as long a name as reports tend to have, {number}.csv", number % 7);
            write(&stash, name, noise(100 + number as usize, number));
        }
        link(&stash, &bench.env.local());
        bench.push_local();
        for number in 0..NEW {
            write(&stash, format!("new/{number}"), noise(3000, 1000 + number));
        }
        let (model, whole) = (files(&stash), fs::read(bench.ledger()).unwrap());
        let used = Self { bench, _server: server, requests, model, whole };
        used.begin();
        used
    }

    /// As it was: all local files stand, the known ones are archived, the ledger knows them.
    fn begin(&self) {
        let local = self.bench.env.local();
        fs::remove_dir_all(&local).unwrap();
        link(&self.bench.env.path().join(STASH), &local);
        let new = self.bench.base.join("in/new");
        if new.exists() {
            fs::remove_dir_all(new).unwrap();
        }
        for suffix in ["-wal", "-shm", "-journal"] {
            // It has none, after a run that ended in order.
            let _ = fs::remove_file(format!("{}{suffix}", self.bench.ledger().display()));
        }
        fs::write(self.bench.ledger(), &self.whole).unwrap();
        self.requests.store(0, Ordering::SeqCst);
    }

    fn push(&self) -> Pushed {
        Pushed::run(self.bench.push([self.bench.env.local()]).args(DELETE))
    }

    /// Every file stands on one side or the other, byte for byte; nothing else stands there.
    #[track_caller]
    fn assert_nothing_lost(&self, what: &str) {
        let (local, archived) = (files(&self.bench.env.local()), self.bench.archived());
        for (path, entry) in &self.model {
            let stands = [&local, &archived].map(|side| side.get(path));
            assert!(stands.contains(&Some(entry)), "{what}: {} is lost", path.display());
        }
        for (path, entry) in archived.iter().filter(|(path, _)| !super::is_part(path)) {
            assert_eq!(self.model.get(path), Some(entry), "{what}: {}", path.display());
        }
    }

    /// Without the damaged ledger all ends well: each file under one name, none left here.
    #[track_caller]
    fn assert_ends_well(&self, what: &str) {
        let pushed = self.push();
        assert_eq!(pushed.finished.code(), Some(0), "{what}: {}", pushed.finished.stderr);
        assert!(files(&self.bench.env.local()).is_empty(), "{what}");
        let mut archived = self.bench.archived();
        archived.retain(|path, _| !super::is_part(path));
        assert_eq!(archived, self.model, "{what}");
    }

    /// Moved aside, as the message says.
    fn set_aside(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = PathBuf::from(format!("{}{suffix}", self.bench.ledger().display()));
            if path.exists() {
                fs::rename(&path, path.with_extension(format!("aside{suffix}"))).unwrap();
            }
        }
    }
}

/// The same files under second names.
fn link(from: &Path, to: &Path) {
    for path in files(from).into_keys() {
        fs::create_dir_all(to.join(&path).parent().unwrap()).unwrap();
        fs::hard_link(from.join(&path), to.join(&path)).unwrap();
    }
}

type Damage = fn(&Path);

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// What its first bytes show is refused before anything else is done.
#[test]
fn a_ledger_that_is_not_ours_or_of_a_later_version_is_refused_and_nothing_is_touched() {
    let damages: [(&str, Damage, &str); 6] = [
        ("random bytes", |path| fs::write(path, noise(50_000, 1)).unwrap(), "no SQLite database"),
        ("text", |path| fs::write(path, "not a ledger\n").unwrap(), "no SQLite database"),
        ("cut in the header", |path| edit(path, |bytes| bytes.truncate(60)), "no SQLite database"),
        ("its first bytes lost", |path| edit(path, |bytes| bytes[..512].fill(0)), "no SQLite database"),
        ("another program's", |path| edit(path, |bytes| bytes[68..72].fill(7)), "another program's"),
        ("a later version", |path| edit(path, |bytes| bytes[63] = 99), "a later version of this program"),
    ];
    let used = Used::new();
    for (what, damage, said) in damages {
        used.begin();
        damage(&used.bench.ledger());
        let before = [used.bench.env.local(), used.bench.base.clone(), used.bench.env.home()].map(|side| files(&side));
        let pushed = used.push().expect(2);
        pushed.says(&[said, "ledger.db", "nothing was changed"]);
        let after = [used.bench.env.local(), used.bench.base.clone(), used.bench.env.home()].map(|side| files(&side));
        assert_eq!(before, after, "{what}");
        assert_eq!(used.requests.load(Ordering::SeqCst), 0, "{what}: the server was asked for something");
    }
    used.set_aside();
    used.assert_ends_well("set aside");
}

/// Cut or overwritten in the middle, it may be noticed at once, later, or never; in no case is a file lost, and where it
/// is noticed it is said what to do, and that helps.
#[test]
fn a_ledger_that_is_damaged_in_the_middle_loses_no_file() {
    let benches = [Used::new(), Used::new()];
    let pages = benches.iter().map(|used| used.whole.len() / 4096).min().unwrap();
    assert!(pages > 12, "{pages} pages");
    type Change = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;
    let mut damages: Vec<(String, Change)> = vec![
        ("emptied".into(), Box::new(|bytes| bytes.clear())),
        ("cut in the middle".into(), Box::new(|bytes| bytes.truncate(bytes.len() / 2))),
        ("cut within a page".into(), Box::new(|bytes| bytes.truncate(bytes.len() - 1000))),
        ("one page left".into(), Box::new(|bytes| bytes.truncate(4096))),
        ("all but the header lost".into(), Box::new(|bytes| bytes[100..].fill(0))),
    ];
    for number in 0..12 {
        let page = 1 + number * (pages - 1) / 12;
        let at = page * 4096;
        damages.push(match number % 4 {
            0 => (format!("page {page} zeroed"), Box::new(move |bytes| bytes[at..at + 4096].fill(0))),
            1 => (
                format!("page {page} overwritten"),
                Box::new(move |bytes| {
                    bytes[at..at + 4096].copy_from_slice(&noise(4096, number as u64));
                }),
            ),
            2 => (format!("a bit of page {page} flipped"), Box::new(move |bytes| bytes[at + 3000] ^= 0x10)),
            _ => (format!("page {page} is another one"), Box::new(move |bytes| bytes.copy_within(4096..8192, at))),
        });
    }
    let next = std::sync::Mutex::new(damages.iter());
    let (noticed, unnoticed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for used in &benches {
            let (next, noticed, unnoticed) = (&next, &noticed, &unnoticed);
            scope.spawn(move || {
                while let Some((what, damage)) = { next.lock().unwrap().next() } {
                    used.begin();
                    edit(&used.bench.ledger(), |bytes| damage(bytes));
                    let pushed = used.push();
                    used.assert_nothing_lost(what);
                    match pushed.finished.code() {
                        Some(0) => unnoticed.fetch_add(1, Ordering::SeqCst),
                        // Noticed when it is opened, or when a page of it is needed.
                        Some(1 | 2) => {
                            pushed.says(&["ledger.db", "it is damaged", "move it aside"]);
                            noticed.fetch_add(1, Ordering::SeqCst)
                        }
                        code => panic!("{what}: ended with {code:?}\n{}", pushed.finished.stderr),
                    };
                    used.set_aside();
                    used.assert_ends_well(what);
                }
            });
        }
    });
    eprintln!("{} damages: {noticed:?} were noticed, {unnoticed:?} were in nobody's way", damages.len());
    assert!(noticed.load(Ordering::SeqCst) > 5);
}

/// A run in which the disk of the ledger stays full ends, says so, and leaves what it could not record.
#[test]
fn a_push_ends_where_the_ledgers_disk_stays_full() {
    if !namespace::possible() {
        return;
    }
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let bench = Bench::embedded(env, &server);
    let local = bench.env.local();
    for number in 0..1_200 {
        write(
            &local,
            format!("{}/a file with a rather long name, as reports have them, {number}", number % 9),
            noise(50, number),
        );
    }
    let model = files(&local);
    let state = bench.env.path().join("state");
    fs::create_dir(&state).unwrap();
    let mut command = bench.push([&local]);
    command.args(DELETE).env("ARCHIVER_LEDGER", state.join("ledger.db"));
    let setup = format!("mount -t tmpfs -o size=300k tmpfs '{}'", state.display());
    let finished = Running::start(&mut namespace::within(&setup, &command)).finish();
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    assert_eq!(finished.stderr.matches("holding work until").count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("its filesystem is full"), "{}", finished.stderr);
    let (left, archived) = (files(&local), bench.archived());
    eprintln!("{} of {} are archived, {} are left", archived.len(), model.len(), left.len());
    assert!(!left.is_empty());
    for (path, entry) in &model {
        assert!(left.get(path) == Some(entry) || archived.get(path) == Some(entry), "{} is lost", path.display());
    }
    // With a ledger that has room, all ends well; what stands there with the same bytes counts.
    Pushed::run(bench.push([&local]).args(DELETE)).expect(0);
    let mut archived = bench.archived();
    archived.retain(|path, _| !super::is_part(path));
    assert_eq!(archived, model);
    assert!(files(&local).is_empty());
}
