//! `publish = "direct"`: the final name is written in place, for servers that cannot rename. Readers can see a partial
//! file, and what stands under the name has to be judged before a byte is sent.
//!
//! A server may carry out a REMOVE late, when a newer version has the name. So no name is freed to be written: what is
//! others' stays, and a part of ours is written over. What we began and cannot finish is removed, once: while it stands,
//! whoever comes next takes another name, also where the same bytes stand there, and once it is gone there is no request
//! left that could take away anything else.

use super::compare::{Found, compare};
use super::publish::Publication;
use super::session::{Kind, Session};
use crate::destination::{Consequence, DestinationError};
use crate::domain::{OnConflict, RemotePath, display};

/// Which name to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Free: nothing stands there.
    Write(RemotePath),
    /// A part of ours stands there.
    GoOn(RemotePath),
    /// The same bytes stand there already.
    AlreadyAt(RemotePath),
    /// Other bytes stand there and the policy is to skip.
    SkippedFor(RemotePath),
}

/// A name that was free when this very process began to write there, and whose session broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub name: RemotePath,
    pub created: Created,
}

/// Whether the server said that it made the file, which it does only where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    Yes,
    /// Its reply was lost. Nothing can have been written then, so what is ours is empty.
    Unknown,
}

impl Begun {
    /// Whether what stands under the name is a part of ours, which are so many bytes as a whole: nobody made a part longer.
    pub async fn is_ours(&self, session: &Session, whole: u64) -> Result<bool, DestinationError> {
        let Some(there) = session.lstat(&self.name).await? else { return Ok(false) };
        Ok(matches!(there.kind, Kind::File | Kind::Unknown)
            && match self.created {
                Created::Yes => there.size.is_none_or(|size| size <= whole),
                Created::Unknown => there.size == Some(0),
            })
    }
}

/// Chooses the name. A part that a killed process left cannot be told from another's file, so it counts as other bytes
/// and is never touched. What `may_go` does not count as archived, whatever bytes it has.
pub async fn choose(
    session: &Session,
    publication: &Publication<'_>,
    begun: Option<&Begun>,
    may_go: &(dyn Fn(&RemotePath) -> bool + Sync),
) -> Result<Choice, DestinationError> {
    for name in [publication.wanted.clone(), publication.wanted.conflicting(publication.digest)] {
        let found = match compare(session, &name, publication.size, publication.digest).await? {
            Found::SameBytes if may_go(&name) => Found::OtherBytes,
            found => found,
        };
        if found == Found::OtherBytes
            && let Some(begun) = begun.filter(|begun| begun.name == name)
            && begun.is_ours(session, publication.size).await?
        {
            return Ok(Choice::GoOn(name));
        }
        match found {
            Found::Nothing => return Ok(Choice::Write(name)),
            Found::SameBytes => return Ok(Choice::AlreadyAt(name)),
            Found::OtherBytes | Found::NotAFile => match publication.on_conflict {
                OnConflict::Rename => {}
                OnConflict::Skip => return Ok(Choice::SkippedFor(name)),
                // The configuration does not have the one beside direct publishing.
                OnConflict::Overwrite | OnConflict::Fail => break,
            },
        }
    }
    Err(DestinationError::new(
        Consequence::Policy,
        format!("publishing {}", display::escaped(publication.wanted.as_str())),
        "something else has that name",
    )
    .hint("use `--on-conflict rename` to keep both, or remove what stands there"))
}
