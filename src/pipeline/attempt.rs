//! What one attempt at a file comes to.

use super::read::ReadError;
use crate::destination::DestinationError;
use crate::destination::sftp::publish::Published;
use crate::domain::{RemotePath, Sha256Digest};
use crate::ledger::LedgerError;
use crate::report::RetryClass;

/// Why an attempt ended without a commit.
#[derive(Debug)]
pub enum Halt {
    Local(ReadError),
    Remote(DestinationError),
    Ledger(LedgerError),
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
