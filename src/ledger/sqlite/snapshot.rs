//! A private copy of a ledger, for runs that must not touch it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::error::{sqlite, unavailable};
use super::location::{self, Presence, suffixed};
use super::schema::{self, BUSY_TIMEOUT, Durability};
use crate::domain::{OwnerId, display};
use crate::ledger::LedgerError;

/// A directory for temporary files that only this user reads, removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    pub(super) fn create(owner: OwnerId) -> Result<Self, LedgerError> {
        let path = std::env::temp_dir().join(format!("archiver-{owner}"));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            unavailable(&path, format!("making this temporary directory: {error}; TMPDIR names another place"))
        })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %display::path(&self.0), %error, "a temporary directory stays");
        }
    }
}

/// Copies the database at `original` into the new file `copy`, which is empty where there is no original.
pub(super) fn copy(original: &Path, copy: &Path) -> Result<Connection, LedgerError> {
    let presence = location::inspect(original)?;
    super::create_private_file(copy)?;
    let mut target = schema::connect(copy, Durability::Scratch)?;
    if presence == Presence::Missing || fs::metadata(original).is_ok_and(|file| file.len() == 0) {
        return Ok(target);
    }
    loop {
        // A database without a log has no users. Even a reader would make the log's files beside it, unless it is told that
        // nothing changes; so whether that held is asked again afterwards.
        let users = || suffixed(original, "-wal").exists();
        let unused = !users();
        copy_pages(original, &mut target, if unused { "?immutable=1" } else { "?mode=ro" })?;
        if !unused || !users() {
            break;
        }
    }
    // Here, where an error can still name the original.
    schema::refuse_foreign_connection(original, &target)?;
    Ok(target)
}

fn copy_pages(original: &Path, target: &mut Connection, mode: &str) -> Result<(), LedgerError> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |error: rusqlite::Error| sqlite(original, &error);
    // URI filenames: <https://www.sqlite.org/uri.html>.
    let uri = format!("file:{}{mode}", percent_encode(original.as_os_str().as_bytes(), NON_ALPHANUMERIC));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(uri, flags).map_err(failed)?;
    source.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let step = Backup::new(&source, target).and_then(|backup| backup.step(-1)).map_err(failed)?;
    match step {
        StepResult::Done => Ok(()),
        _ => Err(unavailable(original, "it is locked by another process; try again")),
    }
}
