//! What the program needs, resolved: every value present, checked, and of its own type. Workers see only this.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::policy::named_choices;
use crate::domain::*;

/// A secret. Never printed: `Debug` shows only that there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// Distinct destinations; sources refer to them by index.
    pub destinations: Vec<DestinationSettings>,
    pub sources: Vec<SourceSettings>,
    /// `--files-from`: only these files, of the only source there then is.
    pub files_from: Option<FileList>,
    pub retry: RetrySettings,
    pub pool: PoolSettings,
    pub ledger: LedgerSettings,
    pub metrics: MetricsSettings,
    pub log: LogSettings,
    pub output: OutputSettings,
    pub watch: WatchSettings,
    pub on_failure: OnFailure,
    pub repeat: crate::domain::Repeat,
    pub execution: Execution,
}

impl Settings {
    /// Whether anybody may ask at any time how the run is.
    pub fn is_observed(&self) -> bool {
        self.metrics.listen.is_some() || self.output.status_file.is_some()
    }
}

/// A list of files that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList {
    pub from: ListOrigin,
    pub separator: Separator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListOrigin {
    Stdin,
    File(PathBuf),
}

/// What ends each name of a [`FileList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// Blank lines are skipped.
    Newline,
    /// `-0`, what `find -print0` writes: the only one that carries every name.
    Nul,
}

/// How the answer of a command that asks the ledger is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AnswerFormat {
    // No doc comments here: they would become help.
    #[default]
    Table,
    Json,
}

/// Whether anything is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Execution {
    #[default]
    Real,
    /// `--dry-run`: say what would happen, touch nothing on either side.
    DryRun,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DestinationSettings {
    pub url: DestinationUrl,
    /// Explicit private keys; empty for the agent and `~/.ssh/id_*`.
    pub identities: Vec<PathBuf>,
    /// File with the passphrase of the identities.
    pub passphrase_file: Option<PathBuf>,
    /// OpenSSH certificates; `<identity>-cert.pub` is found by itself.
    pub certificates: Vec<PathBuf>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// Empty for what `~/.ssh/config` says, or `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts: Vec<PathBuf>,
    pub host_key: HostKeyPolicy,
    /// `None` for `~/.ssh/config`; `none` on the command line reads none.
    pub ssh_config: SshConfigFile,
    pub layout: Layout,
    pub date_from: DateFrom,
    pub timezone: Timezone,
    pub publish: Publish,
    pub verify: Verify,
    pub on_conflict: OnConflict,
    pub fsync: Fsync,
}

impl DestinationSettings {
    /// The files that are read to reach it.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let ssh_config = match &self.ssh_config {
            SshConfigFile::Path(path) => Some(path),
            SshConfigFile::Default | SshConfigFile::None => None,
        };
        let single = [&self.passphrase_file, &self.password_file].into_iter().flatten().chain(ssh_config);
        self.identities.iter().chain(&self.certificates).chain(&self.known_hosts).chain(single)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SshConfigFile {
    /// `~/.ssh/config` where it exists, then `/etc/ssh/ssh_config`.
    #[default]
    Default,
    /// `none`.
    None,
    /// Must exist.
    Path(PathBuf),
}

#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Empty for paths given on a command line, and for a configured source without a name.
    pub name: String,
    /// Directories and single files, as they were given: relative ones are relative to the working directory. Empty
    /// only with `--files-from`.
    pub paths: Vec<PathBuf>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub marker: Option<String>,
    pub settle: Duration,
    pub after: After,
    pub after_failure: AfterFailure,
    /// Index into [`Settings::destinations`].
    pub destination: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct RetrySettings {
    /// Uploads of one file before it counts as failed; at least 1.
    pub max_attempts: u32,
    pub backoff: Backoff,
}

#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// `None` for adaptive.
    pub connections: Option<u16>,
    /// Files in flight to each destination; `None` for adaptive.
    pub jobs: Option<u16>,
    pub connect_timeout: Duration,
    /// Longest silence of a server that owes a reply.
    pub request_timeout: Duration,
    /// Interval of SSH keepalives; three without an answer end a connection.
    pub keepalive: Duration,
    pub limit_rate: Option<ByteRate>,
}

#[derive(Debug, Clone)]
pub struct LedgerSettings {
    pub location: LedgerLocation,
    /// How long a claim lasts without renewal.
    pub lease: Duration,
    /// Records older than this go once their local file is gone.
    pub retention: Duration,
    pub dedupe: Dedupe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerLocation {
    /// An SQLite database.
    File(PathBuf),
    /// A server that several hosts share.
    Redis(RedisSettings),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    pub url: RedisUrl,
    pub password: Option<Secret>,
    /// Read at each connection, for passwords change.
    pub password_file: Option<PathBuf>,
    /// Certificates in PEM that the server's is checked against, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What all keys begin with.
    pub prefix: String,
    /// Replicas that must have a change before it counts.
    pub replicas: u16,
}

#[derive(Debug, Clone, Default)]
pub struct MetricsSettings {
    /// `None` for no server at all.
    pub listen: Option<ListenAddress>,
}

#[derive(Debug, Clone)]
pub struct LogSettings {
    pub format: LogFormat,
    /// A `tracing_subscriber::EnvFilter` directive list.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Default)]
pub struct OutputSettings {
    pub summary: SummaryFormat,
    /// Instead of standard output.
    pub summary_file: Option<PathBuf>,
    pub summary_rows: SummaryRows,
    /// The live state as JSON.
    pub status_file: Option<PathBuf>,
    pub progress: ProgressMode,
    pub quiet: bool,
    /// One short line at the end, for whoever looks after the process.
    pub termination_log: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SummaryFormat {
    #[default]
    Table,
    Json,
    Csv,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummaryRows {
    All,
    /// Of the table only; failures first.
    Limit(usize),
}

impl Default for SummaryRows {
    fn default() -> Self {
        Self::Limit(100)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// Where standard error is a terminal.
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone)]
pub struct WatchSettings {
    pub watcher: WatcherKind,
    pub scan_interval: Duration,
    pub grace: Duration,
    /// Stop and drain when this file appears.
    pub until: Option<PathBuf>,
    /// Stop when nothing happened for so long.
    pub idle_exit: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatcherKind {
    /// inotify where a start-up canary proves that its events arrive, else polling.
    #[default]
    Auto,
    Inotify,
    Poll,
}

/// What `run` does with its command once archiving has failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    #[default]
    Ignore,
    /// Asks it to stop.
    Signal,
    /// Asks it to stop, and kills it when the grace is over.
    Exit,
}

named_choices!(OnFailure { "ignore" => Ignore, "signal" => Signal, "exit" => Exit });
named_choices!(LogFormat { "text" => Text, "json" => Json });
named_choices!(SummaryFormat { "table" => Table, "json" => Json, "csv" => Csv, "none" => None });
named_choices!(ProgressMode { "auto" => Auto, "always" => Always, "never" => Never });
named_choices!(WatcherKind { "auto" => Auto, "inotify" => Inotify, "poll" => Poll });
