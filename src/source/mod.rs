//! Where candidates come from: a scanner that walks, a watcher that listens, a list that somebody else made.
//! All of them only *name* files; opening one safely is [`crate::localfs`]'s part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::localfs::{OpenError, RootDir};

pub mod list;
pub mod scan;
pub mod watch;

pub use crate::localfs::BelowRoot;

/// One directory of a source. Candidates are named by their path below it.
#[derive(Debug)]
pub struct Root {
    /// Which source of the settings it belongs to.
    pub source: usize,
    /// Absolute.
    pub path: PathBuf,
    /// What all access below it goes through.
    pub dir: RootDir,
}

impl Root {
    /// Opens the directory at `path`, which may be relative or a symbolic link; [`Root::path`] is what it resolves to.
    pub fn open(source: usize, path: &Path) -> Result<Self, OpenError> {
        let dir = RootDir::open(path)?;
        Ok(Self { source, path: dir.path().to_owned(), dir })
    }
}

/// Equal where they are the same directory of the same source.
impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        (self.source, &self.path) == (other.source, &other.path)
    }
}

impl Eq for Root {}

/// A file that may be archived, named but not opened. Equal where the root's source and path and the path below it are.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub root: Arc<Root>,
    pub path: BelowRoot,
}

impl Candidate {
    pub fn absolute(&self) -> PathBuf {
        self.root.path.join(self.path.as_path())
    }

    fn identity(&self) -> (usize, &Path, &BelowRoot) {
        (self.root.source, &self.root.path, &self.path)
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Candidate {}

impl std::hash::Hash for Candidate {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}
