//! Looking into the database without opening it as an owner does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, params};

use super::entries::{holder, key_at, owner_at, path_at, record_at, unlist};
use super::error::{sqlite, system, unusable};
use super::location::{self, Presence};
use super::presence::Owners;
use super::{DebugClock, one_at_a_time, schema};
use crate::domain::{OwnerId, RemotePath, Token};
use crate::ledger::{
    Clock, Cursor, Disposal, EntryFilter, EntryInfo, EntryState, Holder, LedgerError, LedgerView, Life, Member, Outline,
};

/// An embedded ledger, seen from outside. Every page opens it anew: none of its files is kept open or locked in
/// between, so that whoever works with it can clean up behind itself as ever.
#[derive(Debug, Clone)]
pub struct SqliteView {
    path: PathBuf,
    owners: Owners,
    clock: DebugClock,
}

impl SqliteView {
    /// A view of the ledger at `path`. Makes nothing, and reads ledgers of earlier versions as they are.
    ///
    /// # Errors
    /// [`LedgerError::Unusable`] where there is none, and for what [`SqliteLedger::open`](super::SqliteLedger::open) refuses.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, LedgerError> {
        let path = std::path::absolute(path).map_err(|error| system(path, "finding the current directory", &error))?;
        let _alone = one_at_a_time();
        if location::inspect(&path)? == Presence::Missing || fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
            return Err(unusable(
                &path,
                "there is none: nothing was archived with these settings yet; name the right one with --ledger",
            ));
        }
        Ok(Self { owners: Owners::beside(&path), path, clock: DebugClock(clock) })
    }

    fn look<T>(&self, look: impl Fn(&Moment<'_>) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        loop {
            let before = self.standing();
            let page = self.read(before.0, &look);
            // Without a log, nothing is locked: somebody may have begun to write, and even have ended, meanwhile. With
            // one, it may have gone before it was opened.
            let changed = self.standing() != before;
            match page {
                Ok(page) if before.0 == Presence::Exists || !changed => return Ok(page),
                Err(error) if !changed => return Err(error),
                _ => {}
            }
        }
    }

    /// What changes with every use of the database.
    fn standing(&self) -> (Presence, Option<(i64, i64, u64)>) {
        let file = fs::metadata(&self.path).ok();
        (location::log(&self.path), file.map(|file| (file.mtime(), file.mtime_nsec(), file.len())))
    }

    fn read<T>(&self, log: Presence, look: impl Fn(&Moment<'_>) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        let connection = schema::connect_read_only(&self.path, log)?;
        schema::refuse_foreign_connection(&self.path, &connection)?;
        let moment = Moment { connection: &connection, owners: &self.owners, now: (self.clock.0)() };
        look(&moment).map_err(|error| sqlite(&self.path, &error))
    }

    async fn looked<T: Send + 'static>(
        &self,
        look: impl Fn(&Moment<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let view = self.clone();
        let reading = tokio::task::spawn_blocking(move || view.look(look));
        reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

#[async_trait]
impl LedgerView for SqliteView {
    async fn entries(
        &self,
        filter: EntryFilter,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<EntryInfo>, Cursor), LedgerError> {
        self.looked(move |moment| moment.entries(filter, after, limit)).await
    }

    async fn outline(&self) -> Result<Outline, LedgerError> {
        self.looked(|moment| moment.outline()).await
    }
}

/// The database as one page sees it.
struct Moment<'a> {
    connection: &'a Connection,
    owners: &'a Owners,
    now: DateTime<Utc>,
}

impl Moment<'_> {
    fn entries(
        &self,
        filter: EntryFilter,
        mut after: Cursor,
        limit: usize,
    ) -> rusqlite::Result<(Vec<EntryInfo>, Cursor)> {
        let (times, index) = match schema::has_times(self.connection)? {
            true => ("queued_at, since, gone_at", "INDEXED BY entry_failed"),
            false => ("NULL, NULL, NULL", ""),
        };
        let which = match filter {
            EntryFilter::All => "WHERE",
            EntryFilter::Failed => &format!("{index} WHERE state = 'failed' AND"),
        };
        let mut statement = self.connection.prepare(&format!(
            "SELECT seq, destination, source, path, inode, size, mtime_ns, local_path, remote, token, state, owner, \
             attempts, reason, disposer IS NOT NULL, record_remote, record_sha256, recorded_at, {times}, staged \
             FROM entry {which} seq > ?1 ORDER BY seq LIMIT ?2"
        ))?;
        let mut rows = statement.query(params![after.0, limit as i64])?;
        let mut entries = Vec::new();
        // Neighbours often have the same owner, or none.
        let mut last: Option<(OwnerId, Option<Holder>)> = None;
        while let Some(row) = rows.next()? {
            after = Cursor(row.get(0)?);
            let holder = match owner_at(row, 11)? {
                None => None,
                Some(owner) => {
                    if last.as_ref().is_none_or(|(known, _)| *known != owner) {
                        last = Some((owner, holder(self.connection, self.owners, owner, self.now)?));
                    }
                    last.as_ref().and_then(|(_, holder)| holder.clone())
                }
            };
            entries.push(entry(row, holder)?);
        }
        Ok((entries, after))
    }

    fn outline(&self) -> rusqlite::Result<Outline> {
        let retries = if schema::has_times(self.connection)? { "retries" } else { "0" };
        let (token, retries): (i64, i64) =
            self.connection
                .query_row(&format!("SELECT token, {retries} FROM ledger"), [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut listing = self.connection.prepare("SELECT id, hostname, pid, lease_until FROM owner")?;
        let mut rows = listing.query([])?;
        let mut members = Vec::new();
        while let Some(row) = rows.next()? {
            let Some(owner) = owner_at(row, 0)? else { continue };
            let left = row.get::<_, i64>(3)?.saturating_sub(self.now.timestamp_millis());
            let time = Duration::from_millis(left.unsigned_abs());
            let life = match (self.owners.holds_lock(owner), left > 0) {
                (true, true) => Life::Live { lease_left: time },
                (true, false) => Life::Hung { for_so_long: time },
                (false, true) => Life::Ended { lease_left: time },
                (false, false) => Life::Lapsed { for_so_long: time },
            };
            members.push(Member { owner, hostname: row.get(1)?, pid: row.get(2)?, life });
        }
        Ok(Outline { last_token: Token(token as u64), retries: retries as u64, members })
    }
}

fn entry(row: &Row<'_>, holder: Option<Holder>) -> rusqlite::Result<EntryInfo> {
    let record = record_at(row, 15)?;
    let since = time_at(row, 19)?;
    let state = match (holder, &record) {
        (Some(holder), _) => EntryState::Held { holder, since },
        // Also where a forced repetition was cut short.
        (None, Some(_)) => EntryState::Recorded,
        (None, None) if row.get_ref(10)?.as_str()? == "failed" => EntryState::Failed {
            reason: row.get::<_, Option<String>>(13)?.unwrap_or_default(),
            attempts: row.get(12)?,
            since,
        },
        (None, None) => EntryState::Waiting { since },
    };
    Ok(EntryInfo {
        key: key_at(row, 1)?,
        local_path: path_at(row, 7)?,
        remote: RemotePath::new(row.get::<_, String>(8)?),
        token: Token(row.get::<_, i64>(9)? as u64),
        state,
        queued_at: time_at(row, 18)?,
        record,
        disposal: if row.get(14)? { Disposal::Pending } else { Disposal::Settled },
        attempts: row.get(12)?,
        staged: unlist(row.get_ref(21)?.as_str_or_null()?),
        gone_at: row.get::<_, Option<i64>>(20)?.and_then(DateTime::from_timestamp_millis),
    })
}

fn time_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DateTime<Utc>>> {
    Ok(row.get::<_, Option<i64>>(column)?.and_then(DateTime::from_timestamp_micros))
}
