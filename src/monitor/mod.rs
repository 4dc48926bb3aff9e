//! What a running archiver tells those who look after it: metrics, health, and its live state as JSON and as a page.
//!
//! Nothing is counted here. The pipeline tells a [`Reporter`] what happens, and is asked for the rest ([`Vitals`]) when
//! somebody looks; between two looks there is nothing to do but to take a sample for the charts. Without an address and a status file none of this is there.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tracing::info;

use crate::domain::{ListenAddress, Totals, display};
use crate::report::{Reporter, Snapshot, Vitals};

pub mod client;
mod free;
mod health;
mod history;
mod metrics;
mod page;
mod server;
mod state;
mod status_file;

use free::FreeBytes;
use history::{History, Reading};
use server::Server;
use state::State;
use status_file::StatusFile;

/// The pipeline, as far as it is asked.
pub struct Questions {
    pub vitals: Box<dyn Fn() -> Vitals + Send + Sync>,
    /// Free bytes of each source. Blocking, perhaps for ever.
    pub free_bytes: Arc<dyn Fn() -> Vec<(Arc<str>, u64)> + Send + Sync>,
}

/// What is looked at: one for each run, shared by all who look.
struct Subject {
    hostname: String,
    started_at: DateTime<Utc>,
    reporter: Reporter,
    /// Of the pipeline that works now.
    questions: Mutex<Option<Arc<Questions>>>,
    free: FreeBytes,
    history: Mutex<History>,
}

/// One look.
#[derive(Debug)]
struct Look {
    snapshot: Snapshot,
    /// `None` until there is a pipeline to ask.
    vitals: Option<Vitals>,
}

impl Subject {
    fn questions(&self) -> Option<Arc<Questions>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self) -> Look {
        let vitals = self.questions().map(|questions| (questions.vitals)());
        Look { snapshot: self.reporter.snapshot(), vitals }
    }

    fn state(&self) -> State {
        State::of(self, &self.look(), Utc::now())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes samples until it is dropped.
    async fn sample(&self) {
        loop {
            let due = self.history().due();
            tokio::time::sleep_until(due.into()).await;
            let reading = Reading::from(&self.look());
            self.history().observe(Instant::now(), Utc::now(), reading);
        }
    }
}

impl Look {
    /// Files.
    fn waiting(&self) -> u64 {
        self.vitals.as_ref().map_or(self.snapshot.waiting, |vitals| vitals.waiting.files)
    }
}

impl From<&Look> for Reading {
    fn from(look: &Look) -> Self {
        let Snapshot { sources, lag, .. } = &look.snapshot;
        // A step shows what came in it, though it may count as something else by now.
        let mut totals = Totals::default();
        sources.iter().for_each(|(_, of_source)| totals += *of_source);
        Self {
            archived: totals.archived,
            bytes: totals.bytes,
            failed: totals.failed,
            waiting: look.waiting(),
            lag_seconds: lag.seconds,
            lags: lag.count,
        }
    }
}

/// Why a monitor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("{address}: {}", .error.kind())]
    Listen { address: ListenAddress, error: io::Error },
    #[error("{}: {error}", display::path(.path))]
    StatusFile { path: PathBuf, error: io::Error },
}

impl MonitorError {
    pub fn what(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "the metrics cannot be served",
            Self::StatusFile { .. } => "the status file cannot be written",
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse => {
                "another program listens there; choose another port with --metrics, or `--metrics none`"
            }
            Self::Listen { .. } => "choose an address of this machine with --metrics, or `--metrics none`",
            Self::StatusFile { .. } => "choose a file in a directory that can be written to with --status-file",
        }
    }
}

/// Who looks, for as long as it lives.
pub struct Monitor {
    subject: Arc<Subject>,
    tasks: JoinSet<()>,
    file: Option<Arc<StatusFile>>,
}

impl Monitor {
    /// Listens and writes the first status file before it returns.
    pub async fn start(
        listen: Option<ListenAddress>,
        status_file: Option<PathBuf>,
        hostname: String,
        started_at: DateTime<Utc>,
        reporter: Reporter,
    ) -> Result<Self, MonitorError> {
        let (questions, free) = (Mutex::default(), FreeBytes::default());
        let history = Mutex::new(History::new(Instant::now()));
        let subject = Arc::new(Subject { hostname, started_at, reporter, questions, free, history });
        let mut tasks = JoinSet::new();
        if let Some(address) = listen {
            let server = Server::bind(address).await.map_err(|error| MonitorError::Listen { address, error })?;
            info!(address = %server.address, "metrics are served");
            tasks.spawn(server.serve(subject.clone()));
            let subject = subject.clone();
            tasks.spawn(async move { subject.sample().await });
        }
        let file = match status_file {
            None => None,
            Some(path) => {
                let file = Arc::new(StatusFile::new(path.clone()));
                let first = file.write(subject.state()).await;
                first.map_err(|error| MonitorError::StatusFile { path, error })?;
                let (file, subject) = (file, subject.clone());
                tasks.spawn({
                    let file = file.clone();
                    async move { file.keep(&subject).await }
                });
                Some(file)
            }
        };
        Ok(Self { subject, tasks, file })
    }

    /// From now on this is the pipeline to ask: the first one, or the successor of another.
    pub fn attach(&self, questions: Questions) {
        *self.subject.questions.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(questions));
    }

    /// The run is over: the status file says so.
    pub async fn finish(mut self, exit: u8) {
        self.tasks.shutdown().await;
        if let Some(file) = &self.file
            && let Err(error) = file.write(self.subject.state().ended(exit)).await
        {
            file.complain(&error);
        }
    }
}
