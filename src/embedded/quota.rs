//! A limit on what the files of the served directory hold together.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes are counted as they are written. What was removed meanwhile is found by counting the tree again, which is
/// done only when the count says that there is no room left.
pub(super) struct Quota {
    root: PathBuf,
    limit: u64,
    used: Mutex<u64>,
}

impl Quota {
    pub(super) fn new(root: &Path, limit: u64) -> Self {
        Self { root: root.to_owned(), limit, used: Mutex::new(bytes_below(root)) }
    }

    /// Takes so many bytes, or says no and takes none.
    pub(super) fn admits(&self, growth: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if growth > 0 && used.saturating_add(growth) > self.limit {
            *used = bytes_below(&self.root);
            if used.saturating_add(growth) > self.limit {
                return false;
            }
        }
        *used += growth;
        true
    }

    /// Bytes still free, counted afresh.
    pub(super) fn left(&self) -> u64 {
        self.limit.saturating_sub(bytes_below(&self.root))
    }
}

/// Sizes of all regular files; what cannot be read counts nothing.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        })
        .sum()
}
