//! The live state as one JSON document, the same for `/state.json` and the status file. docs/observability.md
//! describes it; new keys may come, and a change of meaning changes `version`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::history::{self, History, Sample};
use super::{Look, Subject, health};
use crate::domain::Totals;
use crate::report::{Failed, Phase, Vitals};

/// The schema of the document.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    version: u32,
    archiver: &'static str,
    hostname: String,
    started_at: String,
    now: String,
    phase: &'static str,
    ready: bool,
    /// Why it is not ready, one sentence each.
    reasons: Vec<String>,
    destinations: Vec<Destination>,
    waiting: Waiting,
    in_flight: InFlight,
    totals: Counts,
    retries: u64,
    last_archived_at: Option<String>,
    /// Newest first.
    failures: Vec<Failure>,
    /// Only in the status file, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
    /// Not in the status file.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Track>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Destination {
    url: String,
    up: bool,
    reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Waiting {
    files: u64,
    bytes: u64,
    oldest_seconds: Option<f64>,
    oldest: Vec<WaitingFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct WaitingFile {
    source: String,
    path: String,
    bytes: u64,
    seconds: f64,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct InFlight {
    files: u64,
    large: Vec<Large>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Large {
    path: String,
    bytes: u64,
    sent: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Counts {
    archived: u64,
    skipped: u64,
    deferred: u64,
    failed: u64,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Failure {
    at: String,
    source: String,
    path: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Track {
    step_seconds: u64,
    /// Oldest first.
    samples: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Step {
    at: String,
    archived: u64,
    bytes: u64,
    failed: u64,
    waiting: u64,
    lag_seconds: Option<f64>,
}

impl State {
    pub fn of(subject: &Subject, look: &Look, now: DateTime<Utc>) -> Self {
        let (snapshot, vitals) = (&look.snapshot, look.vitals.as_ref());
        let reasons = health::unready(snapshot, vitals);
        Self {
            version: VERSION,
            archiver: env!("CARGO_PKG_VERSION"),
            hostname: subject.hostname.clone(),
            started_at: timestamp(subject.started_at),
            now: timestamp(now),
            phase: phase(snapshot.phase),
            ready: reasons.is_empty(),
            reasons,
            destinations: vitals.map(destinations).unwrap_or_default(),
            waiting: waiting(look),
            in_flight: InFlight {
                files: snapshot.in_flight,
                large: snapshot
                    .large
                    .iter()
                    .map(|large| Large { path: large.name.clone(), bytes: large.size, sent: large.sent })
                    .collect(),
            },
            totals: counts(&snapshot.totals),
            retries: snapshot.retries,
            last_archived_at: snapshot.last_archived_at.map(timestamp),
            failures: snapshot.failures.iter().map(failure).collect(),
            exit: None,
            history: None,
        }
    }

    /// What of it is news: not that time goes by.
    pub fn without_times(&self) -> Self {
        let mut state = self.clone();
        state.now.clear();
        state.waiting.oldest_seconds = None;
        state.waiting.oldest.iter_mut().for_each(|file| file.seconds = 0.0);
        state
    }

    pub fn with_history(mut self, history: &History) -> Self {
        let samples = history.samples().map(step).collect();
        self.history = Some(Track { step_seconds: history::STEP.as_secs(), samples });
        self
    }

    /// The last one: the run is over.
    pub fn ended(mut self, exit: u8) -> Self {
        (self.phase, self.exit, self.ready) = ("ended", Some(exit), false);
        self.reasons = vec!["ended".to_owned()];
        self
    }
}

fn waiting(look: &Look) -> Waiting {
    let files = look.waiting();
    let Some(vitals) = &look.vitals else {
        return Waiting { files, bytes: 0, oldest_seconds: None, oldest: Vec::new() };
    };
    let waiting = &vitals.waiting;
    Waiting {
        files,
        bytes: waiting.bytes,
        oldest_seconds: waiting.longest.first().map(|file| rounded(file.waited.as_secs_f64())),
        oldest: waiting
            .longest
            .iter()
            .map(|file| WaitingFile {
                source: file.source.to_string(),
                path: file.path.clone(),
                bytes: file.bytes,
                seconds: rounded(file.waited.as_secs_f64()),
                reason: file.reason.clone(),
            })
            .collect(),
    }
}

fn destinations(vitals: &Vitals) -> Vec<Destination> {
    vitals
        .destinations
        .iter()
        .map(|destination| Destination {
            url: destination.url.to_string(),
            up: destination.down.is_none(),
            reason: destination.down.clone(),
        })
        .collect()
}

fn failure(failed: &Failed) -> Failure {
    Failure {
        at: timestamp(failed.at),
        source: failed.source.clone(),
        path: failed.path.clone(),
        reason: failed.reason.clone(),
    }
}

fn step(sample: &Sample) -> Step {
    let Sample { at, archived, bytes, failed, waiting, lag_seconds } = *sample;
    Step { at: timestamp(at), archived, bytes, failed, waiting, lag_seconds: lag_seconds.map(rounded) }
}

fn counts(totals: &Totals) -> Counts {
    let Totals { archived, skipped, deferred, failed, bytes } = *totals;
    Counts { archived, skipped, deferred, failed, bytes }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Scanning => "scanning",
        Phase::Uploading => "uploading",
        Phase::Watching => "watching",
        Phase::Draining => "draining",
    }
}

fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Milliseconds are enough.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
