//! Who else takes in the same files, and how long to leave each file to those who come first.

use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tracing::debug;

use super::engine::Source;
use super::intake::BATCH;
use crate::domain::turn::Lot;
use crate::domain::{OwnerId, Sha256Digest};
use crate::ledger::Ledger;
use crate::source::Candidate;

/// How long a file is left to each of those who come first. Longer than a small file takes, so that few are asked for in
/// vain; all that it costs is that much delay where one of them is dead and its lease not over.
const TURN: Duration = Duration::from_secs(1);
/// Turns that are waited for at most.
const TURNS: u32 = 5;
/// How old what is known of the others may be.
const FRESH: Duration = Duration::from_millis(250);

/// How many files that were left to others are asked for together as long as they turn out to be held.
const FEW: usize = 8;

/// How boldly files are asked for that were left to others. Where those are only slow, a few questions show that; where they
/// are gone, what was theirs is soon taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boldness {
    /// So many are asked for.
    pub files: usize,
    /// Those who are slow are left alone for so long.
    pub pause: Duration,
}

/// What became of the last files that were left to others and asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking {
    pub boldness: Boldness,
    /// Until then none is asked for: those who hold them are only slow.
    pub not_before: Option<Instant>,
}

/// How often the ledger is asked at least whether files that were left to others are on record by now, and for how many of
/// them in a second at most: that takes nothing from anybody.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOKS_A_SECOND: f64 = 10_000.0;

impl Default for Boldness {
    fn default() -> Self {
        Self { files: FEW, pause: TURN }
    }
}

impl Boldness {
    /// When to look again at `files` that are left to others still.
    pub fn look_again_in(self, files: usize) -> Duration {
        Duration::from_secs_f64(files as f64 / LOOKS_A_SECOND).clamp(LOOK_AGAIN, self.pause)
    }

    /// Whether those who were asked for so many, and held so many of them, are only slow.
    pub fn are_slow(asked: usize, held: usize) -> bool {
        held * 2 > asked
    }

    /// After some were asked for, and so many of them were held.
    pub fn told(self, asked: usize, held: usize, lease: Duration) -> Self {
        match asked {
            0 => self,
            _ if Self::are_slow(asked, held) => Self { files: FEW, pause: (self.pause * 2).min(TURN.max(lease / 6)) },
            _ => Self { files: (self.files * 2).min(BATCH), pause: TURN },
        }
    }
}

#[derive(Debug)]
pub struct Peers {
    ledger: Arc<dyn Ledger>,
    /// What only those have in common who take in the same.
    scope: String,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    owners: Arc<[OwnerId]>,
    asked: Option<Instant>,
}

impl Peers {
    pub fn new(ledger: Arc<dyn Ledger>, sources: &[Source], destinations: &[Arc<str>]) -> Self {
        let known = Known { owners: [ledger.owner()].into(), asked: None };
        Self { scope: scope(sources, destinations), ledger, known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the others where that was long ago, and thereby says that we are here.
    pub async fn meet(&self) {
        let now = Instant::now();
        {
            let mut known = self.known();
            if known.asked.is_some_and(|asked| now < asked + FRESH) {
                return;
            }
            known.asked = Some(now);
        }
        match self.ledger.peers(&self.scope).await {
            Ok(owners) => self.known().owners = owners.into(),
            // What is known has to do until the ledger is back.
            Err(error) => debug!(%error, "who else takes in these files is not known now"),
        }
    }

    /// Somebody holds a file: where we did not know of it, there may be more to know.
    pub fn heard_of(&self, owner: OwnerId) {
        let mut known = self.known();
        if !known.owners.contains(&owner) {
            known.asked = None;
        }
    }

    /// How long a file that is finished is left to others; `None` where it is ours to begin with.
    pub fn leave_for(&self, source: &Source, candidate: &Candidate) -> Option<Duration> {
        let owners = self.known().owners.clone();
        if owners.len() < 2 {
            return None;
        }
        let lot = Lot::of(&source.name, candidate.path.as_path().as_os_str().as_bytes());
        match lot.before(self.ledger.owner(), &owners) {
            0 => None,
            others => Some(TURN * TURNS.min(others as u32)),
        }
    }

    /// How long after an answer that another one holds a file it is asked for again, by a `random` number from 0 to 1: its
    /// holder may have died, or given it back.
    pub fn ask_again_in(&self, random: f64) -> Duration {
        (self.ledger.lease() / 12).mul_f64(1.0 + random)
    }
}

/// The same for those whose keys in the ledger are: a source that has no name goes by its absolute paths.
fn scope(sources: &[Source], destinations: &[Arc<str>]) -> String {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for source in sources {
        let mut part = [destinations[source.destination].as_bytes(), &[0], source.name.as_bytes()].concat();
        if source.name.is_empty() {
            source
                .entries
                .iter()
                .for_each(|entry| part.extend([&[0], entry.root().path.as_os_str().as_bytes()].concat()));
        }
        parts.push(part);
    }
    parts.sort_unstable();
    let digest = parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part).chain_update([0, 0]));
    Sha256Digest(digest.finalize().into()).to_string()[..16].to_owned()
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
