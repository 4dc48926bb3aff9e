//! `push` and `watch`: open the ledger, build the engine, run, and say what became of every file.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};

use super::ending::{Ended, TerminationLog};
use super::reload::Reload;
use super::wishes::Wishes;
use super::{Unsettled, failed, settings};
use crate::config::Typed;
use crate::config::settings::{Execution, FileList, LedgerLocation, ListOrigin, OnFailure, Settings};
use crate::domain::{Dedupe, OwnerId, Row, Status, display};
use crate::exit::Exit;
use crate::ledger::{
    Cursor, Ledger, LedgerError, RedisConfig, RedisLedger, RedisPreview, RowFilter, SqliteConfig, SqliteLedger,
};
use crate::monitor::{Monitor, Questions};
use crate::pipeline::build;
use crate::pipeline::engine::{Engine, Failure, Patience, RunError};
use crate::pipeline::names::{BadPath, Entry, Named, named};
use crate::pipeline::run::{Input, run};
use crate::pipeline::shared::Shared;
use crate::pipeline::vitals;
use crate::report::{Console, Progress, Reporter, RowSet, Summary, SummaryHeader, Surface, progress, termination};
use crate::shutdown::Shutdown;
use crate::signals::Signals;
use crate::source::list::{self, Listed, Lister, Paths};

/// Rows of one page of the summary.
/// How long a ledger may be out while its records are indexed by their bytes, at the start, and how soon it is asked again.
const INDEX_PATIENCE: Duration = Duration::from_secs(30);
const INDEX_PAUSE: Duration = Duration::from_millis(500);

const PAGE: usize = 500;

/// How long a second interrupt waits for the run to end in order: a locked ledger, or a dead disk, does not hold it up.
pub const AT_ONCE: Duration = Duration::from_secs(3);

/// `push` and `watch`, with the signals that stop them.
pub async fn until_signalled(typed: Typed, mode: Mode, signals: Signals) -> Exit {
    let (shutdown, wishes, log) = (Shutdown::new(), Wishes::default(), TerminationLog::default());
    tokio::spawn(wishes.clone().follow(signals, shutdown.clone()));
    let late = async {
        shutdown.now().cancelled().await;
        tokio::time::sleep(AT_ONCE).await;
    };
    let mut run = Box::pin(as_typed(&typed, mode, &wishes, &shutdown, &log));
    let ended = tokio::select! {
        ended = &mut run => ended,
        () = late => {
            // Its end would wait for the ledger's thread, which waits for the lock. The process ends right after this.
            std::mem::forget(run);
            Exit::Interrupted.into()
        }
    };
    log.tell(&ended)
}

/// From what was typed to the summary.
pub async fn as_typed(typed: &Typed, mode: Mode, wishes: &Wishes, shutdown: &Shutdown, log: &TerminationLog) -> Ended {
    let (resolved, console) = match settings(typed).await {
        Ok(settings) => settings,
        Err(Unsettled::Mistakes(mistakes)) => {
            log.is_at(mistakes.termination_log.as_deref());
            return Ended::misconfigured(&mistakes);
        }
        Err(Unsettled::Log(console, reason)) => {
            return Ended::failed(&console, "the log cannot be set up", &reason, None, Exit::Usage);
        }
    };
    log.is_at(resolved.settings.output.termination_log.as_deref());
    let reload = match mode {
        Mode::Watch(_) => Some(Reload::new(typed, &resolved).await),
        Mode::Push => None,
    };
    archive(resolved.settings, mode, reload, &console, wishes, shutdown).await
}

/// Once, or until told to stop.
#[derive(Debug)]
pub enum Mode {
    Push,
    /// Somebody may wait for nothing being wrong with the settings, the ledger and the sources.
    Watch(Option<oneshot::Sender<Ready>>),
}

/// Nothing is wrong so far: what the command beside a watch has to know of it.
#[derive(Debug)]
pub struct Ready {
    pub console: Console,
    pub on_failure: OnFailure,
    pub grace: Duration,
}

/// A whole run, from the ledger's opening to the summary.
pub async fn archive(
    settings: Settings,
    mode: Mode,
    reload: Option<Reload>,
    console: &Console,
    wishes: &Wishes,
    shutdown: &Shutdown,
) -> Ended {
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
            return Ended::failed(console, error.what(), &error.to_string(), Some(error.hint()), Exit::Usage);
        }
    };
    let told = Told { console, reporter, monitor: &monitor, started_at };
    let ended = observed(settings, mode, reload, told, wishes, shutdown).await;
    monitor.finish(ended.exit.code()).await;
    ended
}

/// Whom a run tells how it is.
struct Told<'a> {
    console: &'a Console,
    reporter: Reporter,
    monitor: &'a Monitor,
    started_at: DateTime<Utc>,
}

/// The same, with whoever looks at it.
async fn observed(
    settings: Settings,
    mode: Mode,
    mut reload: Option<Reload>,
    told: Told<'_>,
    wishes: &Wishes,
    shutdown: &Shutdown,
) -> Ended {
    let Told { console, reporter, monitor, started_at } = told;
    let began = Instant::now();
    let ledger = match open_ledger(&settings).await {
        Ok(ledger) => ledger,
        Err(error) => {
            return Ended::failed(console, "the ledger cannot be opened", &error.to_string(), None, Exit::Usage);
        }
    };
    let patience = match &mode {
        Mode::Push => Patience::Once,
        Mode::Watch(_) => Patience::Persistent,
    };
    let (opened_at, shared) = (Utc::now(), Shared::default());
    let build = |settings: Settings| {
        reporter.know(settings.sources.iter().map(|source| source.name.as_str().into()));
        let (ledger, reporter) = (ledger.clone(), reporter.clone());
        build::engine(settings.into(), ledger, reporter, patience, hostname(), opened_at, shared.clone())
    };
    let (engine, bad) = match build(settings) {
        Ok(built) => built,
        Err(error) => {
            let (why, hint) = (error.to_string(), error.hint());
            return Ended::failed(console, "the settings cannot be used", &why, hint, Exit::Usage);
        }
    };
    if let Mode::Watch(_) = &mode {
        let mut unusable = unwatchable(&engine, &bad).into_iter();
        if let Some(first) = unusable.next() {
            let ended = Ended::failed(console, "a source cannot be watched", &first, None, Exit::Usage);
            for reason in unusable {
                failed(console, "a source cannot be watched", &reason, None, Exit::Usage);
            }
            return ended;
        }
    }
    let engine = Arc::new(engine);
    let input = match input(&engine, &mode, bad) {
        Ok(input) => input,
        Err(error) => return Ended::failed(console, "the list of files cannot be read", &error, None, Exit::Usage),
    };
    if let Mode::Watch(Some(ready)) = mode {
        // Nobody waits any more where it was told to stop meanwhile.
        let (on_failure, grace) = (engine.settings.on_failure, engine.settings.watch.grace);
        let _ = ready.send(Ready { console: console.clone(), on_failure, grace });
    }
    let progress = Progress::start(console, reporter.clone());
    let rebuild = |settings| match build(settings) {
        Ok((engine, bad)) => match unwatchable(&engine, &bad) {
            unusable if unusable.is_empty() => Ok(engine),
            unusable => Err(unusable),
        },
        Err(error) => {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            Err(vec![format!("{error}{hint}")])
        }
    };
    let (engine, result) = tokio::select! {
        ended = run_all(engine, input, reload.as_mut(), wishes, rebuild, monitor, shutdown) => ended,
        never = tell_when_asked(&reporter, console, wishes) => match never {},
    };
    progress.finish();

    let header = |totals| SummaryHeader {
        started_at,
        finished_at: Utc::now(),
        destinations: engine.destinations.iter().map(ToString::to_string).collect(),
        totals,
        elapsed: began.elapsed(),
    };
    let mut ended = conclude(&engine, result, shutdown, console).await;
    (ended.totals, ended.files) = (ledger.totals().await.ok(), unsuccessful(&*ledger).await);
    if patience == Patience::Persistent {
        tell_of_leftovers(&ended);
    }
    if let Err(reason) = summarize(&engine, header).await {
        let exit = if ended.exit == Exit::Done { Exit::SomeFailed } else { ended.exit };
        let unsaid = Ended::failed(console, "the summary cannot be written", &reason, None, exit);
        ended = Ended { exit, reason: ended.reason.or(unsaid.reason), ..ended };
    } else if let Err(error) = ledger.finish().await {
        tracing::warn!(%error, "the ledger could not be closed in order; the next run tidies up");
    }
    ended
}

/// What the engine can be asked at any time.
fn questions(engine: &Arc<Engine>) -> Questions {
    let (asked, of_places) = (engine.clone(), engine.clone());
    Questions {
        vitals: Box::new(move || vitals::vitals(&asked)),
        free_bytes: Arc::new(move || vitals::free_bytes(&of_places)),
    }
}

/// One engine after the other, a new one whenever the configuration has changed; gives the last one, and how it ended.
async fn run_all(
    mut engine: Arc<Engine>,
    mut input: Input,
    mut reload: Option<&mut Reload>,
    wishes: &Wishes,
    rebuild: impl Fn(Settings) -> Result<Engine, Vec<String>>,
    monitor: &Monitor,
    shutdown: &Shutdown,
) -> (Arc<Engine>, Result<(), RunError>) {
    loop {
        monitor.attach(questions(&engine));
        let one = shutdown.of_one();
        let mut running = Box::pin(run(engine.clone(), input, &one));
        let successor = async {
            if let Some(reload) = &mut reload
                && let Some(successor) = shutdown.draining().run_until_cancelled(reload.next(wishes, &rebuild)).await
            {
                return successor;
            }
            // There is none to come, or it is too late for one.
            std::future::pending().await
        };
        let successor = tokio::select! {
            result = &mut running => return (engine, result),
            successor = successor => successor,
        };
        one.hand_over();
        let result = running.await;
        if result.is_err() || engine.failure().is_some() || shutdown.now().is_cancelled() {
            return (engine, result);
        }
        tracing::info!("the new configuration holds");
        (engine, input) = (successor, Input::Watch);
    }
}

/// Why a watch cannot begin, for each of its paths.
fn unwatchable(engine: &Engine, bad: &[BadPath]) -> Vec<String> {
    let files = engine.sources.iter().flat_map(|source| &source.entries).filter_map(|entry| match entry {
        Entry::File(candidate) => Some(format!(
            "{} is a file; name its directory, and the file with `--include`",
            display::path(&candidate.absolute())
        )),
        Entry::Directory(_) => None,
    });
    bad.iter().map(|bad| bad.reason.clone()).chain(files).collect()
}

/// Nobody may ever read the summary of a service.
fn tell_of_leftovers(ended: &Ended) {
    let left = ended.files.iter().filter(|row| row.status == Status::Deferred);
    for row in left.clone() {
        let (path, reason) = (display::path(&row.path), row.reason.as_deref().unwrap_or_default());
        tracing::warn!(%path, reason, "left for the next run");
    }
    let more = ended.totals.map_or(0, |totals| totals.deferred).saturating_sub(left.count() as u64);
    if more > 0 {
        tracing::warn!("left for the next run: {more} more, which the summary names");
    }
}

/// Some of the files that failed or were left.
async fn unsuccessful(ledger: &dyn Ledger) -> Vec<Row> {
    let mut rows = Vec::new();
    for status in [Status::Failed, Status::Deferred] {
        let page = ledger.rows(RowFilter::Status(status), Cursor::default(), termination::FILES).await;
        rows.extend(page.into_iter().flat_map(|(rows, _)| rows));
    }
    rows.truncate(termination::FILES);
    rows
}

/// Says how far the run is whenever somebody wants to know.
async fn tell_when_asked(reporter: &Reporter, console: &Console, wishes: &Wishes) -> Infallible {
    loop {
        wishes.progress.notified().await;
        console.line(&progress::interim(&reporter.snapshot()));
    }
}

pub(super) async fn open_ledger(settings: &Settings) -> Result<Arc<dyn Ledger>, LedgerError> {
    let ledger = open(settings).await?;
    if settings.ledger.dedupe == Dedupe::Content && settings.execution == Execution::Real {
        let began = Instant::now();
        // It goes on where it was, for what is indexed stays so.
        while let Err(error) = ledger.index_contents().await {
            if !matches!(error, LedgerError::Unavailable { .. }) || began.elapsed() > INDEX_PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(INDEX_PAUSE).await;
        }
    }
    Ok(ledger)
}

async fn open(settings: &Settings) -> Result<Arc<dyn Ledger>, LedgerError> {
    let (retention, lease, owner) = (settings.ledger.retention, settings.ledger.lease, OwnerId(rand::random()));
    let execution = settings.execution;
    let path = match settings.ledger.location.clone() {
        LedgerLocation::File(path) => path,
        LedgerLocation::Redis(settings) => {
            let config = RedisConfig { settings, retention, lease, owner };
            return Ok(match execution {
                Execution::Real => Arc::new(RedisLedger::open(config).await?),
                Execution::DryRun => Arc::new(RedisPreview::open(config).await?),
            });
        }
    };
    let config = SqliteConfig { path, retention, lease, owner, clock: Arc::new(Utc::now) };
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
async fn conclude(engine: &Engine, result: Result<(), RunError>, shutdown: &Shutdown, console: &Console) -> Ended {
    if shutdown.now().is_cancelled() {
        return Exit::Interrupted.into();
    }
    match (engine.failure(), result) {
        (Some(Failure::Destination(error)), _) => {
            Ended::failed(console, &error.what, &error.why, error.hint.as_deref(), Exit::Destination)
        }
        (_, Err(error)) => Ended::failed(console, "the run ended early", &error.to_string(), None, Exit::SomeFailed),
        (_, Ok(())) => match engine.ledger.totals().await {
            Ok(totals) if Exit::from_totals(&totals) == Exit::Done && engine.was_cut_short() => Exit::WorkLeft.into(),
            Ok(totals) => Exit::from_totals(&totals).into(),
            Err(error) => {
                Ended::failed(console, "the totals cannot be read", &error.to_string(), None, Exit::SomeFailed)
            }
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
