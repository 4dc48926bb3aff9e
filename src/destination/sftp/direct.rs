//! `publish = "direct"`: the final name is written in place, for servers that cannot rename. Readers can see a partial
//! file, and what stands under the name has to be judged before a byte is sent.

use super::compare::{Found, compare};
use super::publish::Publication;
use super::session::Session;
use super::stage::remove_if_there;
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

/// Chooses the name. `begun` is a name that was free when this very process began to write there, and whose session
/// broke: what stands there is a part of ours, and goes. A part that a killed process left cannot be told from another's
/// file, so it counts as other bytes and is never removed.
pub async fn choose(
    session: &Session,
    publication: &Publication<'_>,
    begun: Option<&RemotePath>,
) -> Result<Choice, DestinationError> {
    for name in [publication.wanted.clone(), publication.wanted.conflicting(publication.digest)] {
        match compare(session, &name, publication.size, publication.digest).await? {
            Found::Nothing => return Ok(Choice::Write(name)),
            Found::SameBytes => return Ok(Choice::AlreadyAt(name)),
            Found::OtherBytes if begun == Some(&name) => {
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
        "something else has that name",
    )
    .hint("use `--on-conflict rename` to keep both, or remove what stands there"))
}
