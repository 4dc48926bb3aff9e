//! Walks a source and names what it finds, one entry at a time.
//!
//! Memory does not grow with the number of files: a directory is read in blocks and never as a whole. Down to
//! 64 levels one handle is open a level; below that the names of the subdirectories of one directory a level
//! are held, and no handle. The order is the filesystem's own. Names come and go during a scan: what is there from
//! beginning to end is named once, what vanishes meanwhile is silently gone. Mount points are crossed, symbolic links
//! never followed.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{BelowRoot, Candidate, Root};
use crate::localfs::{FileKind, OpenError, RootState};
use crate::selection::{Excluded, Selection, Verdict};

/// Levels of directories that are held open at once.
const STREAMED_LEVELS: usize = 64;

/// What a scan comes upon.
#[derive(Debug)]
pub enum Found {
    Candidate(Candidate),
    /// Not a candidate; for those who want to know why.
    Ignored {
        root: Arc<Root>,
        path: BelowRoot,
        why: Ignored,
    },
    /// A directory or entry that cannot be read. The scan goes on; this becomes a failed row.
    Problem {
        root: Arc<Root>,
        /// Absolute.
        path: PathBuf,
        error: OpenError,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Selection leaves it out.
    Excluded(Excluded),
    /// A directory that selection does not enter.
    NotEntered,
    Marker,
    /// A symbolic link, FIFO, socket or device.
    NotRegular(FileKind),
}

/// Walks the whole root. Blocks: to be called on a thread for blocking work. `visit` may take its time; `Break` ends
/// the scan, which the result then says.
pub fn scan(
    root: &Arc<Root>,
    selection: &Selection,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut walker = Walker { root, selection, visitor: Visitor::Entries(visit) };
    // The handle of a removed directory lists nothing, which would look like an empty source.
    if root.dir.refresh() == RootState::Missing {
        return walker.problem(Path::new(""), OpenError::Vanished { path: root.path.clone() });
    }
    walker.directory(Path::new(""))
}

/// Walks one directory below the root, such as one that just appeared. Does nothing where selection leaves it out.
pub fn scan_below(
    root: &Arc<Root>,
    directory: &BelowRoot,
    selection: &Selection,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if !selection.enter(directory.as_path()) {
        return ControlFlow::Continue(());
    }
    Walker { root, selection, visitor: Visitor::Entries(visit) }.directory(directory.as_path())
}

/// Names every directory that may hold candidates, from one on (empty for the root itself), right before it is opened.
/// What cannot be read is passed over in silence; [`scan`] reports it.
pub fn scan_directories(
    root: &Arc<Root>,
    start: &Path,
    selection: &Selection,
    entering: &mut dyn FnMut(&Path) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if !start.as_os_str().is_empty() && !selection.enter(start) {
        return ControlFlow::Continue(());
    }
    Walker { root, selection, visitor: Visitor::Directories(entering) }.directory(start)
}

/// Names the regular files that stand directly in a directory (empty for the root itself): those that a marker which
/// just appeared may speak for.
pub fn scan_flat(
    root: &Arc<Root>,
    directory: &Path,
    selection: &Selection,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut walker = Walker { root, selection, visitor: Visitor::Entries(visit) };
    let Ok(handle) = root.dir.open_directory(directory) else { return ControlFlow::Continue(()) };
    let Ok(mut level) = Level::new(handle, directory.to_owned()) else { return ControlFlow::Continue(()) };
    while let Some(entry) = level.next() {
        if let Ok((entry, kind)) = entry
            && kind == FileType::RegularFile
        {
            walker.file(&level, &entry, kind)?;
        }
    }
    ControlFlow::Continue(())
}

struct Walker<'a> {
    root: &'a Arc<Root>,
    selection: &'a Selection,
    visitor: Visitor<'a>,
}

/// What a walk is for.
enum Visitor<'a> {
    Entries(&'a mut dyn FnMut(Found) -> ControlFlow<()>),
    /// Directories alone, each before it is opened.
    Directories(&'a mut dyn FnMut(&Path) -> ControlFlow<()>),
}

/// One directory on the way down.
struct Level {
    path: PathBuf,
    /// `None` once it was read to its end ahead of time.
    dir: Option<Dir>,
    /// Subdirectories still to be entered, of a level that was read ahead.
    pending: Vec<OsString>,
}

impl Level {
    fn new(handle: OwnedFd, path: PathBuf) -> Result<Self, Errno> {
        Ok(Self { path, dir: Some(Dir::new(handle)?), pending: Vec::new() })
    }

    /// Where an entry of this name stands, in one allocation.
    fn path_of(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::with_capacity(self.path.as_os_str().len() + 1 + name.len());
        path.push(&self.path);
        path.push(name);
        path
    }

    /// The next entry and its kind, which is looked up where the filesystem does not tell.
    fn next(&mut self) -> Option<Result<(DirEntry, FileType), Errno>> {
        loop {
            let dir = self.dir.as_mut()?;
            let entry = match dir.read()? {
                Ok(entry) => entry,
                // The directory itself was removed.
                Err(Errno::NOENT) => return None,
                Err(errno) => return Some(Err(errno)),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat =
                        dir.fd().and_then(|fd| rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW));
                    match stat {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Some(Err(errno)),
                    }
                }
                kind => kind,
            };
            return Some(Ok((entry, kind)));
        }
    }
}

fn name_of(entry: &DirEntry) -> &OsStr {
    OsStr::from_bytes(entry.file_name().to_bytes())
}

impl Walker<'_> {
    fn directory(&mut self, start: &Path) -> ControlFlow<()> {
        let mut levels = Vec::new();
        self.entering(start)?;
        match self.root.dir.open_directory(start) {
            Err(error) => self.unless_gone(start, error)?,
            Ok(handle) => self.descend(&mut levels, handle, start.to_owned())?,
        }
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.pending.pop() {
                let path = level.path.join(name);
                self.entering(&path)?;
                match self.root.dir.open_directory(&path) {
                    Ok(handle) => self.descend(&mut levels, handle, path)?,
                    Err(error) => self.unless_gone(&path, error)?,
                }
                continue;
            }
            match level.next() {
                None => drop(levels.pop()),
                Some(Err(errno)) => {
                    let path = level.path.clone();
                    levels.pop();
                    self.problem(&path, OpenError::new(&self.root.path.join(&path), errno))?;
                }
                Some(Ok((entry, FileType::Directory))) => {
                    let path = level.path_of(name_of(&entry));
                    if !self.enters(&path)? {
                        continue;
                    }
                    self.entering(&path)?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let opened = match level.dir.as_ref().map(Dir::fd) {
                        Some(Ok(fd)) => rustix::fs::openat(fd, entry.file_name(), flags, Mode::empty()),
                        _ => continue,
                    };
                    match opened {
                        Ok(handle) => self.descend(&mut levels, handle, path)?,
                        Err(errno) => self.unless_gone(&path, OpenError::new(&self.root.path.join(&path), errno))?,
                    }
                }
                Some(Ok((entry, kind))) => self.file(level, &entry, kind)?,
            }
        }
        ControlFlow::Continue(())
    }

    /// Starts a directory. A deep one is read to its end here, but for its subdirectories, and its handle closed.
    fn descend(&mut self, levels: &mut Vec<Level>, handle: OwnedFd, path: PathBuf) -> ControlFlow<()> {
        let mut level = match Level::new(handle, path) {
            Ok(level) => level,
            Err(_) => return ControlFlow::Continue(()),
        };
        if levels.len() >= STREAMED_LEVELS {
            while let Some(entry) = level.next() {
                match entry {
                    Ok((entry, FileType::Directory)) => {
                        let name = name_of(&entry);
                        if self.enters(&level.path_of(name))? {
                            level.pending.push(name.to_owned());
                        }
                    }
                    Ok((entry, kind)) => self.file(&level, &entry, kind)?,
                    Err(errno) => {
                        self.problem(&level.path, OpenError::new(&self.root.path.join(&level.path), errno))?;
                        break;
                    }
                }
            }
            level.dir = None;
        }
        levels.push(level);
        ControlFlow::Continue(())
    }

    fn enters(&mut self, path: &Path) -> ControlFlow<(), bool> {
        if self.selection.enter(path) {
            return ControlFlow::Continue(true);
        }
        self.ignored(path.to_owned(), Ignored::NotEntered)?;
        ControlFlow::Continue(false)
    }

    fn entering(&mut self, path: &Path) -> ControlFlow<()> {
        match &mut self.visitor {
            Visitor::Directories(entering) => entering(path),
            Visitor::Entries(_) => ControlFlow::Continue(()),
        }
    }

    fn file(&mut self, level: &Level, entry: &DirEntry, kind: FileType) -> ControlFlow<()> {
        if matches!(self.visitor, Visitor::Directories(_)) {
            return ControlFlow::Continue(());
        }
        let path = level.path_of(name_of(entry));
        let verdict = self.selection.judge(&path);
        match (verdict, FileKind::of(kind)) {
            (Verdict::Excluded(why), _) => self.ignored(path, Ignored::Excluded(why)),
            (_, Some(kind)) => self.ignored(path, Ignored::NotRegular(kind)),
            (Verdict::Marker, None) => self.ignored(path, Ignored::Marker),
            (Verdict::Candidate, None) => match BelowRoot::new(path) {
                Some(path) => self.found(Found::Candidate(Candidate { root: Arc::clone(self.root), path })),
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn found(&mut self, found: Found) -> ControlFlow<()> {
        match &mut self.visitor {
            Visitor::Entries(visit) => visit(found),
            Visitor::Directories(_) => ControlFlow::Continue(()),
        }
    }

    fn ignored(&mut self, path: PathBuf, why: Ignored) -> ControlFlow<()> {
        match BelowRoot::new(path) {
            Some(path) => self.found(Found::Ignored { root: Arc::clone(self.root), path, why }),
            None => ControlFlow::Continue(()),
        }
    }

    /// A directory that vanished, or became something else, between its name and its opening is no problem.
    fn unless_gone(&mut self, path: &Path, error: OpenError) -> ControlFlow<()> {
        match error {
            OpenError::Vanished { .. } | OpenError::Symlink { .. } => ControlFlow::Continue(()),
            error => self.problem(path, error),
        }
    }

    fn problem(&mut self, path: &Path, error: OpenError) -> ControlFlow<()> {
        // Joining an empty path would add a slash.
        let path = if path.as_os_str().is_empty() { self.root.path.clone() } else { self.root.path.join(path) };
        self.found(Found::Problem { root: Arc::clone(self.root), path, error })
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
