//! Somebody else who reads the archive all the while: whatever has a final name is read at once, and must be a whole
//! version from the first instant on (G1).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::model::{Identity, Model, Violations};

/// How long it rests at least between two looks, else as long as it looked: others have work to do as well.
const PAUSE: Duration = Duration::from_millis(2);

/// What was ever seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// What stood under each final name, by the path below the archive's base.
    pub finals: HashMap<PathBuf, Identity>,
    /// The directories in which temporary names of each key stood (G4).
    pub staged_in: BTreeMap<String, BTreeSet<PathBuf>>,
    pub looks: u64,
}

/// Names on the server that others put there.
pub type Foreign = Arc<Mutex<HashSet<PathBuf>>>;

pub struct Observer {
    stop: Sender<()>,
    thread: JoinHandle<Seen>,
}

/// What is looked at, and held against what.
pub struct View {
    pub base: PathBuf,
    pub model: Arc<Model>,
    pub foreign: Foreign,
    pub violations: Arc<Mutex<Violations>>,
    pub directories: Directories,
    pub partial: Partial,
}

/// What a directory of the first level holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directories {
    /// One file: seen once, it is not looked into again before the end.
    OfOneFile,
    OfMany,
}

/// Whether a final name may be read while it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    Never,
    /// Published directly, because the user asked for it; or replaced under the reader, for the same reason.
    AskedFor,
}

impl Observer {
    pub fn start(view: View) -> Self {
        let (stop, stopped) = channel();
        Self { stop, thread: std::thread::spawn(move || view.observe(&stopped)) }
    }

    pub fn stop(self) -> Seen {
        drop(self.stop);
        self.thread.join().expect("the observer goes on to its end")
    }
}

impl View {
    fn observe(&self, stopped: &Receiver<()>) -> Seen {
        let mut seen = Seen::default();
        let mut done = HashSet::new();
        loop {
            let start = Instant::now();
            for entry in std::fs::read_dir(&self.base).unwrap().flatten() {
                let name = entry.file_name();
                let is_final = !done.contains(&name) && self.look(Path::new(&name), &mut seen) == Look::Final;
                if is_final && self.directories == Directories::OfOneFile {
                    done.insert(name);
                }
            }
            seen.looks += 1;
            if stopped.recv_timeout(PAUSE.max(start.elapsed())) != Err(RecvTimeoutError::Timeout) {
                return seen;
            }
        }
    }

    fn look(&self, below: &Path, seen: &mut Seen) -> Look {
        let path = self.base.join(below);
        // Names come and go while they are read.
        let Ok(found) = std::fs::symlink_metadata(&path) else { return Look::Nothing };
        if found.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            return entries.map(|entry| self.look(&below.join(entry.file_name()), seen)).max().unwrap_or(Look::Nothing);
        }
        if self.foreign.lock().unwrap().contains(below) {
            return Look::Nothing;
        }
        if let Some(key) = key_of(below) {
            let directory = below.parent().unwrap();
            // What a commit put aside stands in a directory of ours.
            if key_of(directory).is_none() {
                seen.staged_in.entry(key).or_default().insert(directory.to_owned());
            }
            return Look::Nothing;
        }
        if self.partial == Partial::Never && !seen.finals.contains_key(below) {
            let Ok(content) = std::fs::read(&path) else {
                self.violations.lock().unwrap().add(format!("G5: {below:?} went away"));
                return Look::Nothing;
            };
            let identity = Identity::of(&content, &local_path(below));
            if !self.model.knows(&identity) {
                let bytes = content.len();
                self.violations.lock().unwrap().add(format!("G1: {below:?} is seen with {bytes} bytes of no version"));
            }
            seen.finals.insert(below.to_owned(), identity);
        }
        Look::Final
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Nothing,
    Final,
}

/// The path below the source: the layouts of these tests are one directory deep.
pub fn local_path(below: &Path) -> PathBuf {
    below.components().skip(1).collect()
}

/// The key id in a temporary name, `.<name>.<key id>-<token>.part`.
pub fn key_of(path: &Path) -> Option<String> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    let (_, tail) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    let (key, token) = tail.split_once('-')?;
    let is_ours = key.len() == 12 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) && token.parse::<u64>().is_ok();
    is_ours.then(|| key.to_owned())
}

#[test]
fn temporary_names_are_known_by_their_form() {
    assert_eq!(key_of(Path::new("1/d/.a.csv.0123456789ab-77.part")).as_deref(), Some("0123456789ab"));
    for other in ["1/d/a.csv", ".a.csv.part", ".a.0123456789ab-.part", ".a.0123456789-7.part", "a.0123456789ab-7.part"]
    {
        assert_eq!(key_of(Path::new(other)), None, "{other}");
    }
}
