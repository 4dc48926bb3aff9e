//! The served directory. Every path of a client is resolved below it: neither `..` nor any symbolic link, planted
//! before or exchanged while we look, leads out.
//!
//! `openat2(2)` with `RESOLVE_IN_ROOT` lets the kernel enforce that; [`walk`](super::walk) does so elsewhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{Errno, Result};

use super::walk::{Last, walk};

/// A directory and the only way to names below it.
pub(super) struct Root {
    directory: OwnedFd,
    resolver: Resolver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    /// `openat2` by the kernel.
    Kernel,
    /// Component by component.
    Walk,
}

/// How often `openat2` is asked again when a rename elsewhere on the system made its answer uncertain (EAGAIN).
const ATTEMPTS: usize = 16;

impl Root {
    /// Opens the directory and finds out what the kernel offers.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        let resolver = match openat2(CWD, ".", flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(_) => Resolver::Kernel,
            Err(_) => Resolver::Walk,
        };
        Ok(Self { directory, resolver })
    }

    /// Opens what `path` leads to. With `O_NOFOLLOW` a link at its end is opened (`O_PATH`) or refused (ELOOP).
    pub(super) fn open_file(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        // openat2 refuses flags that mean nothing beside O_PATH; open ignores them.
        let terminal = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NOCTTY };
        let flags = flags | OFlags::CLOEXEC | terminal;
        let path = if path.is_empty() { "." } else { path };
        if self.resolver == Resolver::Walk {
            let last = if flags.contains(OFlags::NOFOLLOW) { Last::Keep } else { Last::Follow };
            return walk(self.directory.as_fd(), path, last)?.open(self.directory.as_fd(), flags, mode);
        }
        // The kernel's openat2 refuses a mode where nothing can be created.
        let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut outcome = Err(Errno::AGAIN);
        for _ in 0..ATTEMPTS {
            outcome = openat2(&self.directory, path, flags, mode, resolve);
            if !matches!(outcome, Err(Errno::AGAIN)) {
                break;
            }
        }
        outcome
    }

    /// A handle for looking only (`O_PATH`).
    pub(super) fn look(&self, path: &str, last: Last) -> Result<OwnedFd> {
        let flags = match last {
            Last::Follow => OFlags::PATH,
            Last::Keep => OFlags::PATH | OFlags::NOFOLLOW,
        };
        self.open_file(path, flags, Mode::empty())
    }

    /// The directory that holds the last component of `path`, and that component: for calls that make, remove or
    /// rename an entry. EINVAL where the last component is no name (`/`, `..`).
    pub(super) fn entry<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        if matches!(name, "" | "." | "..") {
            return Err(Errno::INVAL);
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Ok((self.open_file(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?, name))
    }

    /// The canonical path, from `/` on, links resolved. The last component need not exist.
    pub(super) fn canonical(&self, path: &str) -> Result<String> {
        Ok(walk(self.directory.as_fd(), path, Last::Follow)?.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, FileType, fstat, unlinkat};
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A root with a secret beside it, links of every kind that try to reach it, and both resolvers.
    fn roots() -> (tempfile::TempDir, [Root; 2]) {
        let temp = tempfile::tempdir().unwrap();
        let served = temp.path().join("served");
        fs::create_dir_all(served.join("a/b")).unwrap();
        fs::write(temp.path().join("secret"), "secret").unwrap();
        fs::write(served.join("a/file"), "inside").unwrap();
        symlink(temp.path().join("secret"), served.join("absolute")).unwrap();
        symlink("../secret", served.join("relative")).unwrap();
        symlink("../../../secret", served.join("a/b/deep")).unwrap();
        symlink("..", served.join("up")).unwrap();
        symlink("/a/file", served.join("inside")).unwrap();
        symlink("loop", served.join("loop")).unwrap();
        let root = |resolver| Root { resolver, ..Root::open(&served).unwrap() };
        (temp, [root(Resolver::Kernel), root(Resolver::Walk)])
    }

    #[test]
    fn nothing_leads_out() {
        let (_kept, roots) = roots();
        for root in roots {
            for path in [
                "../secret",
                "/../secret",
                "a/../../secret",
                "absolute",
                "relative",
                "a/b/deep",
                "up/secret",
                "a/../up/../secret",
            ] {
                let outcome = root.open_file(path, OFlags::RDONLY, Mode::empty());
                assert_eq!(outcome.unwrap_err(), Errno::NOENT, "{path} by {:?}", root.resolver);
            }
            assert_eq!(root.look("loop", Last::Follow).unwrap_err(), Errno::LOOP);
        }
    }

    #[test]
    fn a_file_made_through_a_dangling_link_is_made_inside() {
        let (kept, roots) = roots();
        for root in roots {
            let flags = OFlags::WRONLY | OFlags::CREATE;
            root.open_file("relative", flags, Mode::from_raw_mode(0o644)).unwrap();
            let (parent, name) = root.entry("/secret").unwrap();
            unlinkat(parent, name, AtFlags::empty()).unwrap();
            assert_eq!(fs::read(kept.path().join("secret")).unwrap(), b"secret", "{:?}", root.resolver);
        }
    }

    #[test]
    fn paths_inside_are_found_as_in_a_chroot() {
        let (_kept, roots) = roots();
        for root in roots {
            for path in ["a/file", "/a/file", "inside", "//a/./b/../file", "up/a/file", "../../a/file"] {
                assert!(root.open_file(path, OFlags::RDONLY, Mode::empty()).is_ok(), "{path} by {:?}", root.resolver);
                assert_eq!(root.canonical(path).unwrap(), "/a/file", "{path}");
            }
            for path in ["", ".", "/", "..", "up", "a/.."] {
                assert_eq!(root.canonical(path).unwrap(), "/", "{path}");
            }
            assert_eq!(root.canonical("a/missing").unwrap(), "/a/missing");
            assert_eq!(root.canonical("missing/x").unwrap_err(), Errno::NOENT);
            let link = fstat(root.look("absolute", Last::Keep).unwrap()).unwrap();
            assert_eq!(FileType::from_raw_mode(link.st_mode), FileType::Symlink);
        }
    }

    #[test]
    fn an_entry_needs_a_name() {
        let (_kept, roots) = roots();
        for root in roots {
            for path in ["", "/", ".", "..", "a/..", "a/."] {
                assert_eq!(root.entry(path).map(|(_, name)| name).unwrap_err(), Errno::INVAL, "{path:?}");
            }
            for (path, name) in [("x", "x"), ("/x", "x"), ("a/b/", "b"), ("up/x", "x")] {
                assert_eq!(root.entry(path).unwrap().1, name);
            }
            assert_eq!(root.entry("a/file/x").unwrap_err(), Errno::NOTDIR);
        }
    }
}
