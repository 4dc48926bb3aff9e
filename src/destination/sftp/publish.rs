//! The commit: the staged file gets its final name, and nothing that stands there already is lost.

use super::aside::Aside;
use super::compare::{Found, compare};
use super::features::{Links, RenameBehaviour};
use super::session::{Kind, Session};
use super::stage::remove_if_there;
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{OnConflict, RemotePath, Sha256Digest, display};
use crate::failpoint::{Point, reach};

/// What is to be published.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    pub temporary: &'a RemotePath,
    pub wanted: &'a RemotePath,
    pub size: u64,
    pub digest: &'a Sha256Digest,
    pub on_conflict: OnConflict,
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The bytes stand under this name, and the temporary name is gone.
    At(RemotePath),
    /// The same bytes stood under this name before; ours were removed.
    AlreadyAt(RemotePath),
    /// Other bytes stand under the wanted name and the policy is to skip.
    SkippedFor(RemotePath),
}

enum Placed {
    Done,
    /// Something has the name.
    Taken,
}

impl Publication<'_> {
    /// Gives the staged file its final name. An error of consequence `Session` is ambiguous: the rename may have
    /// happened, and [`Publication::reconcile`] finds out.
    pub async fn commit(&self, session: &Session) -> Result<Published, DestinationError> {
        if let Placed::Done = self.place(session, self.wanted).await? {
            return Ok(Published::At(self.wanted.clone()));
        }
        reach(Point::NameTaken);
        match (compare(session, self.wanted, self.size, self.digest).await?, self.on_conflict) {
            (Found::SameBytes, _) => {
                remove_if_there(session, self.temporary).await?;
                reach(Point::SameBytesStood);
                Ok(Published::AlreadyAt(self.wanted.clone()))
            }
            // Whatever had the name went away meanwhile: the next attempt finds it free.
            (Found::Nothing, _) => Err(self.error(Consequence::File, "the name was taken and is free again")),
            (_, OnConflict::Rename) => self.commit_beside(session).await,
            (Found::NotAFile, OnConflict::Overwrite) => Err(self
                .error(Consequence::Policy, "a directory or link has that name")
                .hint("remove it on the server, or use --on-conflict rename")),
            (Found::OtherBytes, OnConflict::Overwrite) => self.overwrite(session).await,
            (_, OnConflict::Skip | OnConflict::Fail) => {
                remove_if_there(session, self.temporary).await?;
                self.conflict().map(Published::SkippedFor)
            }
        }
    }

    /// Before a byte is sent: whether the policy turns the file away because other bytes have its name. The same size
    /// says nothing yet; then the commit decides.
    pub async fn turned_away(&self, session: &Session) -> Result<Option<RemotePath>, DestinationError> {
        if matches!(self.on_conflict, OnConflict::Rename | OnConflict::Overwrite) {
            return Ok(None);
        }
        match session.lstat(self.wanted).await? {
            Some(there) if there.kind != Kind::File || there.size != Some(self.size) => self.conflict().map(Some),
            _ => Ok(None),
        }
    }

    /// Other bytes have the name, and they stay.
    fn conflict(&self) -> Result<RemotePath, DestinationError> {
        match self.on_conflict {
            OnConflict::Skip => Ok(self.wanted.clone()),
            OnConflict::Rename | OnConflict::Overwrite | OnConflict::Fail => Err(self
                .error(Consequence::Policy, "something else has that name")
                .hint("use `--on-conflict rename` to keep both, or remove what stands there")),
        }
    }

    /// After an ambiguous commit, or one by a predecessor that died: the name under which our bytes stand already.
    pub async fn reconcile(&self, session: &Session) -> Result<Option<RemotePath>, DestinationError> {
        for name in [self.wanted.clone(), self.wanted.conflicting(self.digest)] {
            if compare(session, &name, self.size, self.digest).await? == Found::SameBytes {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn commit_beside(&self, session: &Session) -> Result<Published, DestinationError> {
        let beside = self.wanted.conflicting(self.digest);
        if let Placed::Done = self.place(session, &beside).await? {
            return Ok(Published::At(beside));
        }
        match compare(session, &beside, self.size, self.digest).await? {
            Found::SameBytes => {
                remove_if_there(session, self.temporary).await?;
                Ok(Published::AlreadyAt(beside))
            }
            _ => {
                let why = format!("other files have both that name and {}", display::escaped(beside.name()));
                Err(self.error(Consequence::Policy, why))
            }
        }
    }

    /// Renames without overwriting, by whatever this server has for it.
    async fn place(&self, session: &Session, name: &RemotePath) -> Result<Placed, DestinationError> {
        let features = session.features();
        if features.rename == RenameBehaviour::RefusesExisting {
            return self.placed(session, name, session.rename(self.temporary, name)).await;
        }
        if features.hardlink && session.links(self.temporary.parent()).await? == Links::Honest {
            // link(2) never replaces, whatever this server's rename does.
            match session.hardlink(self.temporary, name).await {
                Ok(()) => {
                    reach(Point::Linked);
                    remove_if_there(session, self.temporary).await?;
                    reach(Point::Unlinked);
                    return Ok(Placed::Done);
                }
                Err(error) if error.status.is_none() => return Err(error),
                // Taken, or no links on this filesystem: the look below tells.
                Err(_) => {}
            }
        }
        // A server of unknown habits may replace silently, so look first. Between the look and the rename another
        // client could take the name; nothing in SFTP version 3 closes that gap.
        if session.lstat(name).await?.is_some() {
            return Ok(Placed::Taken);
        }
        self.placed(session, name, self.moved(session, session.rename(self.temporary, name))).await
    }

    /// What a rename came to.
    async fn placed(
        &self,
        session: &Session,
        name: &RemotePath,
        rename: impl Future<Output = Result<(), DestinationError>>,
    ) -> Result<Placed, DestinationError> {
        match rename.await {
            Ok(()) => {
                reach(Point::Renamed);
                Ok(Placed::Done)
            }
            Err(error) => self.refused(session, name, error).await,
        }
    }

    /// A rename of the temporary name by a server of unknown habits: done only once that name is gone. The new one is
    /// no proof: whoever waits for the file may have taken it away already.
    async fn moved(
        &self,
        session: &Session,
        rename: impl Future<Output = Result<(), DestinationError>>,
    ) -> Result<(), DestinationError> {
        // In one flight; a server that answers in another order is asked again.
        let (renamed, left) = futures::join!(rename, session.lstat(self.temporary));
        renamed?;
        if left?.is_none() || session.lstat(self.temporary).await?.is_none() {
            return Ok(());
        }
        let what = format!("RENAME {}", display::escaped(self.temporary.as_str()));
        Err(DestinationError::new(Consequence::File, what, "the server says that it did, and did not")
            .hint("this server cannot rename; set `publish = \"direct\"` if readers may see partial files"))
    }

    /// A refused rename: is the name taken, or is something else the matter? Version 3 has no status for it.
    async fn refused(
        &self,
        session: &Session,
        name: &RemotePath,
        error: DestinationError,
    ) -> Result<Placed, DestinationError> {
        match error.status {
            Some(StatusCode::OpUnsupported) => {
                Err(error
                    .hint("this server cannot rename; set `publish = \"direct\"` if readers may see partial files"))
            }
            Some(_) if session.lstat(name).await?.is_some() => Ok(Placed::Taken),
            _ => Err(error),
        }
    }

    async fn overwrite(&self, session: &Session) -> Result<Published, DestinationError> {
        let posix = session.features().posix_rename;
        if session.features().rename == RenameBehaviour::RefusesExisting && posix {
            session.posix_rename(self.temporary, self.wanted).await?;
            reach(Point::PosixRenamed);
        } else if posix {
            self.moved(session, session.posix_rename(self.temporary, self.wanted)).await?;
            reach(Point::PosixRenamed);
        } else {
            Aside::of(self.temporary, self.wanted).put(session).await?;
            self.moved(session, session.rename(self.temporary, self.wanted)).await?;
            reach(Point::RenamedOver);
        }
        Ok(Published::At(self.wanted.clone()))
    }

    fn error(&self, consequence: Consequence, why: impl Into<String>) -> DestinationError {
        DestinationError::new(consequence, format!("publishing {}", display::escaped(self.wanted.as_str())), why)
    }
}
