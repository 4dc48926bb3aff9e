//! From settings to an engine: every component gets what it needs, and nothing is connected yet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, SubsecRound, Utc};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::engine::{Engine, Patience, Pulses, Source};
use super::lease::LeaseKeeper;
use super::names::{BadPath, Entry};
use super::peers::Peers;
use super::shared::Shared;
use super::{push, watch};
use crate::config::settings::{DestinationSettings, LedgerLocation, Settings, SourceSettings};
use crate::destination::DestinationError;
use crate::destination::sftp::archive::{Archive, Rules};
use crate::destination::sftp::pace::Pace;
use crate::destination::sftp::stage::Durability;
use crate::destination::sftp::{Connector, OutagePolicy, Pool, PoolConfig, Timeouts};
use crate::domain::{After, AfterFailure, Fsync, display};
use crate::ledger::Ledger;
use crate::readiness::Waiting;
use crate::report::Reporter;
use crate::selection::{MarkerPattern, Selection};

/// Bytes of files in memory at the same time, in KiB: room for some small files of each session, or a few large ones.
const MEMORY_KIB: usize = 16 << 10;

/// Why no engine could be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The settings were checked, so this names what changed since.
    #[error("{0}")]
    Source(String),
}

impl BuildError {
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Destination(error) => error.hint.as_deref(),
            Self::Source(_) => None,
        }
    }
}

/// Builds the engine, and says which paths of its sources cannot be used.
pub fn engine(
    settings: Arc<Settings>,
    ledger: Arc<dyn Ledger>,
    reporter: Reporter,
    patience: Patience,
    hostname: String,
    started_at: DateTime<Utc>,
    shared: Shared,
) -> Result<(Engine, Vec<BadPath>), BuildError> {
    let pace = Arc::new(Pace::new(settings.pool.limit_rate));
    let mut archives = Vec::new();
    for destination in &settings.destinations {
        archives.push(archive(destination, &settings, patience, pace.clone())?);
    }
    let mut bad = Vec::new();
    let mut sources = Vec::new();
    for (index, source) in settings.sources.iter().enumerate() {
        let rules = &settings.destinations[source.destination];
        sources.push(self::source(index, source, rules, &mut bad).map_err(BuildError::Source)?);
    }
    let pulses = archives.iter().map(|_| Pulses::default()).collect();
    let capacity = match (patience, &settings.ledger.location) {
        (Patience::Once, LedgerLocation::File(_)) => push::WAITING,
        // Files that are left to other replicas wait for seconds, and so would the scan.
        (Patience::Once, LedgerLocation::Redis(_)) | (Patience::Persistent, _) => watch::WAITING,
    };
    let waiting = archives.iter().map(|_| Mutex::new(Waiting::new(capacity))).collect();
    let destinations: Vec<_> =
        settings.destinations.iter().map(|destination| destination.url.to_string().into()).collect();
    let engine = Engine {
        settings,
        lease: LeaseKeeper::new(ledger.clone()),
        peers: Peers::new(ledger.clone(), &sources, &destinations),
        ledger,
        reporter,
        desk: Desk::default(),
        shared,
        sources,
        archives,
        destinations,
        hostname,
        patience,
        stop: CancellationToken::new(),
        memory: Semaphore::new(MEMORY_KIB),
        failure: Mutex::default(),
        short: AtomicBool::new(false),
        waiting,
        pulses,
        replaced: AtomicBool::new(false),
        ledger_out: Mutex::default(),
        writers_unseen: AtomicBool::default(),
        claimed: AtomicUsize::new(0),
        // As exactly as the ledger notes when something was recorded.
        started_at: started_at.trunc_subsecs(6),
        stirred: Mutex::new(std::time::Instant::now()),
        resting: Mutex::default(),
    };
    Ok((engine, bad))
}

fn archive(
    destination: &DestinationSettings,
    settings: &Settings,
    patience: Patience,
    pace: Arc<Pace>,
) -> Result<Archive, DestinationError> {
    let connector = Connector::new(destination, Timeouts::from(&settings.pool))?;
    let outage = match patience {
        Patience::Once => OutagePolicy::GiveUpAfter(settings.retry.max_attempts),
        Patience::Persistent => OutagePolicy::Forever,
    };
    let config = PoolConfig {
        connections: settings.pool.connections,
        backoff: settings.retry.backoff,
        outage,
        ..PoolConfig::default()
    };
    let pool = Pool::new(connector, config);
    Ok(Archive::new(pool, destination.url.base.clone(), pace))
}

fn source(
    index: usize,
    settings: &SourceSettings,
    destination: &DestinationSettings,
    bad: &mut Vec<BadPath>,
) -> Result<Source, String> {
    let marker = settings.marker.as_deref().map(str::parse::<MarkerPattern>).transpose()?;
    let durability = match (destination.fsync, &settings.after) {
        (Fsync::Always, _) | (Fsync::Auto, After::Delete | After::Move(_)) => Durability::Synced,
        (Fsync::Never, _) | (Fsync::Auto, After::Keep) => Durability::Acknowledged,
    };
    let mut entries: Vec<Entry> = Vec::new();
    for path in &settings.paths {
        match Entry::open(index, path) {
            Ok(entry) => entries.push(entry),
            Err(reason) => bad.push(BadPath { source: index, path: path.clone(), reason }),
        }
    }
    let after = match &settings.after {
        After::Move(directory) => After::Move(resolved(directory, &entries)?),
        after => after.clone(),
    };
    let after_failure = match &settings.after_failure {
        AfterFailure::Move(directory) => AfterFailure::Move(resolved(directory, &entries)?),
        AfterFailure::Keep => AfterFailure::Keep,
    };
    Ok(Source {
        name: settings.name.as_str().into(),
        selection: selection(settings, &entries, marker.as_ref(), &after, &after_failure)?.into(),
        entries,
        marker,
        settle: settings.settle,
        after,
        after_failure,
        rules: Rules {
            publish: destination.publish,
            verify: destination.verify,
            on_conflict: destination.on_conflict,
            durability,
        },
        destination: settings.destination,
    })
}

/// Where a disposal directory lies. Symbolic links are resolved now, by the user's wish, and never again: a disposal
/// refuses one that has come since. Below a root, where the application may plant one at any time, none is followed at
/// all.
fn resolved(directory: &Path, entries: &[Entry]) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", display::path(directory));
    let absolute = std::path::absolute(directory).map_err(failed)?;
    let is_root =
        |path: &Path| entries.iter().any(|entry| matches!(entry, Entry::Directory(root) if root.path == *path));
    let mut real = PathBuf::new();
    let mut parts = absolute.components();
    for part in parts.by_ref() {
        real.push(part);
        match std::fs::canonicalize(&real) {
            Ok(found) => real = found,
            // Nor is anything below it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(error) => return Err(failed(error)),
        }
        if is_root(&real) {
            break;
        }
    }
    real.extend(parts);
    Ok(real)
}

/// The rules of selection; a disposal directory below a root is no source of candidates.
fn selection(
    settings: &SourceSettings,
    entries: &[Entry],
    marker: Option<&MarkerPattern>,
    after: &After,
    after_failure: &AfterFailure,
) -> Result<Selection, String> {
    let mut selection = Selection::new(&settings.include, &settings.exclude, marker)?;
    let moved = match after {
        After::Move(directory) => Some(directory),
        After::Keep | After::Delete => None,
    };
    let quarantine = match after_failure {
        AfterFailure::Move(directory) => Some(directory),
        AfterFailure::Keep => None,
    };
    for directory in moved.into_iter().chain(quarantine) {
        for entry in entries {
            if let Ok(below) = directory.strip_prefix(&entry.root().path) {
                selection = selection.barring(below);
            }
        }
    }
    Ok(selection)
}
