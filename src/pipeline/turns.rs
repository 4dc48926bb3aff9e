//! Turns at something that only one task of this process may work on at a time: a remote name that versions of one file
//! replace, the older of which must not come last; bytes that are archived once; or the disposal of a local file, which a
//! worker and a scan may both have come to.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::taken_over::TakenOver;
use crate::domain::{FileKey, KeyId, RemotePath, Sha256Digest};

/// The turns of a process, whose engines follow one another, and what these leave to one another.
#[derive(Debug, Clone, Default)]
pub struct AllTurns {
    /// At a remote name of a destination, by its canonical URL, where a commit may replace what has it, or it is written in
    /// place: whoever has the turn asks whether its version still stands, and commits.
    pub commits: Arc<Turns<(Arc<str>, RemotePath)>>,
    /// At the bytes with this SHA-256 for a destination: a file of this process archives them. Others wait for it, but not
    /// for ever: whose they are is what the ledger says.
    pub contents: Arc<Turns<(Arc<str>, Sha256Digest)>>,
    /// At the disposal of one version of a local file.
    pub disposals: Arc<Turns<KeyId>>,
    /// Files that were claimed for a moment, for others with the same bytes.
    pub settled: Arc<Settled>,
    pub taken_over: Arc<TakenOver>,
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

/// What somebody has the turn at, or waits for.
#[derive(Debug)]
pub struct Turns<K>(Mutex<HashMap<K, Turn>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits until nobody else has the turn; it ends when it is dropped.
    pub async fn take(&self, at: K) -> OwnedMutexGuard<()> {
        self.turn(at).lock_owned().await
    }

    /// The turn, where nobody has it.
    pub fn try_take(&self, at: K) -> Option<OwnedMutexGuard<()>> {
        self.turn(at).try_lock_owned().ok()
    }

    fn turn(&self, at: K) -> Turn {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(at).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn engines_that_follow_one_another_share_them() {
        let (key, turns) = (KeyId([7; 16]), AllTurns::default());
        let _earlier = turns.disposals.take(key).await;
        assert!(Box::pin(turns.clone().disposals.take(key)).as_mut().now_or_never().is_none());
    }

    #[tokio::test]
    async fn one_after_the_other_at_each_key() {
        let turns = Turns::default();
        let [a, b] = [("sftp://h/", "/a"), ("sftp://h/", "/b")];
        let first = turns.take(a).await;
        let mut second = Box::pin(turns.take(a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.take(b).await);
        // Another server's name is another one.
        drop(turns.take(("sftp://i/", "/a")).await);
        assert!(turns.try_take(a).is_none() && turns.try_take(b).is_some());
        drop(first);
        drop(second.await);
        drop(turns.take(b).await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "what nobody waits for is forgotten");
    }
}
