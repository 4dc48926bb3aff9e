//! What the pipeline is asked for when somebody looks, for it is known there anyway, or costs too much to be told all
//! the time.

use std::sync::Arc;
use std::time::Duration;

/// How the pipeline is at one moment.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    pub destinations: Vec<DestinationVitals>,
    /// Why the ledger does not work at the moment.
    pub ledger_out: Option<String>,
    pub waiting: WaitingFiles,
    /// What has been at one thing for a while, and for how long.
    pub at_work: Vec<(&'static str, Duration)>,
}

#[derive(Debug, Clone)]
pub struct DestinationVitals {
    pub url: Arc<str>,
    /// Why nothing could be sent there now.
    pub down: Option<String>,
    pub sessions: Sessions,
}

/// Sessions of one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sessions {
    pub connecting: u64,
    pub idle: u64,
    pub busy: u64,
}

/// Candidates that are not finished yet, and finished ones whose upload has not begun.
#[derive(Debug, Clone, Default)]
pub struct WaitingFiles {
    pub files: u64,
    pub bytes: u64,
    /// A few of those that wait longest, the longest first.
    pub longest: Vec<WaitingFile>,
}

#[derive(Debug, Clone)]
pub struct WaitingFile {
    pub source: Arc<str>,
    /// The local path, escaped for people.
    pub path: String,
    pub bytes: u64,
    pub waited: Duration,
    /// What it waits for.
    pub reason: String,
}
