//! One run: everything that stands now, once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::intake::{BATCH, Intake, Ready, Sharing, Told, Unseen, problem_row, sleep_until};
use super::names::{BadPath, Named};
use crate::config::settings::Execution;
use crate::domain::{Deferral, Status};
use crate::ledger::LedgerError;
use crate::readiness::{Decision, Rules};
use crate::report::Phase;
use crate::source::Candidate;

/// Candidates that wait for their settle time at most; beyond it the scan waits with them.
pub(super) const WAITING: usize = 10_000;
/// How long files that another archiver holds are asked for again before they are deferred.
const HELD_FOR: Duration = Duration::from_secs(20);
/// How often they are asked for.
const HELD_EVERY: Duration = Duration::from_millis(250);
/// Files held elsewhere that are remembered; beyond it they are deferred at once.
const HELD: usize = 10_000;

/// Takes in what the scanners find until they end, then what was waiting.
pub async fn take_in(
    engine: &Arc<Engine>,
    intake: &Intake,
    bad: Vec<BadPath>,
    mut names: mpsc::Receiver<Named>,
    draining: &CancellationToken,
) -> Result<(), LedgerError> {
    let mut run = Run { engine, intake, held: Vec::new() };
    for BadPath { source, path, reason } in bad {
        problem_row(engine, source, path, reason).await?;
    }
    let mut batch = Vec::with_capacity(BATCH);
    let mut ended = false;
    engine.reporter.phase(Phase::Scanning);
    while !(ended && intake.waiting().is_empty()) {
        let room = intake.waiting().room().min(BATCH);
        let due = intake.waiting().next_due().map(tokio::time::Instant::from_std);
        let put_off = intake.next_put_off();
        tokio::select! {
            biased;
            () = draining.cancelled() => {
                engine.cut_short();
                break;
            }
            () = sleep_until(due), if due.is_some() => {
                let now = Instant::now();
                let due = intake.waiting().due(now, BATCH).iter().map(|candidate| (**candidate).clone()).collect();
                run.examine(due, Look::Again).await?;
            }
            received = names.recv_many(&mut batch, room), if !ended && room > 0 => {
                ended = received == 0;
                if ended {
                    engine.reporter.phase(Phase::Uploading);
                }
                let candidates = run.sort(batch.drain(..)).await?;
                run.examine(candidates, Look::First).await?;
            }
            () = sleep_until(put_off), if put_off.is_some() => {
                let due = intake.put_off_due(Sharing::Fair).await?;
                run.examine(due, Look::Late).await?;
            }
        }
        intake.tell_waiting();
    }
    drop(names);
    run.leave(draining).await
}

struct Run<'a> {
    engine: &'a Arc<Engine>,
    intake: &'a Intake,
    held: Vec<Ready>,
}

/// Whether a candidate has had its time to settle, or its writer to close it. A single run gives it no second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Again,
    /// It was left to others first.
    Late,
}

impl Run<'_> {
    /// Candidates go on; problems become rows.
    async fn sort(&self, names: impl Iterator<Item = Named>) -> Result<Vec<Candidate>, LedgerError> {
        let mut candidates = Vec::new();
        for name in names {
            match name {
                Named::Candidate(candidate) => candidates.push(candidate),
                Named::Problem { source, path, reason } => problem_row(self.engine, source, path, reason).await?,
            }
        }
        self.engine.reporter.discovered(candidates.len() as u64);
        Ok(candidates)
    }

    async fn examine(&mut self, candidates: Vec<Candidate>, look: Look) -> Result<(), LedgerError> {
        let mut ready = Vec::new();
        for (candidate, seen) in self.intake.look(candidates).await {
            match seen {
                Ok(seen) => {
                    let rules = Rules { settle: self.engine.sources[candidate.root.source].settle };
                    let (finished, decision) = self.intake.judge(&seen, rules, Sharing::Fair);
                    match decision {
                        Decision::Ready => ready.push(seen.ready(finished)),
                        // A writer may be gone in a moment: a process that was just forked holds the files of its parent.
                        Decision::Wait { deferral: Deferral::Unsettled | Deferral::OpenForWriting, .. }
                            if look != Look::Again => {}
                        Decision::Wait { deferral: Deferral::OthersFirst, .. } => {}
                        Decision::Wait { deferral, .. } => {
                            self.intake.waiting().forget(&candidate);
                            self.intake.defer(&candidate, seen.observation.fingerprint.size, &deferral).await?;
                        }
                    }
                }
                Err(unseen) => {
                    self.intake.waiting().forget(&candidate);
                    let (status, reason) = match unseen {
                        Unseen::Vanished => (Status::Skipped, "it went away before it was archived".to_owned()),
                        Unseen::NotRegular => (Status::Skipped, "it is no regular file any more".to_owned()),
                        Unseen::Problem(reason) => (Status::Failed, reason),
                    };
                    self.intake.end(&candidate, None, 0, status, reason).await?;
                }
            }
        }
        let held = match look {
            Look::First | Look::Again => self.intake.admit(ready, Told::ByRow).await?,
            Look::Late => self.intake.admit_put_off(ready, Told::ByRow).await?,
        };
        self.keep_held(held).await
    }

    async fn keep_held(&mut self, held: Vec<Ready>) -> Result<(), LedgerError> {
        for held in held {
            if self.held.len() < HELD {
                self.held.push(held);
            } else {
                self.defer(&held).await?;
            }
        }
        Ok(())
    }

    async fn defer(&self, held: &Ready) -> Result<(), LedgerError> {
        self.intake.leave(&[(held.version.clone(), Deferral::HeldElsewhere)]).await
    }

    /// Waits a while for files that another archiver was busy with, then defers what is left.
    async fn leave(mut self, draining: &CancellationToken) -> Result<(), LedgerError> {
        // A dry run looks at a copy of the ledger, which does not change.
        let patience = match self.engine.settings.execution {
            Execution::Real => HELD_FOR,
            Execution::DryRun => Duration::ZERO,
        };
        let give_up = Instant::now() + patience;
        while !self.held.is_empty() && Instant::now() < give_up {
            if draining.run_until_cancelled(tokio::time::sleep(HELD_EVERY)).await.is_none() {
                break;
            }
            let held = std::mem::take(&mut self.held);
            let held = self.intake.admit(held, Told::ByRow).await?;
            self.keep_held(held).await?;
        }
        let held: Vec<_> = self.held.into_iter().map(|held| (held.version, Deferral::HeldElsewhere)).collect();
        self.intake.leave(&held).await?;
        self.intake.leave_all().await?;
        Ok(())
    }
}
