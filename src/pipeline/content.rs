//! Bytes that are archived once, under whatever name they come.
//!
//! A file's bytes are hashed before it waits for a session, and asked for in the ledger: they are this file's, stand
//! under another name, or are in the hands of another file's owner, who is waited for. Where that owner is gone, its file
//! is claimed for a moment, and settled: the claim keeps its owner from asking for another commit, the removal of its
//! temporary names makes those fail that it asked for, and only then its final name says whether it committed. So the
//! bytes are nobody else's when they are ours, and an owner that wakes up late publishes nothing.

use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use super::attempt::{Done, Halt, memory_kib};
use super::engine::{Engine, Job, Patience};
use super::read::{ReadError, SMALL_BYTES, blocking};
use super::transfer::Transfer;
use crate::destination::DestinationError;
use crate::destination::sftp::archive::Delivery;
use crate::destination::sftp::session::Session;
use crate::domain::{Dedupe, RemotePath, Repeat, Sha256Digest};
use crate::failpoint::{Point, reach};
use crate::ledger::{Claim, ClaimReply, Intention, LedgerError, Left, Record, Release, Reservation, Staged};

/// How long a single run waits for another archiver that is busy with the same bytes.
const BUSY_FOR: Duration = Duration::from_secs(20);
/// How soon it is looked again; each time twice as late, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// The same for a file of this process, whose end is told.
const TOLD: Duration = Duration::from_secs(5);

/// Whose the bytes of a file are.
#[derive(Debug)]
pub enum Content {
    /// It does not count: they are archived in any case.
    Any,
    /// Not known yet.
    Sought(Option<Sha256Digest>),
    /// This file archives them. Others of this process are told when it came to its end.
    Ours(Sha256Digest, #[expect(dead_code, reason = "held until it is dropped")] Option<OwnedMutexGuard<()>>),
    /// They are archived, under this name.
    At(RemotePath, Sha256Digest),
}

impl Content {
    pub fn of(engine: &Engine, job: &Job) -> Self {
        let settings = &engine.settings;
        let is_empty = job.version.fingerprint.size == 0;
        match (settings.ledger.dedupe, settings.repeat) {
            (Dedupe::Content, Repeat::Skip) if !is_empty => Self::Sought(None),
            _ => Self::Any,
        }
    }

    /// What was reserved, and has to be what is uploaded.
    pub fn digest(&self) -> Option<Sha256Digest> {
        match self {
            Self::Ours(digest, _) => Some(*digest),
            Self::Any | Self::Sought(_) | Self::At(..) => None,
        }
    }
}

/// Another file with the same bytes, while it is settled.
#[derive(Debug, Clone)]
pub struct Other {
    claim: Claim,
    failed: Option<String>,
}

impl Engine {
    /// What an owner that died had published of a file that nobody else will ever archive. Its temporary names are gone.
    pub async fn published_before(
        &self,
        session: &Session,
        destination: usize,
        claim: &Claim,
    ) -> Result<Option<Record>, DestinationError> {
        // Without an answer of the ledger nothing of it ends here.
        let Ok(Some(sha256)) = self.hold(|| self.ledger.reserved(claim)).await else { return Ok(None) };
        let Some(source) = self.sources_of(destination).next() else { return Ok(None) };
        let (staging, rules) = (claim.remote.staging(claim.key.id(), claim.token), source.rules);
        let delivery = Delivery { staging: &staging, wanted: &claim.remote, size: claim.key.fingerprint.size, rules };
        let found = self.archives[destination].reconcile(session, &delivery, &sha256).await?;
        Ok(found.map(|remote| Record { remote, sha256, recorded_at: self.now().max(self.started_at) }))
    }
}

impl Transfer<'_> {
    /// Finds out whose the bytes are, as far as that can be done without a session. What it gives is what the file comes
    /// to, unless something of it is on the server.
    pub(super) async fn seek(&mut self) -> Result<Option<Done>, Halt> {
        let digest = match &self.content {
            Content::Any | Content::Ours(..) => return Ok(None),
            Content::At(..) => return Ok(self.duplicate()),
            Content::Sought(Some(digest)) => *digest,
            Content::Sought(None) => self.hash().await?,
        };
        self.content = Content::Sought(Some(digest));
        let (began, mut pause) = (Instant::now(), FIRST_LOOK);
        loop {
            let me = self.engine.ledger.owner();
            match self.reserve(digest).await? {
                Reservation::Ours | Reservation::Stands(_) => return Ok(self.duplicate()),
                // Settled by `have_content`, which has a session.
                Reservation::Left(_) => return Ok(None),
                Reservation::InHand(owner) if owner == me => self.wait_for_ours(digest, pause).await,
                Reservation::InHand(_) if self.engine.patience == Patience::Once && began.elapsed() >= BUSY_FOR => {
                    return Err(Halt::Busy);
                }
                Reservation::InHand(_) => self.place.rest(pause).await,
            }
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// The same for an attempt that has come to where it would begin to upload.
    pub(super) async fn have_content(&mut self, session: &Session) -> Result<Option<Done>, Halt> {
        if let Content::Sought(Some(digest)) = self.content {
            if let Reservation::Left(left) = self.reserve(digest).await? {
                self.settle_other(session, *left, digest).await?;
                self.reserve(digest).await?;
            }
            if matches!(self.content, Content::Sought(_)) {
                return Err(Halt::Overtaken);
            }
        }
        Ok(self.duplicate())
    }

    fn duplicate(&self) -> Option<Done> {
        match &self.content {
            Content::At(remote, digest) => Some(Done::Duplicate(remote.clone(), *digest)),
            Content::Any | Content::Sought(_) | Content::Ours(..) => None,
        }
    }

    async fn hash(&self) -> Result<Sha256Digest, ReadError> {
        let size = self.version.fingerprint.size;
        let _memory = self.engine.memory.acquire_many(memory_kib(size.min(SMALL_BYTES))).await;
        let version = self.version.clone();
        let hash = move || version.digest();
        if size <= SMALL_BYTES { self.local(hash).await } else { blocking(hash).await }
    }

    async fn reserve(&mut self, digest: Sha256Digest) -> Result<Reservation, LedgerError> {
        let reservation = self.engine.hold(|| self.engine.ledger.reserve(&self.claim, digest)).await?;
        match &reservation {
            Reservation::Ours => {
                let at = (self.claim.key.destination.clone(), digest);
                self.content = Content::Ours(digest, self.engine.shared.contents.try_take(at));
                reach(Point::Reserved);
            }
            Reservation::Stands(remote) => {
                self.content = Content::At(remote.clone(), digest);
                reach(Point::DuplicateFound);
            }
            Reservation::InHand(_) | Reservation::Left(_) => {}
        }
        Ok(reservation)
    }

    /// Waits for the file of this process that has the bytes. One that is still waiting for its worker tells nothing.
    async fn wait_for_ours(&mut self, digest: Sha256Digest, pause: Duration) {
        let at = (self.claim.key.destination.clone(), digest);
        if self.engine.shared.contents.try_take(at.clone()).is_some() {
            return self.place.rest(pause).await;
        }
        let ended = self.engine.shared.contents.take(at);
        self.place.rest_until(async { drop(tokio::time::timeout(TOLD, ended).await) }).await;
    }

    /// Settles another file with the same bytes that nobody has in hand: whether they stand under its final name.
    async fn settle_other(&mut self, session: &Session, left: Left, digest: Sha256Digest) -> Result<(), Halt> {
        let Left { request, failed } = left;
        reach(Point::OtherFound);
        self.engine.shared.settled.note(&request.key);
        let reply = self.engine.hold(|| self.engine.ledger.claim(vec![request.clone()])).await?.pop();
        let Some(ClaimReply::Claimed(claim)) = reply else { return Ok(()) };
        // One that has no attempts to its name was put back into the queue since.
        let failed = failed.filter(|_| claim.attempts > 0);
        self.other = Some(Other { claim: claim.clone(), failed });
        reach(Point::OtherClaimed);
        match self.published_by(session, &claim, &digest).await {
            Ok(Some(remote)) => {
                let recorded_at = self.engine.now().max(self.engine.started_at);
                let record = Record { remote, sha256: digest, recorded_at };
                // Its local file is left to whoever looks after disposals: this source's rule need not be its own.
                let recorded =
                    self.engine.hold(|| self.engine.ledger.record(&claim, record.clone(), Intention::Dispose));
                still_ours(recorded.await)?;
                self.other = None;
                reach(Point::OtherRecorded);
                self.engine.hold(|| self.engine.ledger.postponed(&claim.key)).await?;
            }
            Ok(None) => {
                self.release_other(Staged::Gone).await?;
                reach(Point::OtherReleased);
            }
            Err(error) => {
                self.leave_other().await?;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// The final name under which a predecessor's bytes stand, once nothing can publish them any more.
    async fn published_by(
        &self,
        session: &Session,
        claim: &Claim,
        digest: &Sha256Digest,
    ) -> Result<Option<RemotePath>, DestinationError> {
        let archive = self.engine.archive(self.job);
        for token in &claim.predecessors {
            archive.remove_left(session, &claim.remote.staging(claim.key.id(), *token), &claim.remote).await?;
        }
        reach(Point::OtherDisarmed);
        let (staging, rules) = (claim.remote.staging(claim.key.id(), claim.token), self.engine.source(self.job).rules);
        let size = self.version.fingerprint.size;
        archive.reconcile(session, &Delivery { staging: &staging, wanted: &claim.remote, size, rules }, digest).await
    }

    /// Gives another file back that could not be settled.
    pub(super) async fn leave_other(&mut self) -> Result<(), LedgerError> {
        self.release_other(Staged::Theirs).await
    }

    /// As it was found, but for what is known of its names now.
    async fn release_other(&mut self, staged: Staged) -> Result<(), LedgerError> {
        // It is forgotten once that is done, for a stop may come in between, and asks for it again.
        let Some(Other { claim, failed }) = self.other.clone() else { return Ok(()) };
        let attempts = claim.attempts;
        let release = match failed {
            Some(reason) => Release::Failed { reason, attempts, staged, intention: Intention::LeaveAlone },
            None => Release::Unfinished { attempts, staged },
        };
        still_ours(self.engine.hold(|| self.engine.ledger.release(&claim, release.clone())).await)?;
        self.other = None;
        Ok(())
    }
}

/// Where somebody else has the file meanwhile, it is theirs to settle.
pub fn still_ours(ended: Result<(), LedgerError>) -> Result<(), LedgerError> {
    match ended {
        Err(LedgerError::LeaseLost) => Ok(()),
        other => other,
    }
}
