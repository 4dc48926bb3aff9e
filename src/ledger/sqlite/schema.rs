//! The database's layout, its version, and how it is opened.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rand::TryRng;
use rusqlite::{Connection, OpenFlags};

use super::entry_id;
use super::error::{sqlite, unusable};
use super::location::Presence;
use crate::ledger::LedgerError;

/// `PRAGMA application_id`: "arcv" in ASCII. Tells our databases from others'.
pub(super) const APPLICATION_ID: i32 = 0x6172_6376;
/// `PRAGMA user_version`. Schema 1 had entries under their key's id alone; schema 2 did not say when they were claimed,
/// failed and last staged, nor whether some were put back.
const VERSION: i32 = 3;
/// The first version with [`SCHEMA_3`].
const WITH_TIMES: i32 = 3;
/// How long a process waits for another's transaction.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// SQLite's default.
const PAGE_BYTES: u64 = 4096;
/// Every statement the ledger prepares stays prepared.
const CACHED_STATEMENTS: usize = 64;

/// Numbers without a sign (inode, size) are stored as the signed number of the same bits. Times of records are
/// microseconds since the Unix epoch, leases milliseconds. Paths are raw bytes.
///
/// `entry.id` is an [`entry_id::EntryId`]. `entry.remote` is the path of the current or next upload; the `record_` columns
/// are what was archived last, and stay while a forced repetition is under way. `staged` lists the tokens, comma-separated and ascending, whose
/// temporary names may stand on the server; `gone_at` says since when (milliseconds) that is unlikely, for they were seen
/// removed. `owner` is set while claimed; whether that owner lives is another
/// question. `disposer` is the owner that began to dispose of the local file. `queued_at` is when it was first claimed,
/// `since` when it was last claimed, released or put back (of a record, `recorded_at` says it). The states are compared one by one because
/// SQLite makes a table of an `IN` with more than two values, for each row that is written.
const SCHEMA: &str = "
CREATE TABLE ledger (one INTEGER PRIMARY KEY CHECK (one = 1), token INTEGER NOT NULL, retention_at INTEGER NOT NULL DEFAULT 0,
    retention_seq INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE owner (id BLOB PRIMARY KEY, pid INTEGER NOT NULL, hostname TEXT NOT NULL, lease_until INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE entry (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    destination TEXT NOT NULL, source TEXT NOT NULL, path BLOB NOT NULL,
    inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    local_path BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state = 'claimed' OR state = 'failed' OR state = 'recorded'),
    remote TEXT NOT NULL,
    token INTEGER NOT NULL,
    owner BLOB,
    staged TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    record_remote TEXT, record_sha256 BLOB, recorded_at INTEGER,
    disposer BLOB
) STRICT;
CREATE INDEX entry_staged ON entry (destination) WHERE staged IS NOT NULL;
CREATE INDEX entry_disposing ON entry (destination) WHERE disposer IS NOT NULL;
CREATE INDEX entry_recorded ON entry (recorded_at) WHERE recorded_at IS NOT NULL;
";

/// What schema 3 has more than schema 2.
const SCHEMA_3: &str = "
ALTER TABLE ledger ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN queued_at INTEGER;
ALTER TABLE entry ADD COLUMN since INTEGER;
ALTER TABLE entry ADD COLUMN gone_at INTEGER;
CREATE INDEX entry_failed ON entry (state) WHERE state = 'failed';
";

/// What the database is for, and so how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) enum Durability {
    /// Shared and durable: a write-ahead log, synchronised at each commit
    /// (<https://www.sqlite.org/pragma.html#pragma_synchronous>).
    Durable,
    /// Ours alone, and of no use after this process.
    Scratch,
}

/// Opens a database file that stands, or makes the private one of a [`Durability::Scratch`] connection.
pub(in crate::ledger) fn connect(path: &Path, durability: Durability) -> Result<Connection, LedgerError> {
    let create = match durability {
        Durability::Durable => OpenFlags::empty(),
        Durability::Scratch => OpenFlags::SQLITE_OPEN_CREATE,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        Ok(connection)
    };
    open().map_err(|error| sqlite(path, &error))
}

/// Opens a database only to read it, with its write-ahead log where there is one. Without one even a reader would make
/// its files, unless it is told that nothing changes, which is for the caller to make sure of.
pub(super) fn connect_read_only(path: &Path, log: Presence) -> Result<Connection, LedgerError> {
    let mode = match log {
        Presence::Exists => "?mode=ro",
        Presence::Missing => "?immutable=1",
    };
    // URI filenames: <https://www.sqlite.org/uri.html>.
    let uri = format!("file:{}{mode}", percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags).map_err(|error| sqlite(path, &error))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| sqlite(path, &error))?;
    Ok(connection)
}

/// Makes the layout where there is none, refuses one that is not ours, and sets the journal. The caller keeps other
/// processes from opening the same database meanwhile.
pub(super) fn prepare(path: &Path, connection: &Connection, durability: Durability) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| sqlite(path, &error);
    if pragma(connection, "user_version").map_err(failed)? == 0 && is_empty(connection).map_err(failed)? {
        let token = rand::rngs::SysRng
            .try_next_u64()
            .map_err(|error| unusable(path, format!("the operating system gives no random numbers: {error}")))?
            >> 16;
        // One transaction, and before the write-ahead log is chosen, so that the file's own header always says whose
        // it is.
        connection
            .execute_batch(&format!(
                "BEGIN EXCLUSIVE; {SCHEMA} {SCHEMA_3} INSERT INTO ledger (one, token) VALUES (1, {token}); \
                 PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
            ))
            .map_err(failed)?;
    }
    refuse_foreign_connection(path, connection)?;
    if is_outdated(path, connection)? {
        connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        if pragma(connection, "user_version").map_err(failed)? == 1 {
            entry_id::refile(connection).map_err(failed)?;
        }
        connection.execute_batch(&format!("{SCHEMA_3} PRAGMA user_version = {VERSION}; COMMIT;")).map_err(failed)?;
    }
    match durability {
        Durability::Durable => {
            let mode: String =
                connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
            if mode != "wal" {
                return Err(unusable(
                    path,
                    "its filesystem does not allow a write-ahead log; name a file on a local disk",
                ));
            }
            let pages = log_pages(path);
            connection
                .execute_batch(&format!(
                    "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {pages}; \
                     PRAGMA journal_size_limit = {}; PRAGMA cache_size = -2048;",
                    pages * PAGE_BYTES
                ))
                .map_err(failed)
        }
        Durability::Scratch => scratch(connection).map_err(failed),
    }
}

/// How long the log may grow before it is written back: 16 MiB instead of SQLite's 4, for most pages of a busy ledger are
/// changed many times over; on a small disk no more than a sixteenth of what is free, or the log would leave the
/// database itself no room to be written back to.
fn log_pages(path: &Path) -> u64 {
    let free = rustix::fs::statvfs(path).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    (free / 16 / PAGE_BYTES).clamp(32, 4096)
}

/// Whether [`prepare`] will change the layout, so that no earlier version of this program may have the database open.
pub(super) fn is_outdated(path: &Path, connection: &Connection) -> Result<bool, LedgerError> {
    let version = pragma(connection, "user_version").map_err(|error| sqlite(path, &error))?;
    Ok((1..VERSION).contains(&version))
}

/// Whether the layout says when entries were claimed and failed. Only those who may not upgrade it have to ask.
pub(super) fn has_times(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(pragma(connection, "user_version")? >= WITH_TIMES)
}

/// Settings of a database that nobody else opens and nobody wants after a crash.
pub(in crate::ledger) fn scratch(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA cache_size = -512;",
    )
}

/// [`refuse_foreign`], by what SQLite says; a newer header may still be in the log.
pub(super) fn refuse_foreign_connection(path: &Path, connection: &Connection) -> Result<(), LedgerError> {
    let field = |name| pragma(connection, name).map_err(|error| sqlite(path, &error));
    refuse_foreign(path, field("application_id")?, field("user_version")?)
}

/// Refuses another program's database, and one written by a later version of this program.
pub(super) fn refuse_foreign(path: &Path, application_id: i32, version: i32) -> Result<(), LedgerError> {
    if application_id != APPLICATION_ID {
        return Err(unusable(
            path,
            "it is another program's SQLite database; nothing was changed; name another file with --ledger",
        ));
    }
    if version > VERSION {
        return Err(unusable(
            path,
            format!(
                "a later version of this program wrote it (schema {version}, this one knows {VERSION}); \
                 nothing was changed; use that version, or name another file with --ledger"
            ),
        ));
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}
