//! A run from its input to its end, torn down in the order that loses nothing.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use super::build::BadPath;
use super::engine::{Engine, Failure, RunError, work};
use super::intake::Intake;
use super::{janitor, outages, push, watch};
use crate::config::settings::Execution;
use crate::domain::display;
use crate::localfs::{FileKind, OpenError};
use crate::shutdown::Shutdown;
use crate::source::scan::{Found, scan};
use crate::source::{BelowRoot, Candidate, Root};

/// Names that wait to be looked at; beyond it the scan waits too.
const NAMED: usize = 1024;
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
                let entered = engine.stop.run_until_cancelled(engine.archives[destination].session()).await;
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

/// A candidate, or something that could not become one.
#[derive(Debug)]
pub enum Named {
    Candidate(Candidate),
    Problem { source: usize, path: PathBuf, reason: String },
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

/// Passes on what a scanner found, as a name.
pub fn send_found(item: Found, send: &mut dyn FnMut(Named) -> ControlFlow<()>) -> ControlFlow<()> {
    match item {
        Found::Candidate(candidate) => send(Named::Candidate(candidate)),
        Found::Problem { root, path, error } => {
            send(Named::Problem { source: root.source, path, reason: error.to_string() })
        }
        Found::Ignored { root, path, why } => {
            tracing::trace!(path = %display::path(&root.path.join(path.as_path())), ?why, "ignored");
            ControlFlow::Continue(())
        }
    }
}

/// Names files on a thread of its own. It ends early when nobody listens any more.
pub fn named(walk: impl FnOnce(&mut dyn FnMut(Named) -> ControlFlow<()>) + Send + 'static) -> mpsc::Receiver<Named> {
    let (sender, names) = mpsc::channel(NAMED);
    tokio::task::spawn_blocking(move || {
        walk(&mut |name| match sender.blocking_send(name) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
    });
    names
}

/// One path of a source, as it was found at the start.
#[derive(Debug, Clone)]
pub enum Entry {
    Directory(Arc<Root>),
    /// A file that was named itself: its directory is the root, and selection is not asked.
    File(Candidate),
}

impl Entry {
    pub fn root(&self) -> &Arc<Root> {
        match self {
            Self::Directory(root) => root,
            Self::File(candidate) => &candidate.root,
        }
    }

    /// Opens a path of source number `source`. The error says what to do.
    pub fn open(source: usize, path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("{}: {why}", display::path(path));
        let metadata = path.symlink_metadata().map_err(|error| failed(explain(&error)))?;
        if metadata.is_dir() || (metadata.is_symlink() && path.is_dir()) {
            return Root::open(source, path)
                .map(|root| Self::Directory(Arc::new(root)))
                .map_err(|error| error.to_string());
        }
        if metadata.is_symlink() {
            return Err(OpenError::Symlink { path: path.to_owned() }.to_string());
        }
        if let Some(kind) = FileKind::of(rustix::fs::FileType::from_raw_mode(metadata.mode())) {
            return Err(OpenError::NotRegular { path: path.to_owned(), kind }.to_string());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => std::path::Path::new("."),
        };
        let name = path.file_name().and_then(BelowRoot::new).ok_or_else(|| failed("it is no file name".into()))?;
        let root = Root::open(source, parent).map_err(|error| error.to_string())?;
        Ok(Self::File(Candidate { root: Arc::new(root), path: name }))
    }
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory; check the path".into(),
        std::io::ErrorKind::NotADirectory => "something on the way to it is no directory; check the path".into(),
        std::io::ErrorKind::PermissionDenied => {
            "permission denied; this user needs search permission on every directory above it".into()
        }
        _ => error.to_string(),
    }
}
