//! What is known here anyway, and told when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use crate::destination::sftp::archive::Archive;
use crate::domain::display;
use crate::report::{DestinationVitals, Sessions, Vitals, WaitingFile, WaitingFiles};

/// Files that are named, of all that wait.
const LONGEST: usize = 10;

/// How the run is now. Looks at all files that wait.
pub fn vitals(engine: &Engine) -> Vitals {
    let destination = |(archive, url): (&Archive, &Arc<str>)| {
        let state = archive.pool().state();
        let sessions = Sessions {
            connecting: state.connecting as u64,
            idle: (state.connections - state.busy) as u64,
            busy: state.busy as u64,
        };
        DestinationVitals { url: url.clone(), down: state.down, sessions }
    };
    let destinations: Vec<_> = engine.archives.iter().zip(&engine.destinations).map(destination).collect();
    let ledger_out = engine.ledger_trouble();
    Vitals { waiting: waiting(engine, &destinations), at_work: at_work(engine), destinations, ledger_out }
}

fn at_work(engine: &Engine) -> Vec<(&'static str, Duration)> {
    let now = Instant::now();
    let lanes = engine.lanes().into_iter().map(|lane| engine.pulses(lane));
    let pulses = lanes.flat_map(|pulses| [("the intake", &pulses.intake), ("the watch", &pulses.watch)]);
    pulses.filter_map(|(name, pulse)| Some((name, pulse.at_work_for(now)?))).collect()
}

/// The bytes that are free where each source is: where a source has several places, of the fullest. Asks the filesystems,
/// which may take for ever where one of them is on a dead server.
pub fn free_bytes(engine: &Engine) -> Vec<(Arc<str>, u64)> {
    let mut free: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for source in &engine.sources {
        for path in source.entries.iter().map(|entry| &entry.root().path) {
            if let Ok(stat) = rustix::fs::statvfs(path) {
                let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
                let least = free.entry(source.name.clone()).or_insert(bytes);
                *least = bytes.min(*least);
            }
        }
    }
    free.into_iter().collect()
}

fn waiting(engine: &Engine, destinations: &[DestinationVitals]) -> WaitingFiles {
    let now = Instant::now();
    let mut all = WaitingFiles::default();
    for destination in engine.lanes() {
        let waiting = engine.waiting(destination);
        all.files += waiting.len() as u64;
        all.bytes += waiting.bytes();
        all.longest.extend(waiting.longest(LONGEST).into_iter().map(|(candidate, fingerprint, since, deferral)| {
            WaitingFile {
                source: engine.sources[candidate.root.source].name.clone(),
                path: display::path(&candidate.absolute()).to_string(),
                bytes: fingerprint.size,
                waited: now.saturating_duration_since(since),
                reason: deferral.to_string(),
            }
        }));
    }
    let pending = engine.reporter.pending();
    all.files += pending.len() as u64;
    all.bytes += pending.iter().map(|file| file.bytes).sum::<u64>();
    let down = destinations.iter().any(|destination| destination.down.is_some());
    let reason = if down { "finished; waiting for the destination" } else { "finished; waiting for its turn" };
    all.longest.extend(pending.into_iter().map(|file| WaitingFile {
        source: file.source,
        path: display::path(&file.path).to_string(),
        bytes: file.bytes,
        waited: now.saturating_duration_since(file.finished),
        reason: reason.to_owned(),
    }));
    all.longest.sort_by_key(|file| std::cmp::Reverse(file.waited));
    all.longest.truncate(LONGEST);
    all
}
