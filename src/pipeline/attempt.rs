//! What one attempt at a file comes to, and what all of them do.

use super::read::ReadError;
use crate::destination::DestinationError;
use crate::destination::sftp::publish::Published;
use crate::destination::sftp::stage::WINDOW_BYTES;
use crate::domain::{RemotePath, Sha256Digest, Status};
use crate::ledger::LedgerError;
use crate::report::RetryClass;

/// What a transfer came to.
#[derive(Debug)]
pub struct End {
    pub status: Status,
    pub reason: Option<String>,
    pub remote: RemotePath,
    pub sha256: Option<Sha256Digest>,
    pub attempts: u32,
    pub version: Standing,
    pub blame: Blame,
}

/// Whose fault it is that a file did not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    File,
    /// The destination was given up, and all that waited for it.
    Destination,
}

/// Whether the version is still the one that stands under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Current,
    /// Another one took its place: its row gives way to that one's.
    Superseded,
}

/// Why an attempt ended without a commit.
#[derive(Debug)]
pub enum Halt {
    Local(ReadError),
    Remote(DestinationError),
    Ledger(LedgerError),
    /// Others got hold of the same bytes meanwhile: it is to be seen anew who has them.
    Overtaken,
    /// Another archiver is busy with the same bytes, for longer than a single run waits.
    Busy,
}

impl From<ReadError> for Halt {
    fn from(error: ReadError) -> Self {
        Self::Local(error)
    }
}

impl From<DestinationError> for Halt {
    fn from(error: DestinationError) -> Self {
        Self::Remote(error)
    }
}

impl From<LedgerError> for Halt {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// What an attempt that went through came to.
#[derive(Debug)]
pub enum Done {
    /// The bytes with this digest stand under this name; perhaps with a remark.
    Stands(RemotePath, Sha256Digest, Option<String>),
    /// Other bytes have this name, and the policy is to skip.
    TurnedAway(RemotePath),
    /// The same bytes are archived under this name, as another file.
    Duplicate(RemotePath, Sha256Digest),
}

impl Done {
    pub fn of(published: Published, digest: Sha256Digest) -> Self {
        match published {
            Published::At(name) => Self::Stands(name, digest, None),
            Published::AlreadyAt(name) => {
                Self::Stands(name, digest, Some("the same bytes stood there already".to_owned()))
            }
            Published::SkippedFor(name) => Self::TurnedAway(name),
        }
    }
}

/// An attempt that did not go through.
#[derive(Debug)]
pub struct Trouble {
    pub why: String,
    pub class: RetryClass,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// As soon as the destination is back.
    Wait,
    /// After a pause, as long as attempts are left.
    TryAgain,
    GiveUp,
}

pub fn describe(error: &DestinationError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// What one upload holds in memory: a small file, or the window of a large one and what was read ahead.
pub fn memory_kib(size: u64) -> u32 {
    const LARGE_KIB: u64 = (WINDOW_BYTES as u64 >> 10) + 1024;
    u32::try_from(size.div_ceil(1024).clamp(1, LARGE_KIB)).unwrap_or(u32::MAX)
}
