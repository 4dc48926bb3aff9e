//! Where everything happens: a directory in memory-backed storage that goes with it, so that no disk is measured.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::workload::number;

const SHARED_MEMORY: &str = "/dev/shm";
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: i64 = 0x0102_1994;
/// Left free for the programs themselves and everybody else.
const SPARE: u64 = 2 << 30;

pub struct Place {
    directory: TempDir,
    in_memory: bool,
}

/// A row is too large for this machine as it is now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoRoom(String);

impl Place {
    pub fn make() -> Result<Self> {
        let shared = Path::new(SHARED_MEMORY);
        let in_memory = rustix::fs::statfs(shared).is_ok_and(|found| found.f_type == TMPFS);
        let parent = if in_memory { shared.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("archiver-bench-").tempdir_in(parent)?;
        Ok(Self { directory, in_memory })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether so many bytes and inodes fit; fails with [`NoRoom`] where they do not.
    pub fn has_room_for(&self, (bytes, inodes): (u64, u64)) -> Result<()> {
        let free = rustix::fs::statvfs(self.path())?;
        let mut room = free.f_bavail * free.f_frsize;
        if self.in_memory {
            room = room.min(available_memory()?);
        }
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        if bytes + SPARE > room {
            let (needed, room) = (gib(bytes), gib(room));
            return Err(
                NoRoom(format!("{needed} needed and {} to spare, but {} has {room}", gib(SPARE), self.name())).into()
            );
        }
        if inodes > free.f_favail {
            let (needed, left) = (number(inodes), number(free.f_favail));
            return Err(NoRoom(format!("{needed} inodes needed, but {} has {left}", self.name())).into());
        }
        Ok(())
    }

    /// As people call it.
    pub fn name(&self) -> &'static str {
        if self.in_memory { "memory-backed storage (tmpfs)" } else { "the directory for temporary files" }
    }

    /// A directory of that name, empty, whatever was there.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        remove(&path)?;
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// Removes a directory with all it holds, if there is one.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn available_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
