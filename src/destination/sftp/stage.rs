//! Staging: the bytes of one file to their temporary name, many writes in flight, nothing trusted unacknowledged.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::compare::{digest_of, digest_of_open, read_exact};
use super::features::ReplyOrder;
use super::pace::Pace;
use super::session::{Kind, OpenHow, RemoteFile, Session};
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{RemotePath, Sha256Digest, Verify, display};
use crate::failpoint::{Point, reach};

/// Bytes of one file that may be on their way at the same time.
pub const WINDOW_BYTES: usize = 4 << 20;
/// WRITEs of one file in flight, whatever their size.
const WINDOW_WRITES: usize = 64;

/// The bytes to stage.
pub enum Body {
    /// A small file, read and hashed already.
    Whole(Bytes),
    /// A stream of pieces no longer than the session's `write_len`, in order, from the first byte on. A stream that
    /// ends early (its sender dropped) is not an error here: the reader's own result says what happened.
    Pieces(mpsc::Receiver<Bytes>),
}

/// What is kept of the local file beside its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Seconds since the Unix epoch; SFTP version 3 has 32 bits.
    pub mtime: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Kept {
    /// Times before 1970 become 1970, times from 2106 on stay at the last second. Set-ID and sticky bits mean something else
    /// to another machine's users; without read permission for the owner nobody could verify the file.
    pub fn of(mtime_secs: i64, mode: u32) -> Self {
        Self { mtime: u32::try_from(mtime_secs.max(0)).unwrap_or(u32::MAX), mode: mode & 0o777 | 0o400 }
    }
}

/// What is asked of the server before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// FSYNC where the server has it.
    Synced,
    Acknowledged,
}

/// What stands under the temporary name when staging begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing that we know of.
    Nothing,
    /// Bytes of an earlier attempt of ours, not to be trusted: removed.
    Leftover,
    /// As `Leftover`, but every piece that is there already is compared instead of sent again, where it is a regular
    /// file no longer than this: the size of the whole, in bytes.
    Resumable { size: u64 },
    /// The name is not ours alone: what stands there is never touched, and opening fails.
    Foreign,
    /// Nor is this one, but what stands there is a part of the same bytes that a broken session left. It is written over,
    /// and neither removed nor emptied first: what that session asked for and the server did not do yet writes the same.
    Begun,
}

/// How one file is staged.
pub struct Stage<'a> {
    pub session: &'a Session,
    pub path: &'a RemotePath,
    pub before: Before,
    /// `None` where this server refuses attributes.
    pub kept: Option<Kept>,
    pub durability: Durability,
    /// With `Readback`, a small file is read back on its way, where the server lets it be.
    pub verify: Verify,
    pub pace: &'a Pace,
    /// Told of each piece that was acknowledged.
    pub sent: &'a (dyn Fn(Acknowledged) + Sync),
}

/// What stands on the server for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The name, which was free and is not ours alone ([`Before::Foreign`]).
    Created,
    Sent(u64),
    /// They stood there already, from an earlier attempt, and were compared.
    Resumed(u64),
}

/// What the server acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// The size by FSTAT before CLOSE; `None` where the server does not tell.
    pub size: Option<u64>,
    /// Whether the server refused to keep mtime and mode.
    pub attributes: AttributesKept,
    /// What was read back through the handle that wrote it, before CLOSE.
    pub readback: Option<Sha256Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributesKept {
    Yes,
    Refused,
}

impl Stage<'_> {
    /// Sends the body. On an error, a part of it may stand under the temporary name.
    pub async fn run(self, body: Body) -> Result<Staged, DestinationError> {
        let readable = self.verify == Verify::Readback && matches!(body, Body::Whole(_));
        let how = if readable { OpenHow::CreateNewReadable } else { OpenHow::CreateNew };
        let (file, existing) = self.open(how).await?;
        if self.before == Before::Foreign {
            (self.sent)(Acknowledged::Created);
        }
        reach(if existing > 0 { Point::ResumeChosen } else { Point::StagingOpened });
        let sent = match body {
            Body::Whole(bytes) => self.whole(&file, bytes).await,
            Body::Pieces(pieces) => match self.pieces(&file, pieces, existing).await {
                Ok(()) => self.finish(&file).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = &sent
            && error.consequence != Consequence::Session
        {
            // The handle would stay open for as long as the session does; it may be closed already.
            let _ = self.session.close(&file).await;
        }
        sent
    }

    /// The open temporary file, and how many bytes of it are worth comparing.
    async fn open(&self, how: OpenHow) -> Result<(RemoteFile, u64), DestinationError> {
        if self.before == Before::Begun {
            let opened = self.session.open(self.path, OpenHow::Existing).await;
            // Of what stands there already. That says nothing about a name that is free.
            return Ok((opened.map_err(|error| DestinationError { status: None, ..error })?, 0));
        }
        // OPEN follows a link that somebody put in its place, and would write to what that leads to.
        if let Before::Resumable { size } = self.before
            && what_is_left(self.session, self.path).await? == Left::File
        {
            match self.session.open(self.path, OpenHow::Existing).await {
                Ok(file) => match self.session.fstat(&file).await {
                    Ok(there) if there.size.unwrap_or(0) <= size => return Ok((file, there.size.unwrap_or(0))),
                    Err(error) if error.consequence == Consequence::Session => return Err(error),
                    // Longer than the whole: nothing that we write would take its end away.
                    Ok(_) | Err(_) => {
                        let _ = self.session.close(&file).await;
                    }
                },
                Err(error) if error.consequence == Consequence::Session => return Err(error),
                // It may have the mode of a file that nobody may write: then it is begun anew.
                Err(_) => {}
            }
        }
        if matches!(self.before, Before::Leftover | Before::Resumable { .. }) {
            remove_if_there(self.session, self.path).await?;
        }
        match self.session.open(self.path, how).await {
            Ok(file) => Ok((file, 0)),
            // The name has our key and token in it: what stands there is ours, left by an OPEN whose reply was lost.
            Err(error)
                if self.before != Before::Foreign
                    && error.is_status(StatusCode::Failure)
                    && self.session.lstat(self.path).await?.is_some() =>
            {
                remove_if_there(self.session, self.path).await?;
                Ok((self.session.open(self.path, how).await?, 0))
            }
            Err(error) => Err(error),
        }
    }

    /// All requests of a small file are sent without waiting in between, where the server answers in order.
    async fn whole(&self, file: &RemoteFile, bytes: Bytes) -> Result<Staged, DestinationError> {
        self.pace.take(bytes.len()).await;
        let step = self.session.features().write_len as usize;
        let starts = (0..bytes.len()).step_by(step);
        let writes = async {
            let writes = starts.map(|at| self.write(file, at as u64, bytes.slice(at..bytes.len().min(at + step))));
            futures::future::try_join_all(writes).await?;
            reach(Point::AllWritten);
            Ok::<_, DestinationError>(())
        };
        let staged = match self.session.features().order {
            ReplyOrder::InOrder if self.verify == Verify::Readback => {
                let size = bytes.len() as u64;
                let read = digest_of_open(self.session, file, size);
                let (written, read, staged) = futures::join!(writes, read, self.finish(file));
                written?;
                // A server that does not read what it writes: it is opened again for that.
                let readback = match read {
                    Err(error) if error.status.is_none() => return Err(error),
                    read => read.ok().flatten(),
                };
                Staged { readback, ..staged? }
            }
            ReplyOrder::InOrder => {
                let (written, staged) = futures::join!(writes, self.finish(file));
                written?;
                staged?
            }
            ReplyOrder::Unordered => {
                writes.await?;
                self.finish(file).await?
            }
        };
        (self.sent)(Acknowledged::Sent(bytes.len() as u64));
        Ok(staged)
    }

    async fn pieces(
        &self,
        file: &RemoteFile,
        mut pieces: mpsc::Receiver<Bytes>,
        existing: u64,
    ) -> Result<(), DestinationError> {
        let window = (WINDOW_BYTES / self.session.features().write_len as usize).clamp(8, WINDOW_WRITES);
        let mut in_flight = FuturesUnordered::new();
        let mut offset = 0;
        let mut ended = false;
        while !(ended && in_flight.is_empty()) {
            tokio::select! {
                piece = pieces.recv(), if !ended && in_flight.len() < window => match piece {
                    Some(piece) => {
                        let at = offset;
                        offset += piece.len() as u64;
                        in_flight.push(self.piece(file, at, piece, existing));
                    }
                    None => ended = true,
                },
                Some(done) = in_flight.next(), if !in_flight.is_empty() => (self.sent)(done?),
            }
        }
        reach(Point::AllWritten);
        Ok(())
    }

    async fn piece(
        &self,
        file: &RemoteFile,
        offset: u64,
        piece: Bytes,
        existing: u64,
    ) -> Result<Acknowledged, DestinationError> {
        let len = piece.len() as u64;
        if offset + len <= existing {
            match read_exact(self.session, file, offset, len as u32).await {
                Ok(there) if there.as_deref() == Some(&*piece) => return Ok(Acknowledged::Resumed(len)),
                // A server that does not read what it has open for writing: what stands there is not trusted.
                Err(error) if error.status.is_none() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        self.pace.take(piece.len()).await;
        self.write(file, offset, piece).await?;
        Ok(Acknowledged::Sent(len))
    }

    async fn write(&self, file: &RemoteFile, offset: u64, piece: Bytes) -> Result<(), DestinationError> {
        self.session.write(file, offset, piece).await?;
        reach(Point::SomeWritten);
        Ok(())
    }

    async fn finish(&self, file: &RemoteFile) -> Result<Staged, DestinationError> {
        let attributes = async {
            let Some(kept) = self.kept else { return Ok(AttributesKept::Yes) };
            match self.session.fsetstat(file, kept.mtime, kept.mode).await {
                Ok(()) => {
                    reach(Point::AttributesKept);
                    Ok(AttributesKept::Yes)
                }
                Err(error) if error.status.is_some() => Ok(AttributesKept::Refused),
                Err(error) => Err(error),
            }
        };
        let sync = async {
            match self.durability {
                Durability::Synced if self.session.features().fsync => {
                    self.session.fsync(file).await.map_err(unsynced)?;
                    reach(Point::Synced);
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        let (attributes, synced, stat, closed) = match self.session.features().order {
            ReplyOrder::InOrder => futures::join!(attributes, sync, self.session.fstat(file), self.session.close(file)),
            ReplyOrder::Unordered => {
                let (attributes, synced, stat) = futures::join!(attributes, sync, self.session.fstat(file));
                (attributes, synced, stat, self.session.close(file).await)
            }
        };
        closed?;
        reach(Point::Closed);
        synced?;
        Ok(Staged { size: stat?.size, attributes: attributes?, readback: None })
    }
}

/// A server that announces `fsync@openssh.com` and refuses it may never do otherwise: its filesystem cannot, say.
fn unsynced(error: DestinationError) -> DestinationError {
    match error.consequence {
        Consequence::File => error.hint(
            "where this server always refuses it, set `fsync = \"never\"` (`--fsync never`): a power cut of the server may \
             then cost a file that counts as archived",
        ),
        _ => error,
    }
}

/// Checks what was staged, as far as `verify` asks.
pub async fn verify(
    session: &Session,
    path: &RemotePath,
    staged: &Staged,
    size: u64,
    digest: &Sha256Digest,
    verify: Verify,
) -> Result<(), DestinationError> {
    let mismatch = |why: String| {
        Err(DestinationError::new(Consequence::File, format!("verifying {}", display::escaped(path.as_str())), why))
    };
    match verify {
        Verify::None => Ok(()),
        Verify::Size | Verify::Readback if staged.size.is_some_and(|there| there != size) => {
            mismatch(format!("the server holds {} bytes of {size}", staged.size.unwrap_or(0)))
        }
        Verify::Size => Ok(()),
        Verify::Readback if staged.readback == Some(*digest) => Ok(()),
        // Not read yet, or not the same: what counts is what stands under the name.
        Verify::Readback => match digest_of(session, path, size).await? {
            Some(there) if there == *digest => Ok(()),
            _ => mismatch("what the server gives back is not what was sent".into()),
        },
    }
}

/// What stands under a temporary name that an earlier attempt may have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// As we leave it; ours by its name.
    File,
    /// A directory or a link: nothing that we make. It is left alone (G5).
    Foreign,
}

pub async fn what_is_left(session: &Session, path: &RemotePath) -> Result<Left, DestinationError> {
    Ok(match session.lstat(path).await?.map(|found| found.kind) {
        None => Left::Nothing,
        Some(Kind::File | Kind::Unknown) => Left::File,
        Some(Kind::Directory | Kind::Symlink | Kind::Other) => Left::Foreign,
    })
}

/// Removes a temporary name of ours. That it is gone already is fine.
pub async fn remove_if_there(session: &Session, path: &RemotePath) -> Result<(), DestinationError> {
    match session.remove(path).await {
        Err(error) if error.is_status(StatusCode::NoSuchFile) => Ok(()),
        other => other,
    }
}
