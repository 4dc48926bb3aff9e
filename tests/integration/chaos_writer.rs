//! An application with a mind of its own: it creates, appends to, rewrites, replaces, moves in and removes files, and
//! tells the model of every version that it finishes. The same seed makes the same choices.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::model::{Identity, Model};

/// What ends a marker's name behind that of its data file.
pub const MARKER: &str = "ready";
/// Names that are used again and again.
const NAMES: u32 = 14;
/// Files that stand at most before the application waits for the archiver.
const STANDING: usize = 60;

/// What the application does when so many files stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// For the archiver to take some away.
    Waits,
    /// It removes ten times as many, for the archiver keeps them.
    Withdraws,
}

/// Whether data files have a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    Yes,
    No,
}

/// Whether there was a file under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stood {
    Yes,
    No,
}

pub struct Writer {
    root: PathBuf,
    model: Arc<Model>,
    random: StdRng,
    marked: Marked,
    /// Whose bytes an inode holds: the last version that was written to it.
    inodes: HashMap<u64, Identity>,
    /// Versions so far; in each one's bytes, and in the names that are used once.
    count: u64,
}

impl Writer {
    pub fn new(root: PathBuf, model: Arc<Model>, seed: u64, marked: Marked) -> Self {
        Self { root, model, random: StdRng::seed_from_u64(seed), marked, inodes: HashMap::new(), count: 0 }
    }

    /// One deed of its own choice.
    pub fn act(&mut self) {
        let name = self.name();
        let size = self.size();
        match self.random.random_range(0..100) {
            0..30 => self.rewrite(&name, size),
            30..50 => self.append(&name, size),
            50..70 => self.replace(&name, size),
            70..90 => self.move_in(size),
            90..96 => self.empty(),
            _ => self.withdraw(&name),
        }
    }

    /// A new file under a name of its own, moved in whole.
    pub fn move_in(&mut self, size: usize) {
        let name = self.fresh("moved");
        self.replace(&name, size);
    }

    /// The same, with a name that was used before.
    pub fn move_over(&mut self, size: usize) {
        let name = self.name();
        self.replace(&name, size);
    }

    /// Appends to everything that stands.
    pub fn append_to_all(&mut self) {
        for path in self.standing() {
            if std::fs::metadata(self.root.join(&path)).is_ok_and(|found| found.len() > 0) {
                self.append(&path, 100);
            }
        }
    }

    /// Removes everything that stands.
    pub fn withdraw_all(&mut self) {
        for path in self.standing() {
            self.withdraw(&path);
        }
    }

    /// Data files that stand, below the root.
    pub fn standing(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in std::fs::read_dir(&self.root).unwrap().flatten() {
            for entry in std::fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if !name.starts_with('.') && !name.ends_with(".tmp") && !name.ends_with(MARKER) {
                    found.push(Path::new(&directory.file_name()).join(name));
                }
            }
        }
        found
    }

    fn name(&mut self) -> PathBuf {
        let number = self.random.random_range(0..NAMES);
        format!("d{}/log{number}.csv", number % 3).into()
    }

    fn fresh(&mut self, kind: &str) -> PathBuf {
        self.count += 1;
        format!("d{}/{kind}-{}.bin", self.count % 3, self.count).into()
    }

    fn size(&mut self) -> usize {
        match self.random.random_range(0..100) {
            0..50 => self.random.random_range(1..2_000),
            50..85 => self.random.random_range(2_000..80_000),
            85..97 => self.random.random_range(80_000..600_000),
            _ => self.random.random_range(600_000..3 << 20),
        }
    }

    /// Bytes that never come again; at least as many as tell versions apart.
    fn content(&mut self, size: usize) -> Vec<u8> {
        self.count += 1;
        let mut content = format!("version {}\n", self.count).into_bytes();
        let head = content.len();
        content.resize(size.max(head), 0);
        self.random.fill_bytes(&mut content[head..]);
        content
    }

    /// Opens what stands under the name, which from now on is another version: the archiver can tell that it is open,
    /// and so does not dispose of it.
    fn open(&mut self, path: &Path) -> Option<File> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                self.supersede(file.metadata().unwrap().ino());
                Some(file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{path:?}: {error}"),
        }
    }

    fn supersede(&mut self, inode: u64) {
        if let Some(identity) = self.inodes.get(&inode) {
            self.model.superseded(identity);
        }
    }

    /// Tells the model, and then writes the rest of what it was told.
    fn finish(&mut self, mut file: File, name: &Path, content: &[u8], from: usize) {
        let identity = self.model.finished(content, name);
        self.inodes.insert(file.metadata().unwrap().ino(), identity);
        let middle = from + (content.len() - from) / 2;
        for part in [&content[from..middle], &content[middle..]] {
            file.write_all(part).unwrap();
        }
    }

    /// The file under the name, and whether it stood: it may come and go between two looks.
    fn open_or_create(&mut self, path: &Path) -> (File, Stood) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        loop {
            if let Some(file) = self.open(path) {
                return (file, Stood::Yes);
            }
            match OpenOptions::new().write(true).create_new(true).open(path) {
                Ok(file) => return (file, Stood::No),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{path:?}: {error}"),
            }
        }
    }

    /// In place: truncated and written anew, or created.
    fn rewrite(&mut self, name: &Path, size: usize) {
        let (path, content) = (self.root.join(name), self.content(size));
        self.unmark(name);
        let (file, _) = self.open_or_create(&path);
        file.set_len(0).unwrap();
        self.finish(file, name, &content, 0);
        self.mark(name);
    }

    fn append(&mut self, name: &Path, size: usize) {
        let path = self.root.join(name);
        self.unmark(name);
        let (mut file, stood) = self.open_or_create(&path);
        let mut content = Vec::new();
        if stood == Stood::Yes {
            file.read_to_end(&mut content).unwrap();
        }
        let from = content.len();
        content.extend(self.content(size));
        self.finish(file, name, &content, from);
        self.mark(name);
    }

    /// Written aside, then renamed over whatever has the name.
    fn replace(&mut self, name: &Path, size: usize) {
        let content = self.content(size);
        self.put(name, &content, || {});
    }

    /// The same with a copy that stands in the archive already, put there by somebody else.
    pub fn move_in_copied(&mut self, size: usize, archive: &Path) {
        let (name, content) = (self.fresh("copied"), self.content(size));
        let copy = archive.join(&name);
        self.put(&name, &content, || {
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            // Whole at once.
            let aside = archive.join("..").join("..").join("copy");
            std::fs::write(&aside, &content).unwrap();
            std::fs::rename(&aside, &copy).unwrap();
        });
    }

    fn put(&mut self, name: &Path, content: &[u8], before: impl FnOnce()) {
        let path = self.root.join(name);
        self.unmark(name);
        let aside = path.with_extension("tmp");
        let (file, _) = self.open_or_create(&aside);
        self.finish(file, name, content, 0);
        before();
        if let Ok(found) = std::fs::metadata(&path) {
            self.supersede(found.ino());
        }
        std::fs::rename(&aside, &path).unwrap();
        self.mark(name);
    }

    fn empty(&mut self) {
        let name = self.fresh("empty");
        let (file, _) = self.open_or_create(&self.root.join(&name));
        self.finish(file, &name, &[], 0);
        self.mark(&name);
    }

    fn withdraw(&mut self, name: &Path) {
        let path = self.root.join(name);
        if let Ok(found) = std::fs::metadata(&path) {
            self.supersede(found.ino());
            self.unmark(name);
            // The archiver may have been faster.
            let _ = std::fs::remove_file(&path);
        }
    }

    fn marker(&self, name: &Path) -> PathBuf {
        self.root.join(format!("{}.{MARKER}", name.display()))
    }

    /// Before a file is written to, its marker goes.
    fn unmark(&self, name: &Path) {
        if self.marked == Marked::Yes {
            let _ = std::fs::remove_file(self.marker(name));
        }
    }

    fn mark(&self, name: &Path) {
        if self.marked == Marked::Yes {
            std::fs::write(self.marker(name), "").unwrap();
        }
    }
}

/// The application at work in a thread of its own, until it is told to stop.
pub struct AtWork {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl AtWork {
    pub fn start(writer: Arc<Mutex<Writer>>, full: Full) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || work(&writer, full, &stopped));
        Self { stop, thread }
    }

    pub fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("the writer goes on to its end");
    }
}

fn work(writer: &Mutex<Writer>, full: Full, stopped: &Receiver<()>) {
    loop {
        let pause = {
            let mut writer = writer.lock().unwrap();
            match full {
                Full::Waits if writer.standing().len() >= STANDING => {}
                Full::Withdraws if writer.standing().len() >= 10 * STANDING => writer.withdraw_all(),
                Full::Waits | Full::Withdraws => writer.act(),
            }
            Duration::from_millis(writer.random.random_range(0..25))
        };
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
