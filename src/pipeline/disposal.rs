//! What becomes of a local file once it is archived, or has failed for good: the ledger knows that its disposal began
//! until the file is gone, or stands where people and scans find it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use super::engine::{Engine, Job, Patience, Resting};
use super::read::Version;
use crate::dispose::{self, DisposeError, Disposed};
use crate::domain::{After, AfterFailure, FileKey, KeyId, Repeat, display};
use crate::failpoint::{Point, reach};
use crate::ledger::{ClaimReply, ClaimRequest, Intention, LedgerError, Record};
use crate::selection::MarkerPattern;
use crate::source::{BelowRoot, Candidate};

/// How long a watch leaves a file alone that it archived and could not delete or move: a person has to help.
const REST: Duration = Duration::from_secs(3600);

/// Why a local file stays that was to go.
#[derive(Debug)]
pub struct Stays {
    pub why: String,
    until: Until,
}

/// What has to happen before another try is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Whoever writes to it is done.
    Written,
    /// A person helps.
    Helped,
    /// As `Helped`, and meanwhile it may be hidden under the name that it was set aside to, where no scan finds it.
    Shown,
}

impl Stays {
    fn helped(error: DisposeError) -> Self {
        Self { why: error.to_string(), until: Until::Helped }
    }

    /// `aside` is where the file is hidden now, if it is.
    pub fn hidden(error: DisposeError, aside: Option<PathBuf>) -> Self {
        let Some(aside) = aside else { return Self::helped(error) };
        let why = format!(
            "{error}; until then it is hidden as {}, for it could not be given its name back; the next run tries again, \
             as a watch does every hour",
            display::path(&aside)
        );
        Self { why, until: Until::Shown }
    }

    /// Nobody knows how far a disposal came, nor whether its file is hidden.
    pub fn unknown(why: impl std::fmt::Display) -> Self {
        Self { why: format!("the local file was kept: {why}"), until: Until::Shown }
    }
}

impl Engine {
    /// Leaves a file alone for an hour that is hidden still, so that not every look at what was cut short tries it again.
    pub fn rest_hidden(&self, key: KeyId, stays: &Stays) {
        if stays.until == Until::Shown && self.patience == Patience::Persistent {
            self.rest_for(Resting::Version(key), REST);
        }
    }

    /// Notes durably that the disposal of a file that was recorded before begins, where one is asked for and nobody else
    /// is at it.
    pub async fn intend(&self, after: &After, key: &FileKey) -> Result<Intention, LedgerError> {
        if *after == After::Keep {
            return Ok(Intention::LeaveAlone);
        }
        match self.hold(|| self.ledger.disposing(key)).await {
            Ok(()) => {
                reach(Point::Disposing);
                Ok(Intention::Dispose)
            }
            Err(LedgerError::LeaseLost) => Ok(Intention::LeaveAlone),
            Err(error) => Err(error),
        }
    }

    /// Right before a file is touched whose disposal was noted no earlier than `since`: whether it is ours to do. An owner
    /// that slept meanwhile may find that another one was at it, and that nobody would look for what it sets aside now.
    async fn note_again(&self, key: &FileKey, since: Instant) -> Result<bool, LedgerError> {
        if self.lease.lasts_since(since) {
            return Ok(true);
        }
        match self.hold(|| self.ledger.disposing(key)).await {
            Ok(()) => Ok(true),
            Err(LedgerError::LeaseLost) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes how a disposal ended. One that left its file hidden stays open, for whoever looks after those next.
    pub async fn disposed(&self, key: &FileKey, disposal: &Result<(), Stays>) -> Result<(), LedgerError> {
        match disposal {
            Err(Stays { until: Until::Shown, .. }) => self.hold(|| self.ledger.postponed(key)).await,
            Ok(()) | Err(_) => self.hold(|| self.ledger.disposed(key)).await,
        }
    }

    /// Notes that the version of a recorded entry is archived under the name, too, that it gets where its disposal is undone
    /// and its own name is taken: it would be archived again as a file of that name.
    pub async fn note_beside(&self, key: &FileKey, local_path: &Path, record: &Record) -> Result<(), LedgerError> {
        let beside = |path: &Path| {
            let name = dispose::name_beside(path.file_name().unwrap_or_default(), key.id());
            path.with_file_name(name)
        };
        let path = PathBuf::from(OsString::from_vec(key.path.clone()));
        let request = ClaimRequest {
            key: FileKey { path: beside(&path).into_os_string().into_vec(), ..key.clone() },
            local_path: beside(local_path),
            remote: record.remote.clone(),
            repeat: Repeat::Skip,
        };
        let replies = self.claim(&[request]).await?;
        if let Some(ClaimReply::Claimed(claim)) = replies.into_iter().next() {
            self.hold(|| self.ledger.record(&claim, record.clone(), Intention::LeaveAlone)).await?;
        }
        Ok(())
    }

    /// Disposes of the local file of a recorded entry, as was noted no earlier than `since`. A disposal that fails is a
    /// remark: the file is archived.
    pub async fn dispose(
        &self,
        version: &Version,
        marker: Option<&BelowRoot>,
        key: &FileKey,
        intention: Intention,
        since: Instant,
    ) -> Result<Option<String>, LedgerError> {
        if intention == Intention::LeaveAlone || !self.note_again(key, since).await? {
            return Ok(None);
        }
        let after = self.sources[version.candidate.root.source].after.clone();
        let disposal = self.dispose_version(version, marker, key.id(), after).await;
        self.disposed(key, &disposal).await?;
        reach(Point::Disposed);
        let Err(Stays { why, until }) = disposal else { return Ok(None) };
        let records = self.hold(|| self.ledger.recorded(vec![key.clone()])).await?;
        if let Some(record) = records.into_iter().next().flatten() {
            self.note_beside(key, &version.candidate.absolute(), &record).await?;
        }
        let what = Resting::Version(key.id());
        // A scan may have met it at the same time as its worker.
        if !self.is_resting(&what) {
            warn!(path = %display::path(&version.candidate.absolute()), remark = why, "archived, and not disposed of");
        }
        if self.patience == Patience::Persistent {
            match until {
                Until::Written => self.rest(what),
                Until::Helped | Until::Shown => self.rest_for(what, REST),
            }
        }
        Ok(Some(why))
    }

    /// Disposes of a version that is on record, or goes into quarantine. Nobody else of this process does so meanwhile; the
    /// ledger keeps other processes away.
    pub async fn dispose_version(
        &self,
        version: &Version,
        marker: Option<&BelowRoot>,
        key: KeyId,
        after: After,
    ) -> Result<(), Stays> {
        let source = &self.sources[version.candidate.root.source];
        let (version, marker) = (version.clone(), marker.cloned().zip(source.marker.clone()));
        let selection = source.selection.clone();
        let turn = self.shared.disposals.take(key).await;
        let disposal = self.desk.run(move || {
            // Until the work is done, also where nobody waits for it any more.
            let _turn = turn;
            let Candidate { root, path } = &version.candidate;
            let disposed = dispose::dispose(&root.dir, path, version.fingerprint, key, &after)
                .map_err(|error| Stays::hidden(error, dispose::set_aside(&root.dir, path, key)))?;
            reach(Point::FileDisposed);
            let is_gone = matches!(disposed, Disposed::Deleted | Disposed::Moved(_) | Disposed::Gone);
            // The marker of a version that stays, or of a newer one, stays too.
            if let Some((marker, pattern)) = marker.filter(|_| is_gone) {
                let speaks_for = |other: &Path| match pattern {
                    MarkerPattern::Name { .. } => false,
                    MarkerPattern::Stem { .. } | MarkerPattern::Fixed(_) => {
                        selection.is_marked_by(other, marker.as_path())
                    }
                };
                dispose::dispose_marker(&root.dir, &marker, path, &speaks_for, key, &after).map_err(Stays::helped)?;
                reach(Point::MarkerDisposed);
            }
            went(&disposed)
        });
        disposal.await.unwrap_or_else(|panic| Err(Stays::unknown(panic)))
    }

    /// What becomes of a file whose retries are used up.
    pub fn quarantine_of(&self, job: &Job) -> Intention {
        match self.source(job).after_failure {
            AfterFailure::Keep => Intention::LeaveAlone,
            AfterFailure::Move(_) => Intention::Dispose,
        }
    }

    /// Moves a file whose retries are used up out of the way, where its source asks for that; the ledger knows, since then at
    /// the earliest.
    pub async fn quarantine(&self, job: &Job, since: Instant) -> Result<Option<String>, LedgerError> {
        let AfterFailure::Move(directory) = &self.source(job).after_failure else { return Ok(None) };
        let key = &job.claim.key;
        if !self.note_again(key, since).await? {
            return Ok(None);
        }
        let disposal = self.dispose_version(&job.version, None, key.id(), After::Move(directory.clone())).await;
        self.disposed(key, &disposal).await?;
        Ok(Some(match disposal {
            Ok(()) => format!("moved to {}", display::path(directory)),
            Err(Stays { why, .. }) => why,
        }))
    }
}

/// Whether the file went, and what people should know where it did not.
fn went(disposed: &Disposed) -> Result<(), Stays> {
    let kept = |why: &str, at: &Option<PathBuf>| {
        let why = match at {
            None => format!("{why}, so the local file stays"),
            Some(path) => format!("{why}, so the local file stays, as {}", display::path(path)),
        };
        Err(Stays { why, until: Until::Written })
    };
    match disposed {
        Disposed::Kept | Disposed::Deleted | Disposed::Moved(_) | Disposed::Gone => Ok(()),
        Disposed::Changed(at) => kept("it changed after it was archived", at),
        Disposed::Reopened(at) => kept("it was opened for writing again after it was archived", at),
    }
}

#[cfg(test)]
#[path = "disposal_tests.rs"]
mod tests;
