//! Which owners live. Each process holds an exclusive `flock(2)` on `<ledger>.owners/<owner id>`; the kernel drops it
//! with the process, however it ends, so on one host a dead owner is noticed at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::{system, unavailable};
use super::schema::BUSY_TIMEOUT;
use crate::domain::OwnerId;
use crate::ledger::LedgerError;

/// The directory of the owners' lock files.
#[derive(Debug, Clone)]
pub(super) struct Owners {
    directory: PathBuf,
}

/// An exclusive lock, released when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Owners {
    /// `<ledger>.owners`, not made yet.
    pub(super) fn beside(ledger: &Path) -> Self {
        Self { directory: super::location::suffixed(ledger, ".owners") }
    }

    pub(super) fn lock_path(&self, owner: OwnerId) -> PathBuf {
        self.directory.join(owner.to_string())
    }

    /// The owner's scratch database.
    pub(super) fn rows_path(&self, owner: OwnerId) -> PathBuf {
        self.directory.join(format!("{owner}.rows"))
    }

    /// Makes the directory and keeps every other process from opening the ledger while the lock is held.
    pub(super) fn enter(&self, ledger: &Path) -> Result<Lock, LedgerError> {
        let directory = crate::domain::display::path(&self.directory).to_string();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|error| system(ledger, format!("making the directory {directory}"), &error))?;
        let file =
            File::open(&self.directory).map_err(|error| system(ledger, format!("opening {directory}"), &error))?;
        let deadline = Instant::now() + BUSY_TIMEOUT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    // `flock` has no time limit of its own; an opener holds this for milliseconds.
                    #[expect(clippy::disallowed_methods, reason = "see above")]
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(unavailable(
                        ledger,
                        "another archiver has been opening it for too long; is it stopped?",
                    ));
                }
                Err(error) => return Err(system(ledger, format!("locking {directory}"), &error.into())),
            }
        }
    }

    /// Takes this process's own lock. To be called while [`Owners::enter`]'s is held: nobody may look in between.
    pub(super) fn register(&self, ledger: &Path, owner: OwnerId) -> Result<Lock, LedgerError> {
        let take = || -> io::Result<Lock> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.lock_path(owner))?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(Lock { _file: file })
        };
        take().map_err(|error| system(ledger, format!("taking the lock of owner {owner}"), &error))
    }

    /// Whether the process of `owner` holds its lock. When in doubt, it does.
    pub(super) fn holds_lock(&self, owner: OwnerId) -> bool {
        match File::open(self.lock_path(owner)) {
            // Shared, so that two who ask at once do not take each other for the owner.
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// The owners that have a file in the directory, some of them more than once.
    pub(super) fn listed(&self, ledger: &Path) -> Result<impl Iterator<Item = OwnerId> + use<>, LedgerError> {
        let failed = |error: io::Error| system(ledger, "listing the owners' locks", &error);
        let names: Vec<_> =
            fs::read_dir(&self.directory).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
        Ok(names.into_iter().filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let id = name.strip_suffix(".rows").unwrap_or(&name);
            // Only names of the form we make.
            let ours = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            ours.then(|| u128::from_str_radix(id, 16).ok()).flatten().map(OwnerId)
        }))
    }

    /// Removes what dead owners left in the directory. To be called while [`Owners::enter`]'s lock is held.
    pub(super) fn sweep(&self, ledger: &Path) -> Result<(), LedgerError> {
        self.listed(ledger)?.filter(|owner| !self.holds_lock(*owner)).for_each(|owner| self.forget(owner));
        Ok(())
    }

    /// Removes the files of an owner that has ended. What cannot be removed is harmless and left to the next sweep.
    pub(super) fn forget(&self, owner: OwnerId) {
        for path in [self.rows_path(owner), self.lock_path(owner)] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(path = %crate::domain::display::path(&path), %error, "a file of an ended owner stays");
            }
        }
    }
}
