//! What a new run looks after: entries without a live owner, disposals without an end, and records past their time.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::params;

use super::entries::{Entries, blob, key_at, owner_at, path_at, record_at, unlist};
use super::entry_id::EntryId;
use crate::domain::{FileKey, OwnerId, RemotePath};
use crate::ledger::{Cursor, Orphan, OrphanState, Undisposed};

/// A record past the retention. Forgotten only if it is still the same record then.
#[derive(Debug)]
pub(super) struct Expired {
    pub(super) seq: i64,
    pub(super) recorded_at: i64,
    pub(super) local_path: PathBuf,
}

/// A position among the records by age: microseconds, then sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AgeCursor(pub(super) i64, pub(super) i64);

impl Entries<'_> {
    pub(super) fn orphans(
        &mut self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> rusqlite::Result<(Vec<Orphan>, Cursor)> {
        let (now, lease) = (self.now.timestamp_millis(), self.lease_ms);
        self.page(
            "SELECT seq, owner, destination, source, path, inode, size, mtime_ns, local_path, remote, recorded_at, gone_at, \
             staged FROM entry INDEXED BY entry_staged WHERE destination = ?1 AND staged IS NOT NULL AND disposer IS NULL \
             AND seq > ?2 ORDER BY seq",
            (destination, after, limit),
            |row| owner_at(row, 1).map(|owner| [owner, None]),
            |row| {
                let remote = RemotePath::new(row.get::<_, String>(9)?);
                let is_recorded = row.get::<_, Option<i64>>(10)?.is_some();
                let state = if is_recorded { OrphanState::Recorded } else { OrphanState::Unfinished };
                let gone = match row.get::<_, Option<i64>>(11)? {
                    Some(since) if now.saturating_sub(since) < lease => return Ok(None),
                    Some(_) => unlist(row.get_ref(12)?.as_str_or_null()?),
                    None => vec![],
                };
                Ok(Some(Orphan { key: key_at(row, 2)?, local_path: path_at(row, 8)?, remote, state, gone }))
            },
        )
    }

    pub(super) fn rivals(
        &self,
        key: &FileKey,
        remote: &RemotePath,
        local_path: &Path,
    ) -> rusqlite::Result<Vec<RemotePath>> {
        let mut listing = self.connection.prepare_cached(
            "SELECT destination, source, path, inode, size, mtime_ns, staged FROM entry INDEXED BY entry_staged \
             WHERE destination = ?1 AND staged IS NOT NULL AND gone_at IS NULL AND remote = ?2 AND local_path = ?3 AND id <> ?4",
        )?;
        let mut rows = listing.query(params![
            &*key.destination,
            remote.as_str(),
            local_path.as_os_str().as_bytes(),
            EntryId::of(key)
        ])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            let id = key_at(row, 0)?.id();
            let tokens = unlist(row.get_ref(6)?.as_str_or_null()?);
            names.extend(tokens.into_iter().map(|token| remote.staging(id, token)));
        }
        Ok(names)
    }

    pub(super) fn undisposed(
        &mut self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> rusqlite::Result<(Vec<Undisposed>, Cursor)> {
        self.page(
            "SELECT seq, owner, destination, source, path, inode, size, mtime_ns, local_path, disposer, \
             record_remote, record_sha256, recorded_at, state = 'failed' \
             FROM entry INDEXED BY entry_disposing \
             WHERE destination = ?1 AND disposer IS NOT NULL AND seq > ?2 ORDER BY seq",
            (destination, after, limit),
            |row| Ok([owner_at(row, 1)?, owner_at(row, 9)?]),
            |row| {
                let record = record_at(row, 10)?;
                let is_failed = row.get(13)?;
                Ok(Some(Undisposed { key: key_at(row, 2)?, local_path: path_at(row, 8)?, record, is_failed }))
            },
        )
    }

    /// Up to `limit` entries none of whose owners lives, without those that are none, and where to go on.
    fn page<T>(
        &mut self,
        sql: &str,
        (destination, mut after, limit): (&str, Cursor, usize),
        owners: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<[Option<OwnerId>; 2]>,
        item: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Option<T>>,
    ) -> rusqlite::Result<(Vec<T>, Cursor)> {
        let mut found = Vec::new();
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![destination, after.0])?;
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            after = Cursor(row.get(0)?);
            let mut held = false;
            for owner in owners(row)?.into_iter().flatten() {
                held |= self.is_alive(owner)?;
            }
            if !held {
                found.extend(item(row)?);
            }
        }
        Ok((found, after))
    }

    /// Records older than `before` (microseconds), the oldest first.
    pub(super) fn expired(&self, before: i64, after: AgeCursor, limit: usize) -> rusqlite::Result<Vec<Expired>> {
        self.connection
            .prepare_cached(
                "SELECT seq, recorded_at, local_path FROM entry INDEXED BY entry_recorded \
                 WHERE recorded_at IS NOT NULL AND recorded_at < ?1 AND (recorded_at, seq) > (?2, ?3) \
                 AND owner IS NULL AND staged IS NULL AND disposer IS NULL ORDER BY recorded_at, seq LIMIT ?4",
            )?
            .query_map(params![before, after.0, after.1, limit as i64], |row| {
                Ok(Expired { seq: row.get(0)?, recorded_at: row.get(1)?, local_path: path_at(row, 2)? })
            })?
            .collect()
    }

    pub(super) fn forget(&self, gone: &[Expired]) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "DELETE FROM entry WHERE seq = ?1 AND recorded_at = ?2 AND owner IS NULL AND staged IS NULL AND disposer IS NULL",
        )?;
        gone.iter().try_for_each(|entry| statement.execute(params![entry.seq, entry.recorded_at]).map(drop))
    }

    /// Where the last run stopped looking for records to forget.
    pub(super) fn retention_cursor(&self) -> rusqlite::Result<AgeCursor> {
        self.connection
            .prepare_cached("SELECT retention_at, retention_seq FROM ledger")?
            .query_row([], |row| Ok(AgeCursor(row.get(0)?, row.get(1)?)))
    }

    pub(super) fn set_retention_cursor(&self, cursor: AgeCursor) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE ledger SET retention_at = ?1, retention_seq = ?2 WHERE retention_at <> ?1 OR retention_seq <> ?2",
            )?
            .execute(params![cursor.0, cursor.1])?;
        Ok(())
    }

    /// Drops the owners that have ended. To be called while nobody else can open the ledger.
    pub(super) fn sweep_owners(&self) -> rusqlite::Result<()> {
        let mut listing = self.connection.prepare_cached("SELECT id FROM owner")?;
        let ids = listing.query_map([], |row| owner_at(row, 0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        ids.into_iter()
            .flatten()
            .filter(|owner| *owner != self.owner && !self.owners.holds_lock(*owner))
            .try_for_each(|owner| self.remove_owner(owner))
    }

    pub(super) fn remove_owner(&self, owner: OwnerId) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM owner WHERE id = ?1")?.execute([blob(owner)])?;
        Ok(())
    }
}
