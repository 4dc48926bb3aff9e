//! What happens to a local file once its record is durable (G2), or once its retries are used up.
//!
//! Never another version than the archived one is removed. A look at the file and then its removal would leave a gap
//! in which a new version can take the name, so the file is first renamed aside, to
//! `.<name>.<key id>.archived` in its own directory, then looked at again under the name that nobody else
//! knows, and only then removed or moved. What turns out to be something else gets its name back; where that has been
//! taken meanwhile, it stays as `<name>.<key id>`, so both are kept.
//!
//! A crash may leave the name aside behind. Calling [`dispose`] again with the same arguments finishes the job.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

#[cfg(test)]
use crate::domain::FileKey;
use crate::domain::{After, Fingerprint, KeyId, WriterState, display};
use crate::failpoint::{Point, reach};
use crate::localfs::{BelowRoot, OpenError, Place, RootDir, Thoroughness, fingerprint, fitted, writer_of};

/// What became of the local file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposed {
    Kept,
    Deleted,
    /// It stands here now; absolute.
    Moved(PathBuf),
    /// Somebody else had removed it.
    Gone,
    /// It is no longer what was archived, so it stays: under its own name, or here (absolute) where that was taken.
    Changed(Option<PathBuf>),
    /// Somebody has opened it for writing again, so it stays; as above.
    Reopened(Option<PathBuf>),
}

/// Why a file could not be disposed of. It stays, and it stays archived: a remark, not a failure.
#[derive(Debug, thiserror::Error)]
pub enum DisposeError {
    #[error(
        "{} was archived but cannot be {done}: permission denied; grant this user write permission on its \
         directory, or use `--after keep`",
        display::path(path)
    )]
    Denied { path: PathBuf, done: &'static str },
    #[error(
        "{} was archived but cannot be {done}: the filesystem is read-only; mount it writable, or use `--after keep`",
        display::path(path)
    )]
    ReadOnly { path: PathBuf, done: &'static str },
    #[error(
        "{} was archived but cannot be moved: other files have both names it could have in {}; clear them away",
        display::path(path),
        display::path(directory)
    )]
    NameTaken { path: PathBuf, directory: PathBuf },
    #[error(
        "{} was archived but cannot be moved to {}: {source}; make that directory writable, or use another one",
        display::path(path),
        display::path(directory)
    )]
    Directory { path: PathBuf, directory: PathBuf, source: OpenError },
    #[error(
        "{} was archived, and another archiver has begun to move it meanwhile; the next look at it settles that",
        display::path(path)
    )]
    Taken { path: PathBuf },
    #[error("{} was archived but cannot be {done}: {source}", display::path(path))]
    Io { path: PathBuf, done: &'static str, source: io::Error },
}

/// Disposes of the version `expected` of a file, and of no other. Blocks; may be called again after a crash.
///
/// A move never overwrites: where `<dir>/<path>` is taken by other bytes, the name becomes
/// `<stem>.<first 8 digits of the key id><extension>`. To another filesystem it copies, flushes and then removes.
/// Also puts a file in quarantine, with [`After::Move`].
pub fn dispose(
    root: &RootDir,
    path: &BelowRoot,
    expected: Fingerprint,
    key_id: KeyId,
    after: &After,
) -> Result<Disposed, DisposeError> {
    if *after == After::Keep {
        return Ok(Disposed::Kept);
    }
    let job = Job { root, path, key_id, after };
    let original = match Place::of(root, path) {
        Ok(place) => place,
        Err(OpenError::Vanished { .. }) => return Ok(Disposed::Gone),
        Err(OpenError::Symlink { .. }) => return Ok(Disposed::Changed(None)),
        Err(OpenError::Denied { .. }) => return Err(job.failed(Errno::ACCESS)),
        Err(error) => return Err(job.io(io::Error::other(error))),
    };
    let aside = original.beside(own_name(&original.name, key_id)).map_err(|errno| job.failed(errno))?;
    // Left by a crash: what it began is finished first, whatever has the name now.
    if aside.stat().is_ok() {
        return job.finish(&original, &aside, expected);
    }
    match original.stat() {
        Err(Errno::NOENT) => return Ok(Disposed::Gone),
        Err(errno) => return Err(job.failed(errno)),
        Ok(stat) if !is_version(&stat, expected) => return Ok(Disposed::Changed(None)),
        Ok(_) => {}
    }
    match original.rename_to(&aside) {
        Ok(()) => {
            reach(Point::SetAside);
            job.finish(&original, &aside, expected)
        }
        Err(Errno::NOENT) => Ok(Disposed::Gone),
        Err(errno) => Err(job.failed(errno)),
    }
}

/// Undoes a disposal that a crash cut short: gives a file that was set aside its name back, or a visible one beside it,
/// which is returned. For a source that no longer asks for a disposal. Does nothing where nothing was set aside.
pub fn restore(root: &RootDir, path: &BelowRoot, key_id: KeyId) -> Result<Option<PathBuf>, DisposeError> {
    let job = Job { root, path, key_id, after: &After::Keep };
    let original = match Place::of(root, path) {
        Ok(place) => place,
        Err(OpenError::Vanished { .. } | OpenError::Symlink { .. }) => return Ok(None),
        Err(error) => return Err(job.io(io::Error::other(error))),
    };
    let aside = original.beside(own_name(&original.name, key_id)).map_err(|errno| job.failed(errno))?;
    if aside.stat().is_err() {
        return Ok(None);
    }
    job.restore(&original, &aside)
}

/// Where a file stands hidden that was set aside and could not be given its name back; absolute. What cannot be told
/// counts as hidden.
pub fn set_aside(root: &RootDir, path: &BelowRoot, key_id: KeyId) -> Option<PathBuf> {
    let name = own_name(path.as_path().file_name().unwrap_or_default(), key_id);
    let absolute = root.path().join(path.as_path()).with_file_name(&name);
    let found = match Place::of(root, path) {
        Err(OpenError::Vanished { .. } | OpenError::Symlink { .. }) => return None,
        Err(_) => return Some(absolute),
        Ok(original) => original.beside(name).and_then(|aside| aside.stat()),
    };
    (found.map(drop) != Err(Errno::NOENT)).then_some(absolute)
}

/// Disposes of a marker the way its data file was. `key_id` is the data file's. A marker that may speak for other
/// files too goes with the last of them: it is kept where `speaks_for` says so of the path of any regular file in its
/// directory. Markers have no versions, so one that is not older than what stands under the data file's name by now is
/// taken for that one's, and kept.
pub fn dispose_marker(
    root: &RootDir,
    marker: &BelowRoot,
    data: &BelowRoot,
    speaks_for: &dyn Fn(&Path) -> bool,
    key_id: KeyId,
    after: &After,
) -> Result<Disposed, DisposeError> {
    let job = Job { root, path: marker, key_id, after };
    if *after == After::Keep || job.others_remain(speaks_for)? {
        return Ok(Disposed::Kept);
    }
    let place = match Place::of(root, marker) {
        Ok(place) => place,
        Err(OpenError::Vanished { .. }) => return Ok(Disposed::Gone),
        Err(error) => return Err(job.io(io::Error::other(error))),
    };
    match place.stat() {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            let version = fingerprint(&stat);
            match root.fingerprint_at(data) {
                Ok(Some(again)) if again.mtime_ns <= version.mtime_ns => Ok(Disposed::Kept),
                _ => job.remove_or_move(&place, version),
            }
        }
        Ok(_) => Ok(Disposed::Kept),
        Err(Errno::NOENT) => Ok(Disposed::Gone),
        Err(errno) => Err(job.failed(errno)),
    }
}

fn is_version(stat: &rustix::fs::Stat, expected: Fingerprint) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && fingerprint(stat) == expected
}

/// One disposal: what all its steps and messages need.
struct Job<'a> {
    root: &'a RootDir,
    path: &'a BelowRoot,
    key_id: KeyId,
    after: &'a After,
}

impl Job<'_> {
    /// Looks at what was renamed aside, and removes it, or gives it its name back.
    fn finish(&self, original: &Place, aside: &Place, expected: Fingerprint) -> Result<Disposed, DisposeError> {
        let judged = aside.open().and_then(|file| {
            let stat = rustix::fs::fstat(&file)?;
            Ok((is_version(&stat, expected), writer_of(&file, Thoroughness::Lease)))
        });
        reach(Point::Judged);
        match judged {
            Ok((true, WriterState::None | WriterState::Unknown)) => match self.remove_or_move(aside, expected) {
                Ok(Disposed::Changed(_)) => self.restore(original, aside).map(Disposed::Changed),
                // Whoever took it over needs it where it is.
                Err(taken @ DisposeError::Taken { .. }) => Err(taken),
                // The first error says more than one of giving the name back, which the next call tries again.
                result => result.inspect_err(|_| drop(self.restore(original, aside))),
            },
            Ok((true, WriterState::Open)) => self.restore(original, aside).map(Disposed::Reopened),
            Ok((false, _)) | Err(Errno::LOOP) => self.restore(original, aside).map(Disposed::Changed),
            Err(errno) => {
                self.restore(original, aside)?;
                Err(self.failed(errno))
            }
        }
    }

    /// Gives a file its name back, or a visible one beside it, which is returned.
    fn restore(&self, original: &Place, aside: &Place) -> Result<Option<PathBuf>, DisposeError> {
        // First without another handle, of which there may be none left.
        match aside.rename_to(original) {
            Ok(()) => {
                reach(Point::PutBack);
                return Ok(None);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed(errno)),
        }
        let mut name = name_beside(&original.name, self.key_id);
        for number in 2_u32.. {
            let place = original.beside(name).map_err(|errno| self.failed(errno))?;
            match aside.rename_to(&place) {
                Ok(()) => {
                    reach(Point::PutBack);
                    return Ok(Some(self.absolute().with_file_name(place.name)));
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
            name = fitted("", &original.name, OsStr::new(&format!(".{}-{number}", self.key_id)));
        }
        Err(self.failed(Errno::EXIST))
    }

    fn remove_or_move(&self, from: &Place, version: Fingerprint) -> Result<Disposed, DisposeError> {
        match self.after {
            After::Keep => Ok(Disposed::Kept),
            After::Delete => match from.unlink() {
                Ok(()) => {
                    reach(Point::Deleted);
                    Ok(Disposed::Deleted)
                }
                Err(Errno::NOENT) => Ok(Disposed::Gone),
                Err(errno) => Err(self.failed(errno)),
            },
            After::Move(directory) => self.move_to(from, directory, version),
        }
    }

    fn move_to(&self, from: &Place, directory: &Path, version: Fingerprint) -> Result<Disposed, DisposeError> {
        let no_directory =
            |source| DisposeError::Directory { path: self.absolute(), directory: directory.to_owned(), source };
        let target_root = RootDir::make(directory).map_err(no_directory)?;
        let target = Place::make(&target_root, self.path).map_err(no_directory)?;
        reach(Point::MoveDirectoryMade);
        let failed_there = |errno| no_directory(OpenError::new(&target_root.path().join(self.path.as_path()), errno));
        let second = target.beside(conflicting(&target.name, self.key_id)).map_err(failed_there)?;
        for target in [target, second] {
            let moved = match from.rename_to(&target) {
                Err(Errno::XDEV) => self.copy_to(from, &target, version),
                result => result.inspect(|()| reach(Point::Moved)),
            };
            match moved {
                Ok(()) => {}
                Err(Errno::NOENT) => return Ok(Disposed::Gone),
                // A crash after a copy leaves both; the second copy is not needed.
                Err(Errno::EXIST) if same_bytes(from, &target) => {
                    from.unlink().map_err(|errno| self.failed(errno))?;
                    reach(Point::CopyFound);
                }
                Err(Errno::EXIST) => continue,
                Err(Errno::ALREADY) => return Err(DisposeError::Taken { path: self.absolute() }),
                // The version changed while it was copied.
                Err(Errno::STALE) => return Ok(Disposed::Changed(None)),
                Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) if self.may_not_leave(from) => {
                    return Err(self.failed(errno));
                }
                Err(errno) => return Err(failed_there(errno)),
            }
            return Ok(Disposed::Moved(target_root.path().join(self.path.as_path()).with_file_name(&target.name)));
        }
        Err(DisposeError::NameTaken { path: self.absolute(), directory: directory.to_owned() })
    }

    /// Copies to another filesystem: a temporary name, flushed, then the rename; then the original goes.
    /// `ESTALE` where the original is no longer `version` at the end, `EALREADY` where another process is at it, too.
    fn copy_to(&self, from: &Place, to: &Place, version: Fingerprint) -> rustix::io::Result<()> {
        let as_errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        if to.stat().is_ok() {
            return Err(Errno::EXIST);
        }
        let temporary = to.beside(own_name(&to.name, self.key_id))?;
        let mut source = from.open()?;
        let stat = rustix::fs::fstat(&source)?;
        // Not a byte of anything else is copied, such as of a file from elsewhere that was linked here meanwhile.
        if !is_version(&stat, version) {
            return Err(Errno::STALE);
        }
        // Of an earlier attempt.
        match temporary.unlink() {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mut copy = temporary.create()?;
        reach(Point::CopyCreated);
        let copied = (|| {
            io::copy(&mut source, &mut copy).map_err(as_errno)?;
            reach(Point::Copied);
            // The copy belongs to this user: a set-ID bit would give the application this user's rights.
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o777))?;
            let times = Timestamps {
                last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
                last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
            };
            rustix::fs::futimens(&copy, &times)?;
            rustix::fs::fsync(&copy)?;
            reach(Point::CopyFlushed);
            if !is_version(&rustix::fs::fstat(&source)?, version)
                || writer_of(&source, Thoroughness::Lease) == WriterState::Open
            {
                return Err(Errno::STALE);
            }
            // Another process may have taken this over meanwhile, with a copy of its own under that name, which is not whole
            // yet; or have given the final name to ours, taking it for its own.
            if is_at(&temporary, &copy) {
                temporary.rename_to(to)?;
            }
            if !is_at(to, &copy) {
                return Err(if from.stat().is_ok() { Errno::ALREADY } else { Errno::NOENT });
            }
            reach(Point::CopyNamed);
            sync_directory(to)?;
            reach(Point::CopyDurable);
            from.unlink()?;
            reach(Point::CopiedAndRemoved);
            Ok(())
        })();
        if copied.is_err() && is_at(&temporary, &copy) {
            // After the rename there is none; then the original stays and the next attempt finds both the same.
            let _ = temporary.unlink();
        }
        copied
    }

    fn others_remain(&self, speaks_for: &dyn Fn(&Path) -> bool) -> Result<bool, DisposeError> {
        let parent = self.path.as_path().parent().unwrap_or(Path::new(""));
        let handle = match self.root.open_directory(parent) {
            Ok(handle) => handle,
            Err(OpenError::Vanished { .. }) => return Ok(false),
            Err(error) => return Err(self.io(io::Error::other(error))),
        };
        let mut entries = rustix::fs::Dir::new(handle).map_err(|errno| self.failed(errno))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|errno| self.failed(errno))?;
            let path = parent.join(OsStr::from_bytes(entry.file_name().to_bytes()));
            let may_be_regular = matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
            if may_be_regular && path != self.path.as_path() && speaks_for(&path) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether it is the source's directory, not the target's, that forbids a rename.
    fn may_not_leave(&self, from: &Place) -> bool {
        rustix::fs::accessat(from.dir(), ".", rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS).is_err()
    }

    fn absolute(&self) -> PathBuf {
        self.root.path().join(self.path.as_path())
    }

    fn done(&self) -> &'static str {
        match self.after {
            After::Keep => "kept",
            After::Delete => "deleted",
            After::Move(_) => "moved",
        }
    }

    fn failed(&self, errno: Errno) -> DisposeError {
        let (path, done) = (self.absolute(), self.done());
        match errno {
            Errno::ACCESS | Errno::PERM => DisposeError::Denied { path, done },
            Errno::ROFS => DisposeError::ReadOnly { path, done },
            errno => DisposeError::Io { path, done, source: errno.into() },
        }
    }

    fn io(&self, source: io::Error) -> DisposeError {
        DisposeError::Io { path: self.absolute(), done: self.done(), source }
    }
}

/// `.<name>.<key id>.archived`: what selection knows as a name of our own.
fn own_name(name: &OsStr, key_id: KeyId) -> OsString {
    fitted(".", name, OsStr::new(&format!(".{key_id}.archived")))
}

/// `<name>.<key id>`: what a file that was set aside is called where its own name is taken by the time it gets it back.
pub fn name_beside(name: &OsStr, key_id: KeyId) -> OsString {
    fitted("", name, OsStr::new(&format!(".{key_id}")))
}

/// `<stem>.<first 8 digits of the key id><extension>`.
fn conflicting(name: &OsStr, key_id: KeyId) -> OsString {
    let mut suffix = OsString::from(format!(".{}", &key_id.to_string()[..8]));
    let path = Path::new(name);
    match (path.file_stem(), path.extension()) {
        // A longer one would leave no room for the stem.
        (Some(stem), Some(extension)) if extension.len() <= 128 => {
            suffix.push(".");
            suffix.push(extension);
            fitted("", stem, &suffix)
        }
        _ => fitted("", name, &suffix),
    }
}

fn same_bytes(one: &Place, other: &Place) -> bool {
    let equal = || -> io::Result<bool> {
        let (one, other) = (one.open()?, other.open()?);
        let (a, b) = (one.metadata()?, other.metadata()?);
        if !a.is_file() || !b.is_file() || a.len() != b.len() {
            return Ok(false);
        }
        let (mut one, mut other) = (io::BufReader::new(one), io::BufReader::new(other));
        loop {
            let (a, b) = (io::BufRead::fill_buf(&mut one)?, io::BufRead::fill_buf(&mut other)?);
            let length = a.len().min(b.len());
            if length == 0 {
                return Ok(a.is_empty() && b.is_empty());
            }
            if a[..length] != b[..length] {
                return Ok(false);
            }
            io::BufRead::consume(&mut one, length);
            io::BufRead::consume(&mut other, length);
        }
    };
    equal().unwrap_or(false)
}

/// Whether it is this file that has the name.
fn is_at(place: &Place, file: &std::fs::File) -> bool {
    let same =
        |one: rustix::fs::Stat, other: rustix::fs::Stat| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
    place.stat().is_ok_and(|named| rustix::fs::fstat(file).is_ok_and(|ours| same(named, ours)))
}

fn sync_directory(place: &Place) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(place.dir(), ".", flags, Mode::empty()).and_then(rustix::fs::fsync) {
        // Filesystems that cannot flush a directory say so.
        Err(Errno::INVAL) => Ok(()),
        result => result,
    }
}

fn nanoseconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
#[path = "dispose_tests.rs"]
mod tests;
