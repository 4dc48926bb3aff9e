//! `publish = "direct"`: the final name is written in place, for servers that cannot rename. Readers can see a partial
//! file, and what stands under the name has to be judged before a byte is sent.

use super::compare::{Found, compare, read_exact};
use super::publish::Publication;
use super::session::{OpenHow, Session};
use super::stage::remove_if_there;
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{OnConflict, RemotePath, display};

/// Which name to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Free: nothing stands there.
    Write(RemotePath),
    /// The same bytes stand there already.
    AlreadyAt(RemotePath),
    /// Other bytes stand there and the policy is to skip.
    SkippedFor(RemotePath),
}

/// Whether an earlier attempt of ours may have left a part of this very file under its final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPart {
    Possible,
    Impossible,
}

/// Chooses the name. `head` is the beginning of the local file: a leftover counts as ours only where the ledger says
/// that there may be one, it is no longer than the file, and it begins with the same bytes.
pub async fn choose(
    session: &Session,
    publication: &Publication<'_>,
    own_part: OwnPart,
    head: &[u8],
) -> Result<Choice, DestinationError> {
    for name in [publication.wanted.clone(), publication.wanted.conflicting(publication.digest)] {
        match compare(session, &name, publication.size, publication.digest).await? {
            Found::Nothing => return Ok(Choice::Write(name)),
            Found::SameBytes => return Ok(Choice::AlreadyAt(name)),
            Found::OtherBytes
                if own_part == OwnPart::Possible && is_own_part(session, &name, publication.size, head).await? =>
            {
                remove_if_there(session, &name).await?;
                return Ok(Choice::Write(name));
            }
            Found::OtherBytes | Found::NotAFile => match publication.on_conflict {
                OnConflict::Rename => {}
                OnConflict::Skip => return Ok(Choice::SkippedFor(name)),
                OnConflict::Overwrite => {
                    remove_if_there(session, &name).await?;
                    return Ok(Choice::Write(name));
                }
                OnConflict::Fail => break,
            },
        }
    }
    Err(DestinationError::new(
        Consequence::Policy,
        format!("publishing {}", display::escaped(publication.wanted.as_str())),
        "another file has that name",
    )
    .hint("use --on-conflict rename to keep both, or overwrite to replace it"))
}

async fn is_own_part(session: &Session, name: &RemotePath, size: u64, head: &[u8]) -> Result<bool, DestinationError> {
    let Some(there) = session.lstat(name).await?.and_then(|attributes| attributes.size) else { return Ok(false) };
    if there > size {
        return Ok(false);
    }
    let file = match session.open(name, OpenHow::Read).await {
        Ok(file) => file,
        Err(error) if error.is_status(StatusCode::PermissionDenied) => return Ok(false),
        Err(error) => return Err(error),
    };
    let len = there.min(head.len() as u64) as u32;
    let begins = read_exact(session, &file, 0, len).await;
    // A CLOSE that fails after reading changes nothing about what was read.
    let _ = session.close(&file).await;
    Ok(begins?.is_some_and(|bytes| head.starts_with(&bytes)))
}
