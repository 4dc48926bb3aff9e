//! Turns at something that only one task of this process may work on at a time: a remote name that versions of one file
//! replace, the older of which must not come last; bytes that are archived once; or the disposal of a local file, which a
//! worker and a scan may both have come to.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

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
