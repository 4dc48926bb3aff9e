//! Files that were claimed and have not come to their end: those that wait for a session, and those in flight. Their
//! number is bounded by the workers and their queue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Reporter;
use crate::domain::display;

/// Files from this size on are shown by name while they are in flight.
pub(super) const LARGE_BYTES: u64 = 8 << 20;

#[derive(Debug)]
struct File {
    source: Arc<str>,
    path: PathBuf,
    bytes: u64,
    finished: Instant,
    uploading: AtomicBool,
    /// Of this attempt, what stood on the server already included.
    sent: AtomicU64,
}

/// All of them, those claimed first in front.
#[derive(Debug, Default)]
pub(super) struct ClaimedFiles(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    files: BTreeMap<u64, Arc<File>>,
}

/// One large upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeTransfer {
    /// The local path, escaped for people.
    pub name: String,
    pub size: u64,
    pub sent: u64,
}

/// A claimed file whose upload is not under way.
#[derive(Debug, Clone)]
pub struct Pending {
    pub source: Arc<str>,
    pub path: PathBuf,
    pub bytes: u64,
    pub finished: Instant,
}

impl ClaimedFiles {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn large(&self) -> Vec<LargeTransfer> {
        let inner = self.inner();
        let large = inner.files.values().filter(|file| file.bytes >= LARGE_BYTES && file.uploading.load(Relaxed));
        large
            .map(|file| LargeTransfer {
                name: display::path(&file.path).to_string(),
                size: file.bytes,
                sent: file.sent.load(Relaxed),
            })
            .collect()
    }

    pub fn pending(&self) -> Vec<Pending> {
        let inner = self.inner();
        let pending = inner.files.values().filter(|file| !file.uploading.load(Relaxed));
        pending
            .map(|file| Pending {
                source: file.source.clone(),
                path: file.path.clone(),
                bytes: file.bytes,
                finished: file.finished,
            })
            .collect()
    }
}

/// A claimed file. Dropping it, however it comes about, ends it.
#[derive(Debug)]
pub struct Claimed {
    reporter: Reporter,
    number: u64,
    file: Arc<File>,
}

impl Claimed {
    pub(super) fn new(reporter: &Reporter, source: &Arc<str>, path: &Path, bytes: u64, finished: Instant) -> Self {
        let (uploading, sent) = Default::default();
        let file = File { source: source.clone(), path: path.to_owned(), bytes, finished, uploading, sent };
        let file = Arc::new(file);
        let mut inner = reporter.shared().claimed.inner();
        let number = inner.next;
        inner.next += 1;
        inner.files.insert(number, file.clone());
        drop(inner);
        Self { reporter: reporter.clone(), number, file }
    }

    /// An upload attempt begins; it ends when the handle is dropped.
    pub fn started(&self) -> Transfer {
        self.reporter.shared().in_flight.fetch_add(1, Relaxed);
        self.file.sent.store(0, Relaxed);
        self.file.uploading.store(true, Relaxed);
        Transfer { reporter: self.reporter.clone(), file: self.file.clone() }
    }

    /// It was committed, after an upload that took so long.
    pub fn committed(&self, upload: Duration) {
        let shared = self.reporter.shared();
        shared.upload.observe(upload);
        shared.lag.observe(self.file.finished.elapsed());
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.reporter.shared().claimed.inner().files.remove(&self.number);
    }
}

/// One upload attempt. Dropping it, however it comes about, ends the attempt.
#[derive(Debug)]
pub struct Transfer {
    reporter: Reporter,
    file: Arc<File>,
}

impl Transfer {
    /// So many more bytes were acknowledged by the server.
    pub fn sent(&self, bytes: u64) {
        self.reporter.shared().sent_bytes.fetch_add(bytes, Relaxed);
        self.file.sent.fetch_add(bytes, Relaxed);
    }

    /// So many bytes stood on the server already, from an earlier attempt: they count for this file, not for the rate.
    pub fn resumed(&self, bytes: u64) {
        self.file.sent.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.file.uploading.store(false, Relaxed);
        self.reporter.shared().in_flight.fetch_sub(1, Relaxed);
    }
}
