//! Months of watching: events and scans name candidates, the waiting set holds those that are not finished, and a stop
//! is a drain.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::engine::{Engine, Resting, RunError};
use super::intake::{BATCH, Intake, Ready, Told, Unseen, problem_row, sleep_until};
use super::names::{Entry, Named, named, send_found};
use crate::config::settings::{Execution, WatchSettings, WatcherKind};
use crate::domain::{Status, display};
use crate::ledger::LedgerError;
use crate::readiness::{Decision, Rules, Waiting};
use crate::report::Phase;
use crate::selection::MarkedBy;
use crate::shutdown::Shutdown;
use crate::source::scan::{scan, scan_below, scan_flat};
use crate::source::watch::{RescanReason, SourceEvent, Watch, WatchOptions, Watched};
use crate::source::{BelowRoot, Candidate, Root};

/// Files that are waited for at most; beyond it those that wait for a marker are left to the next scan.
const WAITING: usize = 50_000;
/// How often a stop file and idleness are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Takes in what comes until told to stop, then what is finished, or becomes so within the grace.
pub async fn take_in(engine: &Arc<Engine>, intake: &Intake, shutdown: &Shutdown) -> Result<(), RunError> {
    let settings = &engine.settings.watch;
    // A canary would be written into the source, which a dry run does not touch.
    let kind = match engine.settings.execution {
        Execution::Real => settings.watcher,
        Execution::DryRun => WatcherKind::Poll,
    };
    let options = WatchOptions::new(kind, settings.scan_interval);
    let mut watch = Watch::start(watched(engine), options, rand::random())
        .map_err(|error| RunError::Broken(format!("the watcher did not start: {error}")))?;
    let mut run = Run {
        engine,
        intake,
        waiting: Waiting::new(WAITING),
        scans: Scans::default(),
        active: Instant::now(),
        missed: Missed::Nothing,
    };
    engine.reporter.phase(Phase::Watching);
    let mut idleness = look_interval();
    // A task of its own, for this one may be waiting for workers while the destination is out.
    let mut stop_file = JoinSet::new();
    if let Some(file) = settings.until.clone() {
        let shutdown = shutdown.clone();
        stop_file.spawn(async move {
            await_file(&file).await;
            info!(file = %display::path(&file), "the stop file appeared: finishing what is under way");
            shutdown.drain();
        });
    }
    let (mut batch, mut events) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    loop {
        let room = run.waiting.room().min(BATCH);
        let due = run.waiting.next_due().map(tokio::time::Instant::from_std);
        tokio::select! {
            biased;
            () = shutdown.draining().cancelled() => break,
            () = engine.stop.cancelled() => break,
            () = sleep_until(due), if due.is_some() => run.examine_due().await?,
            received = watch.recv_many(&mut events, BATCH) => {
                if received == 0 {
                    warn!("the watcher ended; stopping");
                    shutdown.drain();
                }
                run.handle(&mut events).await?;
            }
            received = run.scans.recv(|walk| begin(engine, walk), &mut batch, room), if run.scans.busy() && room > 0 => {
                if received > 0 {
                    run.named(std::mem::take(&mut batch)).await?;
                }
            }
            _ = idleness.tick(), if settings.idle_exit.is_some() => {
                if run.is_idle(settings) {
                    shutdown.drain();
                }
            }
        }
        run.look_for_missed();
        engine.reporter.waiting(run.waiting.len() as u64);
    }
    Ok(run.drain(watch, settings.grace).await?)
}

fn look_interval() -> tokio::time::Interval {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Returns once something stands at the path.
async fn await_file(path: &Path) {
    let mut looks = look_interval();
    loop {
        looks.tick().await;
        if path.symlink_metadata().is_ok() {
            return;
        }
    }
}

fn watched(engine: &Engine) -> Vec<Watched> {
    let directories = engine.sources.iter().flat_map(|source| {
        source.entries.iter().filter_map(|entry| match entry {
            Entry::Directory(root) => Some(Watched { root: root.clone(), selection: source.selection.clone() }),
            Entry::File(_) => None,
        })
    });
    directories.collect()
}

/// What to walk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Walk {
    Root(Arc<Root>),
    Below(Arc<Root>, BelowRoot),
    /// Only the files that stand directly in a directory.
    Flat(Arc<Root>, std::path::PathBuf),
}

/// What a walk names, as it goes along.
type Found = mpsc::Receiver<Named>;

/// Walks asked for. Those of single directories do not wait for those of whole roots, which may take minutes.
#[derive(Debug, Default)]
struct Scans {
    directories: Lane,
    roots: Lane,
}

/// Walks that come one after the other, so that many requests cost no more threads.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Walk>,
    under_way: Option<Found>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Queued,
    /// The same walk has not begun yet, and sees all that a second one would.
    Covered,
}

impl Scans {
    fn ask(&mut self, walk: Walk) -> Asked {
        let lane = match walk {
            Walk::Root(_) => &mut self.roots,
            Walk::Below(..) | Walk::Flat(..) => &mut self.directories,
        };
        if lane.queue.contains(&walk) {
            return Asked::Covered;
        }
        lane.queue.push_back(walk);
        Asked::Queued
    }

    fn busy(&self) -> bool {
        self.directories.busy() || self.roots.busy()
    }

    /// What a walk under way found; 0 where one ended, or there is none. Begins the next one. Cancel-safe.
    async fn recv(&mut self, begin: impl Fn(Walk) -> Found, batch: &mut Vec<Named>, at_most: usize) -> usize {
        std::future::poll_fn(|context| {
            if !self.busy() {
                return Poll::Ready(0);
            }
            for lane in [&mut self.directories, &mut self.roots] {
                if let Poll::Ready(received) = lane.poll_recv(context, &begin, batch, at_most) {
                    return Poll::Ready(received);
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Lane {
    fn busy(&self) -> bool {
        self.under_way.is_some() || !self.queue.is_empty()
    }

    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        begin: &impl Fn(Walk) -> Found,
        batch: &mut Vec<Named>,
        at_most: usize,
    ) -> Poll<usize> {
        if self.under_way.is_none() {
            self.under_way = self.queue.pop_front().map(begin);
        }
        let Some(found) = &mut self.under_way else { return Poll::Pending };
        let received = std::task::ready!(found.poll_recv_many(context, batch, at_most));
        if received == 0 {
            self.under_way = None;
        }
        Poll::Ready(received)
    }
}

fn begin(engine: &Arc<Engine>, walk: Walk) -> Found {
    let engine = engine.clone();
    named(move |send| run_walk(&engine, &walk, send))
}

fn run_walk(engine: &Engine, walk: &Walk, send: &mut dyn FnMut(Named) -> ControlFlow<()>) {
    let (Walk::Root(root) | Walk::Below(root, _) | Walk::Flat(root, _)) = walk;
    let selection = &engine.sources[root.source].selection;
    let visit = &mut |found| send_found(found, send);
    let ended = match walk {
        Walk::Root(root) => scan(root, selection, visit),
        Walk::Below(root, directory) => scan_below(root, directory, selection, visit),
        Walk::Flat(root, directory) => scan_flat(root, directory, selection, visit),
    };
    if ended.is_break() {
        debug!(path = %display::path(&root.path), "the walk was broken off");
    }
}

struct Run<'a> {
    engine: &'a Arc<Engine>,
    intake: &'a Intake,
    waiting: Waiting<Candidate>,
    scans: Scans,
    /// When something was last seen to happen.
    active: Instant,
    missed: Missed,
}

/// Whether events found no room in the waiting set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    Nothing,
    Some,
}

impl Run<'_> {
    /// Files that follow each other are looked at, and claimed, together.
    async fn handle(&mut self, events: &mut Vec<SourceEvent>) -> Result<(), LedgerError> {
        let mut candidates = Vec::with_capacity(events.len());
        for event in events.drain(..) {
            match event {
                SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate) => candidates.push(candidate),
                other => {
                    self.examine_new(std::mem::take(&mut candidates)).await?;
                    self.handle_other(other).await?;
                }
            }
        }
        self.examine_new(candidates).await
    }

    /// Looks at what events named, as far as there is room for it.
    async fn examine_new(&mut self, mut candidates: Vec<Candidate>) -> Result<(), LedgerError> {
        if candidates.is_empty() {
            return Ok(());
        }
        self.active = Instant::now();
        let mut named = HashSet::with_capacity(candidates.len());
        candidates.retain(|candidate| named.insert((Arc::as_ptr(&candidate.root), candidate.path.clone())));
        let room = self.waiting.room();
        if candidates.len() > room {
            self.missed = Missed::Some;
            candidates.truncate(room);
        }
        let new = candidates.iter().filter(|candidate| !self.waiting.contains(candidate)).count();
        self.engine.reporter.discovered(new as u64);
        self.examine(candidates, Told::Quietly).await
    }

    async fn handle_other(&mut self, event: SourceEvent) -> Result<(), LedgerError> {
        self.active = Instant::now();
        match event {
            // Looked at with others of their kind.
            SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate) => {
                self.examine_new(vec![candidate]).await?;
            }
            SourceEvent::Marker { root, path } => self.marked(root, &path).await?,
            SourceEvent::Removed(candidate) => self.waiting.forget(&candidate),
            SourceEvent::NewDirectory { root, path } => {
                self.scans.ask(Walk::Below(root, path));
            }
            SourceEvent::Crowded { root, directory } => {
                self.scans.ask(Walk::Flat(root, directory));
            }
            SourceEvent::Rescan { root, reason } => {
                let asked = self.scans.ask(Walk::Root(root.clone()));
                let path = display::path(&root.path);
                match reason {
                    RescanReason::Start => info!(%path, "watching"),
                    // One scan makes up for all that was lost before it began.
                    _ if asked == Asked::Covered => debug!(%path, ?reason, "a scan is asked for already"),
                    RescanReason::Interval => debug!(%path, ?reason, "scanning"),
                    RescanReason::Overflow | RescanReason::RootReplaced | RescanReason::Degraded => {
                        info!(%path, ?reason, "scanning");
                    }
                }
            }
            SourceEvent::Degraded { root, reason } => {
                warn!(path = %display::path(&root.path), reason, "polling from now on")
            }
            SourceEvent::RootMissing { root } => {
                warn!(path = %display::path(&root.path), "the directory is gone; waiting for it to come back")
            }
        }
        Ok(())
    }

    /// Scans for what events named while there was no room for it, once there is some.
    fn look_for_missed(&mut self) {
        if self.missed == Missed::Some && self.waiting.room() >= WAITING / 2 {
            self.missed = Missed::Nothing;
            self.scan_all_roots();
        }
    }

    fn scan_all_roots(&mut self) {
        for root in watched(self.engine).into_iter().map(|watched| watched.root) {
            self.scans.ask(Walk::Root(root));
        }
    }

    /// A marker appeared: whoever waits for it is looked at again.
    async fn marked(&mut self, root: Arc<Root>, marker: &BelowRoot) -> Result<(), LedgerError> {
        let pattern = self.engine.sources[root.source].marker.as_ref();
        match pattern.and_then(|pattern| pattern.data_of(marker.as_path())) {
            Some(MarkedBy::File(path)) => {
                if let Some(path) = BelowRoot::new(path) {
                    self.examine(vec![Candidate { root, path }], Told::Quietly).await?
                }
            }
            Some(MarkedBy::Stem { directory, .. } | MarkedBy::Directory(directory)) => {
                self.scans.ask(Walk::Flat(root, directory));
            }
            None => {}
        }
        Ok(())
    }

    async fn named(&mut self, names: Vec<Named>) -> Result<(), LedgerError> {
        let mut candidates = Vec::with_capacity(names.len());
        for name in names {
            match name {
                Named::Candidate(candidate) => candidates.push(candidate),
                Named::Problem { path, .. } if self.is_old_news(&path) => {}
                Named::Problem { source, path, reason } => problem_row(self.engine, source, path, reason).await?,
            }
        }
        let candidates = self.intake.without_recorded(candidates).await?;
        self.examine(candidates, Told::ByRow).await
    }

    /// Whether this path was reported as unreadable lately. Notes that it is, now.
    fn is_old_news(&self, path: &Path) -> bool {
        let what = Resting::Path(path.to_owned());
        if self.engine.is_resting(&what) {
            return true;
        }
        self.engine.rest(what);
        false
    }

    async fn examine_due(&mut self) -> Result<(), LedgerError> {
        let due = self.waiting.due(Instant::now(), BATCH).iter().map(|candidate| (**candidate).clone()).collect();
        self.examine(due, Told::ByRow).await
    }

    async fn examine(&mut self, candidates: Vec<Candidate>, told: Told) -> Result<(), LedgerError> {
        let mut ready = Vec::new();
        for (candidate, seen) in self.intake.look(candidates).await {
            match seen {
                Ok(seen) => {
                    let rules = Rules { settle: self.engine.sources[candidate.root.source].settle };
                    if self.waiting.observe(candidate, &seen.observation, rules, Instant::now()) == Decision::Ready {
                        ready.push(Ready { version: seen.version, marker: seen.marker });
                    }
                }
                Err(Unseen::Vanished | Unseen::NotRegular) => self.waiting.forget(&candidate),
                Err(Unseen::Problem(reason)) => {
                    self.waiting.forget(&candidate);
                    if self.is_old_news(&candidate.absolute()) {
                        continue;
                    }
                    self.intake.end(&candidate, None, 0, Status::Failed, reason).await?;
                }
            }
        }
        if !ready.is_empty() {
            self.active = Instant::now();
        }
        for held in self.intake.admit(ready, told).await? {
            // Its owner records it; should that owner die, the next scan finds the file free.
            debug!(path = %display::path(&held.version.candidate.absolute()), "claimed by another archiver");
        }
        Ok(())
    }

    /// Whether nothing happened for so long that we stop by ourselves.
    fn is_idle(&mut self, settings: &WatchSettings) -> bool {
        let Some(limit) = settings.idle_exit else { return false };
        if self.scans.busy() || self.waiting.next_due().is_some() || self.engine.in_hand() > 0 {
            self.active = Instant::now();
        }
        let idle = self.active.elapsed() >= limit;
        if idle {
            info!("nothing happened for {}: stopping", humantime::format_duration(limit));
        }
        idle
    }

    /// One last scan; then what waits has until the grace is over to become finished. The rest is named.
    async fn drain(mut self, mut watch: Watch, grace: Duration) -> Result<(), LedgerError> {
        let over = tokio::time::Instant::now() + grace;
        self.engine.reporter.phase(Phase::Draining);
        self.scans = Scans::default();
        self.scan_all_roots();
        let mut batch = Vec::with_capacity(BATCH);
        while self.scans.busy() || !self.waiting.is_empty() {
            let room = self.waiting.room().min(BATCH);
            let due = self.waiting.next_due().map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                () = self.engine.stop.cancelled() => break,
                () = tokio::time::sleep_until(over) => break,
                () = sleep_until(due), if due.is_some() => self.examine_due().await?,
                received = self.scans.recv(|walk| begin(self.engine, walk), &mut batch, room), if self.scans.busy() && room > 0 => {
                    if received > 0 {
                        self.named(std::mem::take(&mut batch)).await?;
                    }
                }
                event = watch.recv() => match event {
                    Some(SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate)) if self.waiting.contains(&candidate) => {
                        self.examine(vec![candidate], Told::Quietly).await?;
                    }
                    Some(SourceEvent::Removed(candidate)) => self.waiting.forget(&candidate),
                    Some(SourceEvent::Marker { root, path }) => self.marked(root, &path).await?,
                    // Nothing new is taken in beyond the last scan.
                    Some(_) => {}
                    None => break,
                },
            }
            self.engine.reporter.waiting(self.waiting.len() as u64);
        }
        if self.scans.busy() {
            self.engine.cut_short();
        }
        self.intake.leave_all(&self.waiting).await?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
