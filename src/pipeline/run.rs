//! A run from its input to its end, torn down in the order that loses nothing.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use super::engine::{Engine, Failure, RunError};
use super::intake::Intake;
use super::names::{BadPath, Entry, Named, named, send_found};
use super::workers::work;
use super::{janitor, outages, push, watch};
use crate::config::settings::Execution;
use crate::destination::sftp::Load;
use crate::shutdown::Shutdown;
use crate::source::scan::scan;

/// Claimed files that wait for a worker; beyond it the intake waits too.
const CLAIMED: usize = 256;

/// What is taken in.
#[derive(Debug)]
pub enum Input {
    /// What stands in the sources now, and which of their paths could not be used.
    Once(Vec<BadPath>),
    /// What somebody else names, until the channel closes.
    Named(mpsc::Receiver<Named>, Vec<BadPath>),
    /// What comes, until told to stop.
    Watch,
}

/// Runs to the end of its input or until told to stop, whichever comes first.
pub async fn run(engine: Arc<Engine>, input: Input, shutdown: &Shutdown) -> Result<(), RunError> {
    let stopper = tokio::spawn({
        let (shutdown, stop, grace) = (shutdown.clone(), engine.stop.clone(), engine.settings.watch.grace);
        async move {
            let grace_over = async {
                shutdown.draining().cancelled().await;
                tokio::time::sleep(grace).await;
                warn!("the grace is over: what is still in flight is left for the next run");
            };
            tokio::select! {
                () = shutdown.now().cancelled() => {}
                () = grace_over => {}
            }
            stop.cancel();
        }
    });

    if engine.settings.execution == Execution::Real {
        let finished = engine.stop.run_until_cancelled(janitor::finish_disposals(&engine)).await;
        finished.unwrap_or(Ok(()))?;
    }
    let (jobs, claimed) = mpsc::channel(CLAIMED);
    let workers = tokio::spawn(work(engine.clone(), claimed));
    let mut attendants = attend(&engine, &input);
    let intake = Intake::new(engine.clone(), jobs);
    let taken = match input {
        Input::Once(bad) => {
            let names = scan_all(&engine);
            push::take_in(&engine, &intake, bad, names, shutdown.draining()).await.map_err(RunError::from)
        }
        Input::Named(names, bad) => {
            push::take_in(&engine, &intake, bad, names, shutdown.draining()).await.map_err(RunError::from)
        }
        Input::Watch => watch::take_in(&engine, &intake, shutdown).await,
    };
    // No more jobs: the workers end when what they have is done, or when everything stops.
    drop(intake);
    let worked = workers.await.map_err(|panic| RunError::Broken(format!("the workers failed: {panic}")));
    let mut result = taken.and(worked);
    if result.is_ok() && engine.failure().is_none() && engine.settings.execution == Execution::Real {
        // The grace bounds this too.
        let removed = engine.stop.run_until_cancelled(janitor::remove_orphans(&engine)).await;
        result = removed.unwrap_or(Ok(())).map_err(RunError::from);
    }
    engine.stop.cancel();
    stopper.abort();
    while let Some(ended) = attendants.join_next().await {
        if let Err(panic) = ended {
            warn!(%panic, "a task beside the workers failed");
        }
    }
    for archive in &engine.archives {
        archive.pool().close().await;
    }
    match engine.failure() {
        Some(Failure::Run(error)) => Err(error),
        _ => result,
    }
}

/// Tasks that run beside the workers until everything stops.
fn attend(engine: &Arc<Engine>, input: &Input) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let keeper = engine.clone();
    tasks.spawn(async move { keeper.lease.keep(keeper.stop.clone()).await });
    let teller = engine.clone();
    tasks.spawn(async move {
        let telling = outages::tell(&teller);
        teller.stop.run_until_cancelled(telling).await;
    });
    if matches!(input, Input::Watch) && engine.settings.execution == Execution::Real {
        // A watch says at once, not with its first file, that the server will never let it in.
        for destination in 0..engine.archives.len() {
            let engine = engine.clone();
            tasks.spawn(async move {
                let entered = engine.stop.run_until_cancelled(engine.archives[destination].session(Load::Light)).await;
                if let Some(Err(error)) = entered {
                    engine.lost(destination, &error);
                }
            });
        }
        let engine = engine.clone();
        tasks.spawn(async move {
            let stop = engine.stop.clone();
            stop.run_until_cancelled(janitor::keep_house(&engine)).await;
        });
    }
    tasks
}

/// Names everything that stands in all sources, one root after the other.
fn scan_all(engine: &Arc<Engine>) -> mpsc::Receiver<Named> {
    let engine = engine.clone();
    named(move |send| {
        for source in &engine.sources {
            for entry in &source.entries {
                let went_on = match entry {
                    Entry::Directory(root) => scan(root, &source.selection, &mut |item| send_found(item, send)),
                    Entry::File(candidate) => send(Named::Candidate(candidate.clone())),
                };
                if went_on.is_break() {
                    return;
                }
            }
        }
    })
}
