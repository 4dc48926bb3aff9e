//! One directory of a source as a handle, and what can be done below it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{BelowRoot, FileKind, OpenError, place};
use crate::domain::Fingerprint;

/// Set once the kernel (before 5.6) or a container's seccomp filter has refused `openat2(2)`.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// How paths are walked without leaving the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// `openat2(2)` with `RESOLVE_BENEATH`, in one step; where that is missing, component by component.
    Kernel,
    /// `openat(2)` with `O_NOFOLLOW` for each component.
    #[cfg(test)]
    Stepwise,
}

/// A directory of a source. Its own path may lead through symbolic links, which are resolved once, at the start; from
/// then on none is followed, neither above it nor below. A root that was removed and made anew is noticed and opened again.
#[derive(Debug)]
pub struct RootDir {
    path: PathBuf,
    handle: RwLock<Arc<OwnedFd>>,
    /// Grows each time another directory is found at the path.
    generation: AtomicU64,
    walk: Walk,
}

/// What became of a root since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootState {
    Same,
    /// Another directory has its path now; it has been opened.
    Replaced,
    Missing,
}

/// A regular file, open for reading, and what it was at that instant.
#[derive(Debug)]
pub struct OpenedFile {
    pub file: File,
    pub fingerprint: Fingerprint,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime_secs: i64,
}

impl OpenedFile {
    /// What the open file is now. A difference to [`OpenedFile::fingerprint`] means that it changed meanwhile (G6).
    pub fn fingerprint_now(&self) -> std::io::Result<Fingerprint> {
        Ok(fingerprint(&rustix::fs::fstat(&self.file)?))
    }
}

pub(crate) fn fingerprint(stat: &Stat) -> Fingerprint {
    Fingerprint {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add_unsigned(stat.st_mtime_nsec),
    }
}

/// What is known of a name before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Never,
    Regular,
}

pub(super) const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl RootDir {
    /// Opens the directory at `path`, which may be relative or a symbolic link.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            OpenError::new(path, errno)
        };
        Self::open_resolved(std::fs::canonicalize(path).map_err(failed)?)
    }

    /// The same for an absolute path in which symbolic links were resolved before. One that has come since is refused:
    /// whoever can put it there would lead us anywhere.
    pub(crate) fn open_resolved(path: PathBuf) -> Result<Self, OpenError> {
        let handle = Walk::Kernel.absolute(&path, HANDLE).map_err(|errno| match errno {
            Errno::NOTDIR => OpenError::NotDirectory { path: path.clone() },
            errno => OpenError::new(&path, errno),
        })?;
        Ok(Self { path, handle: RwLock::new(Arc::new(handle)), generation: AtomicU64::new(0), walk: Walk::Kernel })
    }

    /// The same, and makes it and the directories above it where they are missing.
    pub(crate) fn make(path: &Path) -> Result<Self, OpenError> {
        match Self::open_resolved(path.to_owned()) {
            Err(OpenError::Vanished { .. }) => {}
            result => return result,
        }
        top().and_then(|top| place::make_below(top, below_top(path))).map_err(|errno| OpenError::new(path, errno))?;
        Self::open_resolved(path.to_owned())
    }

    /// Absolute, without symbolic links when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the directory that is open now from those that had the path before. Any access may be the one that
    /// notices a new directory, so whoever holds on to the old one (a watch) compares this.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Compares the handle with what the path names now, and opens that where it is another directory.
    pub fn refresh(&self) -> RootState {
        let current = self.handle();
        // The directories above it may have become links to somewhere else, so none of them is followed either.
        let Ok(there) = self.walk.absolute(&self.path, HANDLE | OFlags::NOFOLLOW) else {
            return RootState::Missing;
        };
        match (rustix::fs::fstat(&*current), rustix::fs::fstat(&there)) {
            (Ok(old), Ok(new)) if (old.st_dev, old.st_ino, old.st_nlink > 0) == (new.st_dev, new.st_ino, true) => {
                RootState::Same
            }
            _ => {
                *self.handle.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(there);
                self.generation.fetch_add(1, Ordering::Release);
                RootState::Replaced
            }
        }
    }

    /// Opens a regular file for reading. A FIFO or a device is never opened, not even for a moment, unless it takes
    /// the file's place between two system calls; then it does not block.
    pub fn open_file(&self, path: &BelowRoot) -> Result<OpenedFile, OpenError> {
        self.open_regular(path, Seen::Never)
    }

    /// The same for a name that stood for a regular file a moment ago, without looking before the opening: what took
    /// its place since is opened, without blocking, and closed again.
    pub fn reopen_file(&self, path: &BelowRoot) -> Result<OpenedFile, OpenError> {
        self.open_regular(path, Seen::Regular)
    }

    fn open_regular(&self, path: &BelowRoot, seen: Seen) -> Result<OpenedFile, OpenError> {
        let failed = |errno| OpenError::new(&self.path.join(path.as_path()), errno);
        let regular = |stat: &Stat| match FileKind::of(FileType::from_raw_mode(stat.st_mode)) {
            None => Ok(()),
            Some(FileKind::Symlink) => Err(failed(Errno::LOOP)),
            Some(kind) => Err(OpenError::NotRegular { path: self.path.join(path.as_path()), kind }),
        };
        if seen == Seen::Never {
            regular(&self.stat(path.as_path()).map_err(failed)?)?;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = self.open_below(path.as_path(), flags).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        regular(&stat)?;
        Ok(OpenedFile {
            file: file.into(),
            fingerprint: fingerprint(&stat),
            mode: stat.st_mode & 0o7777,
            mtime_secs: stat.st_mtime,
        })
    }

    /// The version of the regular file that the path names now; `None` where there is none.
    pub fn fingerprint_at(&self, path: &BelowRoot) -> Result<Option<Fingerprint>, OpenError> {
        match self.stat(path.as_path()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(Some(fingerprint(&stat))),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(OpenError::new(&self.path.join(path.as_path()), errno)),
        }
    }

    /// What stands at the path: `Ok(None)` for a regular file, else its kind.
    pub fn kind_at(&self, path: &BelowRoot) -> Result<Option<FileKind>, OpenError> {
        self.stat(path.as_path())
            .map(|stat| FileKind::of(FileType::from_raw_mode(stat.st_mode)))
            .map_err(|errno| OpenError::new(&self.path.join(path.as_path()), errno))
    }

    /// Whether a regular file stands at this path below the root; for markers.
    pub fn exists(&self, path: &Path) -> bool {
        BelowRoot::new(path).is_some_and(|path| matches!(self.fingerprint_at(&path), Ok(Some(_))))
    }

    /// A handle of the directory that holds `path`, for renaming in it, and the last component.
    pub(crate) fn open_parent<'p>(&self, path: &'p BelowRoot) -> Result<(OwnedFd, &'p OsStr), OpenError> {
        let path = path.as_path();
        let parent = path.parent().unwrap_or(Path::new(""));
        let handle = self
            .open_below(parent, HANDLE | OFlags::NOFOLLOW)
            .map_err(|errno| OpenError::new(&self.path.join(parent), errno))?;
        Ok((handle, path.file_name().unwrap_or_default()))
    }

    /// A handle of a directory (the root itself for an empty path) for listing it.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<OwnedFd, OpenError> {
        self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
            .map_err(|errno| OpenError::new(&self.path.join(path), errno))
    }

    fn stat(&self, path: &Path) -> Result<Stat, Errno> {
        let handle = self.open_below(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        rustix::fs::fstat(&handle)
    }

    fn handle(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.handle.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Opens what stands at `path` (the root itself where it is empty), with one more try where the root was replaced.
    fn open_below(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let walk = || self.walk.below(&self.handle(), path, flags);
        match walk() {
            Err(Errno::NOENT | Errno::STALE) if self.refresh() == RootState::Replaced => walk(),
            result => result,
        }
    }
}

impl Walk {
    fn below(self, root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        match self {
            Self::Kernel => beneath(root, path, flags),
            #[cfg(test)]
            Self::Stepwise => stepwise(root, path, flags),
        }
    }

    /// What stands at an absolute path that leads through no symbolic link.
    fn absolute(self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.below(&top()?, below_top(path), flags)
    }
}

fn top() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/", HANDLE, Mode::empty())
}

fn below_top(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    const RESOLVE: ResolveFlags =
        ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return stepwise(root, path, flags);
    }
    let target = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(root, target, flags, Mode::empty(), RESOLVE) {
            // A rename or mount elsewhere disturbed the walk (openat2(2), EAGAIN).
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(Errno::NOSYS | Errno::PERM) => {
                NO_OPENAT2.store(true, Ordering::Relaxed);
                return stepwise(root, path, flags);
            }
            // Longer than PATH_MAX altogether.
            Err(Errno::NAMETOOLONG) => return stepwise(root, path, flags),
            result => return result,
        }
    }
}

fn stepwise(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
        return rustix::fs::openat(root, ".", flags, Mode::empty());
    };
    let mut directory: Option<OwnedFd> = None;
    for part in parent {
        let from = directory.as_ref().map_or(root.as_fd(), |fd| fd.as_fd());
        directory = Some(step(from, part, HANDLE | OFlags::NOFOLLOW)?);
    }
    step(directory.as_ref().map_or(root.as_fd(), |fd| fd.as_fd()), name, flags)
}

pub(super) fn step(from: rustix::fd::BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(from, name, flags, Mode::empty()) {
        // With O_DIRECTORY a symbolic link gives ENOTDIR; tell it from a file, as openat2 does.
        Err(Errno::NOTDIR) if is_symlink(from, name) => Err(Errno::LOOP),
        result => result,
    }
}

fn is_symlink(from: rustix::fd::BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
