//! What all workers of one run share, and the few steps that join two components.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::desk::Desk;
use super::lease::LeaseKeeper;
use super::names::Entry;
use super::peers::Peers;
use super::read::Version;
use super::shared::Shared;
use crate::config::settings::Settings;
use crate::destination::DestinationError;
use crate::destination::sftp::archive::{Archive, Rules};
use crate::domain::{After, AfterFailure, Deferral, FileKey, KeyId, Pulse, RemotePath, Row};
use crate::failpoint::{Point, reach};
use crate::ledger::{Claim, ClaimReply, ClaimRequest, Intention, Ledger, LedgerError, Record, RowOf};
use crate::readiness::Waiting;
use crate::report::{ClaimOutcome, Claimed, Reporter};
use crate::selection::{MarkerPattern, Selection};
use crate::source::{BelowRoot, Candidate};

/// Files in flight beyond those that have a slot of a session, where the user says nothing: they wait for the ledger.
const JOBS_BEYOND_SLOTS: usize = 128;

/// Failed files that are remembered at most; beyond it all are tried again at the next scan.
const RESTING: usize = 10_000;

/// How long the engine holds on to a file that a person would have to help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A single run: what only a person can change fails at once.
    Once,
    /// A watch of months: it is tried again, for people do change things.
    Persistent,
}

/// One source, ready for use.
#[derive(Debug)]
pub struct Source {
    pub name: Arc<str>,
    pub entries: Vec<Entry>,
    pub selection: Arc<Selection>,
    pub marker: Option<MarkerPattern>,
    pub settle: Duration,
    pub after: After,
    pub after_failure: AfterFailure,
    pub rules: Rules,
    /// Index of its destination.
    pub destination: usize,
}

impl Source {
    /// The marker of a data file, where this source asks for one.
    pub fn marker_of(&self, path: &BelowRoot) -> Option<BelowRoot> {
        self.marker.as_ref().and_then(|pattern| BelowRoot::new(pattern.marker_of(path.as_path())))
    }
}

/// A claimed file on its way.
#[derive(Debug)]
pub struct Job {
    pub version: Version,
    /// Its marker, disposed of with it.
    pub marker: Option<BelowRoot>,
    pub claim: Claim,
    /// No later than it was claimed.
    pub began: Instant,
    /// For whoever watches.
    pub claimed: Claimed,
}

/// Everything a worker needs.
#[derive(Debug)]
pub struct Engine {
    pub settings: Arc<Settings>,
    pub ledger: Arc<dyn Ledger>,
    pub lease: LeaseKeeper,
    pub peers: Peers,
    pub reporter: Reporter,
    pub desk: Desk,
    /// With the engines before and after this one.
    pub shared: Shared,
    pub sources: Vec<Source>,
    pub archives: Vec<Archive>,
    /// Canonical URLs of the archives, as the ledger's keys hold them.
    pub destinations: Vec<Arc<str>>,
    pub hostname: String,
    pub patience: Patience,
    /// Everything ends now; what is in flight is left for the next run.
    pub stop: CancellationToken,
    /// Bytes of files that may be in memory at the same time, in KiB (G9).
    pub memory: Semaphore,
    pub(super) failure: Mutex<Option<Failure>>,
    /// Told to stop before all there was had been taken in.
    pub(super) short: AtomicBool,
    /// Candidates that are not finished, by destination.
    pub(super) waiting: Vec<Mutex<Waiting<Candidate>>>,
    /// Signs of life, by destination.
    pub(super) pulses: Vec<Pulses>,
    /// Whether a successor takes up what is cut off.
    pub(super) replaced: AtomicBool,
    /// Why work is held until the ledger is back, which is said once.
    pub(super) ledger_out: Mutex<Option<String>>,
    /// Whether it was said that open writers cannot be seen.
    pub(super) writers_unseen: AtomicBool,
    /// Claimed files that have not come to their end.
    pub(super) claimed: AtomicUsize,
    /// When something was last seen to happen.
    pub(super) stirred: Mutex<Instant>,
    /// When the process began to archive, which an earlier engine may have done.
    pub started_at: DateTime<Utc>,
    /// Files that failed and are left alone until then, where a watch would meet them again at every scan.
    pub(super) resting: Mutex<HashMap<Resting, Instant>>,
}

/// The signs of life of a destination's intake, and of the watch that it listens to.
#[derive(Debug, Clone, Default)]
pub struct Pulses {
    pub intake: Arc<Pulse>,
    pub watch: Arc<Pulse>,
}

/// What failed and is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resting {
    Version(KeyId),
    /// What cannot even be read.
    Path(PathBuf),
}

/// Why a run could not go on.
#[derive(Debug, Clone)]
pub enum Failure {
    Destination(DestinationError),
    Run(RunError),
}

/// What ends a run early, whatever its destinations do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A part of this program, or of this machine, failed: what, and why.
    #[error("{0}")]
    Broken(String),
}

impl Engine {
    pub fn source(&self, job: &Job) -> &Source {
        &self.sources[job.version.candidate.root.source]
    }

    pub fn archive(&self, job: &Job) -> &Archive {
        &self.archives[self.source(job).destination]
    }

    /// Files in flight to one destination at most, as of now: sessions come, and learn how many they take. A worker that
    /// waits for a session holds no bytes, so there may be more workers than sessions have room for.
    pub fn jobs_in_flight(&self, destination: usize) -> usize {
        let slots = || self.archives[destination].pool().slots();
        self.settings.pool.jobs.map_or_else(|| slots() + JOBS_BEYOND_SLOTS, usize::from)
    }

    /// The destinations that a source sends to, in order.
    pub fn lanes(&self) -> Vec<usize> {
        let lanes: BTreeSet<_> = self.sources.iter().map(|source| source.destination).collect();
        lanes.into_iter().collect()
    }

    /// The sources that send to one destination.
    pub fn sources_of(&self, destination: usize) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(move |source| source.destination == destination)
    }

    /// The time of day, read in this one place.
    pub fn now(&self) -> DateTime<Utc> {
        SystemTime::now().into()
    }

    /// Where a version of a file belongs, named for `now` or for its modification time, and its key.
    pub fn place(&self, version: &Version) -> Result<(FileKey, RemotePath), String> {
        let candidate = &version.candidate;
        let source = &self.sources[candidate.root.source];
        let settings = &self.settings.destinations[source.destination];
        let instant = match settings.date_from {
            crate::domain::DateFrom::Claim => self.now(),
            crate::domain::DateFrom::Modified => DateTime::from_timestamp_nanos(version.fingerprint.mtime_ns),
        };
        let directory = settings.layout.render(instant, settings.timezone, &source.name, &self.hostname);
        let remote = RemotePath::below(&settings.url.base, &directory, candidate.path.as_path())?;
        let path: PathBuf = if source.name.is_empty() { candidate.absolute() } else { candidate.path.as_path().into() };
        let key = FileKey {
            destination: self.destinations[source.destination].clone(),
            source: source.name.clone(),
            path: std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string()),
            fingerprint: version.fingerprint,
        };
        Ok((key, remote))
    }

    /// Notes that a destination was given up. A watch has nothing else to wait for then, and stops.
    pub fn lost(&self, destination: usize, error: &DestinationError) {
        if self.patience == Patience::Persistent {
            self.stop.cancel();
        }
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            error!(destination = %self.destinations[destination], %error, "giving the destination up");
            *failure = Some(Failure::Destination(error.clone()));
        }
    }

    /// Notes what nothing is safe without, and stops everything.
    pub fn broke(&self, error: RunError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Failure::Run(error));
        self.stop.cancel();
    }

    /// Notes that a run was told to stop before it had taken in all there was.
    pub fn cut_short(&self) {
        self.short.store(true, Ordering::Relaxed);
    }

    /// Notes that what is cut off from now on is taken up by a successor: nothing of it is left.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }

    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Notes that something happens.
    pub fn stir(&self) {
        *self.stirred.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nothing happened to any source.
    pub fn quiet_for(&self) -> Duration {
        self.stirred.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Counts a file that is handed to the workers.
    pub fn take_in_hand(&self) {
        self.claimed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file that came to its end.
    pub fn put_down(&self) {
        self.claimed.fetch_sub(1, Ordering::Relaxed);
    }

    /// Files that were handed to the workers and have not come to their end, waiting for a session included.
    pub fn in_hand(&self) -> usize {
        self.claimed.load(Ordering::Relaxed)
    }

    /// Whether a file failed so lately that a watch leaves it alone.
    pub fn is_resting(&self, what: &Resting) -> bool {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        match resting.get(what) {
            Some(until) if Instant::now() < *until => true,
            Some(_) => {
                resting.remove(what);
                false
            }
            None => false,
        }
    }

    /// A watch tries what failed again at its reconciling scans, not at every event and poll.
    pub fn rest(&self, what: Resting) {
        self.rest_for(what, self.settings.watch.scan_interval / 2);
    }

    pub fn rest_for(&self, what: Resting, time: Duration) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        if resting.len() >= RESTING {
            resting.clear();
        }
        resting.insert(what, Instant::now() + time);
    }

    /// Leaves something alone no longer. Whether it was, lately or at any time since.
    pub fn wake(&self, what: &Resting) -> bool {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).remove(what).is_some()
    }

    /// Leaves no file alone any longer.
    pub fn wake_all(&self) {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).retain(|what, _| matches!(what, Resting::Path(_)));
    }

    /// Why a file is not finished when all stops.
    pub fn stopped_before(&self, destination: usize) -> Deferral {
        match self.archives[destination].pool().outage().borrow().clone() {
            Some(why) => Deferral::DestinationOut(why),
            None => Deferral::Interrupted,
        }
    }

    pub fn was_cut_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The candidates of one destination's sources that are not finished.
    pub fn waiting(&self, destination: usize) -> MutexGuard<'_, Waiting<Candidate>> {
        self.waiting[destination].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pulses(&self, destination: usize) -> &Pulses {
        &self.pulses[destination]
    }

    fn ledger_out(&self) -> MutexGuard<'_, Option<String>> {
        self.ledger_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the ledger does not work at the moment.
    pub fn ledger_trouble(&self) -> Option<String> {
        self.ledger_out().clone().or_else(|| self.lease.trouble())
    }

    /// Repeats a ledger call while the ledger is unavailable: work is held, not guessed. A single run gives up after as
    /// many failures as a file has attempts, for somebody waits for it.
    pub async fn hold<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let mut failures = 0;
        loop {
            match call().await {
                Err(error @ LedgerError::Unavailable { .. }) => {
                    failures += 1;
                    if self.patience == Patience::Once && failures >= self.settings.retry.max_attempts {
                        return Err(error);
                    }
                    let delay = self.settings.retry.backoff.delay(failures, rand::random());
                    if self.ledger_out().replace(error.to_string()).is_none() {
                        warn!(%error, "holding work until the ledger is back");
                    }
                    if self.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                        return Err(error);
                    }
                }
                other => {
                    if failures > 0 && other.is_ok() && self.ledger_out().take().is_some() {
                        info!("the ledger is back");
                    }
                    return other;
                }
            }
        }
    }

    /// Asks the ledger for files, and counts what it says.
    pub async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<ClaimReply>, LedgerError> {
        let replies = self.hold(|| self.ledger.claim(requests.to_vec())).await?;
        for reply in &replies {
            self.reporter.asked(match reply {
                ClaimReply::Claimed(_) => ClaimOutcome::Claimed,
                ClaimReply::Recorded(_) => ClaimOutcome::Recorded,
                // In flight here already: nobody was asked for nothing.
                ClaimReply::Held { owner } if *owner == self.ledger.owner() => continue,
                ClaimReply::Held { .. } => ClaimOutcome::Held,
            });
        }
        Ok(replies)
    }

    /// Makes the commit durable in the ledger, and with it the intention to dispose of the local file.
    pub async fn record(&self, job: &Job, claim: &Claim, record: Record) -> Result<Intention, LedgerError> {
        let intention = match self.source(job).after {
            After::Keep => Intention::LeaveAlone,
            After::Delete | After::Move(_) => Intention::Dispose,
        };
        self.hold(|| self.ledger.record(claim, record.clone(), intention)).await?;
        reach(Point::Recorded);
        if intention == Intention::Dispose {
            reach(Point::Disposing);
        }
        Ok(intention)
    }

    /// Writes a candidate's row, and counts it.
    pub async fn put_row(&self, version: Option<&FileKey>, row: Row) -> Result<(), LedgerError> {
        self.put_rows(vec![RowOf::new(version, row)]).await
    }

    pub async fn put_rows(&self, rows: Vec<RowOf>) -> Result<(), LedgerError> {
        if rows.is_empty() {
            return Ok(());
        }
        let recounts = self.hold(|| self.ledger.put_rows(rows.clone())).await?;
        reach(Point::RowPut);
        let now = self.now();
        for (RowOf { row, .. }, recount) in rows.iter().zip(&recounts) {
            self.reporter.finished(row, recount, now);
        }
        Ok(())
    }
}
