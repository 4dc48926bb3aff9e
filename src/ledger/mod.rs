//! The ledger: who may move which file, under which name, and what was moved.
//!
//! [`Ledger`] is the least that a shared memory of exactly-once needs, so that an embedded database and a networked
//! store can both implement it. Every implementation passes the same contract suite (`contract`).
//!
//! An entry is filed under its [`FileKey`] and is in one of three states:
//!
//! ```text
//!            claim                    record
//! (none) ───────────▶ claimed ───────────────────▶ recorded
//!    ▲      claim ┌──▶  │  ▲                           │
//!    │            │     │  └───────── claim, forced ───┘
//!    │            │     ├── release(Failed) ──▶ failed ┐
//!    │            └─────┼──────────────────────────────┘
//!    └── release(Forget)┘
//! ```
//!
//! [`Ledger::retry`] makes a failed entry a claimed one that nobody holds. [`LedgerView`] is for those who only look.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::domain::{FileKey, KeyId, OwnerId, Recount, RemotePath, Repeat, Row, Sha256Digest, Token, Totals};

#[cfg(test)]
pub mod contract;
pub mod redis;
mod rows;
pub mod sqlite;
mod view;

pub use redis::{RedisConfig, RedisLedger, RedisPreview, RedisView};
pub use sqlite::{SqliteConfig, SqliteLedger, SqliteView};
pub use view::{Disposal, EntryFilter, EntryInfo, EntryState, Holder, LedgerView, Life, Member, Outline};

/// Says the time of day. An argument, so that tests can let leases run out.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// What a worker asks for: to be the only one that moves this file version.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    pub key: FileKey,
    /// Absolute local path, for people and for retention.
    pub local_path: PathBuf,
    /// The final name if this is the first claim of the key. A later claim gets the first one's (G4).
    pub remote: RemotePath,
    pub repeat: Repeat,
}

/// What a claim comes to.
#[derive(Debug, Clone)]
pub enum ClaimReply {
    Claimed(Claim),
    /// Archived before; nothing to upload.
    Recorded(Record),
    /// A live owner has it.
    Held {
        owner: OwnerId,
    },
}

/// The right to stage, commit and record one file version, until the lease runs out or a later token is issued.
#[derive(Debug, Clone)]
pub struct Claim {
    pub key: FileKey,
    pub token: Token,
    /// The pinned final path.
    pub remote: RemotePath,
    /// Earlier tokens of this key whose temporary names may stand on the server: the owner takes each up or removes
    /// it before it stages its own. Empty for almost every claim.
    pub predecessors: Vec<Token>,
    /// Uploads begun under earlier claims of this key, as their releases said. 0 for a forced repetition.
    pub attempts: u32,
}

/// What it comes to that the file of a claim is to be archived with certain bytes ([`Ledger::reserve`]).
#[derive(Debug, Clone)]
pub enum Reservation {
    /// No other file is: this one archives them.
    Ours,
    /// They are archived at that destination, under this name, or were: the ledger's word counts.
    Stands(RemotePath),
    /// A live owner has another file with these bytes.
    InHand(OwnerId),
    /// Nobody has the other file with these bytes, and what its last owner asked the server for may still publish it.
    Left(Box<Left>),
}

/// A file that was to be archived with the same bytes as another one, and is in nobody's hands. Whoever wants to archive
/// the bytes elsewhere claims it first: its last owner is fenced off by that, and its names on the server tell the rest.
#[derive(Debug, Clone)]
pub struct Left {
    /// A claim of it, as it was claimed last.
    pub request: ClaimRequest,
    /// Why it had failed, if it had.
    pub failed: Option<String>,
}

/// What the ledger durably knows of an archived file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The name it stands under: the pinned path, the conflict name beside it, or, of bytes that were archived already
    /// ([`Reservation::Stands`]), the other file's name.
    pub remote: RemotePath,
    pub sha256: Sha256Digest,
    /// Kept to the microsecond.
    pub recorded_at: DateTime<Utc>,
}

/// What is to happen to the local file of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intention {
    LeaveAlone,
    /// As its source says; the ledger knows, and a crash cannot make it forget.
    Dispose,
}

/// A row and whose it is: `None` for a candidate whose version is not known, or not the one that stands now.
#[derive(Debug, Clone)]
pub struct RowOf {
    pub version: Option<KeyId>,
    pub row: Row,
}

impl RowOf {
    pub fn new(version: Option<&FileKey>, row: Row) -> Self {
        Self { version: version.map(FileKey::id), row }
    }
}

/// How a worker gives a claim up without a record. `attempts` counts all uploads begun for the key, those of earlier
/// claims ([`Claim::attempts`]) included. A forced repetition falls back to the record that stood before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Retries are used up. The pinned path stays; the next run may claim it again. Where the local file goes into
    /// quarantine, this notes with it that its disposal begins.
    Failed { reason: String, attempts: u32, staged: Staged, intention: Intention },
    /// Stopped before the end; whoever comes next goes on under the pinned path.
    Unfinished { attempts: u32, staged: Staged },
    /// This file version no longer exists (it changed or went away). The entry goes once nothing is staged.
    Forget { staged: Staged },
}

/// Whether the temporary name of the released token may still stand on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// Never created, or seen removed. Its predecessors' too.
    Nothing,
    /// Seen removed, but the server may have still to carry out what one of the claim's predecessors asked for before it
    /// died: their names are looked for once more when that is over.
    Gone,
    /// Never created; nothing is known of its predecessors', which must be looked after by a successor as before.
    Theirs,
    /// Unknown: the token (and its predecessors') must be looked after by a successor.
    Maybe,
}

/// An entry that no live owner holds and whose temporary names may stand on the server.
#[derive(Debug, Clone)]
pub struct Orphan {
    pub key: FileKey,
    pub local_path: PathBuf,
    pub remote: RemotePath,
    /// Whoever claims its file again takes it up; nobody does where there is a record.
    pub state: OrphanState,
    /// Tokens whose names were seen removed, a lease ago or more: a second look is the last one.
    pub gone: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanState {
    Unfinished,
    Recorded,
}

/// A file whose disposal has not been confirmed.
#[derive(Debug, Clone)]
pub struct Undisposed {
    pub key: FileKey,
    pub local_path: PathBuf,
    /// Without it the file was on its way into quarantine: it is not archived.
    pub record: Option<Record>,
    /// Whether it counts as failed still: it does not where somebody put it back into the queue meanwhile.
    pub is_failed: bool,
}

/// What became of an entry of another ledger ([`Ledger::import`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// There was none of its key.
    Added,
    /// There was one, which has now the record or the staged tokens that it lacked.
    Completed,
    /// There was one that says all this already, or knows more.
    Known,
    /// There was one that says otherwise, and stays as it was.
    Kept,
}

/// A position in an ordered listing; the first page starts from [`Cursor::default`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor(pub i64);

/// Which rows a summary wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFilter {
    All,
    Status(crate::domain::Status),
}

/// How long after its renewal a lease lasts for certain, whatever the clocks do meanwhile.
pub fn certainty(lease: Duration) -> Duration {
    lease * 2 / 3
}

/// The shared memory of exactly-once. All methods may be called from many tasks at once.
///
/// **Durability.** When a method returns `Ok`, its effect survives `kill -9` and a power cut; the rows of a run live
/// only as long as its process. Implementations batch: calls made at the same time share one durable commit. A call
/// whose future is dropped may still take effect.
///
/// **Atomicity.** Each element of a batch is atomic by itself; a batch is not.
///
/// **Fencing.** `confirm`, `reissue`, `record` and `release` compare the claim's token and owner with the entry's and change
/// nothing ([`LedgerError::LeaseLost`]) where the claim has ended or a later one has been issued.
///
/// **Held.** An entry is held while its owner's process is known to live and its lease has not run out. An owner always
/// holds its own: a lease that ran out without anybody else taking the entry can be renewed.
#[async_trait]
pub trait Ledger: Send + Sync + std::fmt::Debug {
    /// Who this process is to the others.
    fn owner(&self) -> OwnerId;

    /// Asks for files, in order; the replies are in the same order. Idempotent for the owner: a key that this owner
    /// holds already is `Held` by it.
    async fn claim(&self, requests: Vec<ClaimRequest>) -> Result<Vec<ClaimReply>, LedgerError>;

    /// What is on record of these keys, in order, whoever holds them. Changes nothing.
    async fn recorded(&self, keys: Vec<FileKey>) -> Result<Vec<Option<Record>>, LedgerError>;

    /// Extends all leases of this owner. To be called every third of [`Ledger::lease`].
    async fn renew(&self) -> Result<(), LedgerError>;

    /// How long a lease lasts without renewal.
    fn lease(&self) -> Duration;

    /// How long after a renewal the owner may be sure of its claims without asking ([`Ledger::confirm`]).
    fn certainty(&self) -> Duration {
        certainty(self.lease())
    }

    /// Fails with [`LedgerError::LeaseLost`] where the claim is no longer this owner's. Asked right before a commit: on
    /// success at least half a lease is left.
    async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError>;

    /// Gives the claim a later token; the one it had is its last predecessor. For an owner who asked the server for
    /// something under the old token's name and does not know whether it is still going to happen. Idempotent for the owner:
    /// a claim that the entry's has just followed gets that one, so that a call that was given up does not lose the claim.
    /// Fails with [`LedgerError::LeaseLost`] where the claim is no longer this owner's.
    async fn reissue(&self, claim: &Claim) -> Result<Claim, LedgerError>;

    /// Makes all records findable by their bytes, from now on and by all owners: to be called before the first
    /// [`Ledger::reserve`]. Takes a while for a ledger that has many and never was asked to. Idempotent.
    async fn index_contents(&self) -> Result<(), LedgerError>;

    /// Asks that the file of this claim be the only one to archive bytes with this SHA-256 at its destination. Whose it
    /// is stays so until its claim ends with nothing staged, its entry is taken over and ends so, or there is a record:
    /// then all others are told where the bytes stand. Idempotent. Fails with [`LedgerError::LeaseLost`] where the claim
    /// is no longer this owner's.
    async fn reserve(&self, claim: &Claim, sha256: Sha256Digest) -> Result<Reservation, LedgerError>;

    /// The bytes that a claim's file was to archive when its entry was claimed last, where it may have, and nobody asked for
    /// them since.
    async fn reserved(&self, claim: &Claim) -> Result<Option<Sha256Digest>, LedgerError>;

    /// Notes that the commit happened, and with it, where the local file is to go, that its disposal begins. Ends the
    /// claim. The names of its predecessors, if any, count as [`Staged::Gone`].
    async fn record(&self, claim: &Claim, record: Record, intention: Intention) -> Result<(), LedgerError>;

    /// Ends the claim without a record.
    async fn release(&self, claim: &Claim, release: Release) -> Result<(), LedgerError>;

    /// Notes that the local file of an entry was disposed of, so that nobody looks for it again. Idempotent. Says
    /// nothing where another one is at it by now, who may be in the middle of it.
    async fn disposed(&self, key: &FileKey) -> Result<(), LedgerError>;

    /// Entries of a destination that nobody holds and that may have left something on the server; what is
    /// [`Staged::Gone`] once a lease has passed. A page shorter than `limit` is the last. To clean up, claim the key with
    /// [`Repeat::Force`] (the pinned path stays), remove the predecessors' temporary names and release it as
    /// [`Release::Forget`]: a record that stood before stands again.
    async fn orphans(
        &self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Orphan>, Cursor), LedgerError>;

    /// Temporary names that may stand of other versions of a claimed file that were to have the same final name, whoever
    /// holds them.
    async fn rivals(&self, claim: &Claim, local_path: &Path) -> Result<Vec<RemotePath>, LedgerError>;

    /// Entries whose disposal began ([`Ledger::record`], [`Ledger::disposing`], [`Release::Failed`]) and was not confirmed,
    /// because a process died between the two, or was postponed. Those of live owners, the caller included, are left out;
    /// whoever takes one up says so first ([`Ledger::disposing`]). A page shorter than `limit` is the last.
    async fn undisposed(
        &self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Undisposed>, Cursor), LedgerError>;

    /// Notes that this owner's disposal of the local file of an entry did not come to its end: [`Ledger::undisposed`] names
    /// it from now on to everybody, this owner included.
    async fn postponed(&self, key: &FileKey) -> Result<(), LedgerError>;

    /// Notes that disposal of the local file of an entry begins that was recorded before, or goes on that began before.
    /// Idempotent for the owner. Fails with [`LedgerError::LeaseLost`] where there is neither, a live owner claimed the
    /// file again, or another one disposes of it: the file must then be left alone.
    async fn disposing(&self, key: &FileKey) -> Result<(), LedgerError>;

    /// Puts failed entries back into the queue, with no attempts to their names; the pinned path stays. Says of each key,
    /// in order, whether its entry was failed until now; any other is left alone.
    async fn retry(&self, keys: Vec<FileKey>) -> Result<Vec<bool>, LedgerError>;

    /// A number that grows with every [`Ledger::retry`] of any owner that put something back, so that those who leave
    /// failed files alone take them up again. As cheap as [`Ledger::renew`], and asked as often.
    async fn retries(&self) -> Result<u64, LedgerError>;

    /// Takes in what [`LedgerView::entries`] gave of another ledger, in order; nobody holds it here ([`EntryState::Held`]
    /// counts as waiting), and whose disposal is pending is nobody's. Every token that is issued later is larger than
    /// `issued` and than those of the entries. None of these tokens may pass [`LARGEST_TOKEN`].
    ///
    /// Where there is an entry of the key, it stays, whoever holds it, but that a record is added where it has none, with
    /// the disposal that is pending. Staged tokens are added where nobody holds it and they are of the same pinned path,
    /// or it has none itself: it is pinned to their path then. So to repeat it changes nothing.
    async fn import(&self, entries: Vec<EntryInfo>, issued: Token) -> Result<Vec<Imported>, LedgerError>;

    /// Adds rows to this owner's run, or replaces those of the same source, path and file version; but that a version
    /// was skipped or deferred never hides that this run archived it. A row without a version gives way to the next one
    /// of its source and path that has one, and leaves it its place. Says of each, in order, what it changed in
    /// [`Ledger::totals`].
    async fn put_rows(&self, rows: Vec<RowOf>) -> Result<Vec<Recount>, LedgerError>;

    /// This run's rows in the order in which they were first put. A page shorter than `limit` is the last.
    async fn rows(&self, filter: RowFilter, after: Cursor, limit: usize) -> Result<(Vec<Row>, Cursor), LedgerError>;

    /// The counts of this run's rows.
    async fn totals(&self) -> Result<Totals, LedgerError>;

    /// Forgets records older than the retention whose local file is gone. Looks at a bounded number, going on where the
    /// last call stopped, so a run of months calls it from time to time (hourly).
    async fn tidy(&self) -> Result<(), LedgerError>;

    /// The owners that take in files of this scope now, in no order; the caller is one of them, and is known to the others
    /// as one from then on. For who divides the work, and no promise: each may see others. A ledger that is not shared
    /// between hosts knows nobody else.
    async fn peers(&self, _scope: &str) -> Result<Vec<OwnerId>, LedgerError> {
        Ok(vec![self.owner()])
    }

    /// Ends the run: [`Ledger::tidy`], then drops its rows and its lock, which frees what it still holds. Every later
    /// call fails with [`LedgerError::Unusable`].
    async fn finish(&self) -> Result<(), LedgerError>;
}

/// The largest token that entries of another ledger and what was issued there come to.
fn largest_token(entries: &[EntryInfo], issued: Token) -> Token {
    entries.iter().flat_map(|entry| entry.staged.iter().copied().chain([entry.token])).fold(issued, Token::max)
}

/// The largest token that may be imported: Redis counts exactly to twice as many, which leaves room for all later ones.
pub const LARGEST_TOKEN: Token = Token(1 << 52);

/// What can go wrong, by consequence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The claim belongs to a later owner now: touch nothing more of this file.
    #[error("the lease on this file was lost to another archiver")]
    LeaseLost,
    /// The ledger cannot be used at all: stop.
    #[error("the ledger {location} cannot be used: {reason}")]
    Unusable { location: String, reason: String },
    /// It failed now and may work again (disk full, busy): hold work.
    #[error("the ledger {location} failed: {reason}")]
    Unavailable { location: String, reason: String },
}
