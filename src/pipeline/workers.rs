//! The workers of one destination: each claimed file gets a task of its own, as many at a time as there are places.
//!
//! No two destinations share places: files that wait for one that is out keep nobody else waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument, debug, error, info};

use super::attempt::{Blame, End, Standing};
use super::engine::{Engine, Job, Patience, Resting, RunError};
use super::place::Places;
use super::transfer::Transfer;
use crate::domain::{Row, Status, display};
use crate::ledger::LedgerError;

/// How soon a run whose places are all taken looks whether there may be more.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOK_RARELY: Duration = Duration::from_secs(5);

/// Takes jobs until the channel closes; as many are in flight as the settings or the sessions allow.
pub async fn work(engine: Arc<Engine>, destination: usize, mut jobs: mpsc::Receiver<Job>) {
    let places = Places::new(engine.jobs_in_flight(destination));
    let mut tasks = JoinSet::new();
    loop {
        // Tasks that ended are taken out as we go, so that the set does not grow.
        while let Some(ended) = tasks.try_join_next() {
            report_panic(&engine, ended);
        }
        let mut patience = LOOK_AGAIN;
        let mut place = loop {
            places.grow_to(engine.jobs_in_flight(destination));
            match tokio::time::timeout(patience, places.take()).await {
                Ok(place) => break place,
                // An outage may last for days.
                Err(_) => patience = (patience * 2).min(LOOK_RARELY),
            }
        };
        let Some(job) = jobs.recv().await else { break };
        let engine = engine.clone();
        let span = tracing::debug_span!("transfer", path = %display::path(job.version.candidate.path.as_path()));
        tasks.spawn(
            async move {
                let end = Transfer::new(&engine, &job, &mut place).run().await;
                let done = match end {
                    Ok(end) => finish(&engine, &job, end).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = done {
                    engine.broke(error.into());
                }
            }
            .instrument(span),
        );
    }
    while let Some(ended) = tasks.join_next().await {
        report_panic(&engine, ended);
    }
}

/// Writes the row of a file that came to its end.
async fn finish(engine: &Engine, job: &Job, end: End) -> Result<(), LedgerError> {
    let row = Row {
        source: engine.source(job).name.to_string(),
        path: job.version.candidate.absolute(),
        remote: Some(end.remote.as_str().to_owned()),
        bytes: job.version.fingerprint.size,
        sha256: end.sha256,
        status: end.status,
        reason: end.reason,
        attempts: end.attempts,
        elapsed: job.began.elapsed(),
    };
    engine.put_down();
    if row.status == Status::Deferred && engine.is_replaced() {
        // Its successor writes the row, perhaps for another destination.
        return Ok(());
    }
    if row.status == Status::Failed {
        if engine.patience == Patience::Persistent {
            engine.rest(Resting::Version(job.claim.key.id()));
        }
        let (path, reason) = (display::path(&row.path), row.reason.as_deref().unwrap_or_default());
        match end.blame {
            Blame::File => error!(%path, reason, "failed"),
            // Said once, for all files.
            Blame::Destination => debug!(%path, reason, "failed"),
        }
    }
    let version = match end.version {
        Standing::Current => Some(&job.claim.key),
        Standing::Superseded => None,
    };
    if row.status == Status::Archived {
        let remote = display::escaped(row.remote.as_deref().unwrap_or_default()).to_string();
        info!(path = %display::path(&row.path), remote, bytes = row.bytes, "archived");
    }
    engine.put_row(version, row).await
}

fn report_panic(engine: &Engine, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        engine.broke(RunError::Broken(format!("a worker failed: {error}")));
    }
}
