//! What an entry is found by.

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::entries::key_at;
use crate::domain::FileKey;

/// Bytes that the files of one directory share.
const SHARED: usize = 4;
/// Entries that an upgrade holds in memory at a time.
const PAGE: usize = 1_000;

/// The key's id behind a hash of its directory. A scan names the files of a directory one after the other, so what is
/// claimed together stands together in the index: a commit of 256 files writes a few of its pages. By the key's id
/// alone they would be 256 pages anywhere, as soon as the index has that many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId([u8; SHARED + 16]);

impl EntryId {
    pub(super) fn of(key: &FileKey) -> Self {
        let directory = key.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let mut id = [0; SHARED + 16];
        id[..SHARED].copy_from_slice(&Sha256::digest(&key.path[..directory])[..SHARED]);
        id[SHARED..].copy_from_slice(&key.id().0);
        Self(id)
    }
}

impl ToSql for EntryId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_slice().into())
    }
}

impl FromSql for EntryId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        FromSql::column_result(value).map(Self)
    }
}

/// Files all entries anew, as schema 1 had them under the key's id alone. Within the caller's transaction.
pub(super) fn refile(connection: &Connection) -> rusqlite::Result<()> {
    let mut listing = connection.prepare(
        "SELECT seq, destination, source, path, inode, size, mtime_ns FROM entry WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut change = connection.prepare("UPDATE entry SET id = ?1 WHERE seq = ?2")?;
    let mut after = i64::MIN;
    loop {
        let page = listing
            .query_map(params![after, PAGE as i64], |row| Ok((row.get::<_, i64>(0)?, EntryId::of(&key_at(row, 1)?))))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        for (seq, id) in page {
            change.execute(params![id, seq])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Fingerprint;

    fn keys() -> impl Strategy<Value = FileKey> {
        let path = "(a|b|/|\u{e9}){0,5}";
        ("[ab]{0,2}", "[ab]{0,2}", path, 0..2_u64, 0..2_u64, -1..1_i64).prop_map(
            |(destination, source, path, inode, size, mtime_ns)| FileKey {
                destination: destination.into(),
                source: source.into(),
                path: path.into_bytes(),
                fingerprint: Fingerprint { inode, size, mtime_ns },
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 16, ..Default::default() })]
        /// No field runs into the next, and the files of a directory stand together.
        #[test]
        fn different_keys_have_different_ids(one in keys(), other in keys()) {
            let (first, second) = (EntryId::of(&one).0, EntryId::of(&other).0);
            prop_assert_eq!(first == second, one == other);
            let directory = |key: &FileKey| {
                let end = key.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                key.path[..end].to_vec()
            };
            prop_assert_eq!(first[..SHARED] == second[..SHARED], directory(&one) == directory(&other));
        }
    }
}
