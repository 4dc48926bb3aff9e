//! Giving a file another name without ever taking a name that is in use, and making the directories above it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{BelowRoot, OpenError, RootDir, root};
use crate::domain::name::MAX_BYTES;

/// A name in an open directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub dir: OwnedFd,
    pub name: OsString,
}

impl Place {
    /// The place of a file below a root. Its directory must exist.
    pub fn of(root: &RootDir, path: &BelowRoot) -> Result<Self, OpenError> {
        let (dir, name) = root.open_parent(path)?;
        Ok(Self { dir, name: name.to_owned() })
    }

    /// The same, and makes the directories above it. None of them may be a symbolic link.
    pub fn make(root: &RootDir, path: &BelowRoot) -> Result<Self, OpenError> {
        let parent = path.as_path().parent().unwrap_or(Path::new(""));
        let dir = make_below(root.open_directory(Path::new(""))?, parent)
            .map_err(|errno| OpenError::new(&root.path().join(parent), errno))?;
        Ok(Self { dir, name: path.as_path().file_name().unwrap_or_default().to_owned() })
    }

    /// A new, empty file that only this user may use; fails where the name is taken.
    pub fn create(&self) -> rustix::io::Result<std::fs::File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &self.name, flags, Mode::from_raw_mode(0o600)).map(Into::into)
    }

    /// Another name in the same directory.
    pub fn beside(&self, name: OsString) -> rustix::io::Result<Self> {
        Ok(Self { dir: rustix::io::dup(&self.dir)?, name })
    }

    /// Never follows a symbolic link, never waits.
    pub fn open(&self) -> rustix::io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty()).map(Into::into)
    }

    pub fn stat(&self) -> rustix::io::Result<rustix::fs::Stat> {
        rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub fn unlink(&self) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
    }

    /// `EEXIST` where the name is in use. Atomic; where the filesystem knows no such rename, the name appears by
    /// a hard link before the old one goes, and only where it has no hard links either is there a gap between the
    /// look and the rename.
    pub fn rename_to(&self, to: &Self) -> rustix::io::Result<()> {
        match rustix::fs::renameat_with(&self.dir, &self.name, &to.dir, &to.name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.link_to(to),
            result => result,
        }
    }

    fn link_to(&self, to: &Self) -> rustix::io::Result<()> {
        match rustix::fs::linkat(&self.dir, &self.name, &to.dir, &to.name, AtFlags::empty()) {
            Ok(()) => self.unlink(),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => match to.stat() {
                Err(Errno::NOENT) => rustix::fs::renameat(&self.dir, &self.name, &to.dir, &to.name),
                Ok(_) => Err(Errno::EXIST),
                Err(errno) => Err(errno),
            },
            Err(errno) => Err(errno),
        }
    }

    pub fn dir(&self) -> rustix::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A handle of a directory below `dir`; what is missing on the way is made. `ELOOP` where there is a symbolic link.
pub(super) fn make_below(mut dir: OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    for part in path {
        match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) | Ok(()) => dir = root::step(dir.as_fd(), part, root::HANDLE | OFlags::NOFOLLOW)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(dir)
}

/// `prefix` + `name` + `suffix`, the name cut so that the whole stays within 255 bytes.
pub(crate) fn fitted(prefix: &str, name: &OsStr, suffix: &OsStr) -> OsString {
    let room = MAX_BYTES.saturating_sub(prefix.len() + suffix.len());
    let mut bytes = name.as_bytes();
    if bytes.len() > room {
        // At a character's boundary where there is one.
        let boundary = (room.saturating_sub(3)..=room).rev().find(|&at| bytes[at] & 0xc0 != 0x80);
        bytes = &bytes[..boundary.unwrap_or(room)];
    }
    OsString::from_vec([prefix.as_bytes(), bytes, suffix.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &RootDir, name: &str) -> Place {
        Place::of(root, &BelowRoot::new(name).unwrap()).unwrap()
    }

    #[test]
    fn a_name_in_use_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        let (a, b, c) = (place(&root, "a"), place(&root, "b"), place(&root, "c"));
        assert_eq!(a.rename_to(&b), Err(Errno::EXIST));
        assert_eq!(a.link_to(&b), Err(Errno::EXIST));
        a.link_to(&c).unwrap();
        assert_eq!(a.rename_to(&c), Err(Errno::NOENT));
        assert_eq!(std::fs::read_to_string(dir.path().join("c")).unwrap(), "a");
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).unwrap(), "b");
    }

    #[test]
    fn directories_are_made_but_not_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("in/out")).unwrap();
        let root = RootDir::open(&dir.path().join("in")).unwrap();
        Place::make(&root, &BelowRoot::new("x/y/z").unwrap()).unwrap();
        Place::make(&root, &BelowRoot::new("x/y/z").unwrap()).unwrap();
        assert!(dir.path().join("in/x/y").is_dir() && !dir.path().join("in/x/y/z").exists());
        Place::make(&root, &BelowRoot::new("out/w/z").unwrap()).unwrap_err();
        assert!(!dir.path().join("w").exists());
    }

    #[test]
    fn long_names_are_cut_to_fit() {
        assert_eq!(fitted(".", OsStr::new("a.csv"), OsStr::new(".x")), ".a.csv.x");
        let long = "é".repeat(127);
        let cut = fitted(".", OsStr::new(&long), OsStr::new(".0123456789ab.archived"));
        assert!(cut.len() <= MAX_BYTES && cut.to_str().is_some());
        let bytes = fitted("", OsStr::from_bytes(&[0x80; 255]), OsStr::new(".x"));
        assert_eq!(bytes.len(), MAX_BYTES);
    }
}
