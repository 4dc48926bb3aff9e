//! Resolution of a path one component at a time, below a directory that nothing can lead out of.
//!
//! It serves two ends: it gives REALPATH the canonical name, and it stands in for `openat2(2)` where the kernel has
//! none (before Linux 5.6) or a sandbox refuses it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::{Errno, Result};

/// As many symbolic links as Linux itself follows in one path.
const MAX_LINKS: usize = 40;

/// Whether a symbolic link at the end of the path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    Keep,
}

/// Where a path leads: a directory that exists, and a name in it that may or may not.
pub(super) struct Place {
    /// The directories from the root down to the parent.
    directories: Vec<(String, OwnedFd)>,
    /// The last component; `None` where the path leads to the directory itself (`/`, `a/..`).
    name: Option<String>,
}

impl Place {
    /// The canonical path below the root, from `/` on.
    pub(super) fn path(&self) -> String {
        let names = self.directories.iter().map(|(name, _)| name.as_str()).chain(self.name.as_deref());
        let path: String = names.flat_map(|name| ["/", name]).collect();
        if path.is_empty() { "/".to_owned() } else { path }
    }

    /// Opens what the path leads to. A link that took the place of the last component meanwhile is not followed.
    pub(super) fn open(&self, root: BorrowedFd<'_>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let parent = self.directories.last().map_or(root, |(_, directory)| directory.as_fd());
        match &self.name {
            Some(name) => openat(parent, name, flags | OFlags::NOFOLLOW, mode),
            None => openat(parent, ".", flags - OFlags::CREATE, mode),
        }
    }
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}

/// Resolves `path` below `root`: `..` stops at the root, absolute links start there. Only the last component may be
/// missing.
pub(super) fn walk(root: BorrowedFd<'_>, path: &str, last: Last) -> Result<Place> {
    let mut todo: VecDeque<String> = components(path).collect();
    let mut directories: Vec<(String, OwnedFd)> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            directories.pop();
            continue;
        }
        let here = directories.last().map_or(root, |(_, directory)| directory.as_fd());
        let at_the_end = todo.is_empty();
        if at_the_end && last == Last::Keep {
            return Ok(Place { directories, name: Some(name) });
        }
        let kind = match statat(here, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(Errno::NOENT) if at_the_end => return Ok(Place { directories, name: Some(name) }),
            Err(errno) => return Err(errno),
        };
        if kind == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = readlinkat(here, &name, Vec::new())?;
            let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
            if target.starts_with('/') {
                directories.clear();
            }
            components(target).rev().for_each(|part| todo.push_front(part));
        } else if at_the_end {
            return Ok(Place { directories, name: Some(name) });
        } else {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(here, &name, flags, Mode::empty())?;
            directories.push((name, directory));
        }
    }
    Ok(Place { directories, name: None })
}
