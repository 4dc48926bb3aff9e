//! Making way for a commit that replaces, on a server that cannot rename over what stands: the other file goes into a
//! directory of ours beside it. A request that takes away what has the final name could be carried out late and meet
//! somebody's newer version; into a directory that is gone, nothing can be renamed. So whoever removes that directory knows
//! that this request is over, or never will be; and what it took away is there, whole.

use super::session::{Kind, Session};
use super::stage::remove_if_there;
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{RemotePath, display};
use crate::failpoint::{Point, reach};

/// Where the owner of one temporary name puts what stands under the final one.
#[derive(Debug, Clone)]
pub struct Aside<'a> {
    temporary: &'a RemotePath,
    wanted: &'a RemotePath,
    directory: RemotePath,
    file: RemotePath,
}

impl<'a> Aside<'a> {
    pub fn of(temporary: &'a RemotePath, wanted: &'a RemotePath) -> Self {
        let (directory, file) = temporary.aside();
        Self { temporary, wanted, directory, file }
    }

    /// Makes the directory. It must be there before its owner asks whether its version still stands: who has a newer one
    /// and removes it afterwards knows that no older one takes its name.
    pub async fn make(&self, session: &Session) -> Result<(), DestinationError> {
        match session.mkdir(self.directory.as_str()).await {
            Err(error) if error.status.is_some() => match session.lstat(&self.directory).await? {
                Some(there) if there.kind == Kind::Directory => {}
                _ => {
                    return Err(error.hint(
                        "without posix-rename, a file is replaced by way of a directory beside it; where none may be made, \
                         use --on-conflict rename",
                    ));
                }
            },
            other => other?,
        }
        reach(Point::WayMade);
        Ok(())
    }

    /// Takes away what has the final name.
    pub async fn put(&self, session: &Session) -> Result<(), DestinationError> {
        session.rename(self.wanted, &self.file).await?;
        reach(Point::OtherPutAside);
        Ok(())
    }

    /// Removes what was put aside, once another one has its name.
    async fn discard(&self, session: &Session) -> Result<(), DestinationError> {
        remove_if_there(session, &self.file).await?;
        reach(Point::OtherDiscarded);
        Ok(())
    }

    /// Ends it: what the owner of the temporary name asked for can take no file away any more, also where it is carried out
    /// late. What was put aside gets its name back where nothing took that; for as long as the temporary name stands, its
    /// owner did not commit. So this comes before anything that removes the temporary name. It is asked of servers that need
    /// no such directory, too: this one may not have been like that when its owner died.
    pub async fn settle(&self, session: &Session) -> Result<(), DestinationError> {
        let refused = match session.rmdir(self.directory.as_str()).await {
            Err(error) if error.is_status(StatusCode::NoSuchFile) => return Ok(()),
            Err(error) if error.status.is_some() => error,
            other => return other,
        };
        match session.lstat(&self.directory).await?.map(|there| there.kind) {
            None => return Ok(()),
            Some(Kind::Directory) => {}
            Some(_) => {
                let path = display::escaped(self.directory.as_str());
                tracing::warn!(%path, "somebody put something else in the place of a directory of ours; it stays");
                return Ok(());
            }
        }
        if session.lstat(&self.file).await?.is_none() {
            return Err(refused);
        }
        if session.lstat(self.temporary).await?.is_some() && session.lstat(self.wanted).await?.is_none() {
            match session.rename(&self.file, self.wanted).await {
                // An earlier request for the same, carried out late.
                Err(error) if error.is_status(StatusCode::NoSuchFile) => {}
                other => other?,
            }
            reach(Point::OtherPutBack);
        } else {
            self.discard(session).await?;
        }
        match session.rmdir(self.directory.as_str()).await {
            Err(error) if error.is_status(StatusCode::NoSuchFile) => Ok(()),
            other => other,
        }
    }

    /// As [`Aside::settle`], once the commit is done: what stays behind then is no reason to do that again.
    pub async fn tidy(&self, session: &Session) -> Result<(), DestinationError> {
        let tidied = async {
            self.discard(session).await?;
            self.settle(session).await
        };
        match tidied.await {
            Err(error) if error.consequence != Consequence::Session => {
                tracing::warn!(%error, "a directory that made way for a file stays on the server");
                Ok(())
            }
            other => other,
        }
    }
}
