//! Whether events can be trusted: what kind of filesystem it is, and a canary file whose event has to arrive.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::selection::CANARY_PREFIX;

/// A hidden file made in a root at the start. Removed when its event arrives or its time is over.
#[derive(Debug)]
pub(super) struct Canary {
    path: PathBuf,
    pub deadline: Instant,
}

impl Canary {
    /// `None` where the root cannot be written to: then there is no probe, and events are believed in.
    pub fn release(root: &Path, digits: u64, deadline: Instant) -> Option<Self> {
        let path = root.join(format!("{CANARY_PREFIX}{digits:016x}"));
        std::fs::File::create_new(&path).ok()?;
        Some(Self { path, deadline })
    }

    pub fn is(&self, path: &Path) -> bool {
        self.path == path
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // Its name is never archived, so one that cannot be removed does no harm.
        let _ = std::fs::remove_file(&self.path);
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
    use super::*;

    #[test]
    fn a_canary_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let canary = Canary::release(dir.path(), 7, Instant::now()).unwrap();
        let path = dir.path().join(".archiver-canary-0000000000000007");
        assert!(canary.is(&path) && path.exists());
        assert!(crate::selection::is_own_name(path.file_name().unwrap()));
        drop(canary);
        assert!(!path.exists());
        assert!(Canary::release(&dir.path().join("gone"), 7, Instant::now()).is_none());
        assert_eq!(remote_filesystem(Path::new("/proc")), None);
    }
}
