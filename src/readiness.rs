//! When is a file finished? A state machine over observations; the clock is an argument.
//!
//! A file is ready when its marker stands (where one is asked for), nobody has it open for writing, and its
//! fingerprint has not changed for the settle time since *we* first saw this version. Its modification time proves
//! nothing: moved files keep an old one, and clocks differ.
//!
//! Only files that wait are held, and at most as many as the capacity says. At the bound a file that waits for
//! something other than time (its marker) makes room, for an event or the next scan names it again; where there is
//! none, the newcomer is not held and [`Waiting::room`] tells the scanner how much to name.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Deferral, Fingerprint, WriterState};

/// How soon an open writer is looked for again where no event told of its end.
const WRITER_RECHECK: Duration = Duration::from_millis(500);

/// What was seen of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub fingerprint: Fingerprint,
    pub marker: MarkerState,
    pub writer: WriterState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkerState {
    /// The source asks for none.
    NotAsked,
    Stands,
    /// The name that is missing.
    Missing(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Quiet time seen by us.
    pub settle: Duration,
}

/// What an observation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Finished; no longer held.
    Ready,
    Wait {
        deferral: Deferral,
        /// When looking again may change something; `None` where only an event or a scan can.
        until: Option<Instant>,
    },
}

/// The files that wait.
#[derive(Debug)]
pub struct Waiting<K> {
    capacity: usize,
    files: HashMap<Arc<K>, Held>,
    /// By when they are due, those that wait for no time last; the number keeps positions apart.
    order: BTreeMap<Position, Arc<K>>,
    /// How many wait for no time.
    for_event: usize,
    /// Those that are finished and put off, by when they are due.
    later: BTreeMap<Position, Arc<K>>,
    next_number: u64,
    /// A file was not held, or gave up its place.
    forgot: bool,
    /// Of all that are held.
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    version: Version,
    position: Position,
}

/// What is known of a file that waits.
#[derive(Debug)]
struct Version {
    fingerprint: Fingerprint,
    /// When we first saw this version.
    since: Instant,
    /// When we first saw the file.
    first_seen: Instant,
    deferral: Deferral,
    /// When it is our turn, where it was left to others, whatever becomes of it meanwhile: a file that changes again and
    /// again would never come to its turn.
    turn: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position(When, u64);

/// Times sort before `Event`; `Later` is sorted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    Time(Instant),
    /// It is finished, and not to be taken before this.
    Later(Instant),
    Event,
}

impl<K: Eq + Hash> Waiting<K> {
    /// Holds at most `capacity` files.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            files: HashMap::new(),
            order: BTreeMap::new(),
            for_event: 0,
            later: BTreeMap::new(),
            next_number: 0,
            forgot: false,
            bytes: 0,
        }
    }

    /// Takes in what was seen of a file at `now`.
    pub fn observe(&mut self, key: K, seen: &Observation, rules: Rules, now: Instant) -> Decision {
        let key = Arc::new(key);
        let held = self.remove(&key);
        let first_seen = held.as_ref().map_or(now, |held| held.version.first_seen);
        let turn = held.as_ref().and_then(|held| held.version.turn);
        let since =
            held.filter(|held| held.version.fingerprint == seen.fingerprint).map_or(now, |held| held.version.since);
        let settled_at = since + rules.settle;
        let (deferral, until) = match (&seen.marker, seen.writer) {
            (MarkerState::Missing(name), _) => (Deferral::NoMarker(name.clone()), None),
            (_, WriterState::Open) => (Deferral::OpenForWriting, Some(settled_at.max(now + WRITER_RECHECK))),
            _ if now < settled_at => (Deferral::Unsettled, Some(settled_at)),
            _ => return Decision::Ready,
        };
        let when = until.map_or(When::Event, When::Time);
        if self.make_room(when) {
            let (fingerprint, deferral) = (seen.fingerprint, deferral.clone());
            self.hold(key, Version { fingerprint, since, first_seen, deferral, turn }, when);
        } else {
            self.forgot = true;
        }
        Decision::Wait { deferral, until }
    }

    /// Holds a finished file until then, for it is to be left to others first. It was seen finished at `since`. `false`
    /// where there is no room.
    pub fn put_off(
        &mut self,
        key: K,
        version: Fingerprint,
        since: Instant,
        deferral: Deferral,
        until: Instant,
    ) -> bool {
        let key = Arc::new(key);
        let held = self.remove(&key);
        let first_seen = held.as_ref().map_or(since, |held| held.version.first_seen);
        let turn =
            held.and_then(|held| held.version.turn).or_else(|| (deferral == Deferral::OthersFirst).then_some(until));
        let has_room = self.make_room(When::Later(until));
        if has_room {
            self.hold(key, Version { fingerprint: version, since, first_seen, deferral, turn }, When::Later(until));
        }
        has_room
    }

    fn hold(&mut self, key: Arc<K>, version: Version, when: When) {
        let position = Position(when, self.next_number);
        self.next_number += 1;
        self.for_event += usize::from(when == When::Event);
        self.order_of(when).insert(position, Arc::clone(&key));
        self.bytes += version.fingerprint.size;
        self.files.insert(key, Held { version, position });
    }

    /// Until when this version of a file is put off, and why.
    pub fn put_off_until(&self, key: &K, version: Fingerprint) -> Option<(Instant, Deferral)> {
        let held = self.files.get(key).filter(|held| held.version.fingerprint == version)?;
        match held.position.0 {
            When::Later(until) => Some((until, held.version.deferral.clone())),
            When::Time(_) | When::Event => None,
        }
    }

    /// When the turn of a file that was left to others is ours.
    pub fn turn(&self, key: &K) -> Option<Instant> {
        self.files.get(key)?.version.turn
    }

    /// The earliest time at which a file is due that is not finished.
    pub fn next_due(&self) -> Option<Instant> {
        self.order.first_key_value().and_then(|(position, _)| match position.0 {
            When::Time(at) => Some(at),
            When::Later(_) | When::Event => None,
        })
    }

    /// The earliest time at which a file is due that was put off.
    pub fn next_put_off(&self) -> Option<Instant> {
        self.later.first_key_value().and_then(|(position, _)| match position.0 {
            When::Later(until) => Some(until),
            When::Time(_) | When::Event => None,
        })
    }

    fn order_of(&mut self, when: When) -> &mut BTreeMap<Position, Arc<K>> {
        match when {
            When::Later(_) => &mut self.later,
            When::Time(_) | When::Event => &mut self.order,
        }
    }

    /// The same as [`Waiting::due`] of those that were put off; of all of them where `now` is `None`.
    pub fn put_off_due(&self, now: Option<Instant>, limit: usize) -> Vec<Arc<K>> {
        let is_due = |position: &Position| now.is_none_or(|now| position.0 <= When::Later(now));
        self.later.iter().take_while(|(position, _)| is_due(position)).take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// At most `limit` files that are due at `now`, earliest first. They stay held until they are observed or
    /// forgotten, so the caller does one of the two with each.
    pub fn due(&self, now: Instant, limit: usize) -> Vec<Arc<K>> {
        let end = Position(When::Time(now), u64::MAX);
        self.order.range(..=end).take(limit).map(|(_, key)| Arc::clone(key)).collect()
    }

    /// Tells the looks that came before from those that come after.
    pub fn mark(&self) -> u64 {
        self.next_number
    }

    /// At most `limit` files that wait for something other than time, and were last looked at before that mark. They stay
    /// held until they are observed or forgotten, so the caller does one of the two with each.
    pub fn for_event(&self, mark: u64, limit: usize, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let waiting = self.order.range(Position(When::Event, 0)..Position(When::Event, mark));
        waiting.filter(|(_, key)| wanted(key)).take(limit).map(|(_, key)| Arc::clone(key)).collect()
    }

    /// Whether a file is held that is due at some time, event or not.
    pub fn waits_for_time(&self, key: &K) -> bool {
        self.files.get(key).is_some_and(|held| held.position.0 != When::Event)
    }

    /// For a file that went away, or that somebody else looks after now.
    pub fn forget(&mut self, key: &K) {
        self.remove(key);
    }

    /// How many more files that wait for a time are sure to be held. Whoever names more of them at a time has the rest
    /// forgotten, and must name them again.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.files.len() - self.for_event)
    }

    /// Whether any file that waits was ever not held for want of room: only a scan names it again.
    pub fn forgot_any(&self) -> bool {
        self.forgot
    }

    pub fn contains(&self, key: &K) -> bool {
        self.files.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Since when a file that is seen so has been finished but for its settle time, as far as we know.
    pub fn finished_since(&self, key: &K, seen: &Observation, now: Instant) -> Instant {
        let held = self.files.get(key).filter(|held| held.version.fingerprint == seen.fingerprint);
        match held {
            Some(Held { version, position: Position(When::Later(_), _) }) => version.since,
            Some(Held { version, .. }) if version.deferral == Deferral::Unsettled => version.since,
            _ => now,
        }
    }

    /// At most `limit` files that wait longest, the longest first, each with the time it was first seen. Looks at every
    /// file.
    pub fn longest(&self, limit: usize) -> Vec<(&K, Fingerprint, Instant, &Deferral)> {
        let mut files: Vec<_> = self.files.iter().map(|(key, held)| (&**key, held)).collect();
        if files.len() > limit {
            files.select_nth_unstable_by_key(limit, |(_, held)| held.version.first_seen);
            files.truncate(limit);
        }
        files.sort_unstable_by_key(|(_, held)| held.version.first_seen);
        files
            .into_iter()
            .map(|(key, held)| (key, held.version.fingerprint, held.version.first_seen, &held.version.deferral))
            .collect()
    }

    /// The sum of the sizes in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every file that waits, with the version that was seen last and the reason.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Fingerprint, &Deferral)> {
        self.files.iter().map(|(key, held)| (&**key, held.version.fingerprint, &held.version.deferral))
    }

    fn remove(&mut self, key: &K) -> Option<Held> {
        let held = self.files.remove(key)?;
        self.order_of(held.position.0).remove(&held.position);
        self.bytes -= held.version.fingerprint.size;
        self.for_event -= usize::from(held.position.0 == When::Event);
        Some(held)
    }

    fn make_room(&mut self, when: When) -> bool {
        if self.files.len() < self.capacity {
            return true;
        }
        match self.order.last_entry() {
            Some(last) if last.key().0 == When::Event && when != When::Event => {
                let key = last.get().clone();
                self.remove(&key);
                self.forgot = true;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
