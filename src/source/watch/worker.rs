//! The thread that looks after every root.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::canary::{Canary, remote_filesystem};
use super::inotify::{Inotify, Unwatched};
use super::mailbox::{Hints, Mailbox, News};
use super::{RescanReason, SourceEvent, WatchOptions, Watched};
use crate::config::settings::WatcherKind;
use crate::localfs::{FileKind, RootState};
use crate::selection::{CANARY_PREFIX, Verdict};
use crate::source::scan::scan_directories;
use crate::source::{BelowRoot, Candidate, Root};

/// How often a root is looked at for having been removed or replaced.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// All watches are set anew no more often than this, and no more than a tenth of the time is spent on it.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// Directories that cannot be read and are remembered; beyond it any directory whose attributes change may be one.
const UNREADABLE: usize = 1_024;

/// One root and how it is looked after.
#[derive(Debug)]
struct Place {
    watched: Watched,
    mode: Mode,
    missing: bool,
    /// Some directory has no watch, for its path is too long: only scans find what is in it.
    partly_deaf: bool,
    /// Of the directory that is watched ([`RootDir::generation`](crate::localfs::RootDir::generation)).
    generation: u64,
    canary: Option<Canary>,
    /// Why it is scanned once all watches were set anew, where there is a better reason than that.
    renewed_for: Option<RescanReason>,
    health_due: Instant,
    scan_due: Instant,
    /// When a scan was last due and asked for.
    scan_asked: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Events,
    Poll,
}

impl Place {
    fn new(watched: Watched) -> Self {
        let now = Instant::now();
        let generation = watched.root.dir.generation();
        let (mode, canary, renewed_for) = (Mode::Poll, None, None);
        Self {
            watched,
            mode,
            missing: false,
            partly_deaf: false,
            generation,
            canary,
            renewed_for,
            health_due: now,
            scan_due: now,
            scan_asked: now,
        }
    }

    fn path(&self) -> &Path {
        &self.watched.root.path
    }
}

pub(super) struct Worker {
    places: Vec<Place>,
    options: WatchOptions,
    random: u64,
    inotify: Option<Inotify>,
    /// Absolute paths of directories that have no watch because they cannot be read.
    unreadable: HashSet<PathBuf>,
    renewal: Renewal,
    flush: Flush,
    mailbox: Arc<Mailbox>,
    out: mpsc::Sender<SourceEvent>,
    stop: Arc<AtomicBool>,
}

/// When all watches are set anew.
#[derive(Debug)]
struct Renewal {
    wanted: bool,
    not_before: Instant,
}

/// Whether somebody waits for all that happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    Idle,
    /// The bell is on its way through the kernel's queue.
    Ringing,
}

/// The consumer is gone, or the watch was told to stop.
pub(super) struct Ended;

impl Worker {
    pub fn new(
        watched: Vec<Watched>,
        options: WatchOptions,
        random: u64,
        mailbox: Arc<Mailbox>,
        out: mpsc::Sender<SourceEvent>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            places: watched.into_iter().map(Place::new).collect(),
            options,
            random,
            inotify: None,
            unreadable: HashSet::new(),
            renewal: Renewal { wanted: false, not_before: Instant::now() },
            flush: Flush::Idle,
            mailbox,
            out,
            stop,
        }
    }

    /// Ends when nobody listens any more.
    pub fn run(&mut self) -> Result<(), Ended> {
        for index in 0..self.places.len() {
            self.begin(index)?;
        }
        // Not before all watches stand: nobody may read what the kernel tells until then.
        if self.options.kind == WatcherKind::Auto {
            for index in 0..self.places.len() {
                if self.places[index].mode == Mode::Events {
                    self.release_canary(index);
                }
            }
        }
        while self.round()?.is_continue() {}
        Ok(())
    }

    /// What is due, and what there is to tell. Breaks once it was told to stop.
    fn round(&mut self) -> Result<ControlFlow<()>, Ended> {
        self.tick()?;
        let overdue = self.overdue_canaries();
        self.options.pulse.rest();
        let Some(news) = self.mailbox.take(self.next_due()) else { return Ok(ControlFlow::Break(())) };
        self.options.pulse.beat(Instant::now());
        let complete = news.crowded.is_empty() && !news.overflowed && !news.lost;
        self.news(news)?;
        for (index, deadline) in overdue {
            // It was heard of, or another one is on its way since.
            if self.places[index].canary.as_ref().is_none_or(|canary| canary.deadline != deadline) {
                continue;
            }
            if !complete {
                // Events do come; its own found no room.
                self.release_canary(index);
                continue;
            }
            let reason = "a file made there raised no event; this filesystem or sandbox reports none";
            self.degrade(index, reason.to_owned())?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn news(&mut self, news: News) -> Result<(), Ended> {
        if news.lost {
            self.lost()?;
        } else if news.overflowed {
            self.overflow()?;
        }
        self.paths(news.paths)?;
        for directory in news.crowded {
            for place in &self.places {
                if let Ok(directory) = directory.strip_prefix(place.path()) {
                    let root = Arc::clone(&place.watched.root);
                    self.send(SourceEvent::Crowded { root, directory: directory.to_owned() })?;
                }
            }
        }
        if news.asked {
            self.ask()?;
        }
        if news.rang && self.flush == Flush::Ringing {
            self.flushed()?;
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(), Ended> {
        // A root that was just replaced is noticed now, not within a second.
        for index in 0..self.places.len() {
            self.health(index)?;
        }
        self.ring()
    }

    /// Makes an event behind all that the kernel has to tell, of a file that is there for this moment alone.
    fn ring(&mut self) -> Result<(), Ended> {
        self.flush = Flush::Ringing;
        let Some(inotify) = &mut self.inotify else { return self.flushed() };
        let number: u64 = self.random.wrapping_add(self.places.len() as u64);
        let path = self.options.bells.join(format!("{CANARY_PREFIX}{number:016x}"));
        let rung = std::fs::File::create_new(&path).is_ok_and(|_| {
            self.mailbox.expect(path.clone());
            let watched = inotify.watch(&path).is_ok();
            std::fs::remove_file(&path).is_ok() && watched
        });
        if !rung {
            // Nobody knows what the kernel has still to tell.
            self.places.iter_mut().for_each(|place| place.partly_deaf = true);
            return self.flushed();
        }
        Ok(())
    }

    fn flushed(&mut self) -> Result<(), Ended> {
        self.flush = Flush::Idle;
        if self.renewal.wanted {
            self.overflow()?;
        }
        let is_deaf = |place: &&Place| place.mode == Mode::Poll || place.partly_deaf || place.canary.is_some();
        let scan = self.places.iter().filter(is_deaf).map(|place| Arc::clone(&place.watched.root)).collect();
        self.send(SourceEvent::Flushed { scan })
    }

    fn send(&self, event: SourceEvent) -> Result<(), Ended> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Ended);
        }
        // Whoever takes it may have other things to do, for hours.
        self.options.pulse.rest();
        let sent = self.out.blocking_send(event).map_err(|_| Ended);
        self.options.pulse.beat(Instant::now());
        sent
    }

    fn rescan(&self, index: usize, reason: RescanReason) -> Result<(), Ended> {
        self.send(SourceEvent::Rescan { root: Arc::clone(&self.places[index].watched.root), reason })
    }

    fn begin(&mut self, index: usize) -> Result<(), Ended> {
        let (mut trouble, mut unwatched) = (None, None);
        match self.listen(index) {
            Err(reason) => trouble = Some(reason),
            Ok(Mode::Poll) => {}
            Ok(Mode::Events) => {
                self.places[index].mode = Mode::Events;
                unwatched = self.cover(index, Path::new("")).err();
            }
        }
        self.schedule(index);
        self.rescan(index, RescanReason::Start)?;
        if let Some(reason) = trouble {
            let root = Arc::clone(&self.places[index].watched.root);
            self.send(SourceEvent::Degraded { root, reason })?;
        }
        if let Some(reason) = unwatched {
            self.degrade(index, reason)?;
        }
        Ok(())
    }

    /// Roots whose canary had its time, and until when. All that was told in that time is in the mailbox when this returns.
    fn overdue_canaries(&mut self) -> Vec<(usize, Instant)> {
        let now = Instant::now();
        let deadlines = self.places.iter().map(|place| place.canary.as_ref().map(|canary| canary.deadline)).enumerate();
        let overdue: Vec<_> =
            deadlines.filter_map(|(index, deadline)| Some((index, deadline?))).filter(|(_, due)| now >= *due).collect();
        if let (Some(&(first, _)), Some(inotify)) = (overdue.first(), &mut self.inotify) {
            // The watcher's thread answers once it has put what it is at.
            let _ = inotify.watch(self.places[first].path());
        }
        overdue
    }

    /// How a root is to be looked after, with an instance of inotify at hand. An error says why not by events.
    fn listen(&mut self, index: usize) -> Result<Mode, String> {
        match (self.options.kind, remote_filesystem(self.places[index].path())) {
            (WatcherKind::Poll, _) => return Ok(Mode::Poll),
            (WatcherKind::Auto, Some(name)) => {
                return Err(format!("it is on {name}, where others' changes raise no events on this host"));
            }
            (WatcherKind::Auto | WatcherKind::Inotify, _) => {}
        }
        if self.inotify.is_none() {
            self.inotify = Some(Inotify::new(Arc::clone(&self.mailbox))?);
        }
        Ok(Mode::Events)
    }

    fn release_canary(&mut self, index: usize) {
        let digits = self.random.wrapping_add(index as u64);
        let deadline = Instant::now() + self.options.canary_patience;
        let place = &mut self.places[index];
        place.canary = Canary::release(&place.watched.root.dir, digits, deadline);
    }

    /// Watches a directory below a root (empty for the root itself) and all below it that selection enters. An error says
    /// why events of this root cannot be trusted.
    fn cover(&mut self, index: usize, start: &Path) -> Result<(), String> {
        let Some(inotify) = &mut self.inotify else { return Ok(()) };
        let Watched { root, selection } = &self.places[index].watched;
        let (mut failed, mut too_long) = (Ok(()), false);
        let _ = scan_directories(root, start, selection, &mut |below| {
            if self.stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            self.options.pulse.beat(Instant::now());
            let is_root = below.as_os_str().is_empty();
            let path = if is_root { root.path.clone() } else { root.path.join(below) };
            match inotify.watch(&path) {
                // Setting a watch follows symbolic links, and one may just have taken the directory's place.
                Ok(()) if !is_real_directory(root, below) => inotify.unwatch(&path),
                Ok(()) | Err(Unwatched::Vanished) => {}
                Err(Unwatched::TooLong) => too_long = true,
                Err(Unwatched::Unreadable) if is_root => failed = Err("it cannot be read".to_owned()),
                // Whoever walks it reports it.
                Err(Unwatched::Unreadable) => {
                    if self.unreadable.len() < UNREADABLE {
                        self.unreadable.insert(path);
                    }
                }
                Err(Unwatched::Failed(reason)) => failed = Err(reason),
            }
            if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.places[index].partly_deaf |= too_long;
        failed
    }

    /// Sets all watches anew in another instance of inotify, and asks for scans, for nobody listened meanwhile. Roots for
    /// which it fails are polled.
    fn renew(&mut self) -> Result<(), Ended> {
        let began = Instant::now();
        let mut failed = Vec::new();
        while let Err((index, reason)) = self.set_all_watches() {
            self.places[index].mode = Mode::Poll;
            failed.push((index, reason));
        }
        let took = began.elapsed();
        self.renewal = Renewal { wanted: false, not_before: Instant::now() + RENEWAL_PAUSE.max(took * 10) };
        for index in 0..self.places.len() {
            let reason = self.places[index].renewed_for.take();
            if self.places[index].mode == Mode::Events && !self.places[index].missing {
                if self.places[index].canary.is_some() {
                    self.release_canary(index);
                }
                self.rescan(index, reason.unwrap_or(RescanReason::Overflow))?;
            }
        }
        failed.into_iter().try_for_each(|(index, reason)| self.degraded(index, reason))?;
        // The bell went with the instance.
        if self.flush == Flush::Ringing { self.ring() } else { Ok(()) }
    }

    /// An error says which root cannot be watched, and why.
    fn set_all_watches(&mut self) -> Result<(), (usize, String)> {
        if let Some(inotify) = self.inotify.take() {
            inotify.end();
        }
        self.unreadable.clear();
        self.places.iter_mut().for_each(|place| place.partly_deaf = false);
        let listening = |place: &Place| place.mode == Mode::Events;
        let Some(first) = self.places.iter().position(listening) else { return Ok(()) };
        self.inotify = Some(Inotify::new(Arc::clone(&self.mailbox)).map_err(|reason| (first, reason))?);
        for index in 0..self.places.len() {
            if listening(&self.places[index]) && !self.places[index].missing {
                self.cover(index, Path::new("")).map_err(|reason| (index, reason))?;
            }
        }
        Ok(())
    }

    fn schedule(&mut self, index: usize) {
        self.places[index].scan_due = Instant::now() + self.interval(index);
    }

    fn interval(&self, index: usize) -> Duration {
        match self.places[index].mode {
            Mode::Events => self.options.scan_interval,
            Mode::Poll => self.options.poll_interval,
        }
    }

    fn next_due(&self) -> Instant {
        let dues = self.places.iter().flat_map(|place| {
            [Some(place.health_due), Some(place.scan_due), place.canary.as_ref().map(|canary| canary.deadline)]
        });
        let renewal = self.renewal.wanted.then_some(self.renewal.not_before);
        dues.flatten().chain(renewal).min().unwrap_or_else(|| Instant::now() + HEALTH_INTERVAL)
    }

    fn tick(&mut self) -> Result<(), Ended> {
        for index in 0..self.places.len() {
            let now = Instant::now();
            if now >= self.places[index].health_due {
                self.health(index)?;
                self.places[index].health_due = Instant::now() + HEALTH_INTERVAL;
            }
            if now >= self.places[index].scan_due {
                self.schedule(index);
                let is_busy = self.out.capacity() < self.out.max_capacity();
                if is_busy && now < self.places[index].scan_asked + 2 * self.interval(index) {
                    // The consumer has other things to do first; but it may have so for ever.
                    self.places[index].scan_due = now + self.options.poll_interval;
                } else if !self.places[index].missing {
                    self.places[index].scan_asked = now;
                    self.rescan(index, RescanReason::Interval)?;
                }
            }
        }
        if self.renewal.wanted && Instant::now() >= self.renewal.not_before {
            self.renew()?;
        }
        Ok(())
    }

    fn health(&mut self, index: usize) -> Result<(), Ended> {
        let place = &mut self.places[index];
        let state = place.watched.root.dir.refresh();
        let generation = place.watched.root.dir.generation();
        let known = std::mem::replace(&mut place.generation, generation) == generation;
        match state {
            RootState::Same if known && !place.missing => return Ok(()),
            RootState::Missing if place.missing => return Ok(()),
            RootState::Missing => {
                place.missing = true;
                // Its canary went with it and proved neither way.
                place.canary = None;
                let root = Arc::clone(&place.watched.root);
                return self.send(SourceEvent::RootMissing { root });
            }
            RootState::Same | RootState::Replaced => place.missing = false,
        }
        if place.mode == Mode::Events {
            // What is watched is the directory that had the path before, wherever it is now.
            place.renewed_for = Some(RescanReason::RootReplaced);
            self.renewal.wanted = true;
            return Ok(());
        }
        self.rescan(index, RescanReason::RootReplaced)
    }

    fn degrade(&mut self, index: usize, reason: String) -> Result<(), Ended> {
        self.places[index].canary = None;
        if self.places[index].mode == Mode::Poll {
            return Ok(());
        }
        self.places[index].mode = Mode::Poll;
        // Its watches are given back, for they count against a limit that all share.
        self.renew()?;
        self.degraded(index, reason)
    }

    fn degraded(&mut self, index: usize, reason: String) -> Result<(), Ended> {
        self.places[index].canary = None;
        self.schedule(index);
        let root = Arc::clone(&self.places[index].watched.root);
        self.send(SourceEvent::Degraded { root, reason })?;
        self.rescan(index, RescanReason::Degraded)
    }

    /// The kernel dropped events: of new directories too, perhaps, which have no watch then, and of renamed ones, whose
    /// files are told under the old name.
    fn lost(&mut self) -> Result<(), Ended> {
        self.renewal.wanted = true;
        if Instant::now() >= self.renewal.not_before {
            return self.renew();
        }
        self.overflow()
    }

    fn overflow(&mut self) -> Result<(), Ended> {
        for index in 0..self.places.len() {
            if self.places[index].mode == Mode::Events {
                self.rescan(index, RescanReason::Overflow)?;
            }
        }
        Ok(())
    }

    fn paths(&mut self, paths: HashMap<PathBuf, Hints>) -> Result<(), Ended> {
        let mut directories = Vec::new();
        for (path, hints) in paths {
            for index in 0..self.places.len() {
                self.path_event(index, &path, hints, &mut directories)?;
            }
        }
        // One that stands below another is covered, and walked, with that one.
        directories.sort();
        let mut last: Option<(usize, BelowRoot)> = None;
        for (index, path) in directories {
            if last.as_ref().is_some_and(|(of, above)| *of == index && path.as_path().starts_with(above.as_path())) {
                continue;
            }
            // What appears in it from here on raises events of its own; what is there already is for the walk.
            if let Err(reason) = self.cover(index, path.as_path()) {
                self.degrade(index, reason)?;
            }
            let root = Arc::clone(&self.places[index].watched.root);
            self.send(SourceEvent::NewDirectory { root, path: path.clone() })?;
            last = Some((index, path));
        }
        Ok(())
    }

    fn path_event(
        &mut self,
        index: usize,
        path: &Path,
        hints: Hints,
        directories: &mut Vec<(usize, BelowRoot)>,
    ) -> Result<(), Ended> {
        let place = &mut self.places[index];
        let Ok(below) = path.strip_prefix(place.path()) else { return Ok(()) };
        if place.canary.as_ref().is_some_and(|canary| canary.is(path)) {
            place.canary = None;
            return Ok(());
        }
        let Some(below) = BelowRoot::new(below) else {
            // The root itself.
            place.health_due = Instant::now();
            return Ok(());
        };
        // The watches of a root that is gone may have gone with it, to another place.
        if place.missing {
            return Ok(());
        }
        let appeared = hints.appeared || hints.attributes && may_be_readable_now(&self.unreadable, path);
        let Watched { root, selection } = &place.watched;
        let verdict = selection.judge(below.as_path());
        let enters = appeared && selection.enter(below.as_path());
        if matches!(verdict, Verdict::Excluded(_)) && !enters {
            return Ok(());
        }
        let root = Arc::clone(root);
        match (root.dir.kind_at(&below), verdict) {
            (Ok(None), Verdict::Candidate) => {
                let candidate = Candidate { root, path: below };
                self.send(if hints.closed { SourceEvent::Closed(candidate) } else { SourceEvent::Changed(candidate) })
            }
            (Ok(None), Verdict::Marker) => self.send(SourceEvent::Marker { root, path: below }),
            (Ok(Some(FileKind::Directory)), _) if enters => {
                directories.push((index, below));
                Ok(())
            }
            (Err(_), Verdict::Candidate) if hints.removed => {
                self.send(SourceEvent::Removed(Candidate { root, path: below }))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a directory below the root stands there itself, and not something that leads elsewhere.
fn is_real_directory(root: &Root, below: &Path) -> bool {
    match BelowRoot::new(below) {
        Some(below) => matches!(root.dir.kind_at(&below), Ok(Some(FileKind::Directory))),
        // The root's own path; whether it is another directory than before is a matter of its health.
        None => root.dir.refresh() != RootState::Missing,
    }
}

fn may_be_readable_now(unreadable: &HashSet<PathBuf>, directory: &Path) -> bool {
    unreadable.len() >= UNREADABLE || unreadable.iter().any(|path| path.starts_with(directory))
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
