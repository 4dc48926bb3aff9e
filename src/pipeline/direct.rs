//! An attempt where the server cannot rename.

use super::attempt::{Done, Halt};
use super::read::blocking;
use super::transfer::{Inherited, Transfer};
use crate::destination::Consequence;
use crate::destination::sftp::archive::{Delivery, Way};
use crate::destination::sftp::direct::Choice;
use crate::destination::sftp::publish::Published;
use crate::destination::sftp::session::Session;
use crate::destination::sftp::stage::Before;
use crate::failpoint::{Point, reach};
use crate::ledger::Staged;

impl Transfer<'_> {
    /// Steps 2 to 5 for a server that cannot rename: the name is judged first, and written in place.
    pub(super) async fn attempt_direct(&mut self, session: &Session, delivery: Delivery<'_>) -> Result<Done, Halt> {
        let _turn = self.turn().await;
        let version = self.version.clone();
        let digest = blocking(move || version.digest()).await?;
        let name = match self.engine.archive(self.job).choose(session, &delivery, &digest, self.begun.as_ref()).await? {
            Choice::Write(name) => name,
            Choice::AlreadyAt(name) => return Ok(Done::of(Published::AlreadyAt(name), digest)),
            Choice::SkippedFor(name) => return Ok(Done::TurnedAway(name)),
        };
        self.inherited = Inherited::Settled;
        reach(Point::DirectChosen);
        self.confirm().await?;
        let delivery = Delivery { staging: &name, ..delivery };
        let uploaded = match self.upload(session, &delivery, Before::Foreign).await {
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
        let digest = match uploaded {
            Ok(digest) => digest,
            Err(Halt::Local(error)) => {
                // All that was read had arrived, under a name that was free and that we created.
                self.engine.archive(self.job).remove(session, &name).await?;
                reach(Point::DirectRemoved);
                return Err(Halt::Local(error));
            }
            Err(halt) => {
                if matches!(&halt, Halt::Remote(error) if error.consequence == Consequence::Session) {
                    self.begun = Some(name);
                }
                return Err(halt);
            }
        };
        let published = self.engine.archive(self.job).commit(session, &delivery, &digest, Way::AsItIs).await?;
        Ok(Done::of(published, digest))
    }
}
