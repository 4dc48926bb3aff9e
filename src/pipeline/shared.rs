//! What the engines of one process have in common, that follow one another where the configuration is read again: an
//! earlier one may still be at something.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::taken_over::TakenOver;
use super::turns::Turns;
use crate::domain::{FileKey, KeyId, RemotePath, Sha256Digest};

/// One for each process; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// Turns at a remote name of a destination, by its canonical URL, where a commit may replace what has it, or it is
    /// written in place: whoever has the turn asks whether its version still stands, and commits.
    pub commits: Arc<Turns<(Arc<str>, RemotePath)>>,
    /// Turns at the bytes with this SHA-256 for a destination: a file of this process archives them. Others wait for it,
    /// but not for ever: whose they are is what the ledger says.
    pub contents: Arc<Turns<(Arc<str>, Sha256Digest)>>,
    /// Turns at the disposal of one version of a local file.
    pub disposals: Arc<Turns<KeyId>>,
    /// Files that were claimed for a moment, for others with the same bytes.
    pub settled: Arc<Settled>,
    pub taken_over: Arc<TakenOver>,
    pub removals: Arc<Removals>,
}

/// Names that were written in place, by their destinations, whose removal was asked for and may still be carried out.
#[derive(Debug, Default)]
pub struct Removals(Mutex<HashSet<(Arc<str>, RemotePath)>>);

impl Removals {
    pub fn begin(&self, destination: &Arc<str>, name: &RemotePath) {
        self.names().insert((destination.clone(), name.clone()));
    }

    pub fn end(&self, destination: &Arc<str>, name: &RemotePath) {
        self.names().remove(&(destination.clone(), name.clone()));
    }

    pub fn may_come(&self, destination: &Arc<str>, name: &RemotePath) -> bool {
        self.names().contains(&(destination.clone(), name.clone()))
    }

    fn names(&self) -> MutexGuard<'_, HashSet<(Arc<str>, RemotePath)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files whose claims may be ours for a moment without a job.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashSet<KeyId>>);

impl Settled {
    pub fn note(&self, key: &FileKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.id());
    }

    pub fn has(&self, key: &FileKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&key.id())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn engines_that_follow_one_another_share_them() {
        let (key, shared) = (KeyId([7; 16]), Shared::default());
        let _earlier = shared.disposals.take(key).await;
        assert!(Box::pin(shared.clone().disposals.take(key)).as_mut().now_or_never().is_none());
    }
}
