//! The debounced inotify watcher, and what it must not do to us: block on a slow consumer, or hold more events than
//! the bound while the consumer is busy.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use notify::{ErrorKind, INotifyWatcher, RecursiveMode};
use notify_debouncer_full::{DebouncedEvent, Debouncer, NoCache, new_debouncer_opt};

use super::Message;

/// Events of one file within this time are seen together. Short, because the settle time does the real waiting.
const DEBOUNCE: Duration = Duration::from_millis(25);

/// Events that wait for the consumer at most; beyond, they are dropped and a scan makes up for them.
const MAX_PENDING: usize = 16_384;

/// What the watcher's thread and ours share.
#[derive(Debug, Default)]
pub(super) struct Pending {
    events: AtomicUsize,
    overflowed: AtomicBool,
}

impl Pending {
    fn admit(&self, count: usize) -> bool {
        let before = self.events.fetch_add(count, Ordering::Relaxed);
        // A single batch above the bound is in memory already.
        if before > 0 && before + count > MAX_PENDING {
            self.events.fetch_sub(count, Ordering::Relaxed);
            self.overflowed.store(true, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// To be called for each batch taken.
    pub fn taken(&self, batch: &[DebouncedEvent]) {
        self.events.fetch_sub(batch.len(), Ordering::Relaxed);
    }

    /// Whether events were dropped since the last call.
    pub fn take_overflow(&self) -> bool {
        self.overflowed.swap(false, Ordering::Relaxed)
    }
}

/// Watches whole trees.
#[derive(Debug)]
pub(super) struct Inotify {
    debouncer: Debouncer<INotifyWatcher, NoCache>,
}

impl Inotify {
    /// An error says what to do about it.
    pub fn new(inbox: Sender<Message>, pending: Arc<Pending>) -> Result<Self, String> {
        let handler = move |result: Result<Vec<DebouncedEvent>, Vec<notify::Error>>| {
            let message = match result {
                Ok(batch) if !pending.admit(batch.len()) => Message::Overflow,
                Ok(batch) => Message::Batch(batch),
                Err(errors) => Message::Errors(errors),
            };
            // The receiver is gone only when the watch has ended.
            let _ = inbox.send(message);
        };
        let config = notify::Config::default().with_follow_symlinks(false);
        let debouncer = new_debouncer_opt(DEBOUNCE, Some(DEBOUNCE), handler, NoCache::new(), config)
            .map_err(|error| explain(&error))?;
        Ok(Self { debouncer })
    }

    /// Watches a tree, with every directory in it. Blocks until that is done.
    pub fn watch(&mut self, root: &Path) -> Result<(), String> {
        // A directory that vanishes while the tree is walked ends the walk.
        let mut tries = 0;
        loop {
            tries += 1;
            match self.debouncer.watch(root, RecursiveMode::Recursive) {
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) && tries < 10 && root.is_dir() => {}
                Err(error) => {
                    self.unwatch(root);
                    return Err(explain(&error));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    pub fn unwatch(&mut self, root: &Path) {
        // Not watched (any more) is what was wanted.
        let _ = self.debouncer.unwatch(root);
    }

    /// Returns once the watches of all directories that were reported so far stand: the request goes through the
    /// watcher's event loop, behind the batch that reported them.
    pub fn barrier(&mut self) {
        let _ = self.debouncer.configure(notify::Config::default());
    }
}

/// What failed, why, and what to do.
pub(super) fn explain(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => "the limit of inotify watches is reached; raise it with \
             `sysctl fs.inotify.max_user_watches=1048576`"
            .into(),
        // EMFILE of inotify_init1(2).
        ErrorKind::Io(io) if io.raw_os_error() == Some(libc::EMFILE) => "the limit of inotify instances or of open \
             files is reached; raise it with `sysctl fs.inotify.max_user_instances=1024` or `ulimit -n`"
            .into(),
        ErrorKind::Io(io) => format!("inotify failed: {io}"),
        kind => format!("inotify failed: {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_does_not_keep_up_costs_a_scan_not_memory() {
        let pending = Pending::default();
        assert!(pending.admit(MAX_PENDING * 2));
        assert!(!pending.admit(1));
        assert!(pending.take_overflow() && !pending.take_overflow());
        pending.events.store(0, Ordering::Relaxed);
        assert!(pending.admit(1) && !pending.take_overflow());
    }

    #[test]
    fn limits_are_explained() {
        let limit = explain(&notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(limit.contains("fs.inotify.max_user_watches"));
        let instances = explain(&notify::Error::io(std::io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(instances.contains("fs.inotify.max_user_instances"));
    }
}
