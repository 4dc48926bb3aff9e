//! The rows of this run's summary, in a scratch database of its own: they may be more than memory holds, nobody else
//! reads them, and nobody wants them after the process. So they cost the shared database nothing, and no
//! synchronisation.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::sqlite::create_private_file;
use super::sqlite::error::sqlite;
use super::sqlite::schema::{self, Durability};
use super::{Cursor, LedgerError, RowFilter, RowOf};
use crate::domain::{KeyId, Recount, Row, Sha256Digest, Totals};

/// `version` is the key's id, empty for a candidate that was never opened.
const SCHEMA: &str = "
CREATE TABLE row (
    seq INTEGER PRIMARY KEY,
    source TEXT NOT NULL, path BLOB NOT NULL, version BLOB NOT NULL,
    remote TEXT, bytes INTEGER NOT NULL, sha256 BLOB, status TEXT NOT NULL, reason TEXT, attempts INTEGER NOT NULL,
    elapsed_ns INTEGER NOT NULL,
    UNIQUE (path, source, version)
) STRICT;";

pub(super) struct Rows {
    path: PathBuf,
    connection: Connection,
}

impl Rows {
    /// Makes the database; `path` is new.
    pub(super) fn create(path: &Path) -> Result<Self, LedgerError> {
        create_private_file(path)?;
        Self::prepare(path)
    }

    /// In a file without a name (<https://www.sqlite.org/inmemorydb.html#temp_db>), made once there is more than a cache
    /// holds, in the directory that TMPDIR names: nothing is left of it however the process ends.
    pub(super) fn unnamed() -> Result<Self, LedgerError> {
        Self::prepare(Path::new(""))
    }

    fn prepare(path: &Path) -> Result<Self, LedgerError> {
        let connection = schema::connect(path, Durability::Scratch)?;
        schema::scratch(&connection)
            .and_then(|()| connection.execute_batch(SCHEMA))
            .map_err(|error| sqlite(path, &error))?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Closes the database and says which file it leaves.
    pub(super) fn close(self) -> PathBuf {
        self.path
    }

    fn begin(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            self.connection.prepare_cached("BEGIN")?.execute([])?;
        }
        Ok(())
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        if !self.connection.is_autocommit() {
            self.connection.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(())
    }

    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "the run's rows could not be rolled back");
        }
    }

    pub(super) fn put_all(&self, rows: &[RowOf]) -> rusqlite::Result<Vec<Recount>> {
        rows.iter().map(|RowOf { version, row }| self.put(*version, row)).collect()
    }

    /// Replaces the row of the same version, else one of no version (the candidate was identified since), else adds
    /// one. Says what that changed in the totals.
    fn put(&self, version: Option<KeyId>, row: &Row) -> rusqlite::Result<Recount> {
        self.begin()?;
        let path = row.path.as_os_str().as_bytes();
        let version = version.as_ref().map_or(&[][..], |id| &id.0);
        let find = |version: &[u8]| {
            self.connection
                .prepare_cached("SELECT seq, status, bytes FROM row WHERE path = ?1 AND source = ?2 AND version = ?3")?
                .query_row(params![path, row.source, version], |row| {
                    Ok((row.get::<_, i64>(0)?, status_at(row, 1)?, row.get::<_, i64>(2)? as u64))
                })
                .optional()
        };
        let same = find(version)?;
        let unidentified = if version.is_empty() { None } else { find(&[])? };
        let mut recount = Recount::default();
        for (_, status, bytes) in [same, unidentified].into_iter().flatten() {
            recount.before.add(status, bytes);
        }
        let place = match unidentified {
            Some((stale, ..)) if same.is_some() => {
                self.connection.prepare_cached("DELETE FROM row WHERE seq = ?1")?.execute([stale])?;
                None
            }
            place => place.map(|(seq, ..)| seq),
        };
        let changed = self
            .connection
            .prepare_cached(
                "INSERT INTO row (seq, source, path, version, remote, bytes, sha256, status, reason, attempts, elapsed_ns) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
                 ON CONFLICT DO UPDATE SET version = excluded.version, remote = excluded.remote, bytes = excluded.bytes, \
                 sha256 = excluded.sha256, status = excluded.status, reason = excluded.reason, \
                 attempts = excluded.attempts, elapsed_ns = excluded.elapsed_ns \
                 WHERE NOT (status = 'archived' AND excluded.status = 'skipped') \
                 AND NOT (status = 'skipped' AND excluded.status = 'skipped' AND excluded.reason IS reason) \
                 AND NOT (status <> 'deferred' AND excluded.status = 'deferred')",
            )?
            .execute(params![
                place,
                row.source,
                path,
                version,
                row.remote,
                row.bytes as i64,
                row.sha256.map(|digest| digest.0),
                row.status.as_str(),
                row.reason,
                row.attempts,
                i64::try_from(row.elapsed.as_nanos()).unwrap_or(i64::MAX),
            ])?;
        match (changed, same.or(unidentified)) {
            // The row that stood there says more.
            (0, Some((_, status, bytes))) => recount.after.add(status, bytes),
            _ => recount.after.add(row.status, row.bytes),
        }
        Ok(recount)
    }

    pub(super) fn page(&self, filter: RowFilter, after: Cursor, limit: usize) -> rusqlite::Result<(Vec<Row>, Cursor)> {
        let status = match filter {
            RowFilter::All => None,
            RowFilter::Status(status) => Some(status.as_str()),
        };
        let mut last = after;
        let rows = self
            .connection
            .prepare_cached(
                "SELECT seq, source, path, remote, bytes, sha256, status, reason, attempts, elapsed_ns FROM row \
                 WHERE seq > ?1 AND (?2 IS NULL OR status = ?2) ORDER BY seq LIMIT ?3",
            )?
            .query_map(params![after.0, status, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                last = Cursor(row.get(0)?);
                Ok(Row {
                    source: row.get(1)?,
                    path: OsString::from_vec(row.get(2)?).into(),
                    remote: row.get(3)?,
                    bytes: row.get::<_, i64>(4)? as u64,
                    sha256: row.get::<_, Option<[u8; 32]>>(5)?.map(Sha256Digest),
                    status: status_at(row, 6)?,
                    reason: row.get(7)?,
                    attempts: row.get(8)?,
                    elapsed: Duration::from_nanos(row.get::<_, i64>(9)? as u64),
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok((rows, last))
    }

    pub(super) fn totals(&self) -> rusqlite::Result<Totals> {
        let mut totals = Totals::default();
        let mut statement =
            self.connection.prepare_cached("SELECT status, count(*), sum(bytes) FROM row GROUP BY status")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let count = row.get::<_, i64>(1)? as u64;
            match status_at(row, 0)? {
                crate::domain::Status::Archived => {
                    totals.archived = count;
                    totals.bytes = row.get::<_, i64>(2)? as u64;
                }
                crate::domain::Status::Skipped => totals.skipped = count,
                crate::domain::Status::Deferred => totals.deferred = count,
                crate::domain::Status::Failed => totals.failed = count,
            }
        }
        Ok(totals)
    }
}

fn status_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<crate::domain::Status> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error: String| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}
