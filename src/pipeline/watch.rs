//! Months of watching: events and scans name candidates, the waiting set holds those that are not finished, and a stop
//! is a drain.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::desk::Desk;
use super::engine::{Engine, Resting, RunError};
use super::intake::{BATCH, Intake, PUT_OFF_PATIENCE, Sharing, Told, Unseen, problem_row, sleep_until};
use super::names::{Entry, Named};
use super::scans::{Asked, Scans, Step, Walk, Why, begin};
use crate::config::settings::{Execution, LedgerLocation, WatchSettings, WatcherKind};
use crate::domain::{Deferral, Status, display};
use crate::ledger::LedgerError;
use crate::readiness::{Decision, Rules};
use crate::report::Phase;
use crate::selection::MarkedBy;
use crate::shutdown::Shutdown;
use crate::source::watch::{RescanReason, SourceEvent, Watch, WatchOptions, Watched};
use crate::source::{BelowRoot, Candidate, Root};

mod drain;

/// Files that are waited for at most; beyond it those that wait for a marker are left to the next scan.
pub(super) const WAITING: usize = 50_000;
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
    let mut options = WatchOptions::new(kind, settings.scan_interval);
    // The ledger's directory can be written to, where a container's other ones perhaps cannot.
    if let LedgerLocation::File(ledger) = &engine.settings.ledger.location
        && let Some(directory) = std::path::absolute(ledger).ok().and_then(|path| path.parent().map(Path::to_owned))
    {
        options.bells = directory;
    }
    options.pulse = engine.pulses(intake.destination()).watch.clone();
    let watch = Watch::start(watched(engine, intake.destination()), options, rand::random())
        .map_err(|error| RunError::Broken(format!("the watcher did not start: {error}")))?;
    let mut run = Run {
        engine,
        intake,
        scans: Scans::default(),
        missed: Missed::Nothing,
        unmet: VecDeque::new(),
        put_off: PutOff::Last,
        stage: Stage::Watching,
    };
    // The others learn of us before the first file comes.
    engine.peers.meet().await;
    engine.reporter.phase(Phase::Watching);
    let mut idleness = look_interval();
    let mut inflow = Inflow::new(watch);
    let mut retried = engine.lease.retried();
    loop {
        let due = run.intake.waiting().next_due().map(tokio::time::Instant::from_std);
        let put_off = run.intake.next_put_off();
        let overdue = put_off.filter(|_| run.put_off == PutOff::Last).map(|due| due + PUT_OFF_PATIENCE);
        intake.pulse().rest();
        tokio::select! {
            biased;
            () = shutdown.draining().cancelled() => break,
            () = shutdown.handing_over().cancelled() => {
                // Its successor finds all that waits by itself.
                engine.reporter.waiting(intake.destination(), 0);
                return Ok(());
            }
            () = engine.stop.cancelled() => break,
            () = sleep_until(due), if due.is_some() => run.examine_due().await?,
            () = std::future::ready(()), if !run.unmet.is_empty() => run.examine_unmet().await?,
            () = sleep_until(overdue), if overdue.is_some() => run.examine_put_off().await?,
            came = inflow.next(&mut run) => {
                run.put_off = PutOff::Last;
                intake.pulse().beat(Instant::now());
                if came == Came::End {
                    warn!("the watcher ended; stopping");
                    shutdown.drain();
                }
                run.take(came, &mut inflow).await?;
            }
            Ok(()) = retried.changed() => {
                info!("failed files were put back: scanning for them");
                engine.wake_all();
                run.scan_all_roots();
            }
            () = sleep_until(put_off), if put_off.is_some() => run.examine_put_off().await?,
            _ = idleness.tick(), if settings.idle_exit.is_some() => {
                if run.is_idle(settings) {
                    shutdown.drain();
                }
            }
        }
        run.look_for_missed();
        intake.tell_waiting();
    }
    Ok(run.drain(inflow, shutdown.over(settings.grace)).await?)
}

fn look_interval() -> tokio::time::Interval {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Returns once something stands at the path, which may be on a filesystem that hangs.
pub async fn await_file(desk: &Desk, path: &Path) {
    let mut looks = look_interval();
    loop {
        looks.tick().await;
        let path = path.to_owned();
        if desk.run(move || path.symlink_metadata().is_ok()).await == Ok(true) {
            return;
        }
    }
}

fn watched(engine: &Engine, destination: usize) -> Vec<Watched> {
    let directories = engine.sources_of(destination).flat_map(|source| {
        source.entries.iter().filter_map(|entry| match entry {
            Entry::Directory(root) => Some(Watched { root: root.clone(), selection: source.selection.clone() }),
            Entry::File(_) => None,
        })
    });
    directories.collect()
}

/// What comes in, from the watch and from walks, in turn: neither has to wait for the other to fall silent.
struct Inflow {
    watch: Watch,
    events: Vec<SourceEvent>,
    names: Vec<Named>,
    turns: Turns,
    /// The watch has ended.
    ended: bool,
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Events,
    Walk(Step),
    /// The watch ended.
    End,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turns {
    Events,
    Walks,
}

impl Turns {
    /// Asks whose turn it is first, and the other one where there is nothing.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut events: impl FnMut(&mut Context<'_>) -> Poll<Came>,
        mut walks: impl FnMut(&mut Context<'_>) -> Poll<Came>,
    ) -> Poll<Came> {
        for turn in [*self, self.other()] {
            let came = match turn {
                Self::Events => events(context),
                Self::Walks => walks(context),
            };
            if came.is_ready() {
                *self = turn.other();
                return came;
            }
        }
        Poll::Pending
    }

    fn other(self) -> Self {
        match self {
            Self::Events => Self::Walks,
            Self::Walks => Self::Events,
        }
    }
}

impl Inflow {
    fn new(watch: Watch) -> Self {
        let (events, names) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        Self { watch, events, names, turns: Turns::Events, ended: false }
    }

    /// Waits for what comes next. Cancel-safe.
    async fn next(&mut self, run: &mut Run<'_>) -> Came {
        let (room, mark) = {
            let waiting = run.intake.waiting();
            (waiting.room().min(BATCH), waiting.mark())
        };
        let begin = |walk| begin(run.engine, walk);
        let Self { watch, events, names, turns, ended } = self;
        std::future::poll_fn(|context| {
            let events = |context: &mut Context<'_>| match watch.poll_recv_many(context, events, BATCH) {
                _ if *ended => Poll::Pending,
                Poll::Ready(0) => {
                    *ended = true;
                    Poll::Ready(Came::End)
                }
                told => told.map(|_| Came::Events),
            };
            let walks =
                |context: &mut Context<'_>| run.scans.poll_recv(context, &begin, mark, names, room).map(Came::Walk);
            turns.poll(context, events, walks)
        })
        .await
    }
}

struct Run<'a> {
    engine: &'a Arc<Engine>,
    intake: &'a Intake,
    scans: Scans,
    missed: Missed,
    /// Roots that were walked to their end, with the marks of their beginnings: what waited for an event before, and was
    /// not met, may be gone.
    unmet: VecDeque<(Arc<Root>, u64)>,
    put_off: PutOff,
    stage: Stage,
}

/// Whether files that were put off for others were looked at since something last came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PutOff {
    Looked,
    Last,
}

/// How far a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Watching,
    /// Told to stop. What happened before that is still to be told.
    Flushing,
    /// Nothing new is taken in.
    Draining,
}

/// Whether events found no room in the waiting set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    Nothing,
    Some,
}

impl Run<'_> {
    async fn take(&mut self, came: Came, inflow: &mut Inflow) -> Result<(), LedgerError> {
        match came {
            Came::Events => self.handle(&mut inflow.events).await?,
            Came::Walk(Step::Named) => self.named(std::mem::take(&mut inflow.names)).await?,
            Came::Walk(Step::Ended(Walk::Root(root, _), mark)) => self.unmet.push_back((root, mark)),
            Came::Walk(Step::Ended(..)) | Came::End => {}
        }
        Ok(())
    }

    /// Files that follow each other are looked at, and claimed, together.
    async fn handle(&mut self, events: &mut Vec<SourceEvent>) -> Result<(), LedgerError> {
        let mut candidates = Vec::with_capacity(events.len());
        for event in events.drain(..) {
            match event {
                // It grows. It is looked at when its time comes, or when it is closed.
                SourceEvent::Changed(candidate) if self.intake.waiting().waits_for_time(&candidate) => {
                    self.engine.stir();
                }
                SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate) => candidates.push(candidate),
                SourceEvent::Removed(candidate) => {
                    self.engine.stir();
                    self.intake.waiting().forget(&candidate);
                    candidates.retain(|named| *named != candidate);
                }
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
        self.engine.stir();
        let mut named = HashSet::with_capacity(candidates.len());
        candidates.retain(|candidate| named.insert((Arc::as_ptr(&candidate.root), candidate.path.clone())));
        let room = self.intake.waiting().room();
        if candidates.len() > room {
            self.missed = Missed::Some;
            candidates.truncate(room);
        }
        let new = candidates.iter().filter(|candidate| !self.intake.waiting().contains(candidate)).count();
        self.engine.reporter.discovered(new as u64);
        self.examine(candidates, Told::Quietly).await
    }

    async fn handle_other(&mut self, event: SourceEvent) -> Result<(), LedgerError> {
        // That it is time to make sure of something is no sign of life.
        if !matches!(event, SourceEvent::Rescan { .. } | SourceEvent::Degraded { .. } | SourceEvent::RootMissing { .. })
        {
            self.engine.stir();
        }
        match event {
            // Looked at with others of their kind.
            SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate) => {
                self.examine_new(vec![candidate]).await?;
            }
            SourceEvent::Marker { root, path } => self.marked(root, &path).await?,
            SourceEvent::Removed(candidate) => self.intake.waiting().forget(&candidate),
            SourceEvent::NewDirectory { root, path } => {
                self.readable_again(&root, &path).await?;
                self.scans.ask(Walk::Below(root, path));
            }
            SourceEvent::Crowded { root, directory } => {
                self.scans.ask(Walk::Flat(root, directory));
            }
            // Whether there is anything left to make sure of is what the flush tells.
            SourceEvent::Rescan { reason: RescanReason::Interval, .. } if self.stage != Stage::Watching => {}
            SourceEvent::Rescan { root, reason } => {
                let why = if reason == RescanReason::Interval { Why::Interval } else { Why::Needed };
                let asked = self.scans.ask(Walk::Root(root.clone(), why));
                let path = display::path(&root.path);
                if reason == RescanReason::Overflow {
                    self.engine.reporter.overflowed();
                }
                match reason {
                    RescanReason::Start => info!(%path, "watching"),
                    // One scan makes up for all that was lost before it began.
                    _ if asked != Asked::Queued => debug!(%path, ?reason, "a scan is asked for already"),
                    RescanReason::Interval => debug!(%path, ?reason, "scanning"),
                    RescanReason::Overflow | RescanReason::RootReplaced | RescanReason::Degraded => {
                        info!(%path, ?reason, "scanning");
                    }
                }
            }
            SourceEvent::Degraded { root, reason } => {
                warn!(path = %display::path(&root.path), reason, "polling from now on")
            }
            SourceEvent::Flushed { scan } => {
                self.stage = Stage::Draining;
                for root in scan {
                    self.scans.ask(Walk::Root(root, Why::Needed));
                }
            }
            SourceEvent::RootMissing { root } => {
                warn!(path = %display::path(&root.path), "the directory is gone; waiting for it to come back")
            }
        }
        Ok(())
    }

    /// A directory that could not be read has a failed row, which is true no longer. Should the walk not get in either,
    /// it has it again.
    async fn readable_again(&self, root: &Arc<Root>, directory: &BelowRoot) -> Result<(), LedgerError> {
        let path = root.path.join(directory.as_path());
        if !self.engine.wake(&Resting::Path(path.clone())) {
            return Ok(());
        }
        let reason = "it could not be read before, and can be read now".to_owned();
        self.intake
            .end(&Candidate { root: root.clone(), path: directory.clone() }, None, 0, Status::Skipped, reason)
            .await
    }

    /// Scans for what events named while there was no room for it, once there is some.
    fn look_for_missed(&mut self) {
        if self.missed == Missed::Some && self.intake.waiting().room() >= WAITING / 2 {
            self.missed = Missed::Nothing;
            self.scan_all_roots();
        }
    }

    fn scan_all_roots(&mut self) {
        for root in watched(self.engine, self.intake.destination()).into_iter().map(|watched| watched.root) {
            self.scans.ask(Walk::Root(root, Why::Needed));
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
        if self.scans.needed() {
            // Nor is a watch idle whose other sources are quiet.
            self.engine.stir();
        }
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
        let due =
            self.intake.waiting().due(Instant::now(), BATCH).iter().map(|candidate| (**candidate).clone()).collect();
        self.examine(due, Told::ByRow).await
    }

    /// Looks at some of the files that others did not take while they could have.
    async fn examine_put_off(&mut self) -> Result<(), LedgerError> {
        self.put_off = PutOff::Looked;
        let due = self.intake.put_off_due(self.sharing()).await?;
        self.examine_as(due, Told::ByRow, self.sharing()).await
    }

    /// Others may have been told to stop, too: nobody is waited for then.
    fn sharing(&self) -> Sharing {
        if self.stage == Stage::Watching { Sharing::Fair } else { Sharing::Over }
    }

    /// Looks at some of the files that wait for an event and were not met by a walk of their root. Where a directory was
    /// moved away, or the root is polled, no event tells that they are gone.
    async fn examine_unmet(&mut self) -> Result<(), LedgerError> {
        let Some((root, mark)) = self.unmet.front() else { return Ok(()) };
        let unmet = self.intake.waiting().for_event(*mark, BATCH, |candidate| candidate.root == *root);
        if unmet.is_empty() {
            self.unmet.pop_front();
            return Ok(());
        }
        self.examine(unmet.iter().map(|candidate| (**candidate).clone()).collect(), Told::ByRow).await
    }

    async fn examine(&mut self, candidates: Vec<Candidate>, told: Told) -> Result<(), LedgerError> {
        self.examine_as(candidates, told, Sharing::Over).await
    }

    /// `left`: whether they were left to others, who may have them by now.
    async fn examine_as(&mut self, candidates: Vec<Candidate>, told: Told, left: Sharing) -> Result<(), LedgerError> {
        if candidates.is_empty() {
            return Ok(());
        }
        // While this one looks, none that sends elsewhere takes the watch for idle.
        self.engine.take_in_hand();
        let examined = self.look_at(candidates, told, left).await;
        self.engine.put_down();
        examined
    }

    async fn look_at(&mut self, candidates: Vec<Candidate>, told: Told, left: Sharing) -> Result<(), LedgerError> {
        let (mut ready, mut unmarked) = (Vec::new(), Vec::new());
        for (candidate, seen) in self.intake.look(candidates).await {
            match seen {
                Ok(seen) => {
                    let rules = Rules { settle: self.engine.sources[candidate.root.source].settle };
                    let (finished, decision) = self.intake.judge(&seen, rules, self.sharing());
                    match decision {
                        Decision::Ready => ready.push(seen.ready(finished)),
                        // Held or not: there may be more of them than have room.
                        Decision::Wait { deferral: deferral @ Deferral::NoMarker(_), .. }
                            if self.stage != Stage::Watching =>
                        {
                            unmarked.push((seen.version, deferral));
                        }
                        Decision::Wait { .. } => {}
                    }
                }
                Err(Unseen::Vanished | Unseen::NotRegular) => self.intake.waiting().forget(&candidate),
                Err(Unseen::Problem(reason)) => {
                    self.intake.waiting().forget(&candidate);
                    if self.is_old_news(&candidate.absolute()) {
                        continue;
                    }
                    self.intake.end(&candidate, None, 0, Status::Failed, reason).await?;
                }
            }
        }
        // Together, so that the ledger writes their rows in one go. A later row of the same version takes its place.
        self.intake.leave(&unmarked).await?;
        if !ready.is_empty() {
            self.engine.stir();
        }
        let held = match left {
            Sharing::Fair => self.intake.admit_put_off(ready, told).await?,
            Sharing::Over => self.intake.admit(ready, told).await?,
        };
        for held in held {
            debug!(path = %display::path(&held.version.candidate.absolute()), "claimed by another archiver");
            // Its owner records it, unless it dies. Who is about to end leaves that to others.
            if self.stage == Stage::Watching {
                self.intake.put_off_held(&held, rand::random());
            }
        }
        Ok(())
    }

    /// Whether nothing happened for so long that we stop by ourselves.
    fn is_idle(&mut self, settings: &WatchSettings) -> bool {
        let Some(limit) = settings.idle_exit else { return false };
        if self.scans.busy() {
            return false;
        }
        if self.intake.waiting().next_due().is_some() || self.engine.in_hand() > 0 {
            self.engine.stir();
        }
        // Each destination's sources are looked at this often.
        let idle = self.engine.quiet_for() >= limit.max(2 * LOOK_EVERY);
        if idle {
            info!("nothing happened for {}: stopping", humantime::format_duration(limit));
        }
        idle
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
