//! The inotify watcher: one watch for each directory, and what to do where one cannot be had.
//!
//! `notify` could watch whole trees, but it asks no selection, takes one directory that it may not read for the end of
//! all watching, and forgets subdirectories that it lost in a race. So each directory is watched on its own, and who is
//! to be watched is decided here. `notify` forgets by itself what was removed or renamed, with all below it.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use notify::{ErrorKind, INotifyWatcher, RecursiveMode, Watcher};

use super::mailbox::Mailbox;

/// How long the thread of a watcher may take to end. It never waits for anything, so it takes no time.
const ENDING: Duration = Duration::from_secs(10);

/// One inotify instance. Its watches go with it.
#[derive(Debug)]
pub(super) struct Inotify {
    watcher: INotifyWatcher,
    /// Closed when the watcher's thread has ended and its watches are gone.
    ended: mpsc::Receiver<()>,
    #[cfg(test)]
    mailbox: Arc<Mailbox>,
}

/// Why a directory is not watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unwatched {
    /// It is not there any more, or it is none.
    Vanished,
    /// Its path is longer than any that can be watched.
    TooLong,
    /// This user may not read it.
    Unreadable,
    /// No other directory could be watched either; what to do about it.
    Failed(String),
}

impl Inotify {
    /// An error says what to do about it.
    pub fn new(mailbox: Arc<Mailbox>) -> Result<Self, String> {
        let (alive, ended) = mpsc::channel::<()>();
        #[cfg(test)]
        let faults = mailbox.clone();
        let told = move |told| {
            let _lives_as_long_as_this = &alive;
            mailbox.put(told);
        };
        let watcher = INotifyWatcher::new(told, notify::Config::default()).map_err(|error| explain(&error))?;
        Ok(Self {
            watcher,
            ended,
            #[cfg(test)]
            mailbox: faults,
        })
    }

    /// Watches one directory and what is right in it. When this returns, all that was told before is in the mailbox or
    /// will be, and nothing of it takes this watch away again but the directory's own end.
    pub fn watch(&mut self, directory: &Path) -> Result<(), Unwatched> {
        #[cfg(test)]
        if self.mailbox.faults.no_more_watches.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Unwatched::Failed(explain(&notify::Error::new(ErrorKind::MaxFilesWatch))));
        }
        self.watcher.watch(directory, RecursiveMode::NonRecursive).map_err(|error| match &error.kind {
            ErrorKind::PathNotFound => Unwatched::Vanished,
            ErrorKind::Io(io) => match io.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => Unwatched::Unreadable,
                Some(libc::ENAMETOOLONG) => Unwatched::TooLong,
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Unwatched::Vanished,
                _ => Unwatched::Failed(explain(&error)),
            },
            _ => Unwatched::Failed(explain(&error)),
        })
    }

    /// Ends the watch of this one directory.
    pub fn unwatch(&mut self, directory: &Path) {
        // Not watched (any more) is what was wanted.
        let _ = self.watcher.unwatch(directory);
    }

    /// Gives all watches back; they count against the limit no more when this returns.
    pub fn end(self) {
        drop(self.watcher);
        let _ = self.ended.recv_timeout(ENDING);
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
    fn a_directory_that_is_not_there_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let mut inotify = Inotify::new(Arc::default()).unwrap();
        assert_eq!(inotify.watch(dir.path()), Ok(()));
        let gone = dir.path().join("gone");
        assert_eq!(inotify.watch(&gone), Err(Unwatched::Vanished));
        std::fs::write(&gone, "").unwrap();
        assert_eq!(inotify.watch(&gone.join("below a file")), Err(Unwatched::Vanished));
        assert_eq!(inotify.watch(&dir.path().join("long/".repeat(1_000))), Err(Unwatched::TooLong));
        inotify.unwatch(&gone);
        inotify.end();
    }

    #[test]
    fn limits_are_explained() {
        let limit = explain(&notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(limit.contains("fs.inotify.max_user_watches"));
        let instances = explain(&notify::Error::io(std::io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(instances.contains("fs.inotify.max_user_instances"));
    }
}
