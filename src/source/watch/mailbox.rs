//! What the watcher tells, gathered by path until our thread takes it.
//!
//! The watcher's thread has to keep emptying the kernel's queue, which is small and cannot be made larger without root.
//! So putting never waits for the consumer, and what is gathered is bounded: at the bound a file's event becomes a note
//! that its directory has to be looked at, and where there are too many of those, that everything has to be.
//!
//! A file that was closed after writing, or moved in, is told at once. What is weaker waits a moment, for most files are
//! closed soon after they are made. Nobody wakes up while nothing is gathered.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind};

/// How long a weak hint waits for a strong one of the same path. Short, because the settle time does the real waiting.
const DEBOUNCE: Duration = Duration::from_millis(25);

/// Paths that are gathered at most.
const MAX_PATHS: usize = 16_384;
/// Directories that are noted at most, instead of the paths in them.
const MAX_CROWDED: usize = 1_024;

/// What was gathered about one path.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hints {
    /// Closed after writing, or moved in.
    pub closed: bool,
    pub appeared: bool,
    pub removed: bool,
    /// Such as who may read it.
    pub attributes: bool,
}

impl Hints {
    fn add(&mut self, other: Self) {
        self.closed |= other.closed;
        self.appeared |= other.appeared;
        self.removed |= other.removed;
        self.attributes |= other.attributes;
    }
}

/// All that was told since the last time.
#[derive(Debug, Default)]
pub(super) struct News {
    pub paths: HashMap<PathBuf, Hints>,
    /// Directories in which more happened than there was room for.
    pub crowded: HashSet<PathBuf>,
    /// There was no room to note where more happened.
    pub overflowed: bool,
    /// The kernel had no room, or its queue could not be read: events were lost that were never told.
    pub lost: bool,
    /// Somebody wants to know when all that happened so far was told.
    pub asked: bool,
    /// The bell was heard: all that happened before it rang is in these news, or was in earlier ones.
    pub rang: bool,
}

#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// What our thread takes as soon as it can.
    news: News,
    /// Weak hints, and since when they wait.
    weak: HashMap<PathBuf, (Hints, Instant)>,
    /// When the weak hints are looked through.
    weak_due: Option<Instant>,
    /// What is told of this path means that it rang.
    bell: Option<PathBuf>,
    stopped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    gathered: Mutex<Gathered>,
    changed: Condvar,
    #[cfg(test)]
    pub faults: Faults,
}

/// What a kernel does that reports nothing, or has no more to give.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub deaf: std::sync::atomic::AtomicBool,
    pub no_more_watches: std::sync::atomic::AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Weak,
    Strong,
}

impl Mailbox {
    /// Takes in what the watcher tells.
    pub fn put(&self, told: notify::Result<Event>) {
        // Most events are of files that are opened, and mean nothing.
        if matches!(&told, Ok(event) if !event.need_rescan() && meaning(&event.kind).is_none()) {
            return;
        }
        #[cfg(test)]
        if self.faults.deaf.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        let mut gathered = self.lock();
        let before = gathered.wake_up(Instant::now());
        gathered.put(told, Instant::now());
        let after = gathered.wake_up(Instant::now());
        drop(gathered);
        // Our thread knows already of what is due no sooner.
        if after.is_some() && before.is_none_or(|before| after < Some(before)) {
            self.changed.notify_one();
        }
    }

    /// Waits for news, no longer than `until`. `None` once it was told to stop.
    pub fn take(&self, until: Instant) -> Option<News> {
        let mut gathered = self.lock();
        loop {
            if gathered.stopped {
                return None;
            }
            let now = Instant::now();
            let due = gathered.wake_up(now).map_or(until, |due| due.min(until));
            if due <= now {
                return Some(gathered.take(now));
            }
            let woken = self.changed.wait_timeout(gathered, due - now);
            (gathered, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has our thread ask the kernel for all that happened so far.
    pub fn ask(&self) {
        self.lock().news.asked = true;
        self.changed.notify_one();
    }

    /// From now on an event of this path is one that rings.
    pub fn expect(&self, bell: PathBuf) {
        self.lock().bell = Some(bell);
    }

    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an event says about its path; `None` where it says nothing.
fn meaning(kind: &EventKind) -> Option<(Hints, Urgency)> {
    let nothing = Hints::default();
    Some(match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => (Hints { closed: true, ..nothing }, Urgency::Strong),
        // Each half of a rename has an event of its own, and this one comes on top where both are watched.
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return None,
        // Its files may have come before its watch, so a walk has to find them.
        EventKind::Create(CreateKind::Folder) => (Hints { appeared: true, ..nothing }, Urgency::Strong),
        EventKind::Create(_) => (Hints { appeared: true, ..nothing }, Urgency::Weak),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            (Hints { closed: true, appeared: true, ..nothing }, Urgency::Strong)
        }
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => {
            (Hints { removed: true, ..nothing }, Urgency::Weak)
        }
        EventKind::Modify(ModifyKind::Metadata(_)) => (Hints { attributes: true, ..nothing }, Urgency::Weak),
        EventKind::Any | EventKind::Modify(_) | EventKind::Other => (nothing, Urgency::Weak),
    })
}

impl Gathered {
    /// When our thread has something to take: at `now` or before it, or later.
    fn wake_up(&self, now: Instant) -> Option<Instant> {
        let News { paths, crowded, overflowed, lost, asked, rang } = &self.news;
        let at_once = !paths.is_empty() || !crowded.is_empty() || *overflowed || *lost || *asked || *rang;
        if at_once { Some(self.weak_due.map_or(now, |due| due.min(now))) } else { self.weak_due }
    }

    fn put(&mut self, told: notify::Result<Event>, now: Instant) {
        match told {
            Ok(event) if event.need_rescan() => self.news.lost = true,
            Ok(event) if self.bell.is_some() && event.paths.first() == self.bell.as_ref() => {
                self.bell = None;
                self.news.rang = true;
                // Weak hints that came before are news, too.
                let waiting = self.weak.drain().map(|(path, (hints, _))| (path, hints));
                self.news.paths.extend(waiting);
                self.weak_due = None;
            }
            Ok(mut event) => {
                if let (Some(path), Some((hints, urgency))) = (event.paths.pop(), meaning(&event.kind)) {
                    self.note(path, hints, urgency, now, |path| match event.kind {
                        EventKind::Create(CreateKind::Folder) => true,
                        // What is moved in is the one thing of which nothing tells the kind.
                        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                            path.symlink_metadata().is_ok_and(|found| found.is_dir())
                        }
                        _ => false,
                    });
                }
            }
            Err(_) => self.news.lost = true,
        }
    }

    fn note(&mut self, path: PathBuf, hints: Hints, urgency: Urgency, now: Instant, is_dir: impl Fn(&Path) -> bool) {
        if let Some(known) = self.news.paths.get_mut(&path) {
            return known.add(hints);
        }
        if let Some((known, _)) = self.weak.get_mut(&path) {
            known.add(hints);
            if urgency == Urgency::Strong {
                let known = *known;
                self.weak.remove(&path);
                self.news.paths.insert(path, known);
                if self.weak.is_empty() {
                    self.weak_due = None;
                }
            }
            return;
        }
        // Directories are few, and a look at the parent would not show what is in them; but there is an end to that, too.
        let gathered = self.news.paths.len() + self.weak.len();
        if gathered >= MAX_PATHS && !is_dir(&path) {
            return self.crowd(&path, hints);
        }
        if gathered >= 2 * MAX_PATHS {
            return self.give_up();
        }
        match urgency {
            Urgency::Strong => drop(self.news.paths.insert(path, hints)),
            Urgency::Weak => {
                self.weak.insert(path, (hints, now));
                self.weak_due.get_or_insert(now + DEBOUNCE);
            }
        }
    }

    /// Leaves everything to a scan, and the watches of new directories to those who set all anew.
    fn give_up(&mut self) {
        let News { asked, rang, .. } = self.news;
        self.news = News { lost: true, asked, rang, ..News::default() };
        self.weak.clear();
        self.weak_due = None;
    }

    fn crowd(&mut self, path: &Path, hints: Hints) {
        // What went away is missed by nobody: a look at it tells.
        if self.news.overflowed || hints == (Hints { removed: true, ..Hints::default() }) {
            return;
        }
        if let Some(parent) = path.parent().filter(|parent| !self.news.crowded.contains(*parent)) {
            self.news.crowded.insert(parent.to_owned());
        }
        if self.news.crowded.len() > MAX_CROWDED {
            self.news.crowded.clear();
            self.news.overflowed = true;
        }
    }

    fn take(&mut self, now: Instant) -> News {
        let mut news = std::mem::take(&mut self.news);
        if self.weak_due.is_some_and(|due| due <= now) {
            let waited = self.weak.extract_if(|_, (_, since)| *since + DEBOUNCE <= now);
            news.paths.extend(waited.map(|(path, (hints, _))| (path, hints)));
            // Not when the next one is due, or a storm of them would be looked through all the time.
            self.weak_due = (!self.weak.is_empty()).then(|| now + DEBOUNCE);
        }
        news
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
