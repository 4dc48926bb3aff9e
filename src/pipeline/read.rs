//! Reading a local file for upload: every byte once, hashed on the way, and proof that it stayed the same meanwhile.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::domain::{Fingerprint, Sha256Digest};
use crate::localfs::{OpenError, OpenedFile};
use crate::source::Candidate;

/// Files up to this size are read at once and sent without waiting in between.
pub const SMALL_BYTES: u64 = 256 << 10;
/// Pieces of a large file that are read ahead.
const READ_AHEAD: usize = 2;

/// Why a file could not be read to its end as the version that was claimed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is another version now (G6).
    #[error("it changed while it was read")]
    Changed,
    #[error("it went away")]
    Vanished,
    #[error("{0}")]
    Failed(String),
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Vanished { .. } => Self::Vanished,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("reading it failed: {error}"))
    }
}

/// A claimed version of a local file.
#[derive(Debug, Clone)]
pub struct Version {
    pub candidate: Candidate,
    pub fingerprint: Fingerprint,
}

/// A small file as it was read.
#[derive(Debug)]
pub struct Whole {
    pub bytes: Bytes,
    pub digest: Sha256Digest,
    /// As [`OpenedFile::mode`] and [`OpenedFile::mtime_secs`].
    pub mode: u32,
    pub mtime_secs: i64,
}

impl Version {
    /// Opens it, if the name still stands for this version. Blocking.
    pub fn open(&self) -> Result<OpenedFile, ReadError> {
        self.as_claimed(self.candidate.root.dir.open_file(&self.candidate.path)?)
    }

    fn as_claimed(&self, opened: OpenedFile) -> Result<OpenedFile, ReadError> {
        if opened.fingerprint == self.fingerprint { Ok(opened) } else { Err(ReadError::Changed) }
    }

    /// Whether the open file is what it was, its size included. Blocking.
    fn unchanged(&self, opened: &OpenedFile) -> Result<(), ReadError> {
        if opened.fingerprint_now()? == self.fingerprint { Ok(()) } else { Err(ReadError::Changed) }
    }

    /// Whether the name still stands for this version. Blocking.
    pub fn still_named(&self) -> Result<(), ReadError> {
        match self.candidate.root.dir.fingerprint_at(&self.candidate.path)? {
            Some(now) if now == self.fingerprint => Ok(()),
            Some(_) => Err(ReadError::Changed),
            None => Err(ReadError::Vanished),
        }
    }

    /// A small file, opened, read, and unchanged after its last byte. Whether the name still stands for it is asked
    /// right before the commit. Blocking.
    pub fn read_whole(&self) -> Result<Whole, ReadError> {
        let mut opened = self.as_claimed(self.candidate.root.dir.reopen_file(&self.candidate.path)?)?;
        let mut bytes = vec![0; self.fingerprint.size as usize];
        opened.file.read_exact(&mut bytes).map_err(cut_short)?;
        self.unchanged(&opened)?;
        let digest = Sha256Digest(Sha256::digest(&bytes).into());
        Ok(Whole { bytes: bytes.into(), digest, mode: opened.mode, mtime_secs: opened.mtime_secs })
    }

    /// Streams the file in pieces of `step` bytes from a blocking thread. The task gives the SHA-256, or says why the
    /// stream ended early. A receiver that is dropped ends it.
    pub fn read_pieces(
        self,
        mut opened: OpenedFile,
        step: usize,
    ) -> (mpsc::Receiver<Bytes>, JoinHandle<Result<Sha256Digest, ReadError>>) {
        let (pieces, receiver) = mpsc::channel(READ_AHEAD);
        let task = tokio::task::spawn_blocking(move || {
            let digest =
                hash_pieces(&mut opened, self.fingerprint.size, step, |piece| pieces.blocking_send(piece).is_ok())?;
            self.unchanged(&opened)?;
            Ok(digest)
        });
        (receiver, task)
    }

    /// The SHA-256 alone, for a comparison with what stands on the server. Blocking.
    pub fn digest(&self) -> Result<Sha256Digest, ReadError> {
        let mut opened = self.open()?;
        let digest = hash_pieces(&mut opened, self.fingerprint.size, SMALL_BYTES as usize, |_| true)?;
        self.unchanged(&opened)?;
        self.still_named()?;
        Ok(digest)
    }
}

/// Reading a whole large file takes a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(ReadError::Failed(format!("reading it failed: {panic}"))))
}

/// A file that ends before its size is another version.
fn cut_short(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Changed,
        _ => error.into(),
    }
}

/// Buffers that were given away, oldest first. Once nobody else holds on to one, it is filled again: a new one for each
/// piece would cost the kernel a page fault for every four KiB.
#[derive(Default)]
struct Buffers {
    given: VecDeque<Bytes>,
}

impl Buffers {
    fn take(&mut self, len: usize) -> BytesMut {
        let mut buffer = match self.given.front() {
            Some(oldest) if oldest.is_unique() => {
                self.given.pop_front().and_then(|oldest| oldest.try_into_mut().ok()).unwrap_or_default()
            }
            _ => BytesMut::new(),
        };
        buffer.resize(len, 0);
        buffer
    }
}

/// Reads exactly `size` bytes and finds the end there.
fn hash_pieces(
    opened: &mut OpenedFile,
    size: u64,
    step: usize,
    mut give: impl FnMut(Bytes) -> bool,
) -> Result<Sha256Digest, ReadError> {
    let mut hash = Sha256::new();
    let mut buffers = Buffers::default();
    let mut left = size;
    while left > 0 {
        let mut piece = buffers.take(step.min(usize::try_from(left).unwrap_or(usize::MAX)));
        opened.file.read_exact(&mut piece).map_err(cut_short)?;
        left -= piece.len() as u64;
        hash.update(&piece);
        let piece = piece.freeze();
        buffers.given.push_back(piece.clone());
        if !give(piece) {
            return Err(ReadError::Failed("the upload ended first".into()));
        }
    }
    match opened.file.read(&mut [0])? {
        0 => Ok(Sha256Digest(hash.finalize().into())),
        _ => Err(ReadError::Changed),
    }
}
