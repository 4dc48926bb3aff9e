//! SIGHUP: the configuration is read again, and what changed holds from then on, without an end in between.
//!
//! A new engine is made, and tried, beside the one that works. Only where nothing is wrong with it the old one hands over:
//! it takes in nothing more, and what it has in flight comes to its end, or is left for the new one, under the name that the
//! ledger has pinned. Ledger, summary and counters are those of the process and go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use super::wishes::Wishes;
use crate::config::settings::Settings;
use crate::config::{ConfigErrors, Merged, Resolved, Typed};
use crate::destination::sftp::Load;
use crate::domain::display;
use crate::pipeline::engine::Engine;

/// Which ledger it is, and what it knows files by: with another one, files on their way would be nobody's.
const WHICH_LEDGER: [&str; 3] = ["ledger.dedupe", "ledger.prefix", "ledger.url"];

/// What is set up once, at the start of the process.
const AT_START: [&str; 13] = [
    "ledger.ca-file",
    "ledger.lease",
    "ledger.password",
    "ledger.password-file",
    "ledger.replicas",
    "ledger.retention",
    "log.format",
    "log.level",
    "metrics.listen",
    "output.progress",
    "output.status-file",
    "run.on-failure",
    "shutdown.termination-log",
];

/// How long a new destination may take to let us in before it is left to the engine to wait for it.
const ENTRANCE: Duration = Duration::from_secs(15);

/// The configuration that holds, and how to read it again.
#[derive(Debug)]
pub struct Reload {
    typed: Typed,
    now: State,
}

/// All that a run depends on.
#[derive(Debug, Clone)]
struct State {
    merged: Merged,
    /// Keys, passwords and host keys, by the hashes of their files.
    secrets: Vec<(PathBuf, Option<[u8; 32]>)>,
}

impl State {
    /// Blocking.
    fn of(resolved: &Resolved) -> Self {
        let hash = |path: &PathBuf| std::fs::read(path).ok().map(|content| Sha256::digest(content).into());
        let files = resolved.settings.destinations.iter().flat_map(|destination| destination.files());
        Self { merged: resolved.merged.clone(), secrets: files.map(|path| (path.clone(), hash(path))).collect() }
    }
}

impl Reload {
    pub async fn new(typed: &Typed, resolved: &Resolved) -> Self {
        let resolved = resolved.clone();
        let state = tokio::task::spawn_blocking(move || State::of(&resolved)).await;
        let now = state.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        Self { typed: typed.clone(), now }
    }

    /// Waits until a reload is asked for and leads to another engine; all that does not is said. Cancel-safe.
    pub async fn next(
        &mut self,
        wishes: &Wishes,
        build: impl Fn(Settings) -> Result<Engine, Vec<String>>,
    ) -> Arc<Engine> {
        loop {
            wishes.reload.notified().await;
            info!("reloading: reading the configuration, keys and passwords again");
            let Some((state, settings)) = self.read().await else { continue };
            match build(settings) {
                Ok(engine) => match entered(&engine).await {
                    Ok(()) => {
                        self.now = state;
                        return Arc::new(engine);
                    }
                    Err(reason) => {
                        error!(reason, "the new configuration was not applied, the old one holds");
                        close(&engine).await;
                    }
                },
                Err(reasons) => {
                    for reason in reasons {
                        error!(reason, "the new configuration was not applied, the old one holds");
                    }
                }
            }
        }
    }

    /// The settings as they are now, where they are sound and not what they were.
    async fn read(&self) -> Option<(State, Settings)> {
        let typed = self.typed.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let resolved = typed.resolve()?;
            Ok::<_, ConfigErrors>((State::of(&resolved), resolved))
        });
        let (state, resolved) =
            match reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Ok(read) => read,
                Err(mistakes) => {
                    for mistake in mistakes.mistakes() {
                        error!(%mistake, "a mistake in the new configuration");
                    }
                    error!("the new configuration was not applied, the old one holds");
                    return None;
                }
            };
        for warning in &resolved.warnings {
            warn!("{warning}");
        }
        let changed = self.now.merged.differences(&state.merged);
        let ledger: Vec<_> = changed.iter().copied().filter(|key| WHICH_LEDGER.contains(key)).collect();
        if !ledger.is_empty() {
            error!(
                keys = ledger.join(", "),
                "the ledger cannot be another one while files are on their way: the old configuration holds, all of it, until a restart"
            );
            return None;
        }
        let secrets = changed_files(&self.now, &state);
        if changed.is_empty() && secrets.is_empty() {
            info!("the configuration is what it was, with all keys and passwords: nothing to do");
            return None;
        }
        let (later, now): (Vec<_>, Vec<_>) = changed.into_iter().partition(|key| AT_START.contains(key));
        if !later.is_empty() {
            warn!(keys = later.join(", "), "what changed here takes effect with the next start");
        }
        if now.is_empty() && secrets.is_empty() {
            return None;
        }
        let changed = now.into_iter().map(str::to_owned).chain(secrets).collect::<Vec<_>>().join(", ");
        info!(changed, "the configuration has changed: applying it");
        Some((state, resolved.settings))
    }
}

/// Files that have another content, or were not read before.
fn changed_files(old: &State, new: &State) -> Vec<String> {
    let changed = new.secrets.iter().filter(|secret| !old.secrets.contains(secret));
    changed.map(|(path, _)| display::path(path).to_string()).collect()
}

/// Whether each destination of the new engine lets us in. One that cannot be reached may come.
async fn entered(engine: &Engine) -> Result<(), String> {
    let limit = humantime::format_duration(ENTRANCE);
    info!("asking each destination to let us in, for {limit} at most; the old configuration holds meanwhile");
    let entering = engine.archives.iter().map(|archive| tokio::time::timeout(ENTRANCE, archive.session(Load::Light)));
    let entered = join_all(entering).await;
    for (destination, entered) in engine.destinations.iter().zip(entered) {
        match entered {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let hint = error.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                return Err(format!("{error}{hint}"));
            }
            Err(_) => warn!(%destination, "it does not answer yet: with the new configuration it is waited for"),
        }
    }
    Ok(())
}

async fn close(engine: &Engine) {
    for archive in &engine.archives {
        archive.pool().close().await;
    }
}
