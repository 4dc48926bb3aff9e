//! Files that somebody else found: `--files-from`, one path a line or NUL-terminated, and single files by name.
//!
//! With a directory, listed paths keep their place below it: relative ones are relative to it, or begin with it as it was
//! given (what `find DIR` prints) where that names nothing; absolute ones must lie below it. Without, each file goes by its own name and its directory is the root. The list is read as it comes; a
//! line that cannot be used is reported and the rest goes on. Selection is not asked: who lists a file wants it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{BelowRoot, Candidate, Root};
use crate::config::settings::Separator;
use crate::domain::display;
use crate::localfs::OpenError;

/// `PATH_MAX` of Linux (limits.h), with room for a path that is written in a roundabout way.
const LONGEST_PATH: usize = 16 * 1024;

/// The paths of a list, one at a time. A path that is too long is an `InvalidData` error, after which the next call
/// goes on behind it; any other error ends the list.
#[derive(Debug)]
pub struct Paths<R> {
    input: R,
    separator: u8,
    number: u64,
    failed: bool,
}

impl<R: BufRead> Paths<R> {
    pub fn new(input: R, separator: Separator) -> Self {
        let separator = match separator {
            Separator::Newline => b'\n',
            Separator::Nul => 0,
        };
        Self { input, separator, number: 0, failed: false }
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            let block = self.input.fill_buf()?;
            let (used, ended) = match block.iter().position(|&byte| byte == self.separator) {
                Some(at) => (at + 1, true),
                None => (block.len(), block.is_empty()),
            };
            self.input.consume(used);
            if ended {
                return Ok(());
            }
        }
    }
}

impl<R: BufRead> Iterator for Paths<R> {
    type Item = io::Result<PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let mut line = Vec::new();
            let limit = LONGEST_PATH as u64 + 1;
            match self.input.by_ref().take(limit).read_until(self.separator, &mut line) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
            if line.last() == Some(&self.separator) {
                line.pop();
            } else if line.len() > LONGEST_PATH {
                if let Err(error) = self.skip_rest() {
                    self.failed = true;
                    return Some(Err(error));
                }
                return Some(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "path {} of the list is longer than {LONGEST_PATH} bytes; with `find -print0`, add `-0`",
                        self.number
                    ),
                )));
            }
            if self.separator == b'\n' {
                if line.last() == Some(&b'\r') && line.len() == 1 {
                    line.pop();
                }
                if line.contains(&0) {
                    return Some(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("path {} of the list contains NUL bytes; with `find -print0`, add `-0`", self.number),
                    )));
                }
            }
            if !line.is_empty() {
                return Some(Ok(OsString::from_vec(line).into()));
            }
        }
        None
    }
}

/// Why a listed path is no candidate; each becomes a failed row.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(
        "{} does not lie below {}; list paths below it, or leave the directory out to send each file by its own name",
        display::path(path),
        display::path(root)
    )]
    Outside { path: PathBuf, root: PathBuf },
    #[error("{} contains `..`; list the path it leads to", display::path(path))]
    Dotted { path: PathBuf },
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Turns paths into candidates.
#[derive(Debug)]
pub struct Lister {
    base: Base,
}

#[derive(Debug)]
enum Base {
    Below { root: Arc<Root>, given: PathBuf },
    OwnName { source: usize, roots: HashMap<PathBuf, Arc<Root>> },
}

/// Parents that are held open at once by a list without a directory.
const MAX_ROOTS: usize = 64;

impl Lister {
    /// Listed paths keep their place below `root`. `given` is the directory as the user wrote it: absolute paths may
    /// begin with it as well as with what it resolves to.
    pub fn below(root: Arc<Root>, given: &Path) -> Self {
        Self { base: Base::Below { root, given: given.to_owned() } }
    }

    /// Each file goes by its own name; also for files that are named on the command line.
    pub fn own_names(source: usize) -> Self {
        Self { base: Base::OwnName { source, roots: HashMap::new() } }
    }

    /// The candidate a path names. It must be a regular file at this moment.
    pub fn candidate(&mut self, path: &Path) -> Result<Candidate, ListError> {
        if path.components().any(|part| part == Component::ParentDir) && matches!(self.base, Base::Below { .. }) {
            return Err(ListError::Dotted { path: path.to_owned() });
        }
        let candidate = match &mut self.base {
            Base::Below { root, given } => {
                let plain = |path: &Path| BelowRoot::new(path.components().filter(named).collect::<PathBuf>());
                let below = if path.is_absolute() {
                    path.strip_prefix(&root.path).or_else(|_| path.strip_prefix(&*given)).ok().and_then(plain)
                } else {
                    // What `find DIR` prints begins with DIR itself.
                    let repeated = || {
                        let given: PathBuf = given.components().filter(named).collect();
                        let path: PathBuf = path.components().filter(named).collect();
                        path.strip_prefix(given).ok().and_then(plain)
                    };
                    match plain(path) {
                        Some(below) if root.dir.kind_at(&below).is_err() => repeated().or(Some(below)),
                        below => below,
                    }
                };
                let outside = || ListError::Outside { path: path.to_owned(), root: root.path.clone() };
                Candidate { root: Arc::clone(root), path: below.ok_or_else(outside)? }
            }
            Base::OwnName { source, roots } => {
                let name = path.file_name().and_then(BelowRoot::new).ok_or_else(|| {
                    ListError::Open(OpenError::NotRegular {
                        path: path.to_owned(),
                        kind: crate::localfs::FileKind::Directory,
                    })
                })?;
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let root = match roots.get(parent) {
                    Some(root) => Arc::clone(root),
                    None => {
                        let root = Arc::new(Root::open(*source, parent).map_err(|error| match error {
                            // The file is what the user asked for.
                            OpenError::Vanished { .. } => OpenError::Vanished { path: path.to_owned() },
                            error => error,
                        })?);
                        if roots.len() >= MAX_ROOTS {
                            roots.clear();
                        }
                        roots.insert(parent.to_owned(), Arc::clone(&root));
                        root
                    }
                };
                Candidate { root, path: name }
            }
        };
        match candidate.root.dir.kind_at(&candidate.path)? {
            None => Ok(candidate),
            Some(crate::localfs::FileKind::Symlink) => Err(OpenError::Symlink { path: candidate.absolute() }.into()),
            Some(kind) => Err(OpenError::NotRegular { path: candidate.absolute(), kind }.into()),
        }
    }
}

/// Not a `.`.
fn named(part: &Component<'_>) -> bool {
    *part != Component::CurDir
}

/// One entry of a list, resolved.
#[derive(Debug)]
pub enum Listed {
    Candidate(Candidate),
    /// A listed path that is no candidate.
    Problem {
        path: PathBuf,
        error: ListError,
    },
    /// A line that is no path; the list goes on where the error is `InvalidData`, else it ended here.
    Unreadable(io::Error),
}

/// Reads a whole list. Blocks: to be called on a thread for blocking work.
pub fn read(
    paths: Paths<impl BufRead>,
    lister: &mut Lister,
    visit: &mut dyn FnMut(Listed) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for path in paths {
        visit(match path {
            Err(error) => Listed::Unreadable(error),
            Ok(path) => match lister.candidate(&path) {
                Ok(candidate) => Listed::Candidate(candidate),
                Err(error) => Listed::Problem { path, error },
            },
        })?;
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn paths(text: &[u8], separator: Separator) -> Vec<Result<PathBuf, String>> {
        Paths::new(text, separator).map(|path| path.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn lists_carry_every_name_they_can() {
        let ok = |name: &[u8]| Ok(PathBuf::from(OsStr::from_bytes(name)));
        assert_eq!(paths(b"a\n\n\r\nb c\n\xff", Separator::Newline), [ok(b"a"), ok(b"b c"), ok(b"\xff")]);
        assert_eq!(paths(b"a\nb\0\0c", Separator::Nul), [ok(b"a\nb"), ok(b"c")]);
        assert!(paths(b"", Separator::Nul).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_and_passed_over() {
        let mut text = vec![b'x'; 5 * LONGEST_PATH];
        text.extend_from_slice(b"\nb\na\0b\nc");
        let read = paths(&text, Separator::Newline);
        assert!(read[0].as_ref().unwrap_err().contains("path 1 of the list is longer"));
        assert_eq!(read[1], Ok("b".into()));
        assert!(read[2].as_ref().unwrap_err().contains("`-0`"));
        assert_eq!((&read[3], read.len()), (&Ok("c".into()), 4));
        let exact = vec![b'x'; LONGEST_PATH];
        assert!(paths(&exact, Separator::Newline)[0].is_ok());
    }

    #[test]
    fn listed_paths_keep_their_place_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir_all(real.join("d")).unwrap();
        std::fs::write(real.join("d/a.tmp"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("d/a.tmp", real.join("s")).unwrap();
        let given = dir.path().join("link");
        let mut lister = Lister::below(Arc::new(Root::open(0, &given).unwrap()), &given);
        for path in
            ["d/a.tmp".into(), "./d/./a.tmp".into(), given.join("d/a.tmp"), lister_root(&lister).join("d/a.tmp")]
        {
            assert_eq!(lister.candidate(&path).unwrap().path.as_path(), Path::new("d/a.tmp"), "{path:?}");
        }
        let mut error = |path: &Path| lister.candidate(path).unwrap_err();
        assert!(matches!(error(Path::new("/etc/passwd")), ListError::Outside { .. }));
        assert!(matches!(error(&given), ListError::Outside { .. }));
        assert!(matches!(error(Path::new("d/../d/a.tmp")), ListError::Dotted { .. }));
        assert!(matches!(error(Path::new("gone")), ListError::Open(OpenError::Vanished { .. })));
        assert!(matches!(error(Path::new("s")), ListError::Open(OpenError::Symlink { .. })));
        assert!(matches!(error(Path::new("d")), ListError::Open(OpenError::NotRegular { .. })));
    }

    fn lister_root(lister: &Lister) -> PathBuf {
        match &lister.base {
            Base::Below { root, .. } => root.path.clone(),
            Base::OwnName { .. } => unreachable!("made with a root"),
        }
    }

    #[test]
    fn what_find_prints_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/data")).unwrap();
        for file in ["data/a", "data/b", "data/data/b"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        for given in ["data", "./data/"] {
            let root = Arc::new(Root::open(0, &dir.path().join("data")).unwrap());
            let mut lister = Lister::below(root, Path::new(given));
            let mut below = |path: &str| lister.candidate(Path::new(path)).unwrap().path.as_path().to_owned();
            assert_eq!([below("a"), below("data/a"), below("./data/a")], ["a", "a", "a"].map(PathBuf::from));
            // What stands below the directory comes first.
            assert_eq!(below("data/b"), Path::new("data/b"));
            assert!(matches!(
                lister.candidate(Path::new("data/gone")),
                Err(ListError::Open(OpenError::Vanished { .. }))
            ));
        }
    }

    #[test]
    fn without_a_directory_each_file_goes_by_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/a"), "x").unwrap();
        let mut lister = Lister::own_names(3);
        for path in ["d/a", "d/../d/a"] {
            let candidate = lister.candidate(&dir.path().join(path)).unwrap();
            assert_eq!((candidate.path.as_path(), candidate.root.source), (Path::new("a"), 3));
            assert_eq!(candidate.absolute(), dir.path().canonicalize().unwrap().join("d/a"));
        }
        let missing = lister.candidate(&dir.path().join("no/such")).unwrap_err().to_string();
        assert!(missing.contains("no/such is not there"), "{missing}");
        assert!(lister.candidate(Path::new("/")).is_err());
    }
}
