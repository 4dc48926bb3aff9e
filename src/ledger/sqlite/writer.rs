//! Group commit: one thread owns the connections, takes all calls that wait, runs them in one transaction, commits it
//! once, and then answers them all.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::entries::Entries;
use super::error::{Failure, sqlite, unusable};
use super::presence::{Lock, Owners};
use super::rows::Rows;
use crate::domain::OwnerId;
use crate::ledger::{Clock, LedgerError};

/// The most calls that share one commit.
const BATCH: usize = 512;

/// All that the thread owns.
pub(super) struct Store {
    pub(super) path: PathBuf,
    pub(super) entries: Connection,
    pub(super) rows: Rows,
    pub(super) owners: Owners,
    pub(super) owner: OwnerId,
    pub(super) lease_ms: i64,
    pub(super) clock: Clock,
    /// `None` for a private ledger, which has no other owners, and once the run has ended.
    pub(super) lock: Option<Lock>,
    pub(super) phase: Phase,
    pub(super) transaction: Transaction,
    /// Who was seen to live, within one transaction.
    pub(super) alive: HashMap<OwnerId, bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// [`crate::ledger::Ledger::finish`] was called: nothing more is taken in.
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction {
    None,
    Open,
}

impl Store {
    /// The shared entries, in this batch's transaction, which begins with the first use.
    pub(super) fn entries(&mut self) -> rusqlite::Result<Entries<'_>> {
        if self.transaction == Transaction::None {
            // Immediate: a transaction that reads first and writes later could find that another process wrote
            // meanwhile.
            self.entries.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.transaction = Transaction::Open;
            self.alive.clear();
        }
        Ok(Entries {
            connection: &self.entries,
            owners: &self.owners,
            owner: self.owner,
            now: (self.clock)(),
            lease_ms: self.lease_ms,
            alive: &mut self.alive,
        })
    }

    /// Runs a batch. An error means that nothing of it took effect.
    fn run(&mut self, batch: &mut [Box<dyn Call>]) -> Result<(), LedgerError> {
        if self.phase == Phase::Finished {
            return Err(unusable(&self.path, "this run has ended it"));
        }
        let outcome = batch.iter_mut().try_for_each(|call| call.run(self)).and_then(|()| self.commit());
        outcome.map_err(|error| {
            self.roll_back();
            // An end that was not committed is none.
            self.phase = Phase::Running;
            sqlite(&self.path, &error)
        })
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.rows.commit()?;
        if self.transaction == Transaction::Open {
            // Writes and synchronises nothing where the transaction changed nothing.
            self.entries.prepare_cached("COMMIT")?.execute([])?;
            self.transaction = Transaction::None;
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        self.rows.roll_back();
        self.transaction = Transaction::None;
        if !self.entries.is_autocommit()
            && let Err(error) = self.entries.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "the ledger's transaction could not be rolled back");
        }
    }

    fn serve(mut self, mut calls: mpsc::Receiver<Box<dyn Call>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while calls.blocking_recv_many(&mut batch, BATCH) > 0 {
            let outcome = self.run(&mut batch);
            if self.phase == Phase::Finished && self.lock.take().is_some() {
                self.owners.forget(self.owner);
            }
            batch.drain(..).for_each(|call| call.answer(outcome.clone()));
        }
        // The rows are this process's alone, whether it finished or not.
        let rows = self.rows.close();
        if let Err(error) = std::fs::remove_file(&rows)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "the run's rows stay until the next start");
        }
    }
}

/// A call on its way through the thread.
trait Call: Send {
    /// Does the work within the transaction; an error ends the whole batch.
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()>;
    /// Tells the caller, once the transaction has ended one way or the other.
    fn answer(self: Box<Self>, outcome: Result<(), LedgerError>);
}

struct Work<F, T> {
    work: Option<F>,
    result: Option<Result<T, LedgerError>>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<F, T> Call for Work<F, T>
where
    F: FnOnce(&mut Store) -> Result<T, Failure> + Send,
    T: Send,
{
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.result = Some(match work(store) {
            Ok(value) => Ok(value),
            Err(Failure::LeaseLost) => Err(LedgerError::LeaseLost),
            Err(Failure::Sql(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), LedgerError>) {
        let answer = match (outcome, self.result) {
            (Ok(()), Some(result)) => result,
            (Err(error), _) => Err(error),
            // A batch that succeeded ran every call.
            (Ok(()), None) => return,
        };
        // A caller that went away needs no answer.
        let _ = self.reply.send(answer);
    }
}

/// The way to the thread. Dropping it ends the thread, after the calls that wait.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    calls: Option<mpsc::Sender<Box<dyn Call>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(store: Store) -> Result<Self, LedgerError> {
        let path = store.path.clone();
        // Callers beyond two batches wait for room.
        let (calls, waiting) = mpsc::channel(2 * BATCH);
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || store.serve(waiting))
            .map_err(|error| super::error::unavailable(&path, format!("its thread cannot be started: {error}")))?;
        Ok(Self { path, calls: Some(calls), thread: Some(thread) })
    }

    /// Runs `work` in a transaction that it may share with others; `Ok` once that is durable. A call whose future is
    /// dropped may still take effect.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        F: FnOnce(&mut Store) -> Result<T, Failure> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let ended = || unusable(&self.path, "its thread ended unexpectedly; please report this");
        let calls = self.calls.as_ref().ok_or_else(ended)?;
        calls.send(Box::new(Work { work: Some(work), result: None, reply })).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            // What it panicked with, if it did, is on standard error already.
            let _ = thread.join();
        }
    }
}
