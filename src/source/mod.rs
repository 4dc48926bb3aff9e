//! Where candidates come from: a scanner that walks, a watcher that listens, a list that somebody else made.
//! All of them only *name* files; opening one safely is [`open`]'s part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod lease;
pub mod list;
pub mod open;
pub mod scan;
pub mod watch;

/// One directory of a source. Candidates are named by their path below it.
#[derive(Debug)]
pub struct Root {
    /// Which source of the settings it belongs to.
    pub source: usize,
    /// Absolute.
    pub path: PathBuf,
}

/// A path below a root: relative, not empty, without `.` and `..`. Bytes, not necessarily UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BelowRoot(PathBuf);

impl BelowRoot {
    /// `None` where `path` is not plain and relative.
    pub fn new(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        (plain && !path.as_os_str().is_empty()).then_some(Self(path))
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// A file that may be archived, named but not opened.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub root: Arc<Root>,
    pub path: BelowRoot,
}

impl Candidate {
    pub fn absolute(&self) -> PathBuf {
        self.root.path.join(self.path.as_path())
    }
}
