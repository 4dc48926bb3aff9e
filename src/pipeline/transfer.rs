//! The way of one file from its claim to its disposal. This module reads top to bottom as the safety argument:
//!
//! 1. The claim pinned the final path, date included, durably, before anything reaches the server (G4).
//! 2. What a predecessor left is taken over or removed first, and what it may have committed is looked for, so that
//!    a crash between any two steps ends in one final name (G3).
//! 3. The bytes go to a temporary name that nobody else derives (G1), read from the claimed version only (G6).
//! 4. Size or content is verified, the local version is looked at once more, the lease is confirmed: only then
//!    the rename, which replaces nothing (G5, G6).
//! 5. A lost reply to the rename is ambiguous: the next attempt looks at both names before it sends a byte.
//!    Where the same bytes are to be archived once only (`content`), they are this file's from before step 3 on.
//! 6. The record is durable before the local file is touched (G2), and disposal removes that version only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tracing::{debug, warn};

use super::attempt::{Blame, Done, End, Halt, Standing, Then, Trouble, describe, memory_kib};
use super::content::{Content, Other};
use super::engine::{Engine, Job, Patience};
use super::place::Place;
use super::read::{ReadError, SMALL_BYTES, Version, Whole, blocking};
use crate::destination::error::StatusCode;
use crate::destination::sftp::archive::{Delivery, resume_from_bytes};
use crate::destination::sftp::direct::Begun;
use crate::destination::sftp::pool::{Load, Slot};
use crate::destination::sftp::session::Session;
use crate::destination::sftp::stage::{Acknowledged, Before, Body, Kept};
use crate::destination::{Consequence, DestinationError};
use crate::domain::{Deferral, Publish, RemotePath, Sha256Digest, Status, display};
use crate::failpoint::{Point, reach};
use crate::ledger::{Claim, LedgerError, Record, Release, Staged};
use crate::report::RetryClass;

/// How the attempts at a file ended.
#[derive(Debug)]
enum Outcome {
    Done(Done),
    Ended(End),
}

/// One file's transfer.
pub struct Transfer<'a> {
    pub(super) engine: &'a Engine,
    pub(super) job: &'a Job,
    /// The job's, but under a later token once a session broke.
    pub(super) claim: Claim,
    pub(super) place: &'a mut Place,
    pub(super) version: Version,
    staging: RemotePath,
    attempts: u32,
    /// Whether our temporary name may stand on the server.
    pub(super) staged: Staged,
    /// Whether a session broke meanwhile: the server may still carry out what it was asked for under that name.
    late: bool,
    /// Whether a later token was asked for and nobody knows whether it was given.
    reissuing: bool,
    /// The final name that was being written directly when the session broke.
    pub(super) begun: Option<Begun>,
    /// Whether the server said that it made the file that is being written directly.
    pub(super) created: AtomicBool,
    /// Whether predecessors' names were dealt with.
    pub(super) inherited: Inherited,
    /// A rename may have happened whose reply was lost; the digest of what was staged.
    ambiguous: Option<Sha256Digest>,
    /// Whose the bytes are, where that counts.
    pub(super) content: Content,
    pub(super) other: Option<Other>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inherited {
    /// Not looked at yet.
    Unknown,
    Settled,
}

impl<'a> Transfer<'a> {
    pub fn new(engine: &'a Engine, job: &'a Job, place: &'a mut Place) -> Self {
        Self {
            engine,
            job,
            claim: job.claim.clone(),
            place,
            version: job.version.clone(),
            staging: job.claim.remote.staging(job.claim.key.id(), job.claim.token),
            attempts: 0,
            staged: Staged::Nothing,
            late: false,
            reissuing: false,
            begun: None,
            created: AtomicBool::new(false),
            inherited: if job.claim.predecessors.is_empty() { Inherited::Settled } else { Inherited::Unknown },
            ambiguous: None,
            content: Content::of(engine, job),
            other: None,
        }
    }

    /// Runs to an end, or until the engine is told to stop at once.
    pub async fn run(mut self) -> Result<End, LedgerError> {
        let stopped = self.engine.stop.clone();
        let outcome = tokio::select! {
            biased;
            () = stopped.cancelled() => None,
            outcome = self.attempts() => Some(outcome?),
        };
        match outcome {
            Some(Outcome::Ended(end)) => Ok(end),
            // A commit that was acknowledged is recorded, also when everything stops. One whose reply is still on its
            // way is found by the next run.
            Some(Outcome::Done(done)) => Box::pin(self.settle(done)).await,
            None => {
                let why = self.engine.stopped_before(self.engine.source(self.job).destination);
                self.leave_other().await?;
                self.release(Status::Deferred, why.to_string(), Ending::Unfinished).await
            }
        }
    }

    async fn attempts(&mut self) -> Result<Outcome, LedgerError> {
        let retry = self.engine.settings.retry;
        loop {
            let mut slot = None;
            let halt = match self.seek().await {
                // Nothing of it can be on the server.
                Ok(Some(done)) if self.is_untouched() => return Ok(Outcome::Done(done)),
                Ok(_) => {
                    let _turn = Box::pin(self.turn_to_write()).await;
                    let slot = match self.engine.archive(self.job).session(self.load()).await {
                        Ok(acquired) => slot.insert(acquired),
                        Err(error) => {
                            self.engine.lost(self.engine.source(self.job).destination, &error);
                            let end = self.release(Status::Failed, describe(&error), Ending::Unfinished).await?;
                            return Ok(Outcome::Ended(End { blame: Blame::Destination, ..end }));
                        }
                    };
                    self.attempts += 1;
                    reach(Point::Begun);
                    // On the heap, for as long as there is a slot: those that wait for one are many, and their tasks small.
                    let began = Instant::now();
                    match Box::pin(self.attempt(slot)).await {
                        Ok(done) => {
                            self.engine.archive(self.job).pool().succeeded();
                            if let Done::Stands(..) = done {
                                self.job.claimed.committed(began.elapsed());
                            }
                            return Ok(Outcome::Done(done));
                        }
                        Err(halt) => halt,
                    }
                }
                Err(halt) => {
                    self.attempts += 1;
                    halt
                }
            };
            let session = slot.as_deref();
            let trouble = match halt {
                Halt::Ledger(LedgerError::LeaseLost) => {
                    self.lose_lease();
                    self.clean(session).await;
                    let reason = Deferral::HeldElsewhere.to_string();
                    return Ok(Outcome::Ended(self.end(Status::Deferred, Some(reason), None)));
                }
                Halt::Ledger(error) => return Err(error),
                Halt::Local(ReadError::Changed) => {
                    self.clean(session).await;
                    reach(Point::ChangedCleaned);
                    let reason = Deferral::ChangedWhileRead.to_string();
                    let end = self.release(Status::Deferred, reason, Ending::Forget).await?;
                    reach(Point::ChangedReleased);
                    return Ok(Outcome::Ended(End { version: Standing::Superseded, ..end }));
                }
                Halt::Local(ReadError::Vanished) => {
                    self.clean(session).await;
                    let reason = "it went away before it was archived".to_owned();
                    return Ok(Outcome::Ended(self.release(Status::Skipped, reason, Ending::Forget).await?));
                }
                Halt::Local(ReadError::Failed(why)) => {
                    self.clean(session).await;
                    Trouble { why, class: RetryClass::File, then: Then::TryAgain }
                }
                Halt::Remote(error) => Box::pin(self.judge(slot.as_ref(), &error)).await,
                Halt::Overtaken => {
                    self.attempts -= 1;
                    continue;
                }
                Halt::Busy => {
                    self.attempts -= 1;
                    let reason = Deferral::HeldElsewhere.to_string();
                    return Ok(Outcome::Ended(self.release(Status::Deferred, reason, Ending::Unfinished).await?));
                }
            };
            drop(slot);
            debug!(path = %display::path(&self.job.version.candidate.absolute()), attempt = self.attempts, why = trouble.why, "attempt failed");
            match trouble.then {
                // Not this file's fault: the breaker holds all work, and no attempt is burnt.
                Then::Wait => {
                    self.attempts -= 1;
                    self.engine.reporter.retried(RetryClass::Destination);
                }
                Then::TryAgain if self.attempts < retry.max_attempts => {
                    let delay = retry.backoff.delay(self.attempts, rand::random());
                    let path = self.job.version.candidate.absolute();
                    self.engine.reporter.retrying(trouble.class, &path, self.attempts, delay, &trouble.why);
                    match self.content {
                        Content::Ours(..) => self.place.rest_ahead(tokio::time::sleep(delay)).await,
                        _ => self.place.rest(delay).await,
                    }
                }
                Then::TryAgain | Then::GiveUp => {
                    return Ok(Outcome::Ended(self.release(Status::Failed, trouble.why, Ending::Failed).await?));
                }
            }
        }
    }

    fn load(&self) -> Load {
        if self.version.fingerprint.size <= SMALL_BYTES { Load::Light } else { Load::Heavy }
    }

    /// What an error of the destination means for this file. Cleans up, and tells the pool.
    async fn judge(&mut self, slot: Option<&Slot>, error: &DestinationError) -> Trouble {
        match error.consequence {
            Consequence::Session => {
                if let Some(slot) = slot {
                    slot.broken();
                }
                self.late |= self.staged == Staged::Maybe;
            }
            Consequence::File | Consequence::Policy | Consequence::Outage | Consequence::Refusal => {
                self.clean(slot.map(|slot| &**slot)).await;
            }
        }
        let then = match error.consequence {
            Consequence::Outage => {
                // Before the slot is given back, or the next job would not know.
                self.engine.archive(self.job).pool().report(error);
                Then::Wait
            }
            _ if self.hopeless(error) => Then::GiveUp,
            _ => Then::TryAgain,
        };
        let class = match error.consequence {
            Consequence::Session => RetryClass::Session,
            Consequence::File | Consequence::Policy => RetryClass::File,
            Consequence::Outage | Consequence::Refusal => RetryClass::Destination,
        };
        Trouble { why: describe(error), class, then }
    }

    /// Whether trying again cannot help: what nobody will change, or what only a person can, who is not there to do it
    /// while a single run lasts.
    fn hopeless(&self, error: &DestinationError) -> bool {
        match error.status {
            Some(StatusCode::OpUnsupported) => true,
            Some(StatusCode::PermissionDenied) => self.engine.patience == Patience::Once,
            _ => matches!(error.consequence, Consequence::Refusal | Consequence::Policy),
        }
    }

    /// Steps 2 to 5: one try to bring the file to its final name.
    async fn attempt(&mut self, session: &Session) -> Result<Done, Halt> {
        let rules = self.engine.source(self.job).rules;
        if self.late && rules.publish != Publish::Direct {
            self.fence().await?;
        }
        let (staging, wanted) = (self.staging.clone(), self.claim.remote.clone());
        let delivery = Delivery { staging: &staging, wanted: &wanted, size: self.version.fingerprint.size, rules };
        if rules.publish == Publish::Direct {
            return self.attempt_direct(session, delivery).await;
        }
        let before = self.inherit(session, &delivery).await?;
        if let Some(done) = self.already_committed(session, &delivery).await? {
            return Ok(done);
        }
        if let Some(done) = self.have_content(session).await? {
            if self.staged == Staged::Maybe {
                self.engine.archive(self.job).remove(session, &staging).await?;
                self.staged = Staged::Nothing;
            }
            return Ok(done);
        }
        if let Some(name) = self.engine.archive(self.job).turned_away(session, &delivery).await? {
            return Ok(Done::TurnedAway(name));
        }
        let digest = self.upload(session, &delivery, before).await?;
        let _turn = self.turn().await;
        let way = self.make_way(session, &delivery).await?;
        match self.engine.archive(self.job).commit(session, &delivery, &digest, way).await {
            Ok(published) => {
                reach(Point::Committed);
                self.staged = Staged::Nothing;
                Ok(Done::of(published, digest))
            }
            Err(error) => {
                if error.consequence == Consequence::Session {
                    self.ambiguous = Some(digest);
                }
                Err(error.into())
            }
        }
    }

    /// What a broken session was asked for may still happen: a late OPEN would truncate, a late RENAME publish what stands
    /// under our temporary name at that moment. So this attempt has another name, like a successor's, and takes over what
    /// stands under the old one by renaming it.
    async fn fence(&mut self) -> Result<(), LedgerError> {
        self.reissuing = true;
        self.claim = self.engine.hold(|| self.engine.ledger.reissue(&self.claim)).await?;
        self.reissuing = false;
        self.staging = self.claim.remote.staging(self.claim.key.id(), self.claim.token);
        (self.inherited, self.late) = (Inherited::Unknown, false);
        Ok(())
    }

    /// Steps 3 and 4: the bytes to their temporary name, verified.
    pub(super) async fn upload(
        &mut self,
        session: &Session,
        delivery: &Delivery<'_>,
        before: Before,
    ) -> Result<Sha256Digest, Halt> {
        let archive = self.engine.archive(self.job);
        let _memory = self.engine.memory.acquire_many(memory_kib(delivery.size)).await;
        let progress = self.job.claimed.started();
        let sent = |acknowledged| match acknowledged {
            Acknowledged::Created => self.created.store(true, Ordering::Relaxed),
            Acknowledged::Sent(bytes) => progress.sent(bytes),
            Acknowledged::Resumed(bytes) => progress.resumed(bytes),
        };
        let version = self.version.clone();
        let (staged, digest) = if delivery.size <= SMALL_BYTES {
            let Whole { bytes, digest, mode, mtime_secs } = self.local(move || version.read_whole()).await?;
            self.prepare_staging(session, delivery).await?;
            self.staged = Staged::Maybe;
            (
                archive.stage(session, delivery, before, Kept::of(mtime_secs, mode), Body::Whole(bytes), &sent).await?,
                digest,
            )
        } else {
            let opened = self.local(move || version.open()).await?;
            self.prepare_staging(session, delivery).await?;
            self.staged = Staged::Maybe;
            let kept = Kept::of(opened.mtime_secs, opened.mode);
            let (pieces, reader) = self.version.clone().read_pieces(opened, session.features().write_len as usize);
            let staged = archive.stage(session, delivery, before, kept, Body::Pieces(pieces), &sent).await;
            let digest =
                reader.await.unwrap_or_else(|panic| Err(ReadError::Failed(format!("the reader failed: {panic}"))));
            // An upload that failed ends its reader; what the reader says then is no news.
            (staged?, digest?)
        };
        if self.content.digest().is_some_and(|before| before != digest) {
            return Err(ReadError::Changed.into());
        }
        archive.verify(session, delivery, &staged, &digest).await?;
        reach(Point::Verified);
        Ok(digest)
    }

    /// The temporary name is the next to come. The file is asked for once more: an owner that slept until others had
    /// settled its tokens must make no name under one, for if it dies over that nobody looks for it again.
    async fn prepare_staging(&self, session: &Session, delivery: &Delivery<'_>) -> Result<(), Halt> {
        self.engine.archive(self.job).make_directory(session, delivery).await?;
        Ok(self.ensure_ours().await?)
    }

    /// Before anything of ours gets a name on the server: an owner that slept asks first whether the file is still its own.
    pub(super) async fn ensure_ours(&self) -> Result<(), LedgerError> {
        if self.engine.lease.lasts_since(self.job.began) {
            return Ok(());
        }
        self.engine.hold(|| self.ask_whether_ours()).await
    }

    /// Short work on the local file.
    pub(super) async fn local<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.engine
            .desk
            .run(work)
            .await
            .unwrap_or_else(|panicked| Err(ReadError::Failed(format!("reading it failed: {panicked}"))))
    }

    /// Step 4, right before the commit: the version still stands, and the file is still ours.
    pub(super) async fn confirm(&self) -> Result<(), Halt> {
        loop {
            let version = self.version.clone();
            self.local(move || version.still_named()).await?;
            reach(Point::Unchanged);
            let confirmed = self.ask_whether_ours().await;
            let Err(LedgerError::Unavailable { .. }) = confirmed else { break confirmed? };
            // Much may happen to the file until the ledger is back.
            self.engine.hold(|| self.ask_whether_ours()).await?;
        }
        reach(Point::LeaseConfirmed);
        Ok(())
    }

    /// A file's own successor would have its very name. Where bytes are archived once, one of another name may have followed.
    async fn ask_whether_ours(&self) -> Result<(), LedgerError> {
        match self.content {
            Content::Ours(..) => self.engine.ledger.confirm(&self.claim).await,
            _ => self.engine.lease.confirm(&self.claim, self.job.began).await,
        }
    }

    /// Step 2: what earlier tokens, or our own earlier attempts, left under temporary names.
    async fn inherit(&mut self, session: &Session, delivery: &Delivery<'_>) -> Result<Before, Halt> {
        let leftover = match delivery.size {
            size if size >= resume_from_bytes() => Before::Resumable { size },
            _ => Before::Leftover,
        };
        if self.inherited == Inherited::Unknown {
            self.ensure_ours().await?;
            // A reply that is lost from here on leaves it open which names stand.
            self.staged = Staged::Maybe;
            let mut adopted = Staged::Nothing;
            for token in &self.claim.predecessors {
                let left = delivery.wanted.staging(self.claim.key.id(), *token);
                // Renaming onto a name that was adopted already fails, and the second leftover is removed.
                if self.engine.archive(self.job).adopt(session, &left, delivery).await? {
                    adopted = Staged::Maybe;
                }
            }
            self.staged = adopted;
            self.inherited = Inherited::Settled;
            reach(Point::Inherited);
            // The predecessor may have died between its commit and its record. Where nothing has the wanted name it
            // did not commit, and the file need not be read twice.
            if self.ambiguous.is_none() && self.engine.archive(self.job).is_taken(session, delivery).await? {
                let version = self.version.clone();
                self.ambiguous = Some(blocking(move || version.digest()).await?);
            }
        }
        Ok(match self.staged {
            Staged::Nothing | Staged::Gone | Staged::Theirs => Before::Nothing,
            Staged::Maybe => leftover,
        })
    }

    /// Step 5: whether the bytes stand under their final name already, from a commit whose reply was lost.
    async fn already_committed(&mut self, session: &Session, delivery: &Delivery<'_>) -> Result<Option<Done>, Halt> {
        let Some(digest) = self.ambiguous else { return Ok(None) };
        let Some(name) = self.engine.archive(self.job).reconcile(session, delivery, &digest).await? else {
            return Ok(None);
        };
        reach(Point::Reconciled);
        if self.staged == Staged::Maybe {
            self.engine.archive(self.job).remove(session, delivery.staging).await?;
            self.staged = Staged::Nothing;
            reach(Point::ReconciledAlone);
        }
        Ok(Some(Done::Stands(name, digest, None)))
    }

    /// Step 6: the record, then the local file.
    async fn settle(&mut self, done: Done) -> Result<End, LedgerError> {
        let (status, remote, digest, remark) = match done {
            Done::Stands(remote, digest, remark) => (Status::Archived, remote, digest, remark),
            Done::Duplicate(remote, digest) => {
                let remark = format!("same content as {}", display::escaped(remote.as_str()));
                (Status::Skipped, remote, digest, Some(remark))
            }
            Done::TurnedAway(remote) => {
                let reason = format!("another file stands at {}", display::escaped(remote.as_str()));
                // The version stands, and so does its date: another run may be told to publish it.
                return self.release(Status::Skipped, reason, Ending::Unfinished).await;
            }
        };
        // A clock that was set back makes no record of this run one of an earlier run.
        let recorded_at = self.engine.now().max(self.engine.started_at);
        let record = Record { remote: remote.clone(), sha256: digest, recorded_at };
        let since = Instant::now();
        let intention = match self.engine.record(self.job, &self.claim_to_end(), record).await {
            Ok(intention) => intention,
            Err(LedgerError::LeaseLost) => {
                self.lose_lease();
                // A successor owns the file; it finds these bytes under their name and records them itself.
                return Ok(self.end(Status::Deferred, Some(Deferral::HeldElsewhere.to_string()), None));
            }
            Err(error) => return Err(error),
        };
        let Job { version, marker, claim, .. } = self.job;
        let disposal = self.engine.dispose(version, marker.as_ref(), &claim.key, intention, since).await?;
        self.staged = Staged::Nothing;
        let reason = match (status, disposal, remark) {
            (Status::Skipped, Some(disposal), Some(remark)) => Some(format!("{remark}; {disposal}")),
            (_, disposal, remark) => disposal.or(remark),
        };
        let mut end = self.end(status, reason, Some(digest));
        end.remote = remote;
        Ok(end)
    }

    /// Removes our temporary name as far as that is possible now; what stays is noted in the ledger.
    async fn clean(&mut self, session: Option<&Session>) {
        let Some(session) = session else { return };
        // Published directly, what stands under the name may not be ours.
        if self.staged == Staged::Nothing || self.engine.source(self.job).rules.publish == Publish::Direct {
            return;
        }
        match self.engine.archive(self.job).give_up(session, &self.staging, &self.claim.remote).await {
            Ok(()) => self.staged = Staged::Nothing,
            Err(error) => {
                warn!(%error, "a temporary name stays on the server for now; the next run removes it");
                // What was asked for may still happen, and what was put aside for the commit has to come back first.
                self.late = true;
            }
        }
    }

    async fn release(&mut self, status: Status, reason: String, ending: Ending) -> Result<End, LedgerError> {
        if self.reissuing {
            // A stop came in between. The file would be held until this process ends.
            match self.fence().await {
                Ok(()) | Err(LedgerError::LeaseLost) => {}
                Err(error) => return Err(error),
            }
        }
        let (staged, claim) = match (self.inherited, self.staged) {
            (Inherited::Settled, Staged::Nothing | Staged::Gone) => (Staged::Gone, self.claim_to_end()),
            (Inherited::Unknown, Staged::Nothing | Staged::Gone) => (Staged::Theirs, self.claim.clone()),
            (_, Staged::Theirs | Staged::Maybe) => (Staged::Maybe, self.claim.clone()),
        };
        let attempts = self.claim.attempts + self.attempts;
        let intention = self.engine.quarantine_of(self.job);
        let release = match ending {
            Ending::Failed => Release::Failed { reason: reason.clone(), attempts, staged, intention },
            Ending::Unfinished => Release::Unfinished { attempts, staged },
            Ending::Forget => Release::Forget { staged },
        };
        let since = Instant::now();
        let ours = match self.engine.hold(|| self.engine.ledger.release(&claim, release.clone())).await {
            Ok(()) => true,
            // Its successor has the file, and judges it.
            Err(LedgerError::LeaseLost) => {
                self.lose_lease();
                false
            }
            Err(error) => return Err(error),
        };
        let mut reason = reason;
        if ours
            && status == Status::Failed
            && ending == Ending::Failed
            && let Some(remark) = self.engine.quarantine(self.job, since).await?
        {
            reason = format!("{reason}; {remark}");
        }
        Ok(self.end(status, Some(reason), None))
    }

    /// Whether nothing can be on the server, under any name that this file had or has.
    fn is_untouched(&self) -> bool {
        self.staged == Staged::Nothing && self.inherited == Inherited::Settled && !self.late && self.ambiguous.is_none()
    }

    fn lose_lease(&self) {
        self.engine.reporter.lease_lost(&self.job.version.candidate.absolute());
        self.engine.shared.taken_over.add(self.engine, &self.claim.key, &self.job.version);
    }

    /// The claim with every token whose name a late request may still bring back, although it is gone.
    fn claim_to_end(&self) -> Claim {
        let own = self.late.then_some(self.claim.token);
        let predecessors = self.claim.predecessors.iter().copied().chain(own).collect();
        Claim { predecessors, ..self.claim.clone() }
    }

    fn end(&self, status: Status, reason: Option<String>, sha256: Option<Sha256Digest>) -> End {
        let (remote, attempts) = (self.claim.remote.clone(), self.attempts);
        End { status, reason, remote, sha256, attempts, version: Standing::Current, blame: Blame::File }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Failed,
    Unfinished,
    Forget,
}
