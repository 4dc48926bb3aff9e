//! From a named candidate to a claimed job: look at it, ask the rules whether it is finished, claim it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::engine::{Engine, Job, Resting};
use super::peers::{Asking, Boldness};
use super::read::Version;
use crate::config::settings::Execution;
use crate::domain::{Deferral, FileKey, Pulse, Repeat, Row, Status, WriterState, display};
use crate::failpoint::{Point, reach};
use crate::ledger::{ClaimReply, ClaimRequest, LedgerError, Record, RowOf};
use crate::localfs::{OpenError, Thoroughness, writer_of};
use crate::readiness::{Decision, MarkerState, Observation, Rules, Waiting};
use crate::source::{BelowRoot, Candidate};

/// Candidates looked at, and claimed, together.
pub const BATCH: usize = 256;

/// How long files that were put off wait, once due, for what came in to be dealt with first.
pub const PUT_OFF_PATIENCE: Duration = Duration::from_secs(10);
/// Who has fewer files in hand takes what others leave lying.
const FEW_IN_HAND: usize = 16;
/// How often it is looked whether that is so.
const BUSY_RECHECK: Duration = Duration::from_millis(250);

/// What a look at a candidate showed.
#[derive(Debug)]
pub struct Seen {
    pub version: Version,
    pub marker: Option<BelowRoot>,
    pub observation: Observation,
    /// When it was seen so. A batch of looks may take longer than a file settles.
    pub at: Instant,
}

impl Seen {
    pub fn ready(self, finished: Instant) -> Ready {
        Ready { version: self.version, marker: self.marker, finished }
    }
}

/// A candidate that cannot be looked at.
#[derive(Debug)]
pub enum Unseen {
    /// It went away; a scan that finds it again starts anew.
    Vanished,
    /// It is no regular file any more; never a candidate.
    NotRegular,
    Problem(String),
}

/// A finished file, not claimed yet.
#[derive(Debug)]
pub struct Ready {
    pub version: Version,
    pub marker: Option<BelowRoot>,
    /// Since when, as far as we know.
    pub finished: Instant,
}

/// Whether a file that is on record already gets a row. An event that changed nothing about it is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    ByRow,
    Quietly,
}

/// Whether files are left to others who may take them first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Fair,
    /// What stands is ours to take in, now.
    Over,
}

/// The intake of one destination's sources: it waits where that destination's workers are all busy, and no other does.
#[derive(Debug)]
pub struct Intake {
    engine: Arc<Engine>,
    destination: usize,
    jobs: mpsc::Sender<Job>,
    asking: Mutex<Asking>,
}

impl Intake {
    pub fn new(engine: Arc<Engine>, destination: usize, jobs: mpsc::Sender<Job>) -> Self {
        Self { engine, destination, jobs, asking: Mutex::default() }
    }

    pub fn destination(&self) -> usize {
        self.destination
    }

    /// The candidates that are not finished. Not to be held on to.
    pub fn waiting(&self) -> MutexGuard<'_, Waiting<Candidate>> {
        self.engine.waiting(self.destination)
    }

    /// Its sign of life.
    pub fn pulse(&self) -> &Pulse {
        &self.engine.pulses(self.destination).intake
    }

    /// Tells how many files wait.
    pub fn tell_waiting(&self) {
        let files = self.waiting().len() as u64;
        self.engine.reporter.waiting(self.destination, files);
    }

    /// Looks at candidates on a blocking thread, in order.
    pub async fn look(&self, candidates: Vec<Candidate>) -> Vec<(Candidate, Result<Seen, Unseen>)> {
        self.engine.peers.meet().await;
        let engine = self.engine.clone();
        self.pulse().beat(Instant::now());
        let looking = tokio::task::spawn_blocking(move || {
            let look = |candidate: Candidate| {
                let seen = look(&engine, &candidate);
                (candidate, seen)
            };
            candidates.into_iter().map(look).collect()
        });
        looking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Whether what was seen is finished, and since when all but its settle time was over. Holds what is not, and what others
    /// may take first.
    pub fn judge(&self, seen: &Seen, rules: Rules, sharing: Sharing) -> (Instant, Decision) {
        let (candidate, observation) = (&seen.version.candidate, &seen.observation);
        let mut waiting = self.waiting();
        let put_off = waiting.put_off_until(candidate, observation.fingerprint);
        let turn = waiting.turn(candidate);
        let finished = waiting.finished_since(candidate, observation, seen.at);
        let decision = waiting.observe(candidate.clone(), observation, rules, seen.at);
        if decision != Decision::Ready || sharing == Sharing::Over {
            return (finished, decision);
        }
        let source = &self.engine.sources[candidate.root.source];
        let put_off = match put_off {
            Some((until, deferral)) => Some((until, deferral)).filter(|_| seen.at < until),
            None => {
                let turn = turn.or_else(|| Some(seen.at + self.engine.peers.leave_for(source, candidate)?));
                turn.filter(|turn| seen.at < *turn).map(|turn| (turn, Deferral::OthersFirst))
            }
        };
        if let Some((until, deferral)) = put_off {
            let version = observation.fingerprint;
            if waiting.put_off(candidate.clone(), version, finished, deferral.clone(), until) {
                return (finished, Decision::Wait { deferral, until: Some(until) });
            }
        }
        (finished, Decision::Ready)
    }

    /// When to look after those that were put off for others: when the first is due, or whether we are still busy.
    pub fn next_put_off(&self) -> Option<tokio::time::Instant> {
        let due = self.waiting().next_put_off()?;
        let at = if self.is_free(due) { due } else { due.max(Instant::now() + BUSY_RECHECK) };
        Some(tokio::time::Instant::from_std(at))
    }

    /// Whether what is due then may be taken from others: who is busy only makes them ask in vain for what is theirs.
    fn is_free(&self, due: Instant) -> bool {
        self.engine.in_hand() < FEW_IN_HAND || due + PUT_OFF_PATIENCE <= Instant::now()
    }

    /// Those that were put off long enough, and are not on record by now; with [`Sharing::Over`] all of them.
    pub async fn put_off_due(&self, sharing: Sharing) -> Result<Vec<Candidate>, LedgerError> {
        let next = self.waiting().next_put_off();
        if sharing == Sharing::Fair && !next.is_some_and(|due| self.is_free(due)) {
            return Ok(Vec::new());
        }
        let until = (sharing == Sharing::Fair).then(Instant::now);
        let due: Vec<_> =
            self.waiting().put_off_due(until, BATCH).iter().map(|candidate| (**candidate).clone()).collect();
        let left = self.without_recorded(due.clone()).await?;
        let mut waiting = self.waiting();
        due.iter().filter(|candidate| !left.contains(candidate)).for_each(|candidate| waiting.forget(candidate));
        Ok(left)
    }

    /// As [`Intake::admit`], of files that were put off: of some, while it turns out that others have them. The rest is looked
    /// at again soon, for it may be on record then.
    pub async fn admit_put_off(&self, mut ready: Vec<Ready>, told: Told) -> Result<Vec<Ready>, LedgerError> {
        let now = Instant::now();
        let Asking { boldness, not_before } = *self.asking();
        let files = if not_before.is_some_and(|until| now < until) { 0 } else { boldness.files };
        let until = now + boldness.look_again_in(self.waiting().len());
        for later in ready.split_off(files.min(ready.len())) {
            let Version { candidate, fingerprint } = later.version.clone();
            let put_off = self.waiting().put_off(candidate, fingerprint, later.finished, Deferral::OthersFirst, until);
            if !put_off {
                ready.push(later);
            }
        }
        if ready.is_empty() {
            return Ok(ready);
        }
        let asked = ready.len();
        let held = self.admit(ready, told).await?;
        tracing::debug!(asked, held = held.len(), in_hand = self.engine.in_hand(), "asked for what was left to others");
        let boldness = boldness.told(asked, held.len(), self.engine.ledger.lease());
        let not_before = Boldness::are_slow(asked, held.len()).then(|| Instant::now() + boldness.pause);
        *self.asking() = Asking { boldness, not_before };
        Ok(held)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file off that another one holds.
    pub fn put_off_held(&self, held: &Ready, random: f64) {
        let until = Instant::now() + self.engine.peers.ask_again_in(random);
        let Version { candidate, fingerprint } = held.version.clone();
        self.waiting().put_off(candidate, fingerprint, held.finished, Deferral::HeldElsewhere, until);
    }

    /// Ends those that are on record as they stand now: they have nothing to settle. The others go on.
    pub async fn without_recorded(&self, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, LedgerError> {
        if self.engine.settings.repeat == Repeat::Force {
            return Ok(candidates);
        }
        let engine = self.engine.clone();
        let naming = tokio::task::spawn_blocking(move || {
            let key = |candidate: Candidate| {
                let version = candidate.root.dir.fingerprint_at(&candidate.path).ok().flatten().map(|fingerprint| {
                    let version = Version { candidate: candidate.clone(), fingerprint };
                    let key = engine.place(&version).ok().map(|(key, _)| key);
                    (version, key)
                });
                (candidate, version)
            };
            candidates.into_iter().map(key).collect::<Vec<_>>()
        });
        let named = naming.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let keys: Vec<_> = named.iter().filter_map(|(_, version)| version.as_ref()?.1.clone()).collect();
        let mut records = self.engine.hold(|| self.engine.ledger.recorded(keys.clone())).await?.into_iter();
        let (mut others, mut ends, finished) = (Vec::new(), Vec::new(), Instant::now());
        for (candidate, version) in named {
            match version {
                Some((version, Some(key))) => match records.next().flatten() {
                    Some(record) => {
                        let marker = self.marker(&candidate);
                        ends.push(async move {
                            self.recorded(Ready { version, marker, finished }, &key, record, Told::ByRow).await
                        });
                    }
                    None => others.push(candidate),
                },
                _ => others.push(candidate),
            }
        }
        let rows = futures::future::try_join_all(ends).await?;
        self.engine.put_rows(rows.into_iter().flatten().collect()).await?;
        Ok(others)
    }

    fn marker(&self, candidate: &Candidate) -> Option<BelowRoot> {
        self.engine.sources[candidate.root.source].marker_of(&candidate.path)
    }

    /// Claims finished files and hands them over; waits where all workers are busy. Gives back those that another
    /// archiver has; the rows of those that need no upload are written.
    pub async fn admit(&self, ready: Vec<Ready>, told: Told) -> Result<Vec<Ready>, LedgerError> {
        let mut requests = Vec::with_capacity(ready.len());
        let mut placed = Vec::with_capacity(ready.len());
        let mut held = Vec::new();
        for file in ready {
            match self.engine.place(&file.version) {
                Ok((key, _)) if self.engine.is_resting(&Resting::Version(key.id())) => {}
                Ok((key, remote)) => {
                    reach(Point::Ready);
                    requests.push(ClaimRequest {
                        key,
                        local_path: file.version.candidate.absolute(),
                        remote,
                        repeat: Repeat::Skip,
                    });
                    placed.push(file);
                }
                Err(reason) => {
                    self.end(&file.version.candidate, None, file.version.fingerprint.size, Status::Failed, reason)
                        .await?;
                }
            }
        }
        let began = Instant::now();
        let (mut rows, mut jobs) = (Vec::new(), Vec::new());
        let replies = self.claim(&requests).await?;
        for ((file, request), reply) in placed.into_iter().zip(requests).zip(replies) {
            match reply {
                ClaimReply::Claimed(claim) if self.engine.settings.execution == Execution::DryRun => {
                    let reason = "would be archived (dry run)".to_owned();
                    let size = file.version.fingerprint.size;
                    let row = self.row(&file.version.candidate, size, Status::Skipped, reason);
                    let row = Row { remote: Some(claim.remote.as_str().to_owned()), ..row };
                    rows.push(RowOf::new(Some(&request.key), row));
                }
                ClaimReply::Claimed(claim) => {
                    reach(Point::Claimed);
                    if !claim.predecessors.is_empty() {
                        tracing::debug!(file = %display::path(&request.local_path), "taking up what an earlier claim left");
                    }
                    let Ready { version, marker, finished } = file;
                    let source = &self.engine.sources[version.candidate.root.source].name;
                    let (path, size) = (&request.local_path, version.fingerprint.size);
                    let claimed = self.engine.reporter.claimed(source, path, size, finished);
                    jobs.push(Job { version, marker, claim, began, claimed });
                }
                ClaimReply::Recorded(record) => rows.extend(self.recorded(file, &request.key, record, told).await?),
                // In flight already, from an earlier look.
                ClaimReply::Held { owner }
                    if owner == self.engine.ledger.owner() && !self.engine.shared.settled.has(&request.key) => {}
                ClaimReply::Held { owner } => {
                    self.engine.peers.heard_of(owner);
                    held.push(file);
                }
            }
        }
        // First, for the workers may be busy for long.
        self.engine.put_rows(rows).await?;
        for job in jobs {
            self.engine.take_in_hand();
            // The workers may be busy for long, or wait for their destination.
            self.pulse().rest();
            if self.jobs.send(job).await.is_err() {
                // Told to stop at once; what was claimed is free again when this process ends.
                self.engine.cut_short();
                break;
            }
            self.pulse().beat(Instant::now());
        }
        Ok(held)
    }

    /// With `--force`, what this very run archived is not archived again, however often it is met.
    async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<ClaimReply>, LedgerError> {
        if self.engine.settings.repeat == Repeat::Skip {
            return self.engine.claim(requests).await;
        }
        let keys: Vec<_> = requests.iter().map(|request| request.key.clone()).collect();
        let records = self.engine.hold(|| self.engine.ledger.recorded(keys.clone())).await?;
        let requests: Vec<_> = requests
            .iter()
            .zip(records)
            .map(|(request, record)| {
                let repeat = match record {
                    Some(record) if record.recorded_at >= self.engine.started_at => Repeat::Skip,
                    _ => Repeat::Force,
                };
                ClaimRequest { repeat, ..request.clone() }
            })
            .collect();
        self.engine.claim(&requests).await
    }

    /// A file that is on record needs no upload, but perhaps a disposal that a crash, or `keep`, left undone. Gives its
    /// row.
    async fn recorded(
        &self,
        file: Ready,
        key: &FileKey,
        record: Record,
        told: Told,
    ) -> Result<Option<RowOf>, LedgerError> {
        let mut reason = format!("archived before as {}", display::escaped(record.remote.as_str()));
        let resting = self.engine.is_resting(&Resting::Version(key.id()));
        if self.engine.settings.execution == Execution::Real && !resting {
            let after = &self.engine.sources[file.version.candidate.root.source].after;
            let since = Instant::now();
            let intention = self.engine.intend(after, key).await?;
            let disposal = self.engine.dispose(&file.version, file.marker.as_ref(), key, intention, since);
            if let Some(remark) = disposal.await? {
                reason = format!("{reason}; {remark}");
            }
        }
        if told == Told::Quietly {
            return Ok(None);
        }
        let row = Row {
            remote: Some(record.remote.as_str().to_owned()),
            sha256: Some(record.sha256),
            ..self.row(&file.version.candidate, file.version.fingerprint.size, Status::Skipped, reason)
        };
        Ok(Some(RowOf::new(Some(key), row)))
    }

    /// Writes the row of a candidate that comes to its end without an upload.
    pub async fn end(
        &self,
        candidate: &Candidate,
        key: Option<&FileKey>,
        bytes: u64,
        status: Status,
        reason: String,
    ) -> Result<(), LedgerError> {
        if status == Status::Failed {
            tracing::error!(path = %display::path(&candidate.absolute()), reason, "failed");
        }
        self.engine.put_row(key, self.row(candidate, bytes, status, reason)).await
    }

    pub async fn defer(&self, candidate: &Candidate, bytes: u64, deferral: &Deferral) -> Result<(), LedgerError> {
        self.end(candidate, None, bytes, Status::Deferred, deferral.to_string()).await
    }

    /// Names all that still waits when a run ends. Each version that was seen has one row, whatever else this run finds
    /// out about it.
    pub async fn leave_all(&self) -> Result<(), LedgerError> {
        self.leave(&self.left()).await
    }

    fn left(&self) -> Vec<(Version, Deferral)> {
        let stopped = self.engine.stopped_before(self.destination);
        let waiting = self.waiting();
        let left = waiting.iter().map(|(candidate, fingerprint, deferral)| {
            // It might have settled, or had its turn; it was not given the time.
            let deferral = match deferral {
                Deferral::Unsettled | Deferral::OthersFirst => stopped.clone(),
                deferral => deferral.clone(),
            };
            (Version { candidate: candidate.clone(), fingerprint }, deferral)
        });
        left.collect()
    }

    /// Writes the rows of versions that are not finished, of which something else may come yet.
    pub async fn leave(&self, left: &[(Version, Deferral)]) -> Result<(), LedgerError> {
        for left in left.chunks(BATCH) {
            let rows = left.iter().map(|(version, deferral)| {
                let key = self.engine.place(version).ok().map(|(key, _)| key);
                if let (Some(key), Deferral::HeldElsewhere) = (&key, deferral) {
                    self.engine.shared.taken_over.add(&self.engine, key, version);
                }
                let (candidate, size) = (&version.candidate, version.fingerprint.size);
                RowOf::new(key.as_ref(), self.row(candidate, size, Status::Deferred, deferral.to_string()))
            });
            self.engine.put_rows(rows.collect()).await?;
        }
        Ok(())
    }

    fn row(&self, candidate: &Candidate, bytes: u64, status: Status, reason: String) -> Row {
        Row {
            source: self.engine.sources[candidate.root.source].name.to_string(),
            path: candidate.absolute(),
            remote: None,
            bytes,
            sha256: None,
            status,
            reason: Some(reason),
            attempts: 0,
            elapsed: Duration::ZERO,
        }
    }
}

/// One look: fingerprint, marker, writer. Blocking.
fn look(engine: &Engine, candidate: &Candidate) -> Result<Seen, Unseen> {
    reach(Point::Discovered);
    let source = &engine.sources[candidate.root.source];
    let dir = &candidate.root.dir;
    let opened = dir.open_file(&candidate.path).map_err(|error| match error {
        OpenError::Vanished { .. } => Unseen::Vanished,
        OpenError::NotRegular { .. } | OpenError::Symlink { .. } => Unseen::NotRegular,
        other => Unseen::Problem(other.to_string()),
    })?;
    let at = Instant::now();
    let marker = source.marker.as_ref().and_then(|pattern| BelowRoot::new(pattern.marker_of(candidate.path.as_path())));
    let marker_state = match &marker {
        None => MarkerState::NotAsked,
        Some(marker) if dir.exists(marker.as_path()) => MarkerState::Stands,
        Some(marker) => {
            let name = marker.as_path().file_name().unwrap_or_default();
            MarkerState::Missing(display::path(name.as_ref()).to_string())
        }
    };
    // Asking who writes is the dearest question, so it comes last.
    let writer = match marker_state {
        MarkerState::Missing(_) => WriterState::Unknown,
        _ => {
            let now_ns = engine.now().timestamp_nanos_opt().unwrap_or(i64::MAX);
            let thoroughness = thoroughness(opened.fingerprint.mtime_ns, now_ns);
            let writer = writer_of(&opened.file, thoroughness);
            if writer == WriterState::Unknown && thoroughness == Thoroughness::LeaseThenProc {
                warn_of_unseen_writers(engine, candidate, &opened.file);
            }
            writer
        }
    };
    let observation = Observation { fingerprint: opened.fingerprint, marker: marker_state, writer };
    Ok(Seen {
        version: Version { candidate: candidate.clone(), fingerprint: opened.fingerprint },
        marker,
        observation,
        at,
    })
}

/// Says once that the settle time alone decides, where that is because the file is another user's.
fn warn_of_unseen_writers(engine: &Engine, candidate: &Candidate, file: &std::fs::File) {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    let Some(owner) = file.metadata().map(|found| found.uid()).ok().filter(|owner| *owner != own) else { return };
    if !engine.writers_unseen.swap(true, std::sync::atomic::Ordering::Relaxed) {
        tracing::warn!(
            "whether somebody is still writing to {} cannot be seen: it belongs to user {owner}, this process is user {own} \
             (without CAP_LEASE, or CAP_SYS_PTRACE in the same PID namespace). The settle time ({}) alone tells when such \
             files are finished. Run both as the same user, have a marker written (--marker), or set --settle longer than \
             the application ever pauses",
            display::path(&candidate.absolute()),
            humantime::format_duration(engine.sources[candidate.root.source].settle),
        );
    }
}

/// Where the kernel grants no leases, only files that changed within the last hour are worth a look through `/proc`.
fn thoroughness(mtime_ns: i64, now_ns: i64) -> Thoroughness {
    const RECENT_NS: i64 = 3_600_000_000_000;
    if now_ns.saturating_sub(mtime_ns) < RECENT_NS { Thoroughness::LeaseThenProc } else { Thoroughness::Lease }
}

/// Until `due`, or for ever.
pub async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The row of something that could not even become a candidate, such as an unreadable directory.
pub async fn problem_row(
    engine: &Engine,
    source: usize,
    path: std::path::PathBuf,
    reason: String,
) -> Result<(), LedgerError> {
    tracing::error!(path = %crate::domain::display::path(&path), reason, "failed");
    engine.reporter.discovered(1);
    // As the rows of files are: absolute, though this may not lead anywhere.
    let path = std::path::absolute(&path).unwrap_or(path);
    let row = Row {
        source: engine.sources[source].name.to_string(),
        path,
        remote: None,
        bytes: 0,
        sha256: None,
        status: Status::Failed,
        reason: Some(reason),
        attempts: 0,
        elapsed: Duration::ZERO,
    };
    engine.put_row(None, row).await
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
