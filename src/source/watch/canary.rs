//! Whether events can be trusted: what kind of filesystem it is, and a canary file whose event has to arrive.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FileType, Stat};

use crate::localfs::{BelowRoot, Place, RootDir};
use crate::selection::CANARY_PREFIX;

/// Older than any canary of a watch that lives.
const STALE_SECS: i64 = 60;

/// A hidden file that is made in a root at the start, and removed at once: its events come nevertheless, and a watch that
/// is killed leaves nothing behind.
#[derive(Debug)]
pub(super) struct Canary {
    path: PathBuf,
    pub deadline: Instant,
}

impl Canary {
    /// `None` where the root cannot be written to: then there is no probe, and events are believed in.
    pub fn release(root: &RootDir, digits: u64, deadline: Instant) -> Option<Self> {
        let name = BelowRoot::new(format!("{CANARY_PREFIX}{digits:016x}"))?;
        let place = Place::of(root, &name).ok()?;
        place.create().ok()?;
        let made = place.stat();
        // Its name is never archived, so one that cannot be removed does no harm.
        let _ = place.unlink();
        if let Ok(made) = made {
            remove_stale(root, &made);
        }
        Some(Self { path: root.path().join(name.as_path()), deadline })
    }

    pub fn is(&self, path: &Path) -> bool {
        self.path == path
    }
}

/// Removes canaries of watches that were killed in the moment between the two. `made` is now, by the filesystem's own clock.
fn remove_stale(root: &RootDir, made: &Stat) {
    let is_stale = |found: &Stat| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && found.st_size == 0
            && made.st_mtime.saturating_sub(found.st_mtime) > STALE_SECS
    };
    // Only names come from the path; what is done, is done through the handle.
    for entry in std::fs::read_dir(root.path()).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(CANARY_PREFIX.as_bytes()) {
            continue;
        }
        let place = BelowRoot::new(entry.file_name()).and_then(|name| Place::of(root, &name).ok());
        if let Some(place) = place.filter(|place| place.stat().is_ok_and(|found| is_stale(&found))) {
            let _ = place.unlink();
        }
    }
}

/// Filesystems on which other hosts change files, or a layer outside of this kernel does, so that a canary of our own
/// proves nothing about them. Magic numbers of statfs(2).
const REMOTE: [(u64, &str); 10] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x6573_5546, "FUSE or virtiofs"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x5346_414f, "AFS"),
];

/// The name of the filesystem where it is one of those.
pub(super) fn remote_filesystem(root: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(root).ok()?.f_type;
    // The field is signed and as wide as a word on some architectures; the numbers have 32 bits.
    let kind = (kind as u64) & 0xffff_ffff;
    REMOTE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_canary_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        let canary = Canary::release(&root, 7, Instant::now()).unwrap();
        let path = root.path().join(".archiver-canary-0000000000000007");
        assert!(canary.is(&path) && !path.exists(), "its watch may be killed at any time");
        assert!(crate::selection::is_own_name(path.file_name().unwrap()));

        // A killed watch's goes with the next one; a live one's stays, and so does what is no canary.
        let put = |name: &str, content: &str, age: Duration| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            File::options().append(true).open(&path).unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
            path
        };
        let hour = Duration::from_secs(3600);
        let stale = put(".archiver-canary-1", "", hour);
        let live = put(".archiver-canary-2", "", Duration::ZERO);
        let others = [put(".archiver-canary-3", "bytes", hour), put(".other", "", hour)];
        Canary::release(&root, 7, Instant::now()).unwrap();
        assert!(!stale.exists() && live.exists() && others.iter().all(|path| path.exists()));

        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(Canary::release(&root, 7, Instant::now()).is_none());
        assert_eq!(remote_filesystem(Path::new("/proc")), None);
    }
}
