//! Which bytes are archived, and which file is about to archive them.
//!
//! What is here is made by the first owner that asks for it. Nobody else has to keep it: an index is kept by SQLite, for
//! owners of any version, and a reservation only says which entry it is of. What that entry says then decides, so one
//! that has come to its end holds up nobody, whoever ended it.

use rusqlite::{Connection, OptionalExtension, params};

use super::entries::{Entries, key_at, owner_at, path_at};
use super::entry_id::EntryId;
use super::error::Failure;
use super::writer::Contents;
use crate::domain::{RemotePath, Repeat, Sha256Digest};
use crate::ledger::{Claim, ClaimRequest, Left, Reservation};

/// Reservations of entries that are no more, or were recorded by an owner that does not know of reservations, go with
/// the next start.
const CONTENTS: &str = "
CREATE TABLE IF NOT EXISTS content (sha256 BLOB NOT NULL, destination TEXT NOT NULL, entry BLOB NOT NULL,
    PRIMARY KEY (sha256, destination)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS content_entry ON content (entry);
CREATE INDEX IF NOT EXISTS entry_content ON entry (record_sha256, destination) WHERE record_sha256 IS NOT NULL;
DELETE FROM content WHERE NOT EXISTS (SELECT 1 FROM entry WHERE id = content.entry AND recorded_at IS NULL);
";

pub(super) fn index(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(CONTENTS)
}

/// Who was to archive the same bytes.
enum Other {
    /// Nobody any more.
    Ended,
    Stands(Reservation),
}

impl Entries<'_> {
    pub(super) fn reserve(&mut self, claim: &Claim, sha256: &Sha256Digest) -> Result<Reservation, Failure> {
        let id = EntryId::of(&claim.key);
        self.is_ours(id, claim.token)?;
        let destination = &*claim.key.destination;
        let holder: Option<EntryId> = self
            .connection
            .prepare_cached("SELECT entry FROM content WHERE sha256 = ?1 AND destination = ?2")?
            .query_row(params![sha256.0, destination], |row| row.get(0))
            .optional()?;
        // What it staged may have been published already.
        if holder == Some(id) && !claim.predecessors.is_empty() {
            return Ok(Reservation::Ours);
        }
        let stands: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT record_remote FROM entry INDEXED BY entry_content \
                 WHERE record_sha256 = ?1 AND destination = ?2 AND id <> ?3 ORDER BY seq LIMIT 1",
            )?
            .query_row(params![sha256.0, destination, id], |row| row.get(0))
            .optional()?;
        if let Some(remote) = stands {
            return Ok(Reservation::Stands(RemotePath::new(remote)));
        }
        if let Some(holder) = holder.filter(|holder| *holder != id)
            && let Other::Stands(reservation) = self.other(holder)?
        {
            return Ok(reservation);
        }
        self.unreserve(id)?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO content (sha256, destination, entry) VALUES (?1, ?2, ?3)")?
            .execute(params![sha256.0, destination, id])?;
        Ok(Reservation::Ours)
    }

    pub(super) fn reserved(&self, id: EntryId) -> rusqlite::Result<Option<Sha256Digest>> {
        if self.contents == Contents::NotAsked {
            return Ok(None);
        }
        self.connection
            .prepare_cached("SELECT sha256 FROM content WHERE entry = ?1")?
            .query_row([id], |row| row.get(0).map(Sha256Digest))
            .optional()
    }

    /// Ends the reservation of an entry, where it has one.
    pub(super) fn unreserve(&self, id: EntryId) -> rusqlite::Result<usize> {
        self.connection.prepare_cached("DELETE FROM content WHERE entry = ?1")?.execute([id])
    }

    fn other(&mut self, id: EntryId) -> Result<Other, Failure> {
        let found = self
            .connection
            .prepare_cached(
                "SELECT owner, staged IS NOT NULL AND gone_at IS NULL, \
                 destination, source, path, inode, size, mtime_ns, local_path, remote, iif(state = 'failed', reason, NULL) \
                 FROM entry WHERE id = ?1 AND recorded_at IS NULL",
            )?
            .query_row([id], |row| {
                let request = ClaimRequest {
                    key: key_at(row, 2)?,
                    local_path: path_at(row, 8)?,
                    remote: RemotePath::new(row.get::<_, String>(9)?),
                    repeat: Repeat::Skip,
                };
                Ok((owner_at(row, 0)?, row.get(1)?, Left { request, failed: row.get(10)? }))
            })
            .optional()?;
        let Some((owner, may_publish, left)) = found else { return Ok(Other::Ended) };
        if let Some(owner) = owner
            && self.is_alive(owner)?
        {
            return Ok(Other::Stands(Reservation::InHand(owner)));
        }
        Ok(if may_publish { Other::Stands(Reservation::Left(Box::new(left))) } else { Other::Ended })
    }
}
