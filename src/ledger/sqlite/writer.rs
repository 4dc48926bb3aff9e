//! Group commit: one thread owns the connections, takes all calls that wait, runs them in one transaction, commits it
//! once, and then answers them all. Calls on the rows are answered before the commit, which costs them nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::entries::Entries;
use super::error::{Failure, is_refused_write, sqlite, unusable};
use super::presence::{Lock, Owners};
use super::schema::Durability;
use crate::domain::OwnerId;
use crate::failpoint::unstopped;
use crate::ledger::rows::Rows;
use crate::ledger::{Clock, LedgerError};

/// The most calls that share one commit.
const BATCH: usize = 512;

/// How long calls are gathered for one commit: less than a disk takes to synchronise, and more than the next reply of a
/// server takes to come.
const GATHER: Duration = Duration::from_millis(1);
/// Calls at once that are the sign of many more to come.
const MANY: usize = 24;

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
    pub(super) contents: Contents,
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

/// Whether this owner asks which bytes are archived ([`crate::ledger::Ledger::index_contents`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    NotAsked,
    Indexed,
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
            contents: self.contents,
            alive: &mut self.alive,
        })
    }

    /// Runs a batch, and answers all of it. An error means that nothing took effect of the calls that are told so.
    fn run(&mut self, batch: &mut Vec<Box<dyn Call>>) {
        let ran = match self.phase {
            Phase::Running => self.try_to(|store| {
                batch.iter_mut().try_for_each(|call| call.run(store))?;
                store.rows.commit()
            }),
            Phase::Finished => Err(unusable(&self.path, "this run has ended it")),
        };
        if ran.is_ok() {
            // Rows have nothing to wait for: no disk is synchronised for them.
            batch.extract_if(.., |call| call.durability() == Durability::Scratch).for_each(|call| call.answer(Ok(())));
        }
        let outcome = ran.and_then(|()| self.try_to(Self::commit));
        if self.phase == Phase::Finished && self.lock.take().is_some() {
            self.owners.forget(self.owner);
        }
        batch.drain(..).for_each(|call| call.answer(outcome.clone()));
    }

    fn try_to(&mut self, step: impl FnOnce(&mut Self) -> rusqlite::Result<()>) -> Result<(), LedgerError> {
        step(self).map_err(|error| {
            self.roll_back();
            // An end that was not committed is none.
            self.phase = Phase::Running;
            if is_refused_write(&error) {
                self.reuse_log();
            }
            sqlite(&self.path, &error)
        })
    }

    /// Ends the transaction of the entries.
    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
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

    /// The log may be all that fills the disk, long before it is so long that it is written back by itself. Written back
    /// now, it is used again from its beginning, and takes no more space.
    fn reuse_log(&self) {
        let written_back = self.entries.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = written_back {
            tracing::debug!(%error, "the ledger's log could not be written back");
        }
    }

    fn serve(mut self, mut calls: mpsc::Receiver<Box<dyn Call>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while calls.blocking_recv_many(&mut batch, BATCH) > 0 {
            if batch.len() >= MANY {
                gather();
                while batch.len() < BATCH
                    && let Ok(call) = calls.try_recv()
                {
                    batch.push(call);
                }
            }
            unstopped(|| self.run(&mut batch));
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

/// A moment later, one commit does for many more. Few callers are not kept waiting.
#[expect(clippy::disallowed_methods, reason = "the ledger's own thread, which has nothing else to do")]
fn gather() {
    thread::sleep(GATHER);
}

/// A call on its way through the thread.
trait Call: Send {
    /// What it changes, and so what its answer waits for.
    fn durability(&self) -> Durability;
    /// Does the work within the transaction; an error ends the whole batch.
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()>;
    /// Tells the caller, once the transaction has ended one way or the other.
    fn answer(self: Box<Self>, outcome: Result<(), LedgerError>);
}

struct Work<F, T> {
    durability: Durability,
    work: Option<F>,
    result: Option<Result<T, LedgerError>>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<F, T> Call for Work<F, T>
where
    F: FnOnce(&mut Store) -> Result<T, Failure> + Send,
    T: Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

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
        self.send(Durability::Durable, work).await
    }

    /// As [`Writer::call`], for work on this run's rows alone: it does not wait for the entries of others.
    pub(super) async fn call_rows<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        F: FnOnce(&mut Rows) -> Result<T, Failure> + Send + 'static,
        T: Send + 'static,
    {
        self.send(Durability::Scratch, move |store| work(&mut store.rows)).await
    }

    async fn send<T, F>(&self, durability: Durability, work: F) -> Result<T, LedgerError>
    where
        F: FnOnce(&mut Store) -> Result<T, Failure> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let ended = || unusable(&self.path, "its thread ended unexpectedly; please report this");
        let calls = self.calls.as_ref().ok_or_else(ended)?;
        calls.send(Box::new(Work { durability, work: Some(work), result: None, reply })).await.map_err(|_| ended())?;
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
