//! Local files, reached without ever leaving a source (G10). A low layer: the sources open through it, and disposal
//! renames and removes through it. Every path is walked from the directory handle of its root, below it, and never
//! through a symbolic link.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::domain::display;

mod lease;
mod place;
mod root;

pub use lease::{Thoroughness, writer_of};
pub(crate) use place::{Place, fitted};
pub(crate) use root::fingerprint;
pub use root::{OpenedFile, RootDir, RootState};

/// A path below a root: relative, not empty, without `.` and `..`. Bytes, not necessarily UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BelowRoot(PathBuf);

impl BelowRoot {
    /// `None` where `path` is not plain and relative.
    pub fn new(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        (plain && !path.as_os_str().is_empty()).then_some(Self(path))
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// What stands at a path where a regular file was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
    Unknown,
}

impl FileKind {
    /// `None` for a regular file.
    pub fn of(kind: FileType) -> Option<Self> {
        match kind {
            FileType::RegularFile => None,
            FileType::Directory => Some(Self::Directory),
            FileType::Symlink => Some(Self::Symlink),
            FileType::Fifo => Some(Self::Fifo),
            FileType::Socket => Some(Self::Socket),
            FileType::BlockDevice | FileType::CharacterDevice => Some(Self::Device),
            _ => Some(Self::Unknown),
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Unknown => "of an unknown kind",
        })
    }
}

/// Why a local file cannot be opened, by consequence. Messages name the path, with control characters escaped.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there (any more): nothing to do.
    #[error("{} is not there", display::path(path))]
    Vanished { path: PathBuf },
    #[error(
        "{} may not be read by this user: permission denied; grant it read permission, and search permission on \
         every directory above",
        display::path(path)
    )]
    Denied { path: PathBuf },
    #[error("{} is {kind}; only regular files are archived", display::path(path))]
    NotRegular { path: PathBuf, kind: FileKind },
    /// The path, or a directory on the way to it, is a symbolic link.
    #[error(
        "{} is, or lies behind, a symbolic link, which is never followed below a source; name the link's target as a \
         source of its own",
        display::path(path)
    )]
    Symlink { path: PathBuf },
    /// Where a root was expected.
    #[error(
        "{} is not a directory; name the directory that holds it, or `push` the file by itself",
        display::path(path)
    )]
    NotDirectory { path: PathBuf },
    /// Of this process, or of all the machine.
    #[error(
        "{} cannot be opened: too many files are open; raise the limit (`ulimit -n`, `LimitNOFILE=` of systemd), or use \
         fewer connections",
        display::path(path)
    )]
    TooManyOpen { path: PathBuf },
    #[error("{} cannot be opened: {source}", display::path(path))]
    Io { path: PathBuf, source: io::Error },
}

impl OpenError {
    pub(crate) fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::STALE => Self::Vanished { path },
            Errno::ACCESS | Errno::PERM => Self::Denied { path },
            Errno::LOOP => Self::Symlink { path },
            // What opening a socket says.
            Errno::NXIO => Self::NotRegular { path, kind: FileKind::Socket },
            Errno::MFILE | Errno::NFILE => Self::TooManyOpen { path },
            errno => Self::Io { path, source: errno.into() },
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Vanished { path }
            | Self::Denied { path }
            | Self::NotRegular { path, .. }
            | Self::Symlink { path }
            | Self::NotDirectory { path }
            | Self::TooManyOpen { path }
            | Self::Io { path, .. } => path,
        }
    }
}
