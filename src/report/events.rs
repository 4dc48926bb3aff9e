//! What the pipeline tells: counters that cost a few atomic additions a file, and no queue that could grow.
//!
//! The counts here are for people who watch; the summary's rows and totals come from the ledger.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::{Status, Totals, display};

/// Files from this size on are shown by name while they are in flight.
const LARGE_BYTES: u64 = 8 << 20;

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

/// A handle for whoever has something to tell. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Reporter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    discovered: AtomicU64,
    in_flight: AtomicU64,
    sent_bytes: AtomicU64,
    archived: AtomicU64,
    archived_bytes: AtomicU64,
    skipped: AtomicU64,
    deferred: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
    state: Mutex<State>,
}

/// What is no number. Taken for a moment, a few times a second or for a large file.
#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Oldest first. Bounded by the number of files in flight.
    large: Vec<Arc<Large>>,
    /// By destination.
    outages: BTreeMap<String, Outage>,
    waiting: BTreeMap<usize, u64>,
}

#[derive(Debug)]
struct Large {
    name: String,
    size: u64,
    sent: AtomicU64,
}

/// Why a destination takes nothing at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub reason: String,
}

/// All counters at one moment. Each is exact; together they may be a few events apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// What [`Reporter::finished`] was told.
    pub totals: Totals,
    pub retries: u64,
    /// Large uploads under way, oldest first.
    pub large: Vec<LargeTransfer>,
    /// Destinations that take nothing at the moment.
    pub outages: BTreeMap<String, Outage>,
}

/// One large upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeTransfer {
    /// The local path, escaped for people.
    pub name: String,
    pub size: u64,
    pub sent: u64,
}

impl Reporter {
    pub fn new() -> Self {
        Self::default()
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

    /// An upload attempt begins; it ends when the handle is dropped.
    pub fn started(&self, path: &Path, size: u64) -> Transfer {
        self.0.in_flight.fetch_add(1, Relaxed);
        let large = (size >= LARGE_BYTES).then(|| {
            let large = Arc::new(Large { name: display::path(path).to_string(), size, sent: AtomicU64::new(0) });
            self.state().large.push(large.clone());
            large
        });
        Transfer { reporter: self.clone(), large }
    }

    /// A candidate came to its end; `bytes` is its size.
    pub fn finished(&self, status: Status, bytes: u64) {
        let counter = match status {
            Status::Archived => {
                self.0.archived_bytes.fetch_add(bytes, Relaxed);
                &self.0.archived
            }
            Status::Skipped => &self.0.skipped,
            Status::Deferred => &self.0.deferred,
            Status::Failed => &self.0.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Attempt number `attempt` (from 1) at a file failed, and another follows after `delay`.
    pub fn retrying(&self, path: &Path, attempt: u32, delay: Duration, error: &str) {
        self.0.retries.fetch_add(1, Relaxed);
        tracing::warn!(file = %display::path(path), attempt, ?delay, %error, "attempt failed, trying again");
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
        let state = self.state();
        Snapshot {
            phase: state.phase,
            discovered: shared.discovered.load(Relaxed),
            waiting: state.waiting.values().sum(),
            in_flight: shared.in_flight.load(Relaxed),
            sent_bytes: shared.sent_bytes.load(Relaxed),
            totals: Totals {
                archived: shared.archived.load(Relaxed),
                skipped: shared.skipped.load(Relaxed),
                deferred: shared.deferred.load(Relaxed),
                failed: shared.failed.load(Relaxed),
                bytes: shared.archived_bytes.load(Relaxed),
            },
            retries: shared.retries.load(Relaxed),
            large: state
                .large
                .iter()
                .map(|large| LargeTransfer {
                    name: large.name.clone(),
                    size: large.size,
                    sent: large.sent.load(Relaxed),
                })
                .collect(),
            outages: state.outages.clone(),
        }
    }
}

/// One upload attempt. Dropping it, however it comes about, ends the attempt.
#[derive(Debug)]
pub struct Transfer {
    reporter: Reporter,
    large: Option<Arc<Large>>,
}

impl Transfer {
    /// So many more bytes were acknowledged by the server.
    pub fn sent(&self, bytes: u64) {
        self.reporter.0.sent_bytes.fetch_add(bytes, Relaxed);
        if let Some(large) = &self.large {
            large.sent.fetch_add(bytes, Relaxed);
        }
    }

    /// So many bytes stood on the server already, from an earlier attempt: they count for this file, not for the rate.
    pub fn resumed(&self, bytes: u64) {
        if let Some(large) = &self.large {
            large.sent.fetch_add(bytes, Relaxed);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.reporter.0.in_flight.fetch_sub(1, Relaxed);
        if let Some(own) = &self.large {
            self.reporter.state().large.retain(|large| !Arc::ptr_eq(large, own));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_is_told() {
        let reporter = Reporter::new();
        reporter.discovered(3);
        reporter.waiting(0, 2);
        reporter.waiting(1, 3);
        reporter.waiting(0, 1);
        reporter.finished(Status::Archived, 10);
        reporter.finished(Status::Failed, 5);
        reporter.retrying(Path::new("/a"), 1, Duration::ZERO, "refused");
        let snapshot = reporter.clone().snapshot();
        assert_eq!((snapshot.discovered, snapshot.waiting, snapshot.retries), (3, 4, 1));
        assert_eq!(snapshot.totals, Totals { archived: 1, failed: 1, bytes: 10, ..Totals::default() });
    }

    #[test]
    fn an_attempt_ends_with_its_handle() {
        let reporter = Reporter::new();
        let small = reporter.started(Path::new("/small"), 10);
        let large = reporter.started(Path::new("/la\nrge"), LARGE_BYTES);
        small.sent(10);
        large.resumed(100);
        large.sent(5);
        let snapshot = reporter.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.sent_bytes), (2, 15));
        assert_eq!(snapshot.large, [LargeTransfer { name: "/la\\nrge".into(), size: LARGE_BYTES, sent: 105 }]);
        drop((small, large));
        let snapshot = reporter.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.large.len(), snapshot.sent_bytes), (0, 0, 15));
    }

    #[test]
    fn an_outage_lasts_until_the_destination_is_up() {
        let reporter = Reporter::new();
        reporter.destination_down("sftp://h/", "refused");
        assert_eq!(reporter.snapshot().outages["sftp://h/"].reason, "refused");
        reporter.destination_up("sftp://h/");
        assert!(reporter.snapshot().outages.is_empty());
    }
}
