//! Reading back: what stands on the server, and whether it is the same bytes.

use futures::StreamExt;
use futures::stream;
use sha2::{Digest, Sha256};

use super::session::{Kind, OpenHow, RemoteFile, Session};
use crate::destination::{Consequence, DestinationError};
use crate::domain::{RemotePath, Sha256Digest};

/// READs in flight for one file; times the read size, this is the memory a comparison takes.
const READS_IN_FLIGHT: u64 = 16;

/// What a name on the server stands for, compared with the bytes we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Nothing,
    SameBytes,
    OtherBytes,
    /// A directory, link or device.
    NotAFile,
}

/// Looks at `path` and, where the size is the same, reads it back and compares the SHA-256.
pub async fn compare(
    session: &Session,
    path: &RemotePath,
    size: u64,
    digest: &Sha256Digest,
) -> Result<Found, DestinationError> {
    let Some(attributes) = session.lstat(path).await? else { return Ok(Found::Nothing) };
    match attributes.kind {
        Kind::File | Kind::Unknown => {}
        Kind::Directory | Kind::Symlink | Kind::Other => return Ok(Found::NotAFile),
    }
    if attributes.size.is_some_and(|there| there != size) {
        return Ok(Found::OtherBytes);
    }
    match digest_of(session, path, size).await {
        Ok(there) if there.as_ref() == Some(digest) => Ok(Found::SameBytes),
        Ok(_) => Ok(Found::OtherBytes),
        // It went away between the two looks.
        Err(error) if error.is_status(crate::destination::error::StatusCode::NoSuchFile) => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

/// The SHA-256 of the remote file's bytes, or `None` where it does not hold exactly `size` of them.
pub async fn digest_of(
    session: &Session,
    path: &RemotePath,
    size: u64,
) -> Result<Option<Sha256Digest>, DestinationError> {
    let file = session.open(path, OpenHow::Read).await?;
    let digest = digest_of_open(session, &file, size).await;
    // A CLOSE that fails after reading changes nothing about what was read.
    let _ = session.close(&file).await;
    digest
}

/// The same of an open file. All READs of a small one are sent at once, one beyond its end included.
pub async fn digest_of_open(
    session: &Session,
    file: &RemoteFile,
    size: u64,
) -> Result<Option<Sha256Digest>, DestinationError> {
    let step = u64::from(session.features().read_len);
    let offsets = (0..size.div_ceil(step)).map(|index| index * step);
    let mut chunks = stream::iter(offsets)
        .map(|offset| async move { read_exact(session, file, offset, (size - offset).min(step) as u32).await })
        .buffered(READS_IN_FLIGHT as usize);
    let content = async {
        let mut hash = Sha256::new();
        while let Some(chunk) = chunks.next().await {
            match chunk? {
                Some(bytes) => hash.update(&bytes),
                None => return Ok(None),
            }
        }
        Ok(Some(Sha256Digest(hash.finalize().into())))
    };
    let (content, beyond) = futures::try_join!(content, session.read(file, size, 1))?;
    Ok(content.filter(|_| beyond.is_empty()))
}

/// Exactly `len` bytes from `offset`, or `None` where the file ends before. READ may return less than was asked for
/// (draft-ietf-secsh-filexfer-02, section 6.4).
pub async fn read_exact(
    session: &Session,
    file: &RemoteFile,
    offset: u64,
    len: u32,
) -> Result<Option<Vec<u8>>, DestinationError> {
    let mut bytes = session.read(file, offset, len).await?;
    while bytes.len() < len as usize {
        let more = session.read(file, offset + bytes.len() as u64, len - bytes.len() as u32).await?;
        if more.is_empty() {
            return Ok(None);
        }
        bytes.extend_from_slice(&more);
    }
    if bytes.len() > len as usize {
        return Err(DestinationError::new(Consequence::Session, "READ", "the server sent more than was asked for"));
    }
    Ok(Some(bytes))
}
