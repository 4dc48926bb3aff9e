//! `push` and `watch`: open the ledger, build the engine, run, and say what became of every file.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::failed;
use crate::config::Resolved;
use crate::config::settings::{Execution, FileList, LedgerLocation, ListOrigin, Settings};
use crate::domain::{OwnerId, display};
use crate::exit::Exit;
use crate::ledger::{Cursor, Ledger, LedgerError, RowFilter, SqliteConfig, SqliteLedger, sqlite};
use crate::monitor::{Monitor, Questions};
use crate::pipeline::build;
use crate::pipeline::engine::{Engine, Failure, Patience, RunError};
use crate::pipeline::names::{BadPath, Entry, Named, named};
use crate::pipeline::run::{Input, run};
use crate::pipeline::vitals;
use crate::report::{Console, Progress, Reporter, RowSet, Summary, SummaryHeader, Surface, progress};
use crate::shutdown::Shutdown;
use crate::source::list::{self, Listed, Lister, Paths};

/// Rows of one page of the summary.
const PAGE: usize = 500;

/// How long a second interrupt waits for the run to end in order: a locked ledger, or a dead disk, does not hold it up.
pub const AT_ONCE: Duration = Duration::from_secs(3);

pub async fn push(resolved: Resolved, console: Console) -> Exit {
    until_signalled(resolved, Mode::Push, console).await
}

pub async fn watch(resolved: Resolved, console: Console) -> Exit {
    until_signalled(resolved, Mode::Watch(None), console).await
}

async fn until_signalled(resolved: Resolved, mode: Mode, console: Console) -> Exit {
    let shutdown = Shutdown::new();
    let _listener = match shutdown.listen() {
        Ok(listener) => listener,
        Err(error) => return failed(&console, "signals cannot be handled", &error.to_string(), None, Exit::Usage),
    };
    let late = async {
        shutdown.now().cancelled().await;
        tokio::time::sleep(AT_ONCE).await;
    };
    let mut run = Box::pin(archive(resolved.settings, mode, &console, &shutdown));
    tokio::select! {
        exit = &mut run => exit,
        () = late => {
            // Its end would wait for the ledger's thread, which waits for the lock. The process ends right after this.
            std::mem::forget(run);
            Exit::Interrupted
        }
    }
}

/// Once, or until told to stop.
#[derive(Debug)]
pub enum Mode {
    Push,
    /// Somebody may wait for nothing being wrong with the settings, the ledger and the sources.
    Watch(Option<oneshot::Sender<()>>),
}

/// A whole run, from the ledger's opening to the summary.
pub async fn archive(settings: Settings, mode: Mode, console: &Console, shutdown: &Shutdown) -> Exit {
    let started_at = Utc::now();
    let reporter = Reporter::new(settings.sources.iter().map(|source| source.name.as_str().into()));
    // The address may be set for all commands of an image; a push beside a watch has none of its own.
    let listen = match mode {
        Mode::Push => None,
        Mode::Watch(_) => settings.metrics.listen,
    };
    let status_file = settings.output.status_file.clone();
    let monitor = match Monitor::start(listen, status_file, hostname(), started_at, reporter.clone()).await {
        Ok(monitor) => monitor,
        Err(error) => {
            return failed(console, error.what(), &error.to_string(), Some(error.hint()), Exit::Usage);
        }
    };
    let exit = observed(settings, mode, console, shutdown, reporter, &monitor, started_at).await;
    monitor.finish(exit.code()).await;
    exit
}

/// The same, with whoever looks at it.
async fn observed(
    settings: Settings,
    mode: Mode,
    console: &Console,
    shutdown: &Shutdown,
    reporter: Reporter,
    monitor: &Monitor,
    started_at: DateTime<Utc>,
) -> Exit {
    let began = Instant::now();
    let settings = Arc::new(settings);
    let ledger = match open_ledger(&settings).await {
        Ok(ledger) => ledger,
        Err(error) => return failed(console, "the ledger cannot be opened", &error.to_string(), None, Exit::Usage),
    };
    let patience = match &mode {
        Mode::Push => Patience::Once,
        Mode::Watch(_) => Patience::Persistent,
    };
    let built = build::engine(settings.clone(), ledger.clone(), reporter.clone(), patience, hostname());
    let (engine, bad) = match built {
        Ok(built) => built,
        Err(error) => {
            return failed(console, "the settings cannot be used", &error.to_string(), error.hint(), Exit::Usage);
        }
    };
    if let Mode::Watch(_) = &mode {
        let files = engine.sources.iter().flat_map(|source| &source.entries).filter_map(|entry| match entry {
            Entry::File(candidate) => Some(format!(
                "{} is a file; name its directory, and the file with `--include`",
                display::path(&candidate.absolute())
            )),
            Entry::Directory(_) => None,
        });
        let unusable: Vec<_> = bad.iter().map(|bad| bad.reason.clone()).chain(files).collect();
        for reason in &unusable {
            failed(console, "a source cannot be watched", reason, None, Exit::Usage);
        }
        if !unusable.is_empty() {
            return Exit::Usage;
        }
    }
    let engine = Arc::new(engine);
    monitor.attach(questions(&engine));
    let input = match input(&engine, &mode, bad) {
        Ok(input) => input,
        Err(error) => return failed(console, "the list of files cannot be read", &error, None, Exit::Usage),
    };
    if let Mode::Watch(Some(ready)) = mode {
        // Nobody waits any more where it was told to stop meanwhile.
        let _ = ready.send(());
    }
    let progress = Progress::start(console, reporter.clone());
    let result = tokio::select! {
        result = run(engine.clone(), input, shutdown) => result,
        never = tell_when_asked(&reporter, console) => match never {},
    };
    progress.finish();

    let header = |totals| SummaryHeader {
        started_at,
        finished_at: Utc::now(),
        destinations: engine.destinations.iter().map(ToString::to_string).collect(),
        totals,
        elapsed: began.elapsed(),
    };
    let exit = conclude(&engine, result, shutdown, console).await;
    if let Err(reason) = summarize(&engine, header).await {
        failed(console, "the summary cannot be written", &reason, None, exit);
        return if exit == Exit::Done { Exit::SomeFailed } else { exit };
    }
    if let Err(error) = ledger.finish().await {
        tracing::warn!(%error, "the ledger could not be closed in order; the next run tidies up");
    }
    exit
}

/// What the engine can be asked at any time.
fn questions(engine: &Arc<Engine>) -> Questions {
    let (asked, of_places) = (engine.clone(), engine.clone());
    Questions {
        vitals: Box::new(move || vitals::vitals(&asked)),
        free_bytes: Arc::new(move || vitals::free_bytes(&of_places)),
    }
}

/// SIGUSR1: says how far the run is, and goes on.
async fn tell_when_asked(reporter: &Reporter, console: &Console) -> Infallible {
    match signal(SignalKind::user_defined1()) {
        Ok(mut asked) => {
            while asked.recv().await.is_some() {
                console.line(&progress::interim(&reporter.snapshot()));
            }
        }
        Err(error) => tracing::warn!(%error, "SIGUSR1 cannot be handled"),
    }
    std::future::pending().await
}

async fn open_ledger(settings: &Settings) -> Result<Arc<dyn Ledger>, LedgerError> {
    let LedgerLocation::File(path) = &settings.ledger.location;
    let config = SqliteConfig {
        path: path.clone(),
        retention: settings.ledger.retention,
        lease: sqlite::DEFAULT_LEASE,
        owner: OwnerId(rand::random()),
        clock: Arc::new(Utc::now),
    };
    let execution = settings.execution;
    let opening = tokio::task::spawn_blocking(move || match execution {
        Execution::Real => SqliteLedger::open(config),
        Execution::DryRun => SqliteLedger::open_snapshot(config),
    });
    let ledger = opening.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(Arc::new(ledger))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the run takes in.
fn input(engine: &Arc<Engine>, mode: &Mode, bad: Vec<BadPath>) -> Result<Input, String> {
    match (mode, engine.settings.files_from.clone()) {
        (Mode::Watch(_), _) => Ok(Input::Watch),
        (Mode::Push, None) => Ok(Input::Once(bad)),
        (Mode::Push, Some(files)) => Ok(Input::Named(listed(engine, files)?, bad)),
    }
}

/// Reads a list on a thread of its own, as it comes.
fn listed(engine: &Arc<Engine>, files: FileList) -> Result<mpsc::Receiver<Named>, String> {
    let input: Box<dyn io::BufRead + Send> = match &files.from {
        ListOrigin::Stdin => Box::new(BufReader::new(io::stdin())),
        ListOrigin::File(path) => {
            let file = File::open(path).map_err(|error| format!("{}: {error}; check the path", display::path(path)))?;
            Box::new(BufReader::new(file))
        }
    };
    // The only source there is: the paths of the command line.
    let source = 0;
    let mut lister = match engine.sources[source].entries.first() {
        Some(Entry::Directory(root)) => Lister::below(root.clone(), &engine.settings.sources[source].paths[0]),
        _ => Lister::own_names(source),
    };
    Ok(named(move |send| {
        let ended = list::read(Paths::new(input, files.separator), &mut lister, &mut |listed| {
            send(match listed {
                Listed::Candidate(candidate) => Named::Candidate(candidate),
                Listed::Problem { path, error } => Named::Problem { source, path, reason: error.to_string() },
                Listed::Unreadable(error) => {
                    Named::Problem { source, path: "--files-from".into(), reason: error.to_string() }
                }
            })
        });
        match ended {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => {}
        }
    }))
}

/// The exit code, and the error that ended the run early.
async fn conclude(engine: &Engine, result: Result<(), RunError>, shutdown: &Shutdown, console: &Console) -> Exit {
    if shutdown.now().is_cancelled() {
        return Exit::Interrupted;
    }
    match (engine.failure(), result) {
        (Some(Failure::Destination(error)), _) => {
            failed(console, &error.what, &error.why, error.hint.as_deref(), Exit::Destination)
        }
        (_, Err(error)) => failed(console, "the run ended early", &error.to_string(), None, Exit::SomeFailed),
        (_, Ok(())) => match engine.ledger.totals().await {
            Ok(totals) if Exit::from_totals(&totals) == Exit::Done && engine.was_cut_short() => Exit::WorkLeft,
            Ok(totals) => Exit::from_totals(&totals),
            Err(error) => failed(console, "the totals cannot be read", &error.to_string(), None, Exit::SomeFailed),
        },
    }
}

async fn summarize(engine: &Engine, header: impl FnOnce(crate::domain::Totals) -> SummaryHeader) -> Result<(), String> {
    let ledger = &engine.ledger;
    let totals = ledger.totals().await.map_err(|error| error.to_string())?;
    let output = &engine.settings.output;
    let summary = Summary { header: header(totals), format: output.summary, rows: output.summary_rows };
    let page = |set, after| async move {
        let filter = match set {
            RowSet::All => RowFilter::All,
            RowSet::Only(status) => RowFilter::Status(status),
        };
        ledger.rows(filter, Cursor(after), PAGE).await.map(|(rows, cursor)| (rows, cursor.0))
    };
    let written = match &output.summary_file {
        Some(path) => summary.write_file(path, page).await,
        None => summary.write(&mut io::stdout(), Surface::stdout(), page).await,
    };
    match written {
        Err(error) if !error.is_broken_pipe() => Err(error.to_string()),
        _ => Ok(()),
    }
}
