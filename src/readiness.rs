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
    next_number: u64,
    /// A file was not held, or gave up its place.
    forgot: bool,
    /// Of all that are held.
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    fingerprint: Fingerprint,
    /// When we first saw this version.
    since: Instant,
    /// When we first saw the file.
    first_seen: Instant,
    deferral: Deferral,
    position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position(When, u64);

/// Times sort before `Event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    Time(Instant),
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
            next_number: 0,
            forgot: false,
            bytes: 0,
        }
    }

    /// Takes in what was seen of a file at `now`.
    pub fn observe(&mut self, key: K, seen: &Observation, rules: Rules, now: Instant) -> Decision {
        let key = Arc::new(key);
        let held = self.remove(&key);
        let first_seen = held.as_ref().map_or(now, |held| held.first_seen);
        let since = held.filter(|held| held.fingerprint == seen.fingerprint).map_or(now, |held| held.since);
        let settled_at = since + rules.settle;
        let (deferral, until) = match (&seen.marker, seen.writer) {
            (MarkerState::Missing(name), _) => (Deferral::NoMarker(name.clone()), None),
            (_, WriterState::Open) => (Deferral::OpenForWriting, Some(settled_at.max(now + WRITER_RECHECK))),
            _ if now < settled_at => (Deferral::Unsettled, Some(settled_at)),
            _ => return Decision::Ready,
        };
        let when = until.map_or(When::Event, When::Time);
        if self.make_room(when) {
            let position = Position(when, self.next_number);
            self.next_number += 1;
            self.for_event += usize::from(when == When::Event);
            self.order.insert(position, Arc::clone(&key));
            let held = Held { fingerprint: seen.fingerprint, since, first_seen, deferral: deferral.clone(), position };
            self.bytes += seen.fingerprint.size;
            self.files.insert(key, held);
        } else {
            self.forgot = true;
        }
        Decision::Wait { deferral, until }
    }

    /// The earliest time at which a file is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.order.first_key_value().and_then(|(position, _)| match position.0 {
            When::Time(at) => Some(at),
            When::Event => None,
        })
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
        match self.files.get(key) {
            Some(held) if held.deferral == Deferral::Unsettled && held.fingerprint == seen.fingerprint => held.since,
            _ => now,
        }
    }

    /// At most `limit` files that wait longest, the longest first, each with the time it was first seen. Looks at every
    /// file.
    pub fn longest(&self, limit: usize) -> Vec<(&K, Fingerprint, Instant, &Deferral)> {
        let mut files: Vec<_> = self.files.iter().map(|(key, held)| (&**key, held)).collect();
        if files.len() > limit {
            files.select_nth_unstable_by_key(limit, |(_, held)| held.first_seen);
            files.truncate(limit);
        }
        files.sort_unstable_by_key(|(_, held)| held.first_seen);
        files.into_iter().map(|(key, held)| (key, held.fingerprint, held.first_seen, &held.deferral)).collect()
    }

    /// The sum of the sizes in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every file that waits, with the version that was seen last and the reason.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Fingerprint, &Deferral)> {
        self.files.iter().map(|(key, held)| (&**key, held.fingerprint, &held.deferral))
    }

    fn remove(&mut self, key: &K) -> Option<Held> {
        let held = self.files.remove(key)?;
        self.order.remove(&held.position);
        self.bytes -= held.fingerprint.size;
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { settle: Duration::from_secs(2) };

    fn seen(size: u64, marker: MarkerState, writer: WriterState) -> Observation {
        Observation { fingerprint: Fingerprint { inode: 1, size, mtime_ns: 0 }, marker, writer }
    }

    fn quiet(size: u64) -> Observation {
        seen(size, MarkerState::NotAsked, WriterState::None)
    }

    fn unsettled(until: Instant) -> Decision {
        Decision::Wait { deferral: Deferral::Unsettled, until: Some(until) }
    }

    #[test]
    fn a_version_must_stand_for_the_settle_time_since_we_saw_it() {
        let (mut waiting, start) = (Waiting::new(10), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(waiting.observe("a", &quiet(1), RULES, at(0)), unsettled(at(2000)));
        assert_eq!(waiting.observe("a", &quiet(1), RULES, at(1999)), unsettled(at(2000)));
        assert_eq!(waiting.observe("a", &quiet(2), RULES, at(1999)), unsettled(at(3999)));
        assert_eq!(waiting.next_due(), Some(at(3999)));
        assert!(waiting.due(at(3998), 9).is_empty());
        assert_eq!(waiting.due(at(3999), 9), [Arc::new("a")]);
        assert_eq!(waiting.bytes(), 2);
        assert_eq!(waiting.longest(9), [(&"a", quiet(2).fingerprint, at(0), &Deferral::Unsettled)]);
        assert_eq!(waiting.finished_since(&"a", &quiet(2), at(3999)), at(1999));
        assert_eq!(waiting.finished_since(&"a", &quiet(3), at(3999)), at(3999));
        assert_eq!(waiting.observe("a", &quiet(2), RULES, at(3999)), Decision::Ready);
        assert!(waiting.is_empty() && waiting.next_due().is_none());
    }

    #[test]
    fn no_settle_time_means_ready_at_once_unless_somebody_writes() {
        let (mut waiting, now) = (Waiting::new(10), Instant::now());
        let rules = Rules { settle: Duration::ZERO };
        assert_eq!(waiting.observe("a", &quiet(0), rules, now), Decision::Ready);
        assert_eq!(
            waiting.observe("a", &seen(0, MarkerState::NotAsked, WriterState::Unknown), rules, now),
            Decision::Ready
        );
        let writing = seen(0, MarkerState::Stands, WriterState::Open);
        assert_eq!(
            waiting.observe("a", &writing, rules, now),
            Decision::Wait { deferral: Deferral::OpenForWriting, until: Some(now + WRITER_RECHECK) }
        );
        waiting.forget(&"a");
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_missing_marker_waits_for_an_event_while_the_version_settles() {
        let (mut waiting, start) = (Waiting::new(10), Instant::now());
        let missing = seen(1, MarkerState::Missing("a.done".into()), WriterState::None);
        let no_marker = Decision::Wait { deferral: Deferral::NoMarker("a.done".into()), until: None };
        assert_eq!(waiting.observe("a", &missing, RULES, start), no_marker);
        assert_eq!(waiting.next_due(), None);
        let held = (&"a", missing.fingerprint, &Deferral::NoMarker("a.done".into()));
        assert_eq!(waiting.iter().collect::<Vec<_>>(), [held]);
        let marked = seen(1, MarkerState::Stands, WriterState::None);
        assert_eq!(waiting.observe("a", &marked, RULES, start + RULES.settle), Decision::Ready);
    }

    #[test]
    fn files_that_wait_for_an_event_are_told_apart_by_their_last_look() {
        let (mut waiting, now) = (Waiting::new(10), Instant::now());
        let missing = seen(1, MarkerState::Missing("m".into()), WriterState::None);
        for key in ["a", "b", "c"] {
            waiting.observe(key, &missing, RULES, now);
        }
        waiting.observe("timed", &quiet(1), RULES, now);
        assert!(waiting.waits_for_time(&"timed") && !waiting.waits_for_time(&"a") && !waiting.waits_for_time(&"x"));
        let mark = waiting.mark();
        waiting.observe("b", &missing, RULES, now);
        let unmet = |waiting: &Waiting<_>, limit| waiting.for_event(mark, limit, |_| true);
        assert_eq!(unmet(&waiting, 9), [Arc::new("a"), Arc::new("c")]);
        assert_eq!(unmet(&waiting, 1), [Arc::new("a")]);
        assert_eq!(waiting.for_event(mark, 9, |key| *key == "c"), [Arc::new("c")]);
        waiting.forget(&"a");
        waiting.observe("c", &missing, RULES, now);
        assert!(unmet(&waiting, 9).is_empty());
    }

    #[test]
    fn at_the_bound_files_that_wait_for_a_marker_make_room() {
        let (mut waiting, now) = (Waiting::new(2), Instant::now());
        let missing = seen(1, MarkerState::Missing("m".into()), WriterState::None);
        waiting.observe("a", &missing, RULES, now);
        waiting.observe("b", &quiet(1), RULES, now);
        assert!(waiting.room() > 0);
        assert!(!waiting.forgot_any());
        waiting.observe("c", &quiet(1), RULES, now);
        assert!(waiting.forgot_any());
        assert!(waiting.room() == 0 && waiting.len() == 2);
        waiting.observe("d", &quiet(1), RULES, now);
        waiting.observe("e", &missing, RULES, now);
        let mut held: Vec<_> = waiting.iter().map(|(key, ..)| *key).collect();
        held.sort();
        assert_eq!(held, ["b", "c"]);
        assert_eq!(waiting.observe("b", &quiet(1), RULES, now + RULES.settle), Decision::Ready);
        assert!(waiting.room() > 0);
    }

    /// As the scanners do it: never more at a time than there is room for. The capacity is no multiple of the batch.
    #[test]
    fn whoever_keeps_to_the_room_has_every_file_held() {
        const BATCH: usize = 4;
        let (mut waiting, now) = (Waiting::new(10), Instant::now());
        let missing = seen(1, MarkerState::Missing("m".into()), WriterState::None);
        // They take no room away: they give theirs up.
        for key in 1000..1020 {
            waiting.observe(key, &missing, RULES, now);
        }
        let (mut named, mut ready) = (0, Vec::new());
        while ready.len() < 33 {
            let batch = waiting.room().min(BATCH).min(33 - named);
            for key in named..named + batch {
                assert_eq!(waiting.observe(key, &quiet(1), RULES, now), unsettled(now + RULES.settle));
            }
            assert!((named..named + batch).all(|key| waiting.contains(&key)), "{named} {batch}");
            named += batch;
            assert!(waiting.len() <= 10);
            if batch == 0 {
                for key in waiting.due(now + RULES.settle, BATCH) {
                    assert_eq!(waiting.observe(*key, &quiet(1), RULES, now + RULES.settle), Decision::Ready);
                    ready.push(*key);
                }
            }
        }
        ready.sort_unstable();
        assert_eq!(ready, (0..33).collect::<Vec<_>>());
        assert!(waiting.next_due().is_none());
    }

    /// What a writer does between two looks.
    #[derive(Debug, Clone, Copy)]
    enum Act {
        Open,
        Write,
        Close,
        /// A rename of a finished file over it, which keeps an old modification time.
        Replace,
        Look,
    }

    proptest! {
        /// Whatever a writer does and whenever we look: a file is called ready only if it is closed and its version
        /// was already there at a look at least the settle time ago; and a writer that stops is always noticed.
        #[test]
        fn only_quiet_versions_are_ready(acts in proptest::collection::vec(
            (prop_oneof![Just(Act::Open), Just(Act::Write), Just(Act::Close), Just(Act::Replace), Just(Act::Look), Just(Act::Look)], 0u64..3000), 1..60)
        ) {
            let mut waiting = Waiting::new(4);
            let mut now = Instant::now();
            let mut version = Fingerprint { inode: 1, size: 0, mtime_ns: 0 };
            let mut open = false;
            // (version, first look at it), from the model's own memory.
            let mut first_look: Option<(Fingerprint, Instant)> = None;
            let look = |waiting: &mut Waiting<&str>, version, open, now| {
                let writer = if open { WriterState::Open } else { WriterState::None };
                waiting.observe("f", &Observation { fingerprint: version, marker: MarkerState::NotAsked, writer }, RULES, now)
            };
            for (act, pause) in acts {
                now += Duration::from_millis(pause);
                match act {
                    Act::Open => open = true,
                    Act::Write => if open { version.size += 1 },
                    Act::Close => open = false,
                    Act::Replace => { version.inode += 1; version.mtime_ns -= 1 }
                    Act::Look => {
                        let since = match first_look { Some((seen, at)) if seen == version => at, _ => now };
                        first_look = Some((version, since));
                        let ready = look(&mut waiting, version, open, now) == Decision::Ready;
                        prop_assert_eq!(ready, !open && now >= since + RULES.settle);
                        prop_assert_eq!(waiting.len(), usize::from(!ready));
                        prop_assert!(ready || waiting.next_due().is_some());
                        if ready { first_look = None }
                    }
                }
            }
            // The writer stops; looking when told to is enough.
            look(&mut waiting, version, false, now);
            for _ in 0..2 {
                if let Some(due) = waiting.next_due() {
                    prop_assert_eq!(waiting.due(due, 9).len(), 1);
                    look(&mut waiting, version, false, due.max(now));
                }
            }
            prop_assert!(waiting.is_empty());
        }

        /// The same of several files at once, whose markers come and go: no file is ready without its marker, while it is
        /// open, or before it was quiet; and once all is quiet, looking at what is due when it is due finds every one, each
        /// within the settle time and one recheck.
        #[test]
        fn markers_and_writers_are_waited_for(acts in proptest::collection::vec((0..3_usize, change(), 0u64..2500), 1..80)) {
            let mut waiting = Waiting::new(3);
            let mut now = Instant::now();
            let mut files = [File::default(), File::default(), File::default()];
            for (name, change, pause) in acts {
                now += Duration::from_millis(pause);
                let file = &mut files[name];
                match change {
                    Change::Open => file.open = true,
                    Change::Write if file.open => file.version.size += 1,
                    Change::Write => {}
                    Change::Close => file.open = false,
                    Change::Replace => file.version.inode += 1,
                    Change::Mark => file.marked = true,
                    Change::Unmark => file.marked = false,
                    Change::Look => {
                        let ready = file.look(&mut waiting, name, now);
                        prop_assert_eq!(ready, file.marked && !file.open && file.quiet_for(now) >= RULES.settle);
                        prop_assert_eq!(waiting.contains(&name), !ready);
                        if ready {
                            file.first_look = None;
                        }
                    }
                }
                // Whatever waits for more than its marker is due some day.
                let held = waiting.iter().filter(|(_, _, why)| !matches!(why, Deferral::NoMarker(_))).count();
                prop_assert_eq!(waiting.next_due().is_some(), held > 0);
            }
            // All writers stop, all markers come, and the events of that lead to one look at each.
            let still_at = now;
            let mut ready = 0;
            for (name, file) in files.iter_mut().enumerate() {
                (file.open, file.marked) = (false, true);
                ready += usize::from(file.look(&mut waiting, name, now));
            }
            while let Some(due) = waiting.next_due() {
                now = now.max(due);
                prop_assert!(now <= still_at + RULES.settle + WRITER_RECHECK);
                for name in waiting.due(now, 2) {
                    ready += usize::from(files[*name].look(&mut waiting, *name, now));
                }
            }
            prop_assert_eq!((ready, waiting.len()), (3, 0));
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Change {
        Open,
        Write,
        Close,
        Replace,
        Mark,
        Unmark,
        Look,
    }

    fn change() -> impl Strategy<Value = Change> {
        use Change::*;
        prop_oneof![1 => Just(Open), 2 => Just(Write), 2 => Just(Close), 1 => Just(Replace), 2 => Just(Mark), 1 => Just(Unmark), 6 => Just(Look)]
    }

    /// A file as its writer knows it, and what a look remembers of it.
    #[derive(Debug)]
    struct File {
        version: Fingerprint,
        open: bool,
        marked: bool,
        first_look: Option<(Fingerprint, Instant)>,
    }

    impl Default for File {
        fn default() -> Self {
            let version = Fingerprint { inode: 1, size: 0, mtime_ns: 0 };
            Self { version, open: false, marked: false, first_look: None }
        }
    }

    impl File {
        fn look(&mut self, waiting: &mut Waiting<usize>, name: usize, now: Instant) -> bool {
            if self.first_look.is_none_or(|(seen, _)| seen != self.version) {
                self.first_look = Some((self.version, now));
            }
            let marker = if self.marked { MarkerState::Stands } else { MarkerState::Missing("m".into()) };
            let writer = if self.open { WriterState::Open } else { WriterState::None };
            let seen = Observation { fingerprint: self.version, marker, writer };
            waiting.observe(name, &seen, RULES, now) == Decision::Ready
        }

        fn quiet_for(&self, now: Instant) -> Duration {
            self.first_look.map_or(Duration::ZERO, |(_, at)| now - at)
        }
    }
}
