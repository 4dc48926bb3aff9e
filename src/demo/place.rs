//! The one directory that the demo works in, and that is gone afterwards.
//!
//! ```text
//! app/         what the application writes: the sources
//! server/      what the SFTP server shows as its root
//! keys/        the client's key pair, the server's host key, known_hosts
//! ledger.db
//! ```

use std::fs::{DirBuilder, read_dir, remove_dir, remove_dir_all};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::domain::display;

/// What is left of it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Remove,
    /// `--keep`.
    Keep,
}

/// Who made the directory itself, and so who may remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Ours,
    /// It was there, and empty.
    Theirs,
}

/// The directory. Dropping it removes what is in it, unless it is to be kept.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    origin: Origin,
    afterwards: Afterwards,
}

/// Why there is no place to work in.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{} is not empty; give --dir a new or an empty directory", display::path(.0))]
    NotEmpty(PathBuf),
    #[error("{} is no UTF-8, as settings have to be; give --dir another directory", display::path(.0))]
    NotUtf8(PathBuf),
    #[error("cannot use the directory {}: {source}; give one that can be written with --dir", display::path(.path))]
    Unusable { path: PathBuf, source: io::Error },
}

impl Place {
    /// `directory`, which is made where it does not exist; it must be empty.
    pub fn at(directory: &Path, afterwards: Afterwards) -> Result<Self, PlaceError> {
        let unusable = |source| PlaceError::Unusable { path: directory.to_owned(), source };
        let origin = match private().create(directory) {
            Ok(()) => Origin::Ours,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Origin::Theirs,
            Err(error) => return Err(unusable(error)),
        };
        if origin == Origin::Theirs && read_dir(directory).map_err(unusable)?.next().is_some() {
            return Err(PlaceError::NotEmpty(directory.to_owned()));
        }
        // Whatever happens to the working directory, this stays the place.
        let root = directory.canonicalize().map_err(unusable)?;
        Self { root, origin, afterwards }.furnished()
    }

    /// A new directory below `parent`, named with `random`.
    pub fn below(parent: &Path, random: u32, afterwards: Afterwards) -> Result<Self, PlaceError> {
        let path = parent.join(format!("archiver-demo-{random:08x}"));
        let unusable = |source| PlaceError::Unusable { path: path.clone(), source };
        private().create(&path).map_err(unusable)?;
        let root = path.canonicalize().map_err(unusable)?;
        Self { root, origin: Origin::Ours, afterwards }.furnished()
    }

    fn furnished(self) -> Result<Self, PlaceError> {
        if self.root.to_str().is_none() {
            return Err(PlaceError::NotUtf8(self.root.clone()));
        }
        for directory in [self.app(), self.upload(), self.keys()] {
            let made = private().recursive(true).create(&directory);
            made.map_err(|source| PlaceError::Unusable { path: directory, source })?;
        }
        Ok(self)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn app(&self) -> PathBuf {
        self.root.join("app")
    }

    /// What clients see as `/`.
    pub fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    /// What clients see as `/upload`.
    pub fn upload(&self) -> PathBuf {
        self.root.join("server/upload")
    }

    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub fn identity(&self) -> PathBuf {
        self.root.join("keys/id_ed25519")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.root.join("keys/known_hosts")
    }

    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.db")
    }

    /// Removes what is in it, and itself where we made it; or does nothing, where it is to be kept.
    pub fn leave(mut self) -> io::Result<()> {
        let outcome = self.clear();
        // Nothing for `drop` to try again.
        self.afterwards = Afterwards::Keep;
        outcome
    }

    fn clear(&self) -> io::Result<()> {
        if self.afterwards == Afterwards::Keep {
            return Ok(());
        }
        for entry in read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        match self.origin {
            Origin::Ours => remove_dir(&self.root),
            Origin::Theirs => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The way out of an error or a panic, which says more than a failure to tidy up.
        let _ = self.clear();
    }
}

/// Keys lie in it, so nobody else may look.
fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    fn count(directory: &Path) -> usize {
        read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_new_directory_is_private_and_goes_with_it() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::below(parent.path(), 7, Afterwards::Remove).unwrap();
        assert!(place.root().ends_with("archiver-demo-00000007") && place.upload().is_dir());
        assert_eq!(place.root().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(place.ledger(), "x").unwrap();
        assert!(matches!(Place::below(parent.path(), 7, Afterwards::Remove), Err(PlaceError::Unusable { .. })));
        place.leave().unwrap();
        assert_eq!(count(parent.path()), 0);
        drop(Place::below(parent.path(), 7, Afterwards::Remove).unwrap());
        assert_eq!(count(parent.path()), 0);
    }

    #[test]
    fn a_directory_that_was_there_stays_and_is_emptied() {
        let theirs = tempfile::tempdir().unwrap();
        Place::at(theirs.path(), Afterwards::Remove).unwrap().leave().unwrap();
        assert_eq!(count(theirs.path()), 0);
        let ours = theirs.path().join("new");
        Place::at(&ours, Afterwards::Remove).unwrap().leave().unwrap();
        assert!(!ours.exists());
        Place::at(&ours, Afterwards::Keep).unwrap().leave().unwrap();
        assert!(ours.join("server/upload").is_dir());
    }

    #[test]
    fn a_directory_in_use_or_unusable_is_refused_and_not_touched() {
        let theirs = tempfile::tempdir().unwrap();
        std::fs::write(theirs.path().join("precious"), "x").unwrap();
        let error = Place::at(theirs.path(), Afterwards::Remove).unwrap_err();
        assert!(error.to_string().contains("is not empty") && theirs.path().join("precious").exists(), "{error}");
        let error = Place::at(&theirs.path().join("precious"), Afterwards::Remove).unwrap_err();
        assert!(matches!(error, PlaceError::Unusable { .. }), "{error}");
        let error = Place::at(&theirs.path().join("no/parent"), Afterwards::Remove).unwrap_err();
        assert!(error.to_string().contains("--dir"), "{error}");
        let foreign = theirs.path().join(OsStr::from_bytes(b"\xff"));
        assert!(matches!(Place::at(&foreign, Afterwards::Remove), Err(PlaceError::NotUtf8(_))));
        assert!(!foreign.exists());
    }
}
