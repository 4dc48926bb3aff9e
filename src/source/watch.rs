//! Says when something happened below the roots: what appeared, what was closed after writing, and when to scan.
//!
//! One thread looks after every root, and `notify`'s own tells it what inotify says. It first sets the watches and then
//! asks for a scan, so nothing falls between the two. Nothing is remembered of single files.
//!
//! **When the consumer is slow**, the thread waits for room in the channel while events gather up to a bound; beyond,
//! scans of single directories are asked for ([`SourceEvent::Crowded`]), then of everything ([`RescanReason::Overflow`])
//! as after an overflow of the kernel's own queue. The watcher itself is never blocked, and nothing is lost for good.
//!
//! **Where events cannot be trusted** a root is polled: at a watch limit, on filesystems that others change behind this
//! kernel's back (NFS and its like), and where the start-up canary's event does not arrive (gVisor, some overlays).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{BelowRoot, Candidate, Root};
use crate::config::settings::WatcherKind;
use crate::localfs::{FileKind, RootState};
use crate::selection::{Selection, Verdict};

mod canary;
mod inotify;
mod mailbox;

use canary::{Canary, remote_filesystem};
use inotify::{Inotify, explain};
use mailbox::{Hints, Mailbox, News};

/// How often a root is looked at for having been removed or replaced.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Room of the channel to the consumer.
const CHANNEL: usize = 1024;

/// A root and what counts below it.
#[derive(Debug, Clone)]
pub struct Watched {
    pub root: Arc<Root>,
    pub selection: Arc<Selection>,
}

#[derive(Debug, Clone, Copy)]
pub struct WatchOptions {
    pub kind: WatcherKind,
    /// Between the reconciling scans of a root whose events arrive.
    pub scan_interval: Duration,
    /// Between the scans of a root that is polled; at most `scan_interval`.
    pub poll_interval: Duration,
    /// How long the canary's event may take.
    pub canary_patience: Duration,
}

impl WatchOptions {
    pub fn new(kind: WatcherKind, scan_interval: Duration) -> Self {
        Self {
            kind,
            scan_interval,
            poll_interval: Duration::from_secs(2).min(scan_interval),
            canary_patience: Duration::from_secs(2),
        }
    }
}

/// What happened. Only names: by the time it is read, something else may be true.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// A candidate appeared or changed.
    Changed(Candidate),
    /// A candidate was closed after writing, or moved in: a strong hint that it is finished.
    Closed(Candidate),
    /// A marker appeared or changed; [`crate::selection::MarkerPattern::data_of`] says whose.
    Marker { root: Arc<Root>, path: BelowRoot },
    /// Something of a candidate's name went away.
    Removed(Candidate),
    /// A directory appeared: walk it ([`super::scan::scan_below`]). Its watches stand.
    NewDirectory { root: Arc<Root>, path: BelowRoot },
    /// More happened to the files right in a directory (empty for the root itself) than was noted: look at them all.
    Crowded { root: Arc<Root>, directory: PathBuf },
    /// Scan the whole root.
    Rescan { root: Arc<Root>, reason: RescanReason },
    /// The root is polled from now on; once for each root.
    Degraded { root: Arc<Root>, reason: String },
    /// The root's directory is not there; it is looked for every second. Once for each loss.
    RootMissing { root: Arc<Root> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RescanReason {
    /// The watches stand; always the first event of a root.
    Start,
    /// Events were lost.
    Overflow,
    /// The reconciling or polling interval is over.
    Interval,
    /// The root's directory was replaced by another, or came back.
    RootReplaced,
    /// Events cannot be trusted from here on.
    Degraded,
}

/// A running watch. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<SourceEvent>,
    stop: Arc<AtomicBool>,
    mailbox: Arc<Mailbox>,
}

impl Watch {
    /// Starts the thread. `random` tells this watch's canaries from those of another archiver.
    pub fn start(watched: Vec<Watched>, options: WatchOptions, random: u64) -> std::io::Result<Self> {
        let (out, events) = mpsc::channel(CHANNEL);
        let mailbox = Arc::new(Mailbox::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            places: watched.into_iter().map(Place::new).collect(),
            options,
            random,
            inotify: None,
            mailbox: Arc::clone(&mailbox),
            out,
            stop: Arc::clone(&stop),
        };
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            // The only error is that nobody listens any more.
            let _ = worker.run();
        })?;
        Ok(Self { events, stop, mailbox })
    }

    /// The next event; `None` if the thread ended, which it does not by itself.
    pub async fn recv(&mut self) -> Option<SourceEvent> {
        self.events.recv().await
    }

    /// Waits for events and takes those that are there, at most `limit`. 0 where [`Watch::recv`] gives `None`.
    /// Cancel-safe.
    pub async fn recv_many(&mut self, events: &mut Vec<SourceEvent>, limit: usize) -> usize {
        self.events.recv_many(events, limit).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.mailbox.stop();
    }
}

/// One root and how it is looked after.
#[derive(Debug)]
struct Place {
    watched: Watched,
    mode: Mode,
    missing: bool,
    /// Of the directory that is watched ([`RootDir::generation`](crate::localfs::RootDir::generation)).
    generation: u64,
    canary: Option<Canary>,
    health_due: Instant,
    scan_due: Instant,
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
        Self { watched, mode: Mode::Poll, missing: false, generation, canary: None, health_due: now, scan_due: now }
    }

    fn path(&self) -> &Path {
        &self.watched.root.path
    }
}

struct Worker {
    places: Vec<Place>,
    options: WatchOptions,
    random: u64,
    inotify: Option<Inotify>,
    mailbox: Arc<Mailbox>,
    out: mpsc::Sender<SourceEvent>,
    stop: Arc<AtomicBool>,
}

/// The consumer is gone, or the watch was told to stop.
struct Ended;

impl Worker {
    fn run(&mut self) -> Result<(), Ended> {
        let mut unavailable = None;
        if self.options.kind != WatcherKind::Poll {
            match Inotify::new(Arc::clone(&self.mailbox)) {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(reason) => unavailable = Some(reason),
            }
        }
        for index in 0..self.places.len() {
            self.begin(index, unavailable.as_deref())?;
        }
        loop {
            self.tick()?;
            let Some(news) = self.mailbox.take(self.next_due()) else { return Ok(()) };
            self.news(news)?;
        }
    }

    fn news(&mut self, news: News) -> Result<(), Ended> {
        self.errors(&news.errors)?;
        if news.overflowed {
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
        Ok(())
    }

    fn send(&self, event: SourceEvent) -> Result<(), Ended> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Ended);
        }
        self.out.blocking_send(event).map_err(|_| Ended)
    }

    fn rescan(&self, index: usize, reason: RescanReason) -> Result<(), Ended> {
        self.send(SourceEvent::Rescan { root: Arc::clone(&self.places[index].watched.root), reason })
    }

    fn begin(&mut self, index: usize, unavailable: Option<&str>) -> Result<(), Ended> {
        let path = self.places[index].path().to_owned();
        let mut trouble = unavailable.map(str::to_owned);
        if let Some(inotify) = &mut self.inotify {
            match (self.options.kind, remote_filesystem(&path)) {
                (WatcherKind::Auto, Some(name)) => {
                    trouble = Some(format!("it is on {name}, where others' changes raise no events on this host"));
                }
                _ => match inotify.watch(&path) {
                    Ok(()) => self.places[index].mode = Mode::Events,
                    Err(reason) => trouble = Some(reason),
                },
            }
        }
        self.schedule(index);
        self.rescan(index, RescanReason::Start)?;
        if let Some(reason) = trouble {
            let root = Arc::clone(&self.places[index].watched.root);
            self.send(SourceEvent::Degraded { root, reason })?;
        }
        if self.options.kind == WatcherKind::Auto && self.places[index].mode == Mode::Events {
            let digits = self.random.wrapping_add(index as u64);
            let deadline = Instant::now() + self.options.canary_patience;
            self.places[index].canary = Canary::release(&path, digits, deadline);
        }
        Ok(())
    }

    fn schedule(&mut self, index: usize) {
        let place = &mut self.places[index];
        place.scan_due = Instant::now()
            + match place.mode {
                Mode::Events => self.options.scan_interval,
                Mode::Poll => self.options.poll_interval,
            };
    }

    fn next_due(&self) -> Instant {
        let dues = self.places.iter().flat_map(|place| {
            [Some(place.health_due), Some(place.scan_due), place.canary.as_ref().map(|canary| canary.deadline)]
        });
        dues.flatten().min().unwrap_or_else(|| Instant::now() + HEALTH_INTERVAL)
    }

    fn tick(&mut self) -> Result<(), Ended> {
        for index in 0..self.places.len() {
            let now = Instant::now();
            if self.places[index].canary.as_ref().is_some_and(|canary| now >= canary.deadline) {
                self.degrade(index, "a file made there raised no event; this filesystem or sandbox reports none")?;
            }
            if now >= self.places[index].health_due {
                self.health(index)?;
                self.places[index].health_due = Instant::now() + HEALTH_INTERVAL;
            }
            if now >= self.places[index].scan_due {
                self.schedule(index);
                if self.out.capacity() < self.out.max_capacity() {
                    // The consumer is busy; asking for scans would only queue up.
                    self.places[index].scan_due = Instant::now() + self.options.poll_interval;
                } else if !self.places[index].missing {
                    self.rescan(index, RescanReason::Interval)?;
                }
            }
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
                self.unwatch(index);
                return self.send(SourceEvent::RootMissing { root });
            }
            RootState::Same | RootState::Replaced => place.missing = false,
        }
        if self.places[index].mode == Mode::Events {
            self.unwatch(index);
            let path = self.places[index].path().to_owned();
            if let Some(Err(reason)) = self.inotify.as_mut().map(|inotify| inotify.watch(&path)) {
                self.degrade(index, &reason)?;
            }
        }
        self.rescan(index, RescanReason::RootReplaced)
    }

    /// Roots below this one lose their watches with it and get them back.
    fn unwatch(&mut self, index: usize) {
        let Some(inotify) = &mut self.inotify else { return };
        let path = self.places[index].path().to_owned();
        inotify.unwatch(&path);
        for (other, place) in self.places.iter().enumerate() {
            if other != index && place.mode == Mode::Events && !place.missing && place.path().starts_with(&path) {
                // Where that fails, the reconciling scan goes on finding its files.
                let _ = inotify.watch(place.path());
            }
        }
    }

    fn degrade(&mut self, index: usize, reason: &str) -> Result<(), Ended> {
        self.places[index].canary = None;
        if self.places[index].mode == Mode::Poll {
            return Ok(());
        }
        self.places[index].mode = Mode::Poll;
        self.unwatch(index);
        self.schedule(index);
        let root = Arc::clone(&self.places[index].watched.root);
        self.send(SourceEvent::Degraded { root, reason: reason.to_owned() })?;
        self.rescan(index, RescanReason::Degraded)
    }

    fn overflow(&mut self) -> Result<(), Ended> {
        for index in 0..self.places.len() {
            if self.places[index].mode == Mode::Events {
                self.rescan(index, RescanReason::Overflow)?;
            }
        }
        Ok(())
    }

    fn errors(&mut self, errors: &[notify::Error]) -> Result<(), Ended> {
        for error in errors {
            for index in 0..self.places.len() {
                let concerned = error.paths.is_empty()
                    || error.paths.iter().any(|path| path.starts_with(self.places[index].path()));
                match error.kind {
                    notify::ErrorKind::MaxFilesWatch if concerned => self.degrade(index, &explain(error))?,
                    // Something was missed; what it was is for the scan to find.
                    _ if concerned && self.places[index].mode == Mode::Events => {
                        self.rescan(index, RescanReason::Overflow)?;
                    }
                    _ => {}
                }
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
        if !directories.is_empty() {
            // What appears in them from here on raises events of its own; what is there already is for the walk.
            if let Some(inotify) = &mut self.inotify {
                inotify.barrier();
            }
            for (root, path) in directories {
                self.send(SourceEvent::NewDirectory { root, path })?;
            }
        }
        Ok(())
    }

    fn path_event(
        &mut self,
        index: usize,
        path: &Path,
        hints: Hints,
        directories: &mut Vec<(Arc<Root>, BelowRoot)>,
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
        let Watched { root, selection } = &place.watched;
        let verdict = selection.judge(below.as_path());
        let enters = hints.appeared && selection.enter(below.as_path());
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
                directories.push((root, below));
                Ok(())
            }
            (Err(_), Verdict::Candidate) if hints.removed => {
                self.send(SourceEvent::Removed(Candidate { root, path: below }))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
