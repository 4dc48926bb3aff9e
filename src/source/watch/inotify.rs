//! The inotify watcher: whole trees, and what to do where it fails.

use std::path::Path;
use std::sync::Arc;

use notify::{ErrorKind, INotifyWatcher, RecursiveMode, Watcher};

use super::mailbox::Mailbox;

/// Watches whole trees.
#[derive(Debug)]
pub(super) struct Inotify {
    watcher: INotifyWatcher,
}

impl Inotify {
    /// An error says what to do about it.
    pub fn new(mailbox: Arc<Mailbox>) -> Result<Self, String> {
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = INotifyWatcher::new(move |told| mailbox.put(told), config).map_err(|error| explain(&error))?;
        Ok(Self { watcher })
    }

    /// Watches a tree, with every directory in it. Blocks until that is done.
    pub fn watch(&mut self, root: &Path) -> Result<(), String> {
        // A directory that vanishes while the tree is walked ends the walk.
        let mut tries = 0;
        loop {
            tries += 1;
            match self.watcher.watch(root, RecursiveMode::Recursive) {
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
        let _ = self.watcher.unwatch(root);
    }

    /// Returns once the watches of all directories that were reported so far stand: the request goes through the
    /// watcher's event loop, behind the events that reported them.
    pub fn barrier(&mut self) {
        let _ = self.watcher.configure(notify::Config::default());
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
    fn limits_are_explained() {
        let limit = explain(&notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(limit.contains("fs.inotify.max_user_watches"));
        let instances = explain(&notify::Error::io(std::io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(instances.contains("fs.inotify.max_user_instances"));
    }
}
