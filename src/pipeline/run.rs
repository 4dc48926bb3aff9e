//! A run from its input to its end, torn down in the order that loses nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::engine::{Engine, Failure, RunError};
use super::intake::Intake;
use super::names::{BadPath, Entry, Named, named, send_found};
use super::workers::work;
use super::{janitor, outages, push, taken_over, watch};
use crate::config::settings::Execution;
use crate::destination::sftp::Load;
use crate::domain::display;
use crate::shutdown::Shutdown;
use crate::source::scan::scan;

/// Claimed files of one destination that wait for a worker; beyond it the intake of its sources waits too.
const CLAIMED: usize = 256;

/// How soon a connection that broke while there was nothing to do is missed.
const IN_TOUCH: Duration = Duration::from_secs(1);

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
        let (shutdown, engine) = (shutdown.clone(), engine.clone());
        async move {
            tokio::select! {
                () = shutdown.now().cancelled() => {}
                () = grace_over(&shutdown, &engine) => {}
            }
            engine.stop.cancel();
        }
    });

    let mut attendants = JoinSet::new();
    // Before anything that takes long is done with what is ours.
    let keeper = engine.clone();
    attendants.spawn(async move { keeper.lease.keep(|| keeper.in_hand(), keeper.stop.clone()).await });
    if engine.settings.execution == Execution::Real {
        let finished = engine.stop.run_until_cancelled(janitor::finish_disposals(&engine)).await;
        finished.unwrap_or(Ok(()))?;
    }
    attend(&mut attendants, &engine, &input, shutdown);
    let lanes = inputs(&engine, input).into_iter().map(|(lane, input)| take_in(&engine, lane, input, shutdown));
    // Side by side, so that none waits for another's destination. All come to their end.
    let mut result = join_all(lanes).await.into_iter().collect::<Result<(), _>>();
    if result.is_ok() && engine.failure().is_none() {
        let settled = engine.stop.run_until_cancelled(taken_over::settle(&engine)).await;
        result = settled.unwrap_or(Ok(())).map_err(RunError::from);
    }
    // A successor looks after what an engine that hands over leaves, and may take it up again.
    let is_last = !shutdown.handing_over().is_cancelled();
    if is_last && result.is_ok() && engine.failure().is_none() && engine.settings.execution == Execution::Real {
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

/// Returns when what is in flight has had its time.
async fn grace_over(shutdown: &Shutdown, engine: &Engine) {
    let grace = engine.settings.watch.grace;
    let drained = async {
        shutdown.draining().cancelled().await;
        tokio::time::sleep_until(shutdown.over(grace)).await;
        warn!("the grace is over: what is still in flight is left for the next run");
    };
    let handed_over = async {
        shutdown.handing_over().cancelled().await;
        // Nothing moves while there is nowhere to go, and the reason may be what was changed.
        if !engine.archives.iter().all(|archive| archive.pool().outage().borrow().is_some()) {
            tokio::time::sleep(grace).await;
        }
        // Otherwise this is the end, and nobody takes up what is cut off.
        if !shutdown.draining().is_cancelled() {
            engine.replace();
        }
        if engine.in_hand() > 0 {
            info!(files = engine.in_hand(), "still in flight: taken up again with the new configuration");
        }
    };
    tokio::select! {
        () = drained => {}
        () = handed_over => {}
    }
}

/// What the sources of each destination take in.
fn inputs(engine: &Arc<Engine>, input: Input) -> Vec<(usize, LaneInput)> {
    let lanes = engine.lanes().into_iter();
    match input {
        Input::Once(bad) => lanes
            .map(|lane| {
                let bad = bad.iter().filter(|bad| engine.sources[bad.source].destination == lane);
                (lane, LaneInput::Names(scan_all(engine, lane), bad.cloned().collect()))
            })
            .collect(),
        // They are of one source.
        Input::Named(names, bad) => lanes.take(1).zip([LaneInput::Names(names, bad)]).collect(),
        Input::Watch => lanes.map(|lane| (lane, LaneInput::Watch)).collect(),
    }
}

/// What the sources of one destination take in.
enum LaneInput {
    Names(mpsc::Receiver<Named>, Vec<BadPath>),
    Watch,
}

/// The sources of one destination, from their first file to the end of the last one.
async fn take_in(engine: &Arc<Engine>, lane: usize, input: LaneInput, shutdown: &Shutdown) -> Result<(), RunError> {
    let (jobs, claimed) = mpsc::channel(CLAIMED);
    let workers = tokio::spawn(work(engine.clone(), lane, claimed));
    let intake = Intake::new(engine.clone(), lane, jobs);
    let taken = match input {
        LaneInput::Names(names, bad) => {
            push::take_in(engine, &intake, bad, names, shutdown.draining()).await.map_err(RunError::from)
        }
        LaneInput::Watch => watch::take_in(engine, &intake, shutdown).await,
    };
    if let Err(error) = &taken {
        // The others would go on for ever.
        engine.broke(error.clone());
    }
    // No more jobs: the workers end when what they have is done, or when everything stops.
    drop(intake);
    let worked = workers.await.map_err(|panic| RunError::Broken(format!("the workers failed: {panic}")));
    taken.and(worked)
}

/// Tasks that run beside the workers until everything stops.
fn attend(tasks: &mut JoinSet<()>, engine: &Arc<Engine>, input: &Input, shutdown: &Shutdown) {
    if let (Input::Watch, Some(file)) = (input, engine.settings.watch.until.clone()) {
        let (engine, shutdown) = (engine.clone(), shutdown.clone());
        tasks.spawn(async move {
            if engine.stop.run_until_cancelled(watch::await_file(&engine.desk, &file)).await.is_some() {
                info!(file = %display::path(&file), "the stop file appeared: finishing what is under way");
                shutdown.drain();
            }
        });
    }
    let teller = engine.clone();
    tasks.spawn(async move {
        let telling = outages::tell(&teller);
        teller.stop.run_until_cancelled(telling).await;
    });
    if matches!(input, Input::Watch) && engine.settings.execution == Execution::Real {
        for destination in 0..engine.archives.len() {
            let engine = engine.clone();
            tasks.spawn(async move {
                engine.stop.clone().run_until_cancelled(keep_in_touch(&engine, destination)).await;
            });
        }
        let engine = engine.clone();
        tasks.spawn(async move { janitor::keep_house(&engine).await });
    }
}

/// A watch says at once, not with its first file, that the server will never let it in. Where somebody asks whether it is
/// ready, it also makes a connection anew that was lost while there was nothing to do.
async fn keep_in_touch(engine: &Engine, destination: usize) {
    let archive = &engine.archives[destination];
    loop {
        if let Err(error) = archive.session(Load::Light).await {
            return engine.lost(destination, &error);
        }
        if !engine.settings.is_observed() {
            return;
        }
        // A pause in any case: a server may take a connection and drop it, again and again.
        loop {
            tokio::time::sleep(IN_TOUCH).await;
            if archive.pool().state().connections == 0 {
                break;
            }
        }
    }
}

/// Names everything that stands in the sources of a destination, one root after the other.
fn scan_all(engine: &Arc<Engine>, destination: usize) -> mpsc::Receiver<Named> {
    let engine = engine.clone();
    named(move |send| {
        for source in engine.sources_of(destination) {
            for entry in &source.entries {
                let went_on = match entry {
                    Entry::Directory(root) => {
                        engine.reporter.scanning();
                        scan(root, &source.selection, &mut |item| send_found(item, send))
                    }
                    Entry::File(candidate) => send(Named::Candidate(candidate.clone())),
                };
                if went_on.is_break() {
                    return;
                }
            }
        }
    })
}
