//! An attempt where the server cannot rename.

use std::sync::atomic::Ordering;

use super::attempt::{Done, Halt};
use super::read::blocking;
use super::transfer::{Inherited, Transfer};
use crate::destination::sftp::archive::{Delivery, Way};
use crate::destination::sftp::direct::{Begun, Choice, Created};
use crate::destination::sftp::publish::Published;
use crate::destination::sftp::session::Session;
use crate::destination::sftp::stage::Before;
use crate::destination::{Consequence, DestinationError};
use crate::domain::RemotePath;
use crate::failpoint::{Point, reach};
use crate::ledger::Staged;

impl Transfer<'_> {
    /// Steps 2 to 5 for a server that cannot rename: the name is judged first, and written in place.
    pub(super) async fn attempt_direct(&mut self, session: &Session, delivery: Delivery<'_>) -> Result<Done, Halt> {
        let tried = self.write_in_place(session, delivery).await;
        match &tried {
            Err(Halt::Local(_)) => self.take_back(session).await?,
            // What stays of it then is as another's file to the next attempt.
            Err(Halt::Remote(error)) if error.consequence != Consequence::Session => {
                let _ = self.take_back(session).await;
            }
            _ => {}
        }
        tried
    }

    async fn write_in_place(&mut self, session: &Session, delivery: Delivery<'_>) -> Result<Done, Halt> {
        let version = self.version.clone();
        let digest = blocking(move || version.digest()).await?;
        let (removals, destination) = (&self.engine.shared.removals, &self.claim.key.destination);
        let may_go = |name: &RemotePath| removals.may_come(destination, name);
        let archive = self.engine.archive(self.job);
        let choice = archive.choose(session, &delivery, &digest, self.begun.as_ref(), &may_go).await?;
        let (name, before) = match choice {
            Choice::Write(name) => {
                removals.end(destination, &name);
                (name, Before::Foreign)
            }
            Choice::GoOn(name) => (name, Before::Begun),
            Choice::AlreadyAt(name) => return Ok(Done::of(Published::AlreadyAt(name), digest)),
            Choice::SkippedFor(name) => return Ok(Done::TurnedAway(name)),
        };
        self.inherited = Inherited::Settled;
        reach(Point::DirectChosen);
        self.confirm().await?;
        let delivery = Delivery { staging: &name, ..delivery };
        let before_that = self.begun.take().filter(|_| before == Before::Begun);
        self.created.store(before_that.is_some_and(|begun| begun.created == Created::Yes), Ordering::Relaxed);
        let uploaded = match self.upload(session, &delivery, before).await {
            // It may have changed after its last byte was read, while that was still on its way (G6).
            Ok(digest) => {
                let version = self.version.clone();
                self.local(move || version.still_named()).await.map(|()| digest).map_err(Halt::from)
            }
            Err(halt) => Err(halt),
        };
        reach(Point::DirectWritten);
        // There is no temporary name that anybody would have to look after.
        self.staged = Staged::Nothing;
        if uploaded.is_err() {
            let created = if self.created.load(Ordering::Relaxed) { Created::Yes } else { Created::Unknown };
            self.begun = Some(Begun { name: name.clone(), created });
        }
        let digest = uploaded?;
        let published = self.engine.archive(self.job).commit(session, &delivery, &digest, Way::AsItIs).await?;
        Ok(Done::of(published, digest))
    }

    /// Removes what cannot be finished, where it is ours for certain. It is asked for once: see [`direct`].
    ///
    /// [`direct`]: crate::destination::sftp::direct
    async fn take_back(&mut self, session: &Session) -> Result<(), DestinationError> {
        let Some(begun) = self.begun.take().filter(|begun| begun.created == Created::Yes) else { return Ok(()) };
        if !begun.is_ours(session, self.version.fingerprint.size).await? {
            return Ok(());
        }
        let (removals, destination) = (&self.engine.shared.removals, &self.claim.key.destination);
        removals.begin(destination, &begun.name);
        let removed = self.engine.archive(self.job).remove(session, &begun.name).await;
        // Without an answer it may still come.
        if !matches!(&removed, Err(error) if error.consequence == Consequence::Session) {
            removals.end(destination, &begun.name);
        }
        removed?;
        reach(Point::DirectRemoved);
        Ok(())
    }
}
