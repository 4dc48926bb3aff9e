//! The rows of this run's summary, which no other process reads: they stay here. A thread that is at work on them takes
//! all that came meanwhile, for waking one, and a transaction, cost more than a row.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::Recount;
use crate::ledger::rows::Rows;
use crate::ledger::sqlite::error::sqlite;
use crate::ledger::{LedgerError, RowOf};

/// Rows of one transaction.
const BATCH: usize = 512;

/// A handle; clones share the rows.
#[derive(Clone)]
pub(super) struct Summary(Arc<Shared>);

struct Shared {
    rows: Mutex<Rows>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Put>,
    /// Whether a thread is on its way, or at work.
    attended: bool,
}

struct Put {
    rows: Vec<RowOf>,
    reply: oneshot::Sender<Result<Vec<Recount>, LedgerError>>,
}

impl std::fmt::Debug for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Summary").finish_non_exhaustive()
    }
}

impl Summary {
    pub(super) fn new(rows: Rows) -> Self {
        Self(Arc::new(Shared { rows: Mutex::new(rows), queue: Mutex::default() }))
    }

    pub(super) async fn put(&self, rows: Vec<RowOf>) -> Result<Vec<Recount>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let attend = {
            let mut queue = self.queue();
            queue.waiting.push(Put { rows, reply });
            !std::mem::replace(&mut queue.attended, true)
        };
        if attend {
            let summary = self.clone();
            tokio::spawn(summary.attend());
        }
        answer.await.map_err(|_| broken())?
    }

    /// Runs `work` on the rows, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Rows) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let summary = self.clone();
        let working = tokio::task::spawn_blocking(move || work(&summary.rows()));
        let worked = working.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        worked.map_err(failed)
    }

    /// Until nothing waits.
    async fn attend(self) {
        // What woke the first caller woke others.
        tokio::task::yield_now().await;
        loop {
            let batch = {
                let mut queue = self.queue();
                if queue.waiting.is_empty() {
                    queue.attended = false;
                    return;
                }
                let count = queue.waiting.len().min(BATCH);
                queue.waiting.drain(..count).collect()
            };
            let summary = self.clone();
            // Whose reply a panic takes with it is told so.
            let _ = tokio::task::spawn_blocking(move || summary.write(batch)).await;
        }
    }

    /// All of them or none.
    fn write(&self, batch: Vec<Put>) {
        let rows = self.rows();
        let written = batch.iter().map(|put| rows.put_all(&put.rows)).collect::<rusqlite::Result<Vec<_>>>();
        let written = written.and_then(|recounts| rows.commit().map(|()| recounts)).map_err(|error| {
            rows.roll_back();
            failed(error)
        });
        drop(rows);
        let replies = batch.into_iter().map(|put| put.reply);
        // A caller that went away needs no answer.
        match written {
            Ok(recounts) => replies.zip(recounts).for_each(|(reply, recounts)| drop(reply.send(Ok(recounts)))),
            Err(error) => replies.for_each(|reply| drop(reply.send(Err(error.clone())))),
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: rusqlite::Error) -> LedgerError {
    sqlite("the summary's temporary file".as_ref(), &error)
}

fn broken() -> LedgerError {
    LedgerError::Unusable {
        location: "in the summary's temporary file".into(),
        reason: "a part of this program failed; please report this".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Row, Status};
    use crate::ledger::contract::{key, row};

    fn archived(name: &str, bytes: u64) -> RowOf {
        RowOf::new(Some(&key(name)), row(name, Status::Archived, bytes))
    }

    #[tokio::test]
    async fn rows_that_are_put_together_are_told_apart() {
        let summary = Summary::new(Rows::unnamed().unwrap());
        let rows: Vec<Row> = (0..2_000).map(|n| row(&n.to_string(), Status::Archived, n)).collect();
        let put = rows.iter().map(|row| summary.put(vec![RowOf::new(None, row.clone())]));
        let told = futures::future::try_join_all(put).await.unwrap();
        let each: Vec<_> = rows.iter().map(|row| vec![Recount::first(row)]).collect();
        assert_eq!(told, each);
        assert_eq!(summary.read(Rows::totals).await.unwrap().archived, 2_000);
        // Nobody stays at work on nothing.
        while summary.queue().attended {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_caller_that_went_away_keeps_nobody_waiting() {
        let summary = Summary::new(Rows::unnamed().unwrap());
        let gone = futures::future::poll_immediate(Box::pin(summary.put(vec![archived("a", 1)]))).await;
        assert!(gone.is_none());
        summary.put(vec![archived("b", 2)]).await.unwrap();
        assert_eq!(summary.read(Rows::totals).await.unwrap().bytes, 3);
    }
}
