//! A file that appears complete or not at all: written under a temporary name beside it, then renamed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Removes what it has written unless [`SummaryFile::publish`] is called.
pub struct SummaryFile {
    out: BufWriter<File>,
    /// Temporary and final name; `None` for what is written to directly.
    names: Option<(PathBuf, PathBuf)>,
}

impl SummaryFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_as(path, 0o666)
    }

    /// One that this user alone reads.
    pub fn create_private(path: &Path) -> io::Result<Self> {
        Self::create_as(path, 0o600)
    }

    fn create_as(path: &Path, mode: u32) -> io::Result<Self> {
        // A symlink stays a symlink: its target is replaced.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Ok(metadata) = target.metadata() {
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            if !metadata.is_file() {
                let out = OpenOptions::new().write(true).open(path)?;
                return Ok(Self { out: BufWriter::new(out), names: None });
            }
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = target.with_file_name(temporary);
        // A leftover can only be of a dead process that had our id, or a link that somebody laid there for us.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        Ok(Self { out: BufWriter::new(out), names: Some((temporary, target)) })
    }

    /// Makes the complete file appear.
    pub fn publish(mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some((temporary, target)) = &self.names {
            self.out.get_ref().sync_all()?;
            std::fs::rename(temporary, target)?;
            self.names = None;
        }
        Ok(())
    }
}

impl Write for SummaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for SummaryFile {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.names {
            // Its directory may be gone; then so is the file.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
