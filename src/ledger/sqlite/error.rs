//! What SQLite and the operating system report, sorted by consequence.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::domain::{Access, Identity, display};
use crate::ledger::LedgerError;

/// Why one element of a batch did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It alone failed, and changed nothing.
    LeaseLost,
    /// The database failed: the batch is rolled back as a whole.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

pub(in crate::ledger) fn unusable(path: &Path, reason: impl Into<String>) -> LedgerError {
    LedgerError::Unusable { location: display::path(path).to_string(), reason: reason.into() }
}

pub(in crate::ledger) fn unavailable(path: &Path, reason: impl Into<String>) -> LedgerError {
    LedgerError::Unavailable { location: display::path(path).to_string(), reason: reason.into() }
}

/// An error of the operating system while the ledger is opened. `what` was attempted, on what.
pub(super) fn system(path: &Path, what: impl fmt::Display, error: &io::Error) -> LedgerError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            unavailable(path, format!("{what}: {error}; free some space, or name another place with --ledger"))
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            unusable(path, format!("{what}: {error}; {}", unwritable(path)))
        }
        _ => unusable(path, format!("{what}: {error}; name a file in a directory that can be written, with --ledger")),
    }
}

/// Why nothing can be written there, as far as users and modes tell, and what to do.
fn unwritable(path: &Path) -> String {
    // The file, or the nearest directory above it that can be seen: that is the one that refuses.
    let found = path.ancestors().find_map(|place| Some((place, std::fs::metadata(place).ok()?)));
    let Some((place, found)) = found else {
        return "name a file in a directory that can be written, with --ledger".to_owned();
    };
    let process = Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let owner = Identity { uid: found.uid(), gid: found.gid() };
    let access = Access { owner, mode: found.mode() & 0o7777, process };
    let (place, Identity { uid, gid }) = (display::path(place), process);
    format!(
        "{place} refuses: {access}. Make it writable: `chown {uid}:{gid} {place}`; for a volume of a pod set \
         `securityContext.fsGroup: {gid}`, and no `readOnly: true` on its mount; or name another file with --ledger"
    )
}

/// An error of SQLite. Result codes: <https://www.sqlite.org/rescode.html>.
pub(in crate::ledger) fn sqlite(path: &Path, error: &rusqlite::Error) -> LedgerError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            unavailable(path, "its filesystem is full; work goes on once there is space again")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            unavailable(path, "another process kept it locked for too long; see who has it open with fuser")
        }
        // Without a code it is no error of SQLite's: what was read is nothing that this program writes.
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) | None => unusable(
            path,
            format!(
                "it is damaged ({error}); move it aside and run again: \
                 what stands on the server with the same bytes counts as archived"
            ),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => unusable(
            path,
            format!(
                "{error}; the file and its directory must be writable: {}; or too many files are open (`ulimit -n`)",
                unwritable(path)
            ),
        ),
        // A full disk has a code of its own; what is left is a broken one, and a limit of this process.
        Some(ErrorCode::SystemIoFailure) if is_refused_write(error) => unavailable(
            path,
            format!("{error}: it cannot be written to; look at its disk, and at the limit of file sizes (`ulimit -f`)"),
        ),
        Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => unavailable(path, error.to_string()),
        Some(_) => unusable(path, error.to_string()),
    }
}

/// Whether no more bytes could be written: a full disk, or a file that would be longer than this process may write.
pub(super) fn is_refused_write(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE};
    let code = error.sqlite_error().map(|error| error.extended_code);
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || code.is_some_and(|code| [SQLITE_IOERR_WRITE, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_SHMSIZE].contains(&code))
}
