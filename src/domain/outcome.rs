//! What became of a candidate, as the summary and the ledger say it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The four ends a candidate can come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Archived,
    Skipped,
    Deferred,
    Failed,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Archived, Self::Skipped, Self::Deferred, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archived => "archived",
            Self::Skipped => "skipped",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| format!("`{text}` is no status"))
    }
}

/// Why a candidate is not finished yet. Never an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deferral {
    /// Its marker (this name) does not stand.
    NoMarker(String),
    /// Somebody has it open for writing.
    OpenForWriting,
    /// It changed within the settle time.
    Unsettled,
    /// It changed, or went away and came back, while it was being read.
    ChangedWhileRead,
    /// Another archiver has claimed it.
    HeldElsewhere,
    /// Another archiver may take it first.
    OthersFirst,
    /// The archiver was told to stop first.
    Interrupted,
    /// The same, and it had nowhere to go: what the destination was out for.
    DestinationOut(String),
}

impl fmt::Display for Deferral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMarker(name) => write!(f, "waiting for its marker {}", super::display::escaped(name)),
            Self::OpenForWriting => f.write_str("still open for writing"),
            Self::Unsettled => f.write_str("still changing"),
            Self::ChangedWhileRead => f.write_str("changed while it was read"),
            Self::HeldElsewhere => f.write_str("claimed by another archiver"),
            Self::OthersFirst => f.write_str("left to another archiver for a moment"),
            Self::Interrupted => f.write_str("stopped before its turn"),
            Self::DestinationOut(why) => write!(f, "the destination was out: {why}"),
        }
    }
}

/// SHA-256 of a file's bytes. `Display` gives 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One line of the summary.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Empty for paths given on a command line.
    pub source: String,
    /// Absolute local path, raw bytes.
    pub path: PathBuf,
    /// Final remote path, where one was decided.
    pub remote: Option<String>,
    pub bytes: u64,
    pub sha256: Option<Sha256Digest>,
    pub status: Status,
    /// Why it was skipped, deferred or failed; for an archived file, a remark (such as a disposal that failed).
    pub reason: Option<String>,
    /// Uploads begun.
    pub attempts: u32,
    /// From claim to record.
    pub elapsed: Duration,
}

/// The counts of a run; `files` always equals the number of candidates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub archived: u64,
    pub skipped: u64,
    pub deferred: u64,
    pub failed: u64,
    /// Bytes of archived files.
    pub bytes: u64,
}

impl Totals {
    pub fn add(&mut self, status: Status, bytes: u64) {
        match status {
            Status::Archived => {
                self.archived += 1;
                self.bytes += bytes;
            }
            Status::Skipped => self.skipped += 1,
            Status::Deferred => self.deferred += 1,
            Status::Failed => self.failed += 1,
        }
    }

    pub fn of(&self, status: Status) -> u64 {
        match status {
            Status::Archived => self.archived,
            Status::Skipped => self.skipped,
            Status::Deferred => self.deferred,
            Status::Failed => self.failed,
        }
    }

    pub fn files(&self) -> u64 {
        self.archived + self.skipped + self.deferred + self.failed
    }
}

/// What a candidate counts as in the totals, before and after a row of it was put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recount {
    pub before: Totals,
    pub after: Totals,
}

impl Recount {
    /// Of a candidate that had no row before.
    #[cfg(test)]
    pub fn first(row: &Row) -> Self {
        let mut recount = Self::default();
        recount.after.add(row.status, row.bytes);
        recount
    }

    /// Whether it counts as this since just now.
    pub fn is_news(&self, status: Status) -> bool {
        self.after.of(status) > self.before.of(status)
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.archived += other.archived;
        self.skipped += other.skipped;
        self.deferred += other.deferred;
        self.failed += other.failed;
        self.bytes += other.bytes;
    }
}
