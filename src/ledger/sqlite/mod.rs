//! The embedded ledger: one SQLite database, shared by the processes of one host.
//!
//! - `writer`: the thread that owns the connections, and group commit
//! - `entries`: claims and records, found by `entry_id`; `listing`: what a new run looks after
//! - `contents`: which bytes are archived, or about to be
//! - `import`: entries of another ledger
//! - `view`: the same for those who only look, without a thread or a lock
//! - `presence`: which owners live; `location` and `schema`: where the database may stand and what is in it

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::rows::Rows;
use super::*;
use entry_id::EntryId;
use error::{sqlite, system, unavailable};
use listing::AgeCursor;
use location::Presence;
use presence::Owners;
use schema::Durability;
use writer::{Contents, Phase, Store, Transaction, Writer};

mod contents;
mod entries;
mod entry_id;
pub(super) mod error;
mod import;
mod listing;
mod location;
mod presence;
pub(super) mod schema;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod writer;

pub use view::SqliteView;

/// How long a claim lasts without renewal, unless a caller has a reason.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(60);
/// Records that are looked at together for retention, and how often at most in one call: a second or so of work.
const RETENTION_PAGE: usize = 1_000;
const RETENTION_PAGES: usize = 50;

/// Where the ledger is and who asks.
#[derive(Clone)]
pub struct SqliteConfig {
    pub path: PathBuf,
    /// Records older than this go once their local file is gone.
    pub retention: Duration,
    pub lease: Duration,
    pub owner: OwnerId,
    pub clock: Clock,
}

/// An embedded [`Ledger`]. Dropping it ends its thread; without [`Ledger::finish`] its claims are then free to be
/// taken over.
#[derive(Debug)]
pub struct SqliteLedger {
    // Before `private`: the thread has to end before its directory goes.
    writer: Writer,
    owner: OwnerId,
    lease: Duration,
    retention: Duration,
    clock: DebugClock,
    _private: Option<snapshot::PrivateDirectory>,
}

impl SqliteLedger {
    /// Opens the ledger at `config.path`, made with its directories where there is none (0600, directories 0700).
    /// Blocks for as long as another process opens it, at most 30 seconds.
    ///
    /// # Errors
    /// [`LedgerError::Unusable`] for a place that cannot be written, a network filesystem, a file of another program or
    /// of a later version: none of these is touched. [`LedgerError::Unavailable`] for a full disk or a lock held for
    /// too long.
    pub fn open(config: SqliteConfig) -> Result<Self, LedgerError> {
        let path = std::path::absolute(&config.path)
            .map_err(|error| system(&config.path, "finding the current directory", &error))?;
        let _alone = one_at_a_time();
        location::inspect(&path)?;
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|error| system(&path, "making its directory", &error))?;
        }
        location::warn_of_open_directory(&path);
        let owners = Owners::beside(&path);
        let _opening = owners.enter(&path)?;
        // Again, now that nobody else can make it.
        if location::inspect(&path)? == Presence::Missing {
            create_private_file(&path)?;
        }
        let connection = schema::connect(&path, Durability::Durable)?;
        if schema::is_outdated(&path, &connection)? && owners.listed(&path)?.any(|owner| owners.holds_lock(owner)) {
            return Err(unavailable(
                &path,
                "an earlier version of this program has it in use, and this one would change its layout; \
                 run this again when that has ended",
            ));
        }
        schema::prepare(&path, &connection, Durability::Durable)?;
        owners.sweep(&path)?;
        let lock = owners.register(&path, config.owner)?;
        let rows = Rows::create(&owners.rows_path(config.owner)).inspect_err(|_| owners.forget(config.owner))?;
        let mut store = store(&config, path.clone(), connection, rows, owners);
        store.lock = Some(lock);
        Self::start(config, store, None)
    }

    /// A private ledger that starts as a copy of the one at `config.path`, or empty where there is none. The original
    /// is only read. For `--dry-run`: what is recorded or held there is so here, and what happens here stays here.
    /// Takes disk space in the directory for temporary files, until it is dropped.
    pub fn open_snapshot(config: SqliteConfig) -> Result<Self, LedgerError> {
        let path = std::path::absolute(&config.path)
            .map_err(|error| system(&config.path, "finding the current directory", &error))?;
        let _alone = one_at_a_time();
        let directory = snapshot::PrivateDirectory::create(config.owner)?;
        let copy = directory.path().join("ledger.db");
        let connection = snapshot::copy(&path, &copy)?;
        schema::prepare(&copy, &connection, Durability::Scratch)?;
        let rows = Rows::create(&directory.path().join("rows.db"))?;
        // Who else lives is asked where they are.
        let store = store(&config, path.clone(), connection, rows, Owners::beside(&path));
        Self::start(config, store, Some(directory))
    }

    fn start(
        config: SqliteConfig,
        mut store: Store,
        private: Option<snapshot::PrivateDirectory>,
    ) -> Result<Self, LedgerError> {
        let registered = store.entries().and_then(|entries| {
            if private.is_none() {
                entries.sweep_owners()?;
            }
            entries.renew()
        });
        let registered = registered.and_then(|()| store.commit());
        if let Err(error) = registered {
            let error = sqlite(&store.path, &error);
            if private.is_none() {
                store.owners.forget(config.owner);
            }
            return Err(error);
        }
        Ok(Self {
            writer: Writer::start(store)?,
            owner: config.owner,
            lease: config.lease,
            retention: config.retention,
            clock: DebugClock(config.clock),
            _private: private,
        })
    }
}

/// Keeps this process from opening two ledgers at once, as `location::inspect` asks for.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static OPENING: Mutex<()> = Mutex::new(());
    // It guards no data that a panic could have left half done.
    OPENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Only a name that is not there: a directory that cannot be read says nothing.
pub(super) fn is_gone(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn store(config: &SqliteConfig, path: PathBuf, entries: rusqlite::Connection, rows: Rows, owners: Owners) -> Store {
    Store {
        path,
        entries,
        rows,
        owners,
        owner: config.owner,
        lease_ms: i64::try_from(config.lease.as_millis()).unwrap_or(i64::MAX / 2),
        clock: config.clock.clone(),
        lock: None,
        phase: Phase::Running,
        transaction: Transaction::None,
        contents: Contents::NotAsked,
        alive: Default::default(),
    }
}

/// A new, empty file that only this user reads. SQLite gives its journals the same mode.
pub(super) fn create_private_file(path: &Path) -> Result<(), LedgerError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| system(path, "making it", &error))
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn owner(&self) -> OwnerId {
        self.owner
    }

    async fn claim(&self, requests: Vec<ClaimRequest>) -> Result<Vec<ClaimReply>, LedgerError> {
        self.writer.call(move |store| store.entries()?.claim(requests)).await
    }

    async fn renew(&self) -> Result<(), LedgerError> {
        self.writer.call(|store| Ok(store.entries()?.renew()?)).await
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError> {
        let (id, token) = (EntryId::of(&claim.key), claim.token);
        self.writer.call(move |store| store.entries()?.confirm(id, token)).await
    }

    async fn reissue(&self, claim: &Claim) -> Result<Claim, LedgerError> {
        let claim = claim.clone();
        self.writer.call(move |store| store.entries()?.reissue(claim)).await
    }

    async fn index_contents(&self) -> Result<(), LedgerError> {
        let index = |store: &mut Store| {
            contents::index(store.entries()?.connection)?;
            store.contents = Contents::Indexed;
            Ok(())
        };
        self.writer.call(index).await
    }

    async fn reserve(&self, claim: &Claim, sha256: Sha256Digest) -> Result<Reservation, LedgerError> {
        let claim = claim.clone();
        self.writer.call(move |store| store.entries()?.reserve(&claim, &sha256)).await
    }

    async fn reserved(&self, claim: &Claim) -> Result<Option<Sha256Digest>, LedgerError> {
        let id = EntryId::of(&claim.key);
        self.writer.call(move |store| Ok(store.entries()?.reserved(id)?)).await
    }

    async fn record(&self, claim: &Claim, record: Record, intention: Intention) -> Result<(), LedgerError> {
        let claim = claim.clone();
        self.writer.call(move |store| store.entries()?.record(&claim, &record, intention)).await
    }

    async fn release(&self, claim: &Claim, release: Release) -> Result<(), LedgerError> {
        let claim = claim.clone();
        self.writer.call(move |store| store.entries()?.release(&claim, &release)).await
    }

    async fn disposing(&self, key: &FileKey) -> Result<(), LedgerError> {
        let id = EntryId::of(key);
        self.writer.call(move |store| store.entries()?.disposing(id)).await
    }

    async fn disposed(&self, key: &FileKey) -> Result<(), LedgerError> {
        let id = EntryId::of(key);
        self.writer.call(move |store| store.entries()?.disposed(id)).await
    }

    async fn postponed(&self, key: &FileKey) -> Result<(), LedgerError> {
        let id = EntryId::of(key);
        self.writer.call(move |store| store.entries()?.postponed(id)).await
    }

    async fn recorded(&self, keys: Vec<FileKey>) -> Result<Vec<Option<Record>>, LedgerError> {
        self.writer
            .call(move |store| {
                let entries = store.entries()?;
                keys.iter()
                    .map(|key| Ok(entries.standing(EntryId::of(key))?.and_then(|standing| standing.record)))
                    .collect()
            })
            .await
    }

    async fn orphans(
        &self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Orphan>, Cursor), LedgerError> {
        let destination = destination.to_owned();
        self.writer.call(move |store| Ok(store.entries()?.orphans(&destination, after, limit)?)).await
    }

    async fn rivals(&self, claim: &Claim, local_path: &Path) -> Result<Vec<RemotePath>, LedgerError> {
        let (key, remote, local_path) = (claim.key.clone(), claim.remote.clone(), local_path.to_owned());
        self.writer.call(move |store| Ok(store.entries()?.rivals(&key, &remote, &local_path)?)).await
    }

    async fn undisposed(
        &self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Undisposed>, Cursor), LedgerError> {
        let destination = destination.to_owned();
        self.writer.call(move |store| Ok(store.entries()?.undisposed(&destination, after, limit)?)).await
    }

    async fn retry(&self, keys: Vec<FileKey>) -> Result<Vec<bool>, LedgerError> {
        let ids: Vec<_> = keys.iter().map(EntryId::of).collect();
        self.writer.call(move |store| Ok(store.entries()?.retry(&ids)?)).await
    }

    async fn retries(&self) -> Result<u64, LedgerError> {
        self.writer.call(|store| Ok(store.entries()?.retries()?)).await
    }

    async fn import(&self, entries: Vec<EntryInfo>, issued: Token) -> Result<Vec<Imported>, LedgerError> {
        self.writer.call(move |store| Ok(store.entries()?.import(&entries, issued)?)).await
    }

    async fn put_rows(&self, rows: Vec<RowOf>) -> Result<Vec<Recount>, LedgerError> {
        self.writer.call_rows(move |store| Ok(store.put_all(&rows)?)).await
    }

    async fn rows(&self, filter: RowFilter, after: Cursor, limit: usize) -> Result<(Vec<Row>, Cursor), LedgerError> {
        self.writer.call_rows(move |rows| Ok(rows.page(filter, after, limit)?)).await
    }

    async fn totals(&self) -> Result<Totals, LedgerError> {
        self.writer.call_rows(|rows| Ok(rows.totals()?)).await
    }

    async fn tidy(&self) -> Result<(), LedgerError> {
        let retention = chrono::Duration::from_std(self.retention).unwrap_or(chrono::Duration::MAX);
        let Some(before) = (self.clock.0)().checked_sub_signed(retention) else { return Ok(()) };
        let before = before.timestamp_micros();
        let mut cursor = self.writer.call(|store| Ok(store.entries()?.retention_cursor()?)).await?;
        for _ in 0..RETENTION_PAGES {
            let page =
                self.writer.call(move |store| Ok(store.entries()?.expired(before, cursor, RETENTION_PAGE)?)).await?;
            let last = page.len() < RETENTION_PAGE;
            // Past the last one, the next call starts with the oldest again.
            cursor = match page.last() {
                Some(entry) if !last => AgeCursor(entry.recorded_at, entry.seq),
                _ => AgeCursor(0, 0),
            };
            // Outside of any transaction: a filesystem may be slow to answer.
            let looked = tokio::task::spawn_blocking(move || {
                page.into_iter().filter(|entry| is_gone(&entry.local_path)).collect::<Vec<_>>()
            });
            let gone = looked.await.unwrap_or_default();
            self.writer
                .call(move |store| {
                    let entries = store.entries()?;
                    entries.forget(&gone)?;
                    Ok(entries.set_retention_cursor(cursor)?)
                })
                .await?;
            if last {
                break;
            }
        }
        Ok(())
    }

    async fn finish(&self) -> Result<(), LedgerError> {
        let tidied = self.tidy().await;
        self.writer
            .call(|store| {
                let owner = store.owner;
                store.entries()?.remove_owner(owner)?;
                store.entries.execute_batch("PRAGMA optimize")?;
                store.phase = Phase::Finished;
                Ok(())
            })
            .await?;
        tidied
    }
}

/// A clock that can be shown.
#[derive(Clone)]
struct DebugClock(Clock);

impl std::fmt::Debug for DebugClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
