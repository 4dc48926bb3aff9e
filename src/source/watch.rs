//! Says when something happened below the roots: what appeared, what was closed after writing, and when to scan.
//!
//! One thread looks after every root, and `notify`'s own tells it what inotify says. It first sets the watches, one for
//! each directory that selection enters, and then asks for a scan, so nothing falls between the two. The watch of a
//! directory is set before the directory is read for those below it. Nothing is remembered of single files, and of
//! directories only what `notify` remembers. Where it may have lost one, all watches are set anew.
//!
//! **When the consumer is slow**, the thread waits for room in the channel while events gather up to a bound; beyond,
//! scans of single directories are asked for ([`SourceEvent::Crowded`]), then of everything ([`RescanReason::Overflow`])
//! as after an overflow of the kernel's own queue. The watcher itself is never blocked, and nothing is lost for good.
//!
//! **Where events cannot be trusted** a root is polled: at a watch limit, on filesystems that others change behind this
//! kernel's back (NFS and its like), and where the start-up canary's event does not arrive (gVisor, some overlays).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{BelowRoot, Candidate, Root};
use crate::config::settings::WatcherKind;
use crate::domain::Pulse;
use crate::selection::Selection;

mod canary;
mod inotify;
mod mailbox;
mod worker;

use mailbox::Mailbox;
use worker::Worker;

/// Room of the channel to the consumer.
const CHANNEL: usize = 1024;

/// A root and what counts below it.
#[derive(Debug, Clone)]
pub struct Watched {
    pub root: Arc<Root>,
    pub selection: Arc<Selection>,
}

#[derive(Debug, Clone)]
pub struct WatchOptions {
    pub kind: WatcherKind,
    /// Between the reconciling scans of a root whose events arrive.
    pub scan_interval: Duration,
    /// Between the scans of a root that is polled; at most `scan_interval`.
    pub poll_interval: Duration,
    /// How long the canary's event may take.
    pub canary_patience: Duration,
    /// A directory for a file that is made and removed at once, to see that all that happened before was told
    /// ([`Watch::flush`]). Where it cannot be written to, everything is scanned instead.
    pub bells: PathBuf,
    /// Says that the thread is not stuck.
    pub pulse: Arc<Pulse>,
}

impl WatchOptions {
    pub fn new(kind: WatcherKind, scan_interval: Duration) -> Self {
        Self {
            kind,
            scan_interval,
            poll_interval: Duration::from_secs(2).min(scan_interval),
            canary_patience: Duration::from_secs(2),
            bells: std::env::temp_dir(),
            pulse: Arc::default(),
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
    /// A directory appeared, or can be read now: walk it ([`super::scan::scan_below`]). Its watches stand, and those of
    /// all below it.
    NewDirectory { root: Arc<Root>, path: BelowRoot },
    /// More happened to the files right in a directory (empty for the root itself) than was noted: look at them all.
    Crowded { root: Arc<Root>, directory: PathBuf },
    /// Scan the whole root.
    Rescan { root: Arc<Root>, reason: RescanReason },
    /// The root is polled from now on; once for each root.
    Degraded { root: Arc<Root>, reason: String },
    /// The root's directory is not there; it is looked for every second. Once for each loss.
    RootMissing { root: Arc<Root> },
    /// All that happened before [`Watch::flush`] was told, but for what only a scan of these roots can find.
    Flushed { scan: Vec<Arc<Root>> },
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
        Self::with_mailbox(Arc::default(), watched, options, random)
    }

    fn with_mailbox(
        mailbox: Arc<Mailbox>,
        watched: Vec<Watched>,
        options: WatchOptions,
        random: u64,
    ) -> std::io::Result<Self> {
        let (out, events) = mpsc::channel(CHANNEL);
        let stop = Arc::new(AtomicBool::new(false));
        let pulse = options.pulse.clone();
        let mut worker = Worker::new(watched, options, random, Arc::clone(&mailbox), out, Arc::clone(&stop));
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            // The only error is that nobody listens any more.
            let _ = worker.run();
            pulse.rest();
        })?;
        Ok(Self { events, stop, mailbox })
    }

    /// The next event; `None` if the thread ended, which it does not by itself.
    pub async fn recv(&mut self) -> Option<SourceEvent> {
        self.events.recv().await
    }

    /// Asks for [`SourceEvent::Flushed`], behind everything that has happened below the roots by now.
    pub fn flush(&self) {
        self.mailbox.ask();
    }

    /// Takes events that are there, at most `limit`. Ready with 0 where [`Watch::recv`] gives `None`.
    pub fn poll_recv_many(
        &mut self,
        context: &mut Context<'_>,
        events: &mut Vec<SourceEvent>,
        limit: usize,
    ) -> Poll<usize> {
        self.events.poll_recv_many(context, events, limit)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.mailbox.stop();
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
