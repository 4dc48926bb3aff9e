//! Turns at one remote name of one destination, for files that replace what has it: two versions of one file may be on their way at the same
//! time, and the older one must not come last. Whoever has the turn asks whether its version still stands, and commits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::domain::RemotePath;

/// The names at which somebody has the turn, or waits for it.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<Name, Turn>>);

/// The canonical URL of a destination, and a name there.
type Name = (Arc<str>, RemotePath);
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Turns {
    /// Waits until nobody else has the turn; it ends when it is dropped.
    pub async fn take(&self, destination: &Arc<str>, name: &RemotePath) -> OwnedMutexGuard<()> {
        let turn = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            names.retain(|_, turn| Arc::strong_count(turn) > 1);
            names.entry((destination.clone(), name.clone())).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_after_the_other_at_each_name() {
        let (turns, server) = (Turns::default(), Arc::from("sftp://h/"));
        let [a, b] = ["/a", "/b"].map(RemotePath::new);
        let first = turns.take(&server, &a).await;
        let mut second = Box::pin(turns.take(&server, &a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.take(&server, &b).await);
        // Another server's name is another one.
        drop(turns.take(&Arc::from("sftp://i/"), &a).await);
        drop(first);
        drop(second.await);
        drop(turns.take(&server, &b).await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "what nobody waits for is forgotten");
    }
}
