//! Naming files: what a scanner, a list or a user names, before anybody looks at it.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::domain::display;
use crate::localfs::{FileKind, OpenError};
use crate::source::scan::Found;
use crate::source::{BelowRoot, Candidate, Root};

/// Names that wait to be looked at; beyond it the scan waits too.
const NAMED: usize = 1024;

/// A candidate, or something that could not become one.
#[derive(Debug)]
pub enum Named {
    Candidate(Candidate),
    Problem { source: usize, path: PathBuf, reason: String },
}

/// A path of a source that cannot be used: it becomes a failed row.
#[derive(Debug, Clone)]
pub struct BadPath {
    pub source: usize,
    pub path: std::path::PathBuf,
    pub reason: String,
}

/// Passes on what a scanner found, as a name.
pub fn send_found(item: Found, send: &mut dyn FnMut(Named) -> ControlFlow<()>) -> ControlFlow<()> {
    match item {
        Found::Candidate(candidate) => send(Named::Candidate(candidate)),
        Found::Problem { root, path, error } => {
            send(Named::Problem { source: root.source, path, reason: error.to_string() })
        }
        Found::Ignored { root, path, why } => {
            tracing::trace!(path = %display::path(&root.path.join(path.as_path())), ?why, "ignored");
            ControlFlow::Continue(())
        }
    }
}

/// Names files on a thread of its own. It ends early when nobody listens any more.
pub fn named(walk: impl FnOnce(&mut dyn FnMut(Named) -> ControlFlow<()>) + Send + 'static) -> mpsc::Receiver<Named> {
    let (sender, names) = mpsc::channel(NAMED);
    tokio::task::spawn_blocking(move || {
        walk(&mut |name| match sender.blocking_send(name) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
    });
    names
}

/// One path of a source, as it was found at the start.
#[derive(Debug, Clone)]
pub enum Entry {
    Directory(Arc<Root>),
    /// A file that was named itself: its directory is the root, and selection is not asked.
    File(Candidate),
}

impl Entry {
    pub fn root(&self) -> &Arc<Root> {
        match self {
            Self::Directory(root) => root,
            Self::File(candidate) => &candidate.root,
        }
    }

    /// Opens a path of source number `source`. The error says what to do.
    pub fn open(source: usize, path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("{}: {why}", display::path(path));
        let metadata = path.symlink_metadata().map_err(|error| failed(explain(&error)))?;
        if metadata.is_dir() || (metadata.is_symlink() && path.is_dir()) {
            return Root::open(source, path)
                .map(|root| Self::Directory(Arc::new(root)))
                .map_err(|error| error.to_string());
        }
        if metadata.is_symlink() {
            return Err(OpenError::Symlink { path: path.to_owned() }.to_string());
        }
        if let Some(kind) = FileKind::of(rustix::fs::FileType::from_raw_mode(metadata.mode())) {
            return Err(OpenError::NotRegular { path: path.to_owned(), kind }.to_string());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().and_then(BelowRoot::new).ok_or_else(|| failed("it is no file name".into()))?;
        let root = Root::open(source, parent).map_err(|error| error.to_string())?;
        Ok(Self::File(Candidate { root: Arc::new(root), path: name }))
    }
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory; check the path".into(),
        std::io::ErrorKind::NotADirectory => "something on the way to it is no directory; check the path".into(),
        std::io::ErrorKind::PermissionDenied => {
            "permission denied; this user needs search permission on every directory above it".into()
        }
        _ => error.to_string(),
    }
}
