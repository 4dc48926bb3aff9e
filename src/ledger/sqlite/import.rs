//! Taking in the entries of another ledger.

use std::os::unix::ffi::OsStrExt;

use rusqlite::{OptionalExtension, named_params, params};

use super::entries::{Entries, NOBODY, blob, list, owner_at, record_at, unlist};
use super::entry_id::EntryId;
use crate::domain::{OwnerId, RemotePath, Token};
use crate::ledger::{Disposal, EntryInfo, Imported, Record, largest_token};

/// What an import has to know of an entry that stands.
struct There {
    seq: i64,
    owner: Option<OwnerId>,
    remote: RemotePath,
    staged: Vec<Token>,
    gone_at: Option<i64>,
    record: Option<Record>,
}

impl Entries<'_> {
    pub(super) fn import(&mut self, entries: &[EntryInfo], issued: Token) -> rusqlite::Result<Vec<Imported>> {
        self.connection.prepare_cached("UPDATE ledger SET token = ?1 WHERE token < ?1")?.execute([largest_token(
            entries, issued,
        )
        .0
            as i64])?;
        entries.iter().map(|entry| self.import_one(entry)).collect()
    }

    fn import_one(&mut self, entry: &EntryInfo) -> rusqlite::Result<Imported> {
        let id = EntryId::of(&entry.key);
        let Some(there) = self.there(id)? else {
            self.add(id, entry)?;
            return Ok(Imported::Added);
        };
        let is_held = match there.owner {
            Some(owner) => self.is_alive(owner)?,
            None => false,
        };
        let takes_record = entry.record.as_ref().filter(|_| there.record.is_none());
        let lacks = entry.staged.iter().any(|token| !there.staged.contains(token));
        let takes_staged = lacks && !is_held && (there.staged.is_empty() || there.remote == entry.remote);
        if let Some(record) = takes_record {
            self.complete(there.seq, record, entry.disposal, is_held)?;
        }
        if takes_staged {
            self.add_staged(&there, entry)?;
        }
        let says_the_same = entry.record.is_none() || entry.record == there.record;
        Ok(match (takes_record.is_some() || takes_staged, says_the_same && !lacks) {
            (true, _) => Imported::Completed,
            (false, true) => Imported::Known,
            (false, false) => Imported::Kept,
        })
    }

    fn there(&self, id: EntryId) -> rusqlite::Result<Option<There>> {
        self.connection
            .prepare_cached(
                "SELECT seq, owner, remote, staged, gone_at, record_remote, record_sha256, recorded_at FROM entry WHERE id = ?1",
            )?
            .query_row([id], |row| {
                Ok(There {
                    seq: row.get(0)?,
                    owner: owner_at(row, 1)?,
                    remote: RemotePath::new(row.get::<_, String>(2)?),
                    staged: unlist(row.get_ref(3)?.as_str_or_null()?),
                    gone_at: row.get(4)?,
                    record: record_at(row, 5)?,
                })
            })
            .optional()
    }

    fn add(&self, id: EntryId, entry: &EntryInfo) -> rusqlite::Result<()> {
        let EntryInfo { key, record, .. } = entry;
        let (state, reason, since) = entry.kept_as();
        self.connection
            .prepare_cached(
                "INSERT INTO entry (id, destination, source, path, inode, size, mtime_ns, local_path, state, remote, token, \
                 staged, gone_at, attempts, reason, queued_at, since, disposer, record_remote, record_sha256, recorded_at) \
                 VALUES (:id, :destination, :source, :path, :inode, :size, :mtime_ns, :local_path, :state, :remote, :token, \
                 :staged, :gone_at, :attempts, :reason, :queued_at, :since, :disposer, :record_remote, :record_sha256, \
                 :recorded_at)",
            )?
            .execute(named_params! {
                ":id": id, ":destination": &*key.destination, ":source": &*key.source, ":path": key.path,
                ":inode": key.fingerprint.inode as i64, ":size": key.fingerprint.size as i64,
                ":mtime_ns": key.fingerprint.mtime_ns, ":local_path": entry.local_path.as_os_str().as_bytes(),
                ":state": state, ":remote": entry.remote.as_str(), ":token": entry.token.0 as i64,
                ":staged": (!entry.staged.is_empty()).then(|| list(&entry.staged)),
                ":gone_at": entry.gone_at.map(|at| at.timestamp_millis()), ":attempts": entry.attempts,
                ":reason": reason, ":queued_at": entry.queued_at.map(|at| at.timestamp_micros()),
                ":since": since.map(|at| at.timestamp_micros()),
                ":disposer": (entry.disposal == Disposal::Pending).then(|| blob(NOBODY)),
                ":record_remote": record.as_ref().map(|record| record.remote.as_str()),
                ":record_sha256": record.as_ref().map(|record| record.sha256.0),
                ":recorded_at": record.as_ref().map(|record| record.recorded_at.timestamp_micros()),
            })?;
        Ok(())
    }

    /// Adds the record that an entry lacks.
    fn complete(&self, seq: i64, record: &Record, disposal: Disposal, is_held: bool) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE entry SET record_remote = :remote, record_sha256 = :sha256, recorded_at = :recorded_at, \
                 state = iif(:held, state, 'recorded'), reason = iif(:held, reason, NULL), \
                 disposer = coalesce(disposer, :disposer) WHERE seq = :seq",
            )?
            .execute(named_params! {
                ":remote": record.remote.as_str(), ":sha256": record.sha256.0,
                ":recorded_at": record.recorded_at.timestamp_micros(), ":held": is_held, ":seq": seq,
                ":disposer": (disposal == Disposal::Pending).then(|| blob(NOBODY)),
            })?;
        Ok(())
    }

    /// Adds staged tokens. Gone are the names of both only where all were seen removed.
    fn add_staged(&self, there: &There, entry: &EntryInfo) -> rusqlite::Result<()> {
        let mut staged: Vec<_> = there.staged.iter().chain(&entry.staged).copied().collect();
        staged.sort_unstable();
        staged.dedup();
        let gone_at = entry.gone_at.map(|at| at.timestamp_millis());
        let gone_at = if there.staged.is_empty() { gone_at } else { there.gone_at.zip(gone_at).map(|(a, b)| a.max(b)) };
        self.connection
            .prepare_cached("UPDATE entry SET staged = ?1, gone_at = ?2, remote = ?3 WHERE seq = ?4")?
            .execute(params![list(&staged), gone_at, entry.remote.as_str(), there.seq])?;
        Ok(())
    }
}
