//! `archiver check`: would it work? Every step of a real upload is tried, one after another, and each gets a line.
//!
//! - [`probe`]: what a step found; [`report`]: how it is shown
//! - `local`: settings, sources and ledger; `network`: from the name to a session; `base`: where files go; `rights`: what
//!   may be done there; `commit`: how a final name appears; `litter`: what has to be removed again
//!
//! Probes write only below a directory of their own, `.archiver-check-<random>`, and remove it at the end: also when a
//! probe fails, at an interrupt, when the time is over, and on a new connection where the first one broke.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::settings::{DestinationSettings, Settings};
use crate::destination::DestinationError;
use crate::destination::sftp::{Connection, Connector, Session};
use crate::domain::OwnerId;
use crate::exit::Exit;
use crate::shutdown::Shutdown;

mod base;
mod commit;
mod litter;
mod local;
mod network;
pub mod probe;
pub mod report;
mod rights;

use litter::Litter;
use probe::{Name, Probe};
use report::Report;

/// The longest that the probes of one destination may take together.
const DEADLINE: Duration = Duration::from_secs(120);
/// The longest that removing what they made may take, on the session there is and then on a new connection.
const CLEANUP: Duration = Duration::from_secs(5);

/// Why the probes that follow do not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// They need what could not be had.
    Without(&'static str),
    Interrupted,
    TimeIsOver,
}

impl Skip {
    fn reason(self) -> &'static str {
        match self {
            Self::Without(reason) => reason,
            Self::Interrupted => "interrupted",
            Self::TimeIsOver => "the time is over",
        }
    }
}

/// Looks at everything the settings name. `random` names what is made on the servers.
pub async fn run(
    settings: &Settings,
    file: Option<&Path>,
    random: impl Fn() -> u64,
    report: &mut Report,
    shutdown: &Shutdown,
) -> Exit {
    report.add(None, local::config(settings, file));
    for source in &settings.sources {
        for probe in local::source(source).await {
            report.add(None, probe);
        }
    }
    let owner = OwnerId(u128::from(random()) << 64 | u128::from(random()));
    report.add(None, local::ledger(settings, owner).await);
    for (index, destination) in settings.destinations.iter().enumerate() {
        if shutdown.draining().is_cancelled() {
            report.skip(Some(index), &Name::OF_DESTINATION, Skip::Interrupted.reason());
            continue;
        }
        Run {
            settings,
            destination,
            index,
            random: random(),
            report,
            mark: Instant::now(),
            connector: None,
            connection: None,
            session: None,
            litter: Litter::default(),
        }
        .run(shutdown)
        .await;
    }
    match probe::exit(report.probes()) {
        _ if shutdown.now().is_cancelled() => Exit::Interrupted,
        Exit::Done if shutdown.draining().is_cancelled() => Exit::WorkLeft,
        exit => exit,
    }
}

/// The probes of one destination.
struct Run<'a> {
    settings: &'a Settings,
    destination: &'a DestinationSettings,
    index: usize,
    random: u64,
    report: &'a mut Report,
    /// When the last probe ended.
    mark: Instant,
    connector: Option<Connector>,
    connection: Option<Connection>,
    session: Option<Arc<Session>>,
    litter: Litter,
}

impl Run<'_> {
    async fn run(mut self, shutdown: &Shutdown) {
        let ended = tokio::select! {
            biased;
            () = shutdown.draining().cancelled() => Err(Skip::Interrupted),
            ended = tokio::time::timeout(DEADLINE, self.probes()) => ended.unwrap_or(Err(Skip::TimeIsOver)),
        };
        if let Err(skip) = ended {
            let mut missing = self.report.missing(self.index);
            if skip == Skip::TimeIsOver && !missing.is_empty() {
                let text = format!("no end within {}", humantime::format_duration(DEADLINE));
                self.found(Probe::fail(missing.remove(0), text).hint("the server answers, but too slowly"));
            }
            self.report.skip(Some(self.index), &missing, skip.reason());
        }
        tokio::select! {
            () = shutdown.now().cancelled() => {}
            () = self.clean() => {}
        }
        if !self.litter.is_empty() {
            let text = format!("left behind: {}", self.litter.names());
            self.found(Probe::fail(Name::Cleanup, text).hint("remove it on the server; nothing else needs it"));
        }
        self.session = None;
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    async fn probes(&mut self) -> Result<(), Skip> {
        let session = self.connect().await?;
        self.rights(&session).await
    }

    /// Removes what is still there. A server that refuses is not asked again; a session that broke is replaced.
    async fn clean(&mut self) {
        if self.litter.is_empty() {
            return;
        }
        if let Some(session) = self.session.clone().filter(|session| !session.is_closed()) {
            let cleared = tokio::time::timeout(CLEANUP, self.litter.clear(&session)).await;
            if cleared.is_ok_and(|cleared| cleared.err().is_none_or(|error| error.status.is_some())) {
                return;
            }
        }
        let Some(connector) = self.connector.clone() else { return };
        let again = async {
            let connection = connector.connect().await?;
            let session = connection.open_session().await?;
            self.litter.clear(&session).await?;
            connection.close().await;
            Ok::<_, DestinationError>(())
        };
        match tokio::time::timeout(CLEANUP, again).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cleaning up on a new connection"),
            Err(_) => tracing::debug!("cleaning up on a new connection took too long"),
        }
    }

    /// Reports a probe, which took the time since the last one.
    fn found(&mut self, probe: Probe) {
        self.report.add(Some(self.index), probe.took(self.mark.elapsed()));
        self.mark = Instant::now();
    }

    fn skip(&mut self, names: &[Name], reason: &str) {
        self.report.skip(Some(self.index), names, reason);
    }
}
