//! The rules of claims and records, each one check followed by one change, inside the transaction of its batch.

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::entry_id::EntryId;
use super::error::Failure;
use super::presence::Owners;
use super::writer::Contents;
use crate::domain::{FileKey, Fingerprint, OwnerId, RemotePath, Repeat, Sha256Digest, Token};
use crate::ledger::{Claim, ClaimReply, ClaimRequest, Holder, Intention, Record, Release, Staged};

/// An owner that never lived.
pub(super) const NOBODY: OwnerId = OwnerId(0);

/// The entries as one transaction sees them.
pub(super) struct Entries<'a> {
    pub(super) connection: &'a Connection,
    pub(super) owners: &'a Owners,
    pub(super) owner: OwnerId,
    pub(super) now: DateTime<Utc>,
    pub(super) lease_ms: i64,
    pub(super) contents: Contents,
    pub(super) alive: &'a mut HashMap<OwnerId, bool>,
}

/// What a claim has to know of an entry that stands.
pub(super) struct Standing {
    seq: i64,
    remote: RemotePath,
    owner: Option<OwnerId>,
    staged: Vec<Token>,
    attempts: u32,
    pub(super) record: Option<Record>,
}

pub(super) type Changed = Result<(), Failure>;

impl Entries<'_> {
    pub(super) fn claim(&mut self, requests: Vec<ClaimRequest>) -> Result<Vec<ClaimReply>, Failure> {
        let mut tokens = 0..0;
        let count = requests.len();
        let replies =
            requests.into_iter().enumerate().map(|(at, request)| self.claim_one(request, &mut tokens, count - at));
        replies.collect()
    }

    /// `tokens` are those reserved for this call, of whose requests `left` are left, this one included.
    fn claim_one(
        &mut self,
        request: ClaimRequest,
        tokens: &mut Range<i64>,
        left: usize,
    ) -> Result<ClaimReply, Failure> {
        let ClaimRequest { key, local_path, remote: requested, repeat } = request;
        let id = EntryId::of(&key);
        let Some(standing) = self.standing(id)? else {
            let token = self.next_token(tokens, left)?;
            self.insert(id, &key, &local_path, &requested, token)?;
            return Ok(ClaimReply::Claimed(Claim { key, token, remote: requested, predecessors: vec![], attempts: 0 }));
        };
        if let Some(owner) = standing.owner
            && self.is_alive(owner)?
        {
            return Ok(ClaimReply::Held { owner });
        }
        let (remote, attempts) = match (standing.record, repeat) {
            (Some(record), Repeat::Skip) => return Ok(ClaimReply::Recorded(record)),
            // What stands staged was derived from the pinned path, and is found again only by it.
            (Some(_), Repeat::Force) if standing.staged.is_empty() => (requested, 0),
            _ => (standing.remote, standing.attempts),
        };
        let token = self.next_token(tokens, left)?;
        let mut staged = standing.staged.clone();
        staged.push(token);
        self.connection
            .prepare_cached(
                "UPDATE entry SET state = 'claimed', owner = :owner, token = :token, staged = :staged, gone_at = NULL, \
                 remote = :remote, local_path = :local_path, attempts = :attempts, reason = NULL, since = :now, \
                 queued_at = iif(recorded_at IS NULL, coalesce(queued_at, :now), :now) WHERE seq = :seq",
            )?
            .execute(named_params! {
                ":owner": blob(self.owner), ":token": token.0 as i64, ":staged": list(&staged), ":remote": remote.as_str(),
                ":local_path": local_path.as_os_str().as_bytes(), ":attempts": attempts, ":seq": standing.seq,
                ":now": self.now.timestamp_micros(),
            })?;
        Ok(ClaimReply::Claimed(Claim { key, token, remote, predecessors: standing.staged, attempts }))
    }

    fn insert(
        &self,
        id: EntryId,
        key: &FileKey,
        local_path: &std::path::Path,
        remote: &RemotePath,
        token: Token,
    ) -> rusqlite::Result<usize> {
        self.connection
            .prepare_cached(
                "INSERT INTO entry (id, destination, source, path, inode, size, mtime_ns, local_path, state, remote, token, \
                 owner, staged, queued_at, since) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'claimed', ?9, ?10, ?11, ?12, ?13, ?13)",
            )?
            .execute(params![
                id,
                &*key.destination,
                &*key.source,
                key.path,
                key.fingerprint.inode as i64,
                key.fingerprint.size as i64,
                key.fingerprint.mtime_ns,
                local_path.as_os_str().as_bytes(),
                remote.as_str(),
                token.0 as i64,
                blob(self.owner),
                list(&[token]),
                self.now.timestamp_micros(),
            ])
    }

    pub(super) fn standing(&self, id: EntryId) -> rusqlite::Result<Option<Standing>> {
        self.connection
            .prepare_cached(
                "SELECT seq, remote, owner, staged, attempts, record_remote, record_sha256, recorded_at FROM entry WHERE id = ?1",
            )?
            .query_row([id], |row| {
                let record = record_at(row, 5)?;
                Ok(Standing {
                    seq: row.get(0)?,
                    remote: RemotePath::new(row.get::<_, String>(1)?),
                    owner: owner_at(row, 2)?,
                    staged: unlist(row.get_ref(3)?.as_str_or_null()?),
                    attempts: row.get(4)?,
                    record,
                })
            })
            .optional()
    }

    /// The next of the reserved tokens. Reserves `count` where there is none left: one change for all claims of a call,
    /// and none for a call that has nothing to claim. What is left over is never used.
    fn next_token(&self, reserved: &mut Range<i64>, count: usize) -> rusqlite::Result<Token> {
        if reserved.is_empty() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            // Not RETURNING: SQLite makes a table for what it returns, with a page cache of its own.
            self.connection.prepare_cached("UPDATE ledger SET token = token + ?1")?.execute([count])?;
            let last: i64 =
                self.connection.prepare_cached("SELECT token FROM ledger")?.query_row([], |row| row.get(0))?;
            *reserved = last - count + 1..last + 1;
        }
        let token = reserved.start;
        reserved.start += 1;
        Ok(Token(token as u64))
    }

    pub(super) fn is_ours(&self, id: EntryId, token: Token) -> Changed {
        let ours = self
            .connection
            .prepare_cached("SELECT 1 FROM entry WHERE id = ?1 AND token = ?2 AND owner = ?3")?
            .exists(params![id, token.0 as i64, blob(self.owner)])?;
        if ours { Ok(()) } else { Err(Failure::LeaseLost) }
    }

    /// At least half a lease stands when this succeeds: the entry is still ours, so nobody minds the extension.
    pub(super) fn confirm(&self, id: EntryId, token: Token) -> Changed {
        self.is_ours(id, token)?;
        let until: Option<i64> = self
            .connection
            .prepare_cached("SELECT lease_until FROM owner WHERE id = ?1")?
            .query_row([blob(self.owner)], |row| row.get(0))
            .optional()?;
        if until.is_none_or(|until| until - self.now.timestamp_millis() < self.lease_ms / 2) {
            self.renew()?;
        }
        Ok(())
    }

    pub(super) fn reissue(&mut self, claim: Claim) -> Result<Claim, Failure> {
        let predecessors: Vec<_> = claim.predecessors.iter().copied().chain([claim.token]).collect();
        if let Some(standing) = self.standing(EntryId::of(&claim.key))?
            && standing.owner == Some(self.owner)
            && let Some((token, earlier)) = standing.staged.split_last()
            && *earlier == *predecessors
        {
            return Ok(Claim { token: *token, predecessors, ..claim });
        }
        let token = self.next_token(&mut (0..0), 1)?;
        let staged: Vec<_> = predecessors.iter().copied().chain([token]).collect();
        let changed = self
            .connection
            .prepare_cached("UPDATE entry SET token = ?1, staged = ?2 WHERE id = ?3 AND token = ?4 AND owner = ?5")?
            .execute(params![
                token.0 as i64,
                list(&staged),
                EntryId::of(&claim.key),
                claim.token.0 as i64,
                blob(self.owner),
            ])?;
        fenced(changed)?;
        Ok(Claim { token, predecessors, ..claim })
    }

    pub(super) fn record(&self, claim: &Claim, record: &Record, intention: Intention) -> Changed {
        let (staged, gone_at) = self.left(claim, Staged::Gone);
        let disposer = match intention {
            Intention::LeaveAlone => None,
            Intention::Dispose => Some(blob(self.owner)),
        };
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE entry SET state = 'recorded', owner = NULL, staged = ?8, gone_at = ?9, reason = NULL, disposer = ?7, \
                 record_remote = ?1, record_sha256 = ?2, recorded_at = ?3 WHERE id = ?4 AND token = ?5 AND owner = ?6",
            )?
            .execute(params![
                record.remote.as_str(),
                record.sha256.0,
                record.recorded_at.timestamp_micros(),
                EntryId::of(&claim.key),
                claim.token.0 as i64,
                blob(self.owner),
                disposer,
                staged,
                gone_at,
            ])?;
        fenced(changed)?;
        if self.contents == Contents::Indexed {
            self.unreserve(EntryId::of(&claim.key))?;
        }
        Ok(())
    }

    /// What stays of the staged names, and since when they are gone.
    fn left(&self, claim: &Claim, staged: Staged) -> (Option<String>, Option<i64>) {
        match staged {
            Staged::Gone if !claim.predecessors.is_empty() => {
                (Some(list(&claim.predecessors)), Some(self.now.timestamp_millis()))
            }
            Staged::Theirs if !claim.predecessors.is_empty() => (Some(list(&claim.predecessors)), None),
            Staged::Nothing | Staged::Gone | Staged::Theirs => (None, None),
            Staged::Maybe => {
                let staged: Vec<_> = claim.predecessors.iter().copied().chain([claim.token]).collect();
                (Some(list(&staged)), None)
            }
        }
    }

    pub(super) fn release(&self, claim: &Claim, release: &Release) -> Changed {
        let (id, token) = (EntryId::of(&claim.key), claim.token);
        let disposer = match release {
            Release::Failed { intention: Intention::Dispose, .. } => Some(blob(self.owner)),
            _ => None,
        };
        let (state, reason, attempts, staged) = match release {
            Release::Failed { reason, attempts, staged, .. } => ("failed", Some(reason), Some(*attempts), *staged),
            Release::Unfinished { attempts, staged } => ("claimed", None, Some(*attempts), *staged),
            Release::Forget { staged } => ("claimed", None, None, *staged),
        };
        let (staged, gone_at) = self.left(claim, staged);
        if matches!(release, Release::Forget { .. }) && staged.is_none() {
            let deleted = self
                .connection
                .prepare_cached(
                    "DELETE FROM entry WHERE id = ?1 AND token = ?2 AND owner = ?3 AND recorded_at IS NULL \
                     AND disposer IS NULL",
                )?
                .execute(params![id, token.0 as i64, blob(self.owner)])?;
            if deleted > 0 {
                if self.contents == Contents::Indexed {
                    self.unreserve(id)?;
                }
                return Ok(());
            }
        }
        // What was recorded before a forced repetition is recorded still.
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE entry SET owner = NULL, state = iif(recorded_at IS NULL, :state, 'recorded'), since = :now, \
                 reason = iif(recorded_at IS NULL, :reason, NULL), attempts = coalesce(:attempts, attempts), \
                 disposer = coalesce(:disposer, disposer), staged = :staged, gone_at = :gone_at \
                 WHERE id = :id AND token = :token AND owner = :owner",
            )?
            .execute(named_params! {
                ":state": state, ":reason": reason, ":attempts": attempts, ":disposer": disposer, ":staged": staged,
                ":gone_at": gone_at,
                ":id": id, ":token": token.0 as i64, ":owner": blob(self.owner), ":now": self.now.timestamp_micros(),
            })?;
        fenced(changed)
    }

    pub(super) fn disposing(&mut self, id: EntryId) -> Changed {
        let found = self
            .connection
            .prepare_cached(
                "SELECT seq, owner, disposer FROM entry \
                 WHERE id = ?1 AND (recorded_at IS NOT NULL OR disposer IS NOT NULL)",
            )?
            .query_row([id], |row| Ok((row.get::<_, i64>(0)?, owner_at(row, 1)?, owner_at(row, 2)?)))
            .optional()?;
        let Some((seq, owner, disposer)) = found else { return Err(Failure::LeaseLost) };
        if disposer == Some(self.owner) && owner.is_none() {
            return Ok(());
        }
        for other in [owner, disposer.filter(|disposer| *disposer != self.owner)].into_iter().flatten() {
            if self.is_alive(other)? {
                return Err(Failure::LeaseLost);
            }
        }
        self.connection
            .prepare_cached("UPDATE entry SET disposer = ?1 WHERE seq = ?2")?
            .execute(params![blob(self.owner), seq])?;
        Ok(())
    }

    pub(super) fn disposed(&self, id: EntryId) -> Changed {
        self.connection
            .prepare_cached("UPDATE entry SET disposer = NULL WHERE id = ?1 AND disposer = ?2")?
            .execute(params![id, blob(self.owner)])?;
        Ok(())
    }

    pub(super) fn postponed(&self, id: EntryId) -> Changed {
        self.connection
            .prepare_cached("UPDATE entry SET disposer = ?1 WHERE id = ?2 AND disposer = ?3")?
            .execute(params![blob(NOBODY), id, blob(self.owner)])?;
        Ok(())
    }

    /// Whether each entry was failed, and waits now.
    pub(super) fn retry(&self, ids: &[EntryId]) -> rusqlite::Result<Vec<bool>> {
        let mut put_back = self.connection.prepare_cached(
            "UPDATE entry SET state = 'claimed', attempts = 0, reason = NULL, since = ?1 WHERE id = ?2 AND state = 'failed'",
        )?;
        let now = self.now.timestamp_micros();
        let changed = ids.iter().map(|id| Ok(put_back.execute(params![now, id])? > 0));
        let changed = changed.collect::<rusqlite::Result<Vec<_>>>()?;
        if changed.contains(&true) {
            self.connection.prepare_cached("UPDATE ledger SET retries = retries + 1")?.execute([])?;
        }
        Ok(changed)
    }

    pub(super) fn retries(&self) -> rusqlite::Result<u64> {
        let retries: i64 =
            self.connection.prepare_cached("SELECT retries FROM ledger")?.query_row([], |row| row.get(0))?;
        Ok(retries as u64)
    }

    /// One row, whatever the number of claims.
    pub(super) fn renew(&self) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO owner (id, pid, hostname, lease_until) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until",
            )?
            .execute(params![
                blob(self.owner),
                std::process::id(),
                rustix::system::uname().nodename().to_string_lossy(),
                self.now.timestamp_millis() + self.lease_ms,
            ])?;
        Ok(())
    }

    /// Ourselves, always; another, while its process holds its lock and its lease has not run out.
    pub(super) fn is_alive(&mut self, owner: OwnerId) -> rusqlite::Result<bool> {
        if owner == self.owner {
            return Ok(true);
        }
        if let Some(alive) = self.alive.get(&owner) {
            return Ok(*alive);
        }
        let alive = holder(self.connection, self.owners, owner, self.now)?.is_some();
        self.alive.insert(owner, alive);
        Ok(alive)
    }
}

/// The process of `owner`, while it holds its lock and its lease has not run out.
pub(super) fn holder(
    connection: &Connection,
    owners: &Owners,
    owner: OwnerId,
    now: DateTime<Utc>,
) -> rusqlite::Result<Option<Holder>> {
    let found = connection
        .prepare_cached("SELECT hostname, pid, lease_until - ?2 FROM owner WHERE id = ?1 AND lease_until > ?2")?
        .query_row(params![blob(owner), now.timestamp_millis()], |row| {
            let left: i64 = row.get(2)?;
            let lease_left = Duration::from_millis(left.try_into().unwrap_or_default());
            Ok(Holder { owner, hostname: row.get(0)?, pid: row.get(1)?, lease_left })
        })
        .optional()?;
    Ok(found.filter(|_| owners.holds_lock(owner)))
}

fn fenced(changed: usize) -> Changed {
    if changed == 0 { Err(Failure::LeaseLost) } else { Ok(()) }
}

pub(super) fn blob(owner: OwnerId) -> [u8; 16] {
    owner.0.to_be_bytes()
}

pub(super) fn owner_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<OwnerId>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(|id| OwnerId(u128::from_be_bytes(id))))
}

/// The key that an entry's columns say, from the column `destination` on.
pub(super) fn key_at(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<FileKey> {
    Ok(FileKey {
        destination: row.get::<_, String>(first)?.into(),
        source: row.get::<_, String>(first + 1)?.into(),
        path: row.get(first + 2)?,
        fingerprint: Fingerprint {
            inode: row.get::<_, i64>(first + 3)? as u64,
            size: row.get::<_, i64>(first + 4)? as u64,
            mtime_ns: row.get(first + 5)?,
        },
    })
}

/// The record whose three columns begin at `first`.
pub(super) fn record_at(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Option<Record>> {
    let columns = (row.get::<_, Option<String>>(first)?, row.get(first + 1)?, row.get(first + 2)?);
    let (Some(remote), Some(sha256), Some(recorded_at)) = columns else { return Ok(None) };
    Ok(Some(Record {
        remote: RemotePath::new(remote),
        sha256: Sha256Digest(sha256),
        recorded_at: DateTime::from_timestamp_micros(recorded_at).unwrap_or_default(),
    }))
}

pub(super) fn path_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<PathBuf> {
    Ok(OsString::from_vec(row.get(column)?).into())
}

pub(super) fn list(tokens: &[Token]) -> String {
    tokens.iter().map(Token::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn unlist(text: Option<&str>) -> Vec<Token> {
    text.into_iter().flat_map(|text| text.split(',')).filter_map(|token| token.parse().ok().map(Token)).collect()
}
