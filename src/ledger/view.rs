//! What one who only looks may ask of a ledger: a person beside a running watch, an audit.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Cursor, LedgerError, Record};
use crate::domain::{FileKey, OwnerId, RemotePath, Token};

/// A ledger as seen from outside. It has no owner: looking makes, changes, upgrades and holds up nothing, however long
/// it takes, and works beside running archivers.
#[async_trait]
pub trait LedgerView: Send + Sync + std::fmt::Debug {
    /// Entries of all destinations, page by page. A page shorter than `limit` is the last. Each page is true for a moment
    /// of its own; an entry that the filter admits from the first page to the last is given exactly once.
    async fn entries(
        &self,
        filter: EntryFilter,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<EntryInfo>, Cursor), LedgerError>;

    /// What there is besides entries, as of one moment.
    async fn outline(&self) -> Result<Outline, LedgerError>;
}

/// What a ledger is besides its entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// The last one that was issued; 0 where the ledger was never made.
    pub last_token: Token,
    /// As [`super::Ledger::retries`].
    pub retries: u64,
    /// All owners that have not left in order, whether they hold anything or not.
    pub members: Vec<Member>,
}

/// An owner, as the others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub owner: OwnerId,
    pub hostname: String,
    pub pid: u32,
    pub life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Life {
    /// What it holds is its own. A process of another host may have ended meanwhile.
    Live { lease_left: Duration },
    /// Its process stands, and did not renew its lease in time: what it held is free, unless it comes back first.
    Hung { for_so_long: Duration },
    /// Its process is known to have ended: what it held is free.
    Ended { lease_left: Duration },
    /// Its lease ran out, and nobody knows of its process: what it held is free.
    Lapsed { for_so_long: Duration },
}

impl Life {
    /// Whether it may still go on.
    pub fn is_possible(self) -> bool {
        matches!(self, Self::Live { .. } | Self::Hung { .. })
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFilter {
    All,
    /// Those in [`EntryState::Failed`]: few, and found without looking at all the others.
    Failed,
}

/// What the ledger knows of one file version.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryInfo {
    pub key: FileKey,
    /// Absolute, as of the last claim.
    pub local_path: PathBuf,
    /// The pinned path of the last claim.
    pub remote: RemotePath,
    /// The token of the last claim.
    pub token: Token,
    pub state: EntryState,
    /// When the file was first claimed, or first claimed again after it was recorded; `None` where an earlier version of
    /// this program did not note it. Kept to the microsecond, as all times here.
    pub queued_at: Option<DateTime<Utc>>,
    /// What stands on record. Always there in [`EntryState::Recorded`], never in [`EntryState::Failed`].
    pub record: Option<Record>,
    pub disposal: Disposal,
    /// Uploads begun, as the releases said.
    pub attempts: u32,
    /// Tokens whose temporary names may stand on the server, the last one last.
    pub staged: Vec<Token>,
    /// When those names were seen removed, to the millisecond. `None` where they were not.
    pub gone_at: Option<DateTime<Utc>>,
}

impl EntryInfo {
    /// Its state as a ledger keeps it that nobody holds it in, with the reason of a failure, and since when.
    pub(super) fn kept_as(&self) -> (&'static str, Option<&str>, Option<DateTime<Utc>>) {
        match &self.state {
            _ if self.record.is_some() => ("recorded", None, None),
            EntryState::Failed { reason, since, .. } => ("failed", Some(reason), *since),
            EntryState::Held { since, .. } | EntryState::Waiting { since } => ("claimed", None, *since),
            EntryState::Recorded => ("recorded", None, None),
        }
    }
}

impl EntryInfo {
    /// Whether its bytes stand under another file's name, and were never sent for it.
    pub fn is_duplicate(&self) -> bool {
        let own =
            |record: &Record| record.remote == self.remote || record.remote == self.remote.conflicting(&record.sha256);
        self.record.as_ref().is_some_and(|record| !own(record))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum EntryState {
    /// Archived, and nobody is at it again.
    Recorded,
    /// A live owner has it. `since` is when it claimed it.
    Held { holder: Holder, since: Option<DateTime<Utc>> },
    /// Nobody has it, and it is not archived: its owner stopped or died at `since` or later, or it was put back.
    Waiting { since: Option<DateTime<Utc>> },
    /// Its attempts were used up at `since`.
    Failed { reason: String, attempts: u32, since: Option<DateTime<Utc>> },
}

/// A process that has claimed files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub owner: OwnerId,
    pub hostname: String,
    pub pid: u32,
    pub lease_left: Duration,
}

/// Whether the local file is where it is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposal {
    /// Not asked for, or confirmed.
    Settled,
    /// Begun and not confirmed: under way, or cut short by a crash.
    Pending,
}
