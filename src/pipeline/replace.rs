//! Commits that may replace what has the name: the version that is the last one is the one that stays.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::attempt::Halt;
use super::transfer::Transfer;
use crate::destination::sftp::archive::{Delivery, Way};
use crate::destination::sftp::session::Session;
use crate::domain::{OnConflict, Publish, RemotePath};

/// Other versions of the file that could still have been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rivals {
    None,
    /// Not any more; what one of them had put aside may have its name back.
    Disarmed,
}

impl Transfer<'_> {
    /// Where the commit may replace what has the name: no other file does so meanwhile.
    pub(super) async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        if self.engine.source(self.job).rules.on_conflict != OnConflict::Overwrite {
            return None;
        }
        Some(self.engine.shared.commits.take(self.named()).await)
    }

    /// Where the name is written in place: no other file does so meanwhile. That may take long, so it is waited for without a
    /// session, and without a place, which others could use.
    pub(super) async fn turn_to_write(&mut self) -> Option<OwnedMutexGuard<()>> {
        if self.engine.source(self.job).rules.publish != Publish::Direct {
            return None;
        }
        let (commits, named) = (&self.engine.shared.commits, self.named());
        let mut turn = commits.try_take(named.clone());
        if turn.is_none() {
            self.place.rest_ahead(async { turn = Some(commits.take(named).await) }).await;
        }
        turn
    }

    fn named(&self) -> (Arc<str>, RemotePath) {
        (self.claim.key.destination.clone(), self.claim.remote.clone())
    }

    /// Step 4: the version still stands, the file is still ours, and no older version comes last.
    pub(super) async fn make_way(&self, session: &Session, delivery: &Delivery<'_>) -> Result<Way, Halt> {
        let rules = self.engine.source(self.job).rules;
        if rules.on_conflict == OnConflict::Overwrite && !session.features().posix_rename {
            self.ensure_ours().await?;
        }
        let way = self.engine.archive(self.job).make_way(session, delivery).await?;
        self.confirm().await?;
        if self.disarm(session).await? == Rivals::None || way == Way::Made {
            return Ok(way);
        }
        let way = self.engine.archive(self.job).make_way(session, delivery).await?;
        if way == Way::Made {
            // What is put aside is so by the last version alone.
            self.confirm().await?;
            self.disarm(session).await?;
        }
        Ok(way)
    }

    /// Step 4, where the commit may replace what has the name: takes away what a rename could still bring an older version
    /// there with, be it on its way from an owner that died, from a session that broke, or about to be asked for. None of
    /// those may commit any more, for this version has their file's name.
    async fn disarm(&self, session: &Session) -> Result<Rivals, Halt> {
        if self.engine.source(self.job).rules.on_conflict != OnConflict::Overwrite {
            return Ok(Rivals::None);
        }
        let path = self.job.version.candidate.absolute();
        let rivals = self.engine.hold(|| self.engine.ledger.rivals(&self.claim, &path)).await?;
        for name in &rivals {
            self.engine.archive(self.job).remove_left(session, name, &self.claim.remote).await?;
        }
        Ok(if rivals.is_empty() { Rivals::None } else { Rivals::Disarmed })
    }
}
