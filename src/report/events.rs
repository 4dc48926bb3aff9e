//! What the pipeline tells, in one place: counters that cost a few atomic additions a file, and no queue that could grow.
//! Progress, metrics and the live state look at them when they like.
//!
//! The counts here are for people who watch; the summary's rows and totals come from the ledger.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::claimed::{Claimed, ClaimedFiles, LargeTransfer, Pending};
use super::distribution::{Distributed, Distribution, LAG_SECONDS, UPLOAD_SECONDS};
use crate::domain::{Recount, Row, Status, Totals, display};

/// Failures that are remembered.
const FAILURES: usize = 20;

/// What a run is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Candidates are still being discovered, so the number of files is not known yet.
    #[default]
    Scanning,
    /// All candidates are known.
    Uploading,
    /// Waiting for files to appear.
    Watching,
    /// Told to stop: finishing what is under way.
    Draining,
}

/// What an attempt failed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// The file itself, here or there.
    File,
    /// The session; another one serves.
    Session,
    /// The destination, whose return is waited for.
    Destination,
}

impl RetryClass {
    pub const ALL: [Self; 3] = [Self::File, Self::Session, Self::Destination];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Session => "session",
            Self::Destination => "destination",
        }
    }
}

/// What a ledger that may be shared said to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOutcome {
    Claimed,
    /// Archived before.
    Recorded,
    /// By another archiver.
    Held,
}

impl ClaimOutcome {
    pub const ALL: [Self; 3] = [Self::Claimed, Self::Recorded, Self::Held];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Recorded => "recorded",
            Self::Held => "held",
        }
    }
}

/// A handle for whoever has something to tell. Clones share the counters.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    discovered: AtomicU64,
    pub in_flight: AtomicU64,
    pub sent_bytes: AtomicU64,
    /// In the order in which they became known.
    sources: RwLock<Vec<Ended>>,
    retries: [AtomicU64; RetryClass::ALL.len()],
    claims: [AtomicU64; ClaimOutcome::ALL.len()],
    leases_lost: AtomicU64,
    scans: AtomicU64,
    overflows: AtomicU64,
    totals: LiveTotals,
    /// Milliseconds since the Unix epoch; 0 for never.
    last_archived: AtomicI64,
    pub upload: Distribution,
    pub lag: Distribution,
    pub claimed: ClaimedFiles,
    state: Mutex<State>,
}

/// What the candidates count as now. For a moment, two changes of one candidate may be told in the wrong order.
#[derive(Debug, Default)]
struct LiveTotals {
    /// In the order of [`Status::ALL`].
    files: [AtomicI64; Status::ALL.len()],
    bytes: AtomicI64,
}

impl LiveTotals {
    fn change(&self, recount: &Recount) {
        let Recount { before, after } = recount;
        let difference = |after: u64, before: u64| after.wrapping_sub(before) as i64;
        for status in Status::ALL {
            self.files[status as usize].fetch_add(difference(after.of(status), before.of(status)), Relaxed);
        }
        self.bytes.fetch_add(difference(after.bytes, before.bytes), Relaxed);
    }

    fn now(&self) -> Totals {
        let count = |counter: &AtomicI64| counter.load(Relaxed).max(0) as u64;
        let [archived, skipped, deferred, failed] = Status::ALL.map(|status| count(&self.files[status as usize]));
        Totals { archived, skipped, deferred, failed, bytes: count(&self.bytes) }
    }
}

/// What came to its end, of one source, each version of a file once.
#[derive(Debug)]
struct Ended {
    source: Arc<str>,
    /// In the order of [`Status::ALL`].
    files: [AtomicU64; Status::ALL.len()],
    archived_bytes: AtomicU64,
}

impl Ended {
    fn new(source: Arc<str>) -> Self {
        Self { source, files: Default::default(), archived_bytes: AtomicU64::new(0) }
    }

    fn totals(&self) -> Totals {
        let [archived, skipped, deferred, failed] = Status::ALL.map(|status| self.files[status as usize].load(Relaxed));
        Totals { archived, skipped, deferred, failed, bytes: self.archived_bytes.load(Relaxed) }
    }
}

/// What is no number. Taken for a moment, a few times a second or for a failure.
#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// By destination.
    outages: BTreeMap<String, Outage>,
    waiting: BTreeMap<usize, u64>,
    /// Newest first.
    failures: VecDeque<Failed>,
}

/// Why a destination takes nothing at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub reason: String,
}

/// A file that failed, with its texts escaped for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub at: DateTime<Utc>,
    pub source: String,
    pub path: String,
    pub reason: String,
}

/// All counters at one moment. Each is exact; together they may be a few events apart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub phase: Phase,
    /// Candidates seen so far.
    pub discovered: u64,
    /// Candidates that are not finished yet.
    pub waiting: u64,
    /// Uploads under way.
    pub in_flight: u64,
    /// Bytes acknowledged so far, those of repeated attempts included.
    pub sent_bytes: u64,
    /// What the candidates of all sources count as now, as in the summary.
    pub totals: Totals,
    /// Of each source, how often a candidate came to count as each. These never go down.
    pub sources: Vec<(Arc<str>, Totals)>,
    /// Attempts that failed and were followed by another one.
    pub retries: u64,
    /// Of these, each class, in the order of [`RetryClass::ALL`].
    pub retries_by_class: [u64; RetryClass::ALL.len()],
    /// What the ledger said to claims, in the order of [`ClaimOutcome::ALL`].
    pub claims: [u64; ClaimOutcome::ALL.len()],
    /// Claimed files that another archiver took over.
    pub leases_lost: u64,
    /// Walks of whole roots.
    pub scans: u64,
    /// Times that events of a root were lost.
    pub overflows: u64,
    pub last_archived_at: Option<DateTime<Utc>>,
    /// How long the attempts took that archived a file.
    pub upload: Distributed,
    /// How long after its end a file was archived.
    pub lag: Distributed,
    /// Large uploads under way, oldest first.
    pub large: Vec<LargeTransfer>,
    /// Destinations that take nothing at the moment.
    pub outages: BTreeMap<String, Outage>,
    /// The last ones, newest first.
    pub failures: Vec<Failed>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new([])
    }
}

impl Reporter {
    /// For the sources of these names; each name is counted for itself.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        let reporter = Self(Arc::new(Shared {
            discovered: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            sources: RwLock::default(),
            retries: Default::default(),
            claims: Default::default(),
            leases_lost: AtomicU64::new(0),
            scans: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            totals: LiveTotals::default(),
            last_archived: AtomicI64::new(0),
            upload: Distribution::new(UPLOAD_SECONDS),
            lag: Distribution::new(LAG_SECONDS),
            claimed: ClaimedFiles::default(),
            state: Mutex::default(),
        }));
        reporter.know(names);
        reporter
    }

    fn sources(&self) -> RwLockReadGuard<'_, Vec<Ended>> {
        self.0.sources.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the sources of these names are counted, too, each name for itself.
    pub fn know(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let mut sources = self.0.sources.write().unwrap_or_else(PoisonError::into_inner);
        for source in names {
            if sources.iter().all(|known| known.source != source) {
                sources.push(Ended::new(source));
            }
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many more candidates are known. Each candidate counts once, however often it is looked at.
    pub fn discovered(&self, files: u64) {
        self.0.discovered.fetch_add(files, Relaxed);
    }

    /// So many candidates for one destination are waiting to be finished, as of now.
    pub fn waiting(&self, destination: usize, files: u64) {
        self.state().waiting.insert(destination, files);
    }

    /// A file was claimed that had been finished since then, as far as we know; it ends when the handle is dropped.
    pub fn claimed(&self, source: &Arc<str>, path: &Path, bytes: u64, finished: Instant) -> Claimed {
        Claimed::new(self, source, path, bytes, finished)
    }

    /// Claimed files whose upload is not under way, those claimed first in front.
    pub fn pending(&self) -> Vec<Pending> {
        self.0.claimed.pending()
    }

    /// A candidate came to its end, which changed the totals like this.
    pub fn finished(&self, row: &Row, recount: &Recount, at: DateTime<Utc>) {
        self.0.totals.change(recount);
        let is_known = |sources: &[Ended]| sources.iter().any(|ended| *ended.source == *row.source);
        if !is_known(&self.sources()) {
            self.know([row.source.as_str().into()]);
        }
        let sources = self.sources();
        let Some(ended) = sources.iter().find(|ended| *ended.source == *row.source) else { return };
        let is_news = recount.is_news(row.status);
        if is_news {
            ended.files[row.status as usize].fetch_add(1, Relaxed);
        }
        match row.status {
            Status::Archived if !is_news => {}
            Status::Archived => {
                ended.archived_bytes.fetch_add(row.bytes, Relaxed);
                self.0.last_archived.fetch_max(at.timestamp_millis(), Relaxed);
            }
            Status::Failed => {
                let reason = row.reason.as_deref().unwrap_or_default();
                let failed = Failed {
                    at,
                    source: row.source.clone(),
                    path: display::path(&row.path).to_string(),
                    reason: display::escaped(reason).to_string(),
                };
                let mut state = self.state();
                state.failures.retain(|known| (&known.source, &known.path) != (&failed.source, &failed.path));
                state.failures.truncate(FAILURES - 1);
                state.failures.push_front(failed);
            }
            Status::Skipped | Status::Deferred => {}
        }
    }

    /// Attempt number `attempt` (from 1) at a file failed, and another follows after `delay`.
    pub fn retrying(&self, class: RetryClass, path: &Path, attempt: u32, delay: Duration, error: &str) {
        self.retried(class);
        tracing::warn!(file = %display::path(path), attempt, ?delay, %error, "attempt failed, trying again");
    }

    /// An attempt failed, and another follows when its time has come.
    pub fn retried(&self, class: RetryClass) {
        self.0.retries[class as usize].fetch_add(1, Relaxed);
    }

    /// The ledger replied so to a claim.
    pub fn asked(&self, outcome: ClaimOutcome) {
        self.0.claims[outcome as usize].fetch_add(1, Relaxed);
    }

    /// A claimed file is another archiver's now.
    pub fn lease_lost(&self, path: &Path) {
        self.0.leases_lost.fetch_add(1, Relaxed);
        tracing::warn!(file = %display::path(path), "the claim on it is ours no longer: its lease had run out, or the ledger was emptied; whoever claims it now goes on with it");
    }

    /// A whole root is walked.
    pub fn scanning(&self) {
        self.0.scans.fetch_add(1, Relaxed);
    }

    /// Events of a root were lost.
    pub fn overflowed(&self) {
        self.0.overflows.fetch_add(1, Relaxed);
    }

    /// A destination takes nothing now. The pool logs it, and when it is asked again.
    pub fn destination_down(&self, destination: &str, reason: &str) {
        let outage = Outage { reason: reason.to_owned() };
        self.state().outages.insert(destination.to_owned(), outage);
    }

    /// A destination takes files.
    pub fn destination_up(&self, destination: &str) {
        self.state().outages.remove(destination);
    }

    pub fn phase(&self, phase: Phase) {
        self.state().phase = phase;
    }

    pub fn snapshot(&self) -> Snapshot {
        let shared = &*self.0;
        let sources: Vec<_> = self.sources().iter().map(|ended| (ended.source.clone(), ended.totals())).collect();
        let retries_by_class = RetryClass::ALL.map(|class| shared.retries[class as usize].load(Relaxed));
        let last_archived = Some(shared.last_archived.load(Relaxed)).filter(|millis| *millis > 0);
        let large = shared.claimed.large();
        let state = self.state();
        Snapshot {
            phase: state.phase,
            discovered: shared.discovered.load(Relaxed),
            waiting: state.waiting.values().sum(),
            in_flight: shared.in_flight.load(Relaxed),
            sent_bytes: shared.sent_bytes.load(Relaxed),
            totals: shared.totals.now(),
            sources,
            retries: retries_by_class.iter().sum(),
            retries_by_class,
            claims: ClaimOutcome::ALL.map(|outcome| shared.claims[outcome as usize].load(Relaxed)),
            leases_lost: shared.leases_lost.load(Relaxed),
            scans: shared.scans.load(Relaxed),
            overflows: shared.overflows.load(Relaxed),
            last_archived_at: last_archived.and_then(DateTime::from_timestamp_millis),
            upload: shared.upload.now(),
            lag: shared.lag.now(),
            large,
            outages: state.outages.clone(),
            failures: state.failures.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, status: Status, bytes: u64) -> Row {
        Row {
            source: source.to_owned(),
            path: "/a\nb".into(),
            remote: None,
            bytes,
            sha256: None,
            status,
            reason: Some("re\nfused".to_owned()),
            attempts: 1,
            elapsed: Duration::ZERO,
        }
    }

    fn finished(reporter: &Reporter, row: Row, at: DateTime<Utc>) {
        reporter.finished(&row, &Recount::first(&row), at);
    }

    #[test]
    fn counts_what_it_is_told() {
        let reporter = Reporter::new(["a".into(), "b".into(), "a".into()]);
        let at = DateTime::from_timestamp_millis(1_500).unwrap();
        reporter.discovered(3);
        reporter.waiting(0, 2);
        reporter.waiting(1, 3);
        reporter.waiting(0, 1);
        finished(&reporter, row("a", Status::Archived, 10), at);
        finished(&reporter, row("b", Status::Archived, 1), DateTime::UNIX_EPOCH);
        finished(&reporter, row("b", Status::Failed, 5), at);
        reporter.retrying(RetryClass::Session, Path::new("/a"), 1, Duration::ZERO, "refused");
        reporter.retried(RetryClass::Destination);
        for outcome in [ClaimOutcome::Held, ClaimOutcome::Claimed, ClaimOutcome::Held] {
            reporter.asked(outcome);
        }
        reporter.lease_lost(Path::new("/a"));
        let snapshot = reporter.clone().snapshot();
        assert_eq!((snapshot.discovered, snapshot.waiting, snapshot.retries), (3, 4, 2));
        assert_eq!(snapshot.retries_by_class, [0, 1, 1]);
        assert_eq!((snapshot.claims, snapshot.leases_lost), ([1, 0, 2], 1));
        assert_eq!(snapshot.totals, Totals { archived: 2, failed: 1, bytes: 11, ..Totals::default() });
        assert_eq!(snapshot.sources.len(), 2);
        assert_eq!(snapshot.sources[1].1, Totals { archived: 1, failed: 1, bytes: 1, ..Totals::default() });
        assert_eq!(snapshot.last_archived_at, Some(at));
    }

    #[test]
    fn the_last_failures_are_remembered_and_harmless() {
        let reporter = Reporter::default();
        for number in 0..30 {
            let file = Row { path: format!("/a\n{number}").into(), ..row("", Status::Failed, 0) };
            finished(&reporter, file, DateTime::from_timestamp_millis(number).unwrap());
        }
        let failures = reporter.snapshot().failures;
        assert_eq!(
            failures.iter().map(|failed| failed.at.timestamp_millis()).collect::<Vec<_>>(),
            (10..30).rev().collect::<Vec<_>>()
        );
        assert_eq!((failures[0].path.as_str(), failures[0].reason.as_str()), ("/a\\n29", "re\\nfused"));
        let again = Row { path: "/a\n20".into(), ..row("", Status::Failed, 0) };
        let at = DateTime::from_timestamp_millis(99).unwrap();
        reporter.finished(&again, &Recount { before: Recount::first(&again).after, ..Recount::first(&again) }, at);
        let snapshot = reporter.snapshot();
        assert_eq!((snapshot.failures.len(), snapshot.failures[0].at, snapshot.totals.failed), (20, at, 30));
    }

    #[test]
    fn totals_tell_how_it_is_and_sources_what_happened() {
        let (reporter, at) = (Reporter::default(), DateTime::UNIX_EPOCH);
        let (failed, archived) = (row("a", Status::Failed, 3), row("a", Status::Archived, 3));
        finished(&reporter, failed.clone(), at);
        let [then, now] = [&failed, &archived].map(|row| Recount::first(row).after);
        for _ in 0..3 {
            reporter.finished(&failed, &Recount { before: then, after: then }, at);
        }
        reporter.finished(&archived, &Recount { before: then, after: now }, at);
        let snapshot = reporter.snapshot();
        assert_eq!(snapshot.totals, Totals { archived: 1, bytes: 3, ..Totals::default() });
        assert_eq!(snapshot.sources[0].1, Totals { archived: 1, failed: 1, bytes: 3, ..Totals::default() });
    }

    #[test]
    fn an_attempt_ends_with_its_handle_and_a_file_with_its_own() {
        let reporter = Reporter::default();
        let claimed = |path: &str, bytes| reporter.claimed(&"".into(), Path::new(path), bytes, Instant::now());
        let (small, large) = (claimed("/small", 10), claimed("/la\nrge", 8 << 20));
        assert_eq!(reporter.pending().len(), 2);
        let (sending, resuming) = (small.started(), large.started());
        sending.sent(10);
        resuming.resumed(100);
        resuming.sent(5);
        let snapshot = reporter.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.sent_bytes), (2, 15));
        assert_eq!(snapshot.large, [LargeTransfer { name: "/la\\nrge".into(), size: 8 << 20, sent: 105 }]);
        drop((sending, resuming));
        let snapshot = reporter.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.large.len(), snapshot.sent_bytes), (0, 0, 15));
        small.committed(Duration::from_secs(2));
        drop(small);
        assert_eq!(reporter.pending().iter().map(|file| file.bytes).collect::<Vec<_>>(), [8 << 20]);
        let snapshot = reporter.snapshot();
        assert_eq!((snapshot.upload.count, snapshot.upload.seconds, snapshot.lag.count), (1, 2.0, 1));
    }

    #[test]
    fn an_outage_lasts_until_the_destination_is_up() {
        let reporter = Reporter::default();
        reporter.destination_down("sftp://h/", "refused");
        assert_eq!(reporter.snapshot().outages["sftp://h/"].reason, "refused");
        reporter.destination_up("sftp://h/");
        assert!(reporter.snapshot().outages.is_empty());
    }
}
