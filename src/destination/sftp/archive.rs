//! One destination as the pipeline sees it: a pool of sessions, the directories known to stand, and the habits of the
//! server that were learned on the way.

use std::sync::atomic::{AtomicBool, Ordering};

use super::aside::Aside;
use super::direct::{self, Begun, Choice};
use super::directories::Directories;
use super::pace::Pace;
use super::pool::{Load, Pool, Slot};
use super::publish::{Publication, Published};
use super::session::Session;
use super::stage::{
    Acknowledged, AttributesKept, Before, Body, Durability, Kept, Left, Stage, Staged, remove_if_there, verify,
    what_is_left,
};
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{OnConflict, Publish, RemotePath, Sha256Digest, Verify, display};
use crate::failpoint::{self, Point, reach};

const RESUME_FROM_BYTES: u64 = 64 << 20;

/// From this size on an interrupted upload is resumed instead of begun again.
pub fn resume_from_bytes() -> u64 {
    failpoint::resume_from(RESUME_FROM_BYTES)
}

/// The rules of one destination.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub publish: Publish,
    pub verify: Verify,
    pub on_conflict: OnConflict,
    pub durability: Durability,
}

#[derive(Debug)]
pub struct Archive {
    pool: Pool,
    base: String,
    directories: Directories,
    pace: std::sync::Arc<Pace>,
    /// SETSTAT was refused once: remembered, not fought.
    attributes_refused: AtomicBool,
}

/// One file on its way to an archive.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Where the bytes are staged: a temporary name, or the final one where the server cannot rename.
    pub staging: &'a RemotePath,
    pub wanted: &'a RemotePath,
    pub size: u64,
    pub rules: Rules,
}

/// Whether a commit may replace what stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The server can, there is no need to, or it is not to.
    AsItIs,
    /// A directory was made to put it in.
    Made,
}

impl Archive {
    pub fn new(pool: Pool, base: impl Into<String>, pace: std::sync::Arc<Pace>) -> Self {
        let base = base.into();
        Self {
            pool,
            directories: Directories::new(base.clone()),
            base,
            pace,
            attributes_refused: AtomicBool::new(false),
        }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A session for one job.
    pub async fn session(&self, load: Load) -> Result<Slot, DestinationError> {
        self.pool.acquire(load).await
    }

    /// Takes over what a predecessor left under its own temporary name: a large file's is renamed to ours, so that the
    /// predecessor, should it wake up, can neither truncate nor publish it; any other is removed. Tells whether
    /// something was taken over. What is no regular file is not ours, whatever its name, and stays.
    pub async fn adopt(
        &self,
        session: &Session,
        left: &RemotePath,
        delivery: &Delivery<'_>,
    ) -> Result<bool, DestinationError> {
        if delivery.size < resume_from_bytes() || what_is_left(session, left).await? != Left::File {
            self.remove_left(session, left, delivery.wanted).await?;
            reach(Point::PredecessorRemoved);
            return Ok(false);
        }
        Aside::of(left, delivery.wanted).settle(session).await?;
        match session.rename(left, delivery.staging).await {
            Ok(()) => {
                reach(Point::PredecessorAdopted);
                Ok(true)
            }
            Err(error) if error.is_status(StatusCode::NoSuchFile) => Ok(false),
            // A second predecessor's, or a server that cannot rename.
            Err(error) if error.status.is_some() => remove_if_there(session, left).await.map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// Makes the directory where it is missing, also when somebody removed it since it was made.
    pub async fn make_directory(&self, session: &Session, delivery: &Delivery<'_>) -> Result<(), DestinationError> {
        self.directories.ensure(session, delivery.staging.parent()).await
    }

    /// Stages the body in a directory that was made.
    pub async fn stage(
        &self,
        session: &Session,
        delivery: &Delivery<'_>,
        before: Before,
        kept: Kept,
        body: Body,
        sent: &(dyn Fn(Acknowledged) + Sync),
    ) -> Result<Staged, DestinationError> {
        let stage = Stage {
            session,
            path: delivery.staging,
            before,
            kept: (!self.attributes_refused.load(Ordering::Relaxed)).then_some(kept),
            durability: delivery.rules.durability,
            verify: delivery.rules.verify,
            pace: &self.pace,
            sent,
        };
        match stage.run(body).await {
            Ok(staged) => {
                if staged.attributes == AttributesKept::Refused
                    && !self.attributes_refused.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!("the server does not let us keep modification times and modes; going on without");
                }
                Ok(staged)
            }
            Err(error) => Err(self.explained(session, error, delivery).await),
        }
    }

    /// Checks what was staged, as the rules ask.
    pub async fn verify(
        &self,
        session: &Session,
        delivery: &Delivery<'_>,
        staged: &Staged,
        digest: &Sha256Digest,
    ) -> Result<(), DestinationError> {
        verify(session, delivery.staging, staged, delivery.size, digest, delivery.rules.verify).await
    }

    /// Before the version is looked at for the last time: makes way for it where something has its name that is to be
    /// replaced, and this server cannot do that in one step.
    pub async fn make_way(&self, session: &Session, delivery: &Delivery<'_>) -> Result<Way, DestinationError> {
        if delivery.rules.on_conflict != OnConflict::Overwrite
            || session.features().posix_rename
            || !self.is_taken(session, delivery).await?
        {
            return Ok(Way::AsItIs);
        }
        Aside::of(delivery.staging, delivery.wanted).make(session).await?;
        Ok(Way::Made)
    }

    /// Gives the staged file its final name.
    pub async fn commit(
        &self,
        session: &Session,
        delivery: &Delivery<'_>,
        digest: &Sha256Digest,
        way: Way,
    ) -> Result<Published, DestinationError> {
        if delivery.rules.publish == Publish::Direct {
            return Ok(Published::At(delivery.staging.clone()));
        }
        let published = match publication(delivery, digest).commit(session).await {
            Ok(published) => published,
            Err(error) => return Err(self.explained(session, error, delivery).await),
        };
        if way == Way::Made {
            Aside::of(delivery.staging, delivery.wanted).tidy(session).await?;
        }
        Ok(published)
    }

    /// Whether the file is turned away before it is sent; see [`Publication::turned_away`].
    pub async fn turned_away(
        &self,
        session: &Session,
        delivery: &Delivery<'_>,
    ) -> Result<Option<RemotePath>, DestinationError> {
        // Nothing that is asked here depends on the bytes.
        publication(delivery, &Sha256Digest([0; 32])).turned_away(session).await
    }

    /// Whether anything has the wanted name.
    pub async fn is_taken(&self, session: &Session, delivery: &Delivery<'_>) -> Result<bool, DestinationError> {
        Ok(session.lstat(delivery.wanted).await?.is_some())
    }

    /// The name under which these bytes stand already, after a commit whose reply was lost.
    pub async fn reconcile(
        &self,
        session: &Session,
        delivery: &Delivery<'_>,
        digest: &Sha256Digest,
    ) -> Result<Option<RemotePath>, DestinationError> {
        publication(delivery, digest).reconcile(session).await
    }

    /// The name to write where this server cannot rename; see [`direct`].
    pub async fn choose(
        &self,
        session: &Session,
        delivery: &Delivery<'_>,
        digest: &Sha256Digest,
        begun: Option<&Begun>,
        may_go: &(dyn Fn(&RemotePath) -> bool + Sync),
    ) -> Result<Choice, DestinationError> {
        direct::choose(session, &publication(delivery, digest), begun, may_go).await
    }

    /// Removes a temporary name of ours, and gives back what its owner took away to commit it.
    pub async fn give_up(
        &self,
        session: &Session,
        temporary: &RemotePath,
        wanted: &RemotePath,
    ) -> Result<(), DestinationError> {
        Aside::of(temporary, wanted).settle(session).await?;
        remove_if_there(session, temporary).await
    }

    /// Removes a name of ours.
    pub async fn remove(&self, session: &Session, temporary: &RemotePath) -> Result<(), DestinationError> {
        remove_if_there(session, temporary).await
    }

    /// Removes what somebody left under a temporary name of ours, and tells what it was; somebody's directory or link in
    /// its place stays.
    pub async fn remove_left(
        &self,
        session: &Session,
        left: &RemotePath,
        wanted: &RemotePath,
    ) -> Result<Left, DestinationError> {
        Aside::of(left, wanted).settle(session).await?;
        let found = what_is_left(session, left).await?;
        match found {
            Left::Nothing => {}
            Left::File => remove_if_there(session, left).await?,
            Left::Foreign => {
                let path = display::escaped(left.as_str());
                tracing::warn!(%path, "somebody put something else in the place of a temporary file of ours; it stays");
            }
        }
        Ok(found)
    }

    /// Version 3 has one code for most failures. What it means is found out by looking, never by reading its text.
    async fn explained(&self, session: &Session, error: DestinationError, delivery: &Delivery<'_>) -> DestinationError {
        match error.status {
            Some(StatusCode::NoSuchFile) => {
                // Somebody removed the directory: the next attempt makes it again.
                self.directories.forget(delivery.staging.parent());
                error
            }
            Some(StatusCode::Failure) => {
                match session.free_space(if self.base.is_empty() { "." } else { &self.base }).await {
                    Ok(Some(free)) if free.bytes < delivery.size.max(1) => DestinationError {
                        consequence: Consequence::Outage,
                        why: format!(
                            "no space left: {} bytes are free at {}",
                            free.bytes,
                            display::escaped(&self.base)
                        ),
                        hint: Some(
                            "make room on the server; `watch` then goes on by itself, `push` when it is run again"
                                .into(),
                        ),
                        ..error
                    },
                    _ => error,
                }
            }
            _ => error,
        }
    }
}

fn publication<'a>(delivery: &Delivery<'a>, digest: &'a Sha256Digest) -> Publication<'a> {
    Publication {
        temporary: delivery.staging,
        wanted: delivery.wanted,
        size: delivery.size,
        digest,
        on_conflict: delivery.rules.on_conflict,
    }
}
