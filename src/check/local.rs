//! What can be known without any network: the configuration, the sources and the ledger.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::probe::{Name, Probe};
use crate::config::settings::{LedgerLocation, Settings, SourceSettings};
use crate::domain::{After, AfterFailure, OwnerId, display};
use crate::ledger::{RedisConfig, RedisPreview, SqliteConfig, SqliteLedger};

/// A dead network mount blocks whoever touches it, for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `look`, which may block, within the time it may take.
async fn blocking(name: Name, subject: String, look: impl FnOnce() -> Probe + Send + 'static) -> Probe {
    let began = Instant::now();
    let found = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(look)).await;
    let probe = match found {
        Ok(Ok(probe)) => probe,
        Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Probe::fail(name, format!("{subject}: no answer within {}", humantime::format_duration(PATIENCE)))
            .hint("a network filesystem may be out of reach; see that it is mounted and alive"),
    };
    probe.took(began.elapsed())
}

/// Which file, and what it asks for.
pub fn config(settings: &Settings, file: Option<&Path>) -> Probe {
    let file = match file {
        Some(path) => display::path(path).to_string(),
        None => "no file (flags and environment only)".into(),
    };
    let urls: Vec<_> = settings.destinations.iter().map(|destination| destination.url.to_string()).collect();
    let sources = match settings.sources.len() {
        0 => "no sources".into(),
        1 => "1 source".into(),
        several => format!("{several} sources"),
    };
    Probe::ok(Name::Config, format!("{file}; {sources} to {}", urls.join(", ")))
}

/// A line for each path of a source.
pub async fn source(source: &SourceSettings) -> Vec<Probe> {
    let mut probes = Vec::new();
    for path in &source.paths {
        let (source, path) = (source.clone(), path.clone());
        let subject = display::path(&path).to_string();
        probes.push(blocking(Name::Source, subject, move || path_of(&source, &path)).await);
    }
    probes
}

fn path_of(source: &SourceSettings, path: &Path) -> Probe {
    let shown = match source.name.is_empty() {
        true => display::path(path).to_string(),
        false => format!("{}: {}", display::escaped(&source.name), display::path(path)),
    };
    let user = rustix::process::geteuid().as_raw();
    let unreadable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "create it, mount it, or correct the path".to_owned(),
            io::ErrorKind::PermissionDenied => format!("let the user the archiver runs as (uid {user}) read it"),
            _ => "check the path".to_owned(),
        };
        Probe::fail(Name::Source, format!("{shown} cannot be read: {error}")).hint(hint)
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unreadable(error),
    };
    let (kind, holder) = if metadata.is_dir() {
        // Names alone are not enough: files below can be opened only where the directory can be searched.
        let searched =
            std::fs::read_dir(path).and_then(|_| Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?));
        if let Err(error) = searched {
            return unreadable(error);
        }
        ("a readable directory", path)
    } else if metadata.is_file() {
        if let Err(error) = std::fs::File::open(path) {
            return unreadable(error);
        }
        // An absolute path, or one that names a file in the working directory.
        ("a readable file", path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    } else {
        return Probe::fail(Name::Source, format!("{shown} is neither a directory nor a regular file"))
            .hint("name a directory, or regular files");
    };
    if let Err((detail, hint)) = disposal(source, holder) {
        return Probe::fail(Name::Source, format!("{shown} is {kind}, but {detail}")).hint(hint);
    }
    Probe::ok(Name::Source, format!("{shown} is {kind}, after archiving: {}", source.after))
}

/// Whether files in `holder` can be deleted or moved as the source asks. Deleting needs the directory, not the file.
fn disposal(source: &SourceSettings, holder: &Path) -> Result<(), (String, String)> {
    let moved_to: Option<&PathBuf> = match &source.after {
        After::Move(directory) => Some(directory),
        After::Keep | After::Delete => None,
    };
    let quarantine: Option<&PathBuf> = match &source.after_failure {
        AfterFailure::Move(directory) => Some(directory),
        AfterFailure::Keep => None,
    };
    if source.after == After::Keep && quarantine.is_none() {
        return Ok(());
    }
    let uid = rustix::process::geteuid().as_raw();
    if let Err(error) = writable(holder) {
        let verb = if source.after == After::Delete { "deleted" } else { "moved away" };
        return Err((
            format!("files cannot be {verb}: {} is not writable ({error})", display::path(holder)),
            format!("let uid {uid} write in that directory, or use --after keep"),
        ));
    }
    for directory in moved_to.into_iter().chain(quarantine) {
        let (existing, what) = standing(directory);
        let problem = match existing.is_dir() {
            true => writable(existing).err(),
            false => Some(io::ErrorKind::NotADirectory.into()),
        };
        if let Some(error) = problem {
            return Err((
                format!(
                    "files cannot be moved to {}: {what} {} ({error})",
                    display::path(directory),
                    display::path(existing)
                ),
                format!("make it a directory that uid {uid} may write to, or name another one"),
            ));
        }
    }
    Ok(())
}

/// The path itself where it exists, else what there is of it: the rest is made when it is needed.
fn standing(path: &Path) -> (&Path, &'static str) {
    let absent = |path: &&Path| std::fs::symlink_metadata(path).is_err();
    match path.ancestors().find(|above| !absent(above) || above.as_os_str().is_empty()) {
        Some(above) if above == path => (path, "it is not writable,"),
        Some(above) if above.as_os_str().is_empty() => (Path::new("."), "it cannot be made in"),
        Some(above) => (above, "it cannot be made in"),
        None => (path, "it is not writable,"),
    }
}

fn writable(directory: &Path) -> io::Result<()> {
    Ok(accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// Whether the ledger opens. Only a private copy is opened, so nothing is made or changed where it stands.
pub async fn ledger(settings: &Settings, owner: OwnerId) -> Probe {
    let (retention, lease) = (settings.ledger.retention, settings.ledger.lease);
    let path = match settings.ledger.location.clone() {
        LedgerLocation::File(path) => path,
        LedgerLocation::Redis(settings) => return redis(RedisConfig { settings, retention, lease, owner }).await,
    };
    let config = SqliteConfig { path: path.clone(), retention, lease, owner, clock: Arc::new(Utc::now) };
    let shown = display::path(&path).to_string();
    blocking(Name::Ledger, shown.clone(), move || {
        if let Err(error) = SqliteLedger::open_snapshot(config) {
            return Probe::fail(Name::Ledger, error.to_string())
                .hint("name another file with --ledger, on a local disk");
        }
        let exists = path.exists();
        // SQLite makes its log beside the database.
        let place = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (place, _) = standing(place);
        let problem = match accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS) {
            Err(error) if exists => Some((&*path, error.into())),
            _ => writable(place).err().map(|error| (place, error)),
        };
        match problem {
            Some((what, error)) => {
                Probe::fail(Name::Ledger, format!("{shown}: {} is not writable ({error})", display::path(what)))
                    .hint("make it writable for the user the archiver runs as, or name another file with --ledger")
            }
            None if exists => Probe::ok(Name::Ledger, format!("{shown} opens")),
            None => Probe::ok(Name::Ledger, format!("{shown} does not exist yet; the first run makes it")),
        }
    })
    .await
}

/// Whether a shared ledger lets us in and can be relied on. It is looked at, and nothing is changed.
async fn redis(config: RedisConfig) -> Probe {
    let began = Instant::now();
    let shown = config.settings.url.to_string();
    let probe = match RedisPreview::open(config).await {
        Ok(_) => Probe::ok(Name::Ledger, format!("{shown} lets us in")),
        Err(error) => Probe::fail(Name::Ledger, error.to_string())
            .hint("see docs/redis.md for what the server and its user have to allow"),
    };
    probe.took(began.elapsed())
}
