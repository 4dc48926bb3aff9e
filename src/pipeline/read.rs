//! Reading a local file for upload: every byte once, hashed on the way, and proof that it stayed the same meanwhile.

use std::io::{self, Read};

use bytes::Bytes;
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

impl Version {
    /// Opens it, if the name still stands for this version. Blocking.
    pub fn open(&self) -> Result<OpenedFile, ReadError> {
        let opened = self.candidate.root.dir.open_file(&self.candidate.path)?;
        if opened.fingerprint == self.fingerprint { Ok(opened) } else { Err(ReadError::Changed) }
    }

    /// Whether the open file is unchanged, and the name still stands for it. Blocking.
    fn check(&self, opened: &OpenedFile) -> Result<(), ReadError> {
        if opened.fingerprint_now()? != self.fingerprint {
            return Err(ReadError::Changed);
        }
        self.still_named()
    }

    /// Whether the name still stands for this version. Blocking.
    pub fn still_named(&self) -> Result<(), ReadError> {
        match self.candidate.root.dir.fingerprint_at(&self.candidate.path)? {
            Some(now) if now == self.fingerprint => Ok(()),
            Some(_) => Err(ReadError::Changed),
            None => Err(ReadError::Vanished),
        }
    }

    /// All bytes of a small file and their SHA-256. Blocking.
    pub fn read_whole(&self, opened: &mut OpenedFile) -> Result<(Bytes, Sha256Digest), ReadError> {
        // One byte more than there should be, so that growth shows.
        let mut bytes = Vec::with_capacity(self.fingerprint.size as usize + 1);
        (&mut opened.file).take(self.fingerprint.size + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != self.fingerprint.size {
            return Err(ReadError::Changed);
        }
        self.check(opened)?;
        let digest = Sha256Digest(Sha256::digest(&bytes).into());
        Ok((bytes.into(), digest))
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
            self.check(&opened)?;
            Ok(digest)
        });
        (receiver, task)
    }

    /// The SHA-256 alone, for a comparison with what stands on the server. Blocking.
    pub fn digest(&self) -> Result<Sha256Digest, ReadError> {
        let mut opened = self.open()?;
        let digest = hash_pieces(&mut opened, self.fingerprint.size, SMALL_BYTES as usize, |_| true)?;
        self.check(&opened)?;
        Ok(digest)
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
    let mut left = size;
    while left > 0 {
        let mut piece = vec![0; step.min(usize::try_from(left).unwrap_or(usize::MAX))];
        opened.file.read_exact(&mut piece).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Changed,
            _ => error.into(),
        })?;
        left -= piece.len() as u64;
        hash.update(&piece);
        if !give(piece.into()) {
            return Err(ReadError::Failed("the upload ended first".into()));
        }
    }
    match opened.file.read(&mut [0])? {
        0 => Ok(Sha256Digest(hash.finalize().into())),
        _ => Err(ReadError::Changed),
    }
}
