//! A private copy of a ledger, for runs that must not touch it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::error::{sqlite, unavailable};
use super::location::{self, Presence};
use super::schema::{self, Durability};
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
        let log = location::log(original);
        copy_pages(original, &mut target, log)?;
        // Where there was no log nobody had it open; whether that held is asked again afterwards.
        if log == Presence::Exists || location::log(original) == Presence::Missing {
            break;
        }
    }
    // Here, where an error can still name the original.
    schema::refuse_foreign_connection(original, &target)?;
    Ok(target)
}

fn copy_pages(original: &Path, target: &mut Connection, log: Presence) -> Result<(), LedgerError> {
    let source = schema::connect_read_only(original, log)?;
    let step = Backup::new(&source, target).and_then(|backup| backup.step(-1));
    match step.map_err(|error| sqlite(original, &error))? {
        StepResult::Done => Ok(()),
        _ => Err(unavailable(original, "it is locked by another process; try again")),
    }
}
