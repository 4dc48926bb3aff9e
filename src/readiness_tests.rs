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

#[test]
fn a_finished_file_is_left_to_others_for_a_while() {
    let (mut waiting, start) = (Waiting::new(2), Instant::now());
    let at = |ms| start + Duration::from_millis(ms);
    let seen = quiet(5);
    waiting.observe("a", &seen, RULES, at(0));
    assert_eq!(waiting.observe("a", &seen, RULES, at(2000)), Decision::Ready);
    assert!(waiting.put_off("a", seen.fingerprint, at(0), Deferral::OthersFirst, at(4000)));
    assert_eq!((waiting.next_due(), waiting.next_put_off()), (None, Some(at(4000))));
    assert!(waiting.waits_for_time(&"a") && waiting.put_off_due(Some(at(3999)), 9).is_empty());
    assert_eq!(waiting.put_off_due(Some(at(4000)), 9), [Arc::new("a")]);
    assert_eq!(waiting.put_off_due(None, 9), [Arc::new("a")]);
    let until = |waiting: &Waiting<_>, size| waiting.put_off_until(&"a", quiet(size).fingerprint);
    assert_eq!(until(&waiting, 5), Some((at(4000), Deferral::OthersFirst)));
    // Another version has its own settle time.
    assert_eq!(until(&waiting, 6), None);
    assert_eq!(waiting.finished_since(&"a", &seen, at(4000)), at(0));
    assert_eq!(waiting.longest(9), [(&"a", seen.fingerprint, at(0), &Deferral::OthersFirst)]);
    // It takes a place like any other that has its time.
    assert_eq!(waiting.room(), 1);
    waiting.observe("b", &seen, RULES, at(0));
    assert!(!waiting.put_off("c", seen.fingerprint, at(0), Deferral::OthersFirst, at(4000)) && waiting.len() == 2);
    assert_eq!(waiting.observe("a", &seen, RULES, at(4000)), Decision::Ready);
    assert_eq!((waiting.next_put_off(), waiting.bytes()), (None, 5));
}

#[test]
fn a_file_that_changes_again_and_again_comes_to_its_turn() {
    let (mut waiting, start) = (Waiting::new(2), Instant::now());
    let at = |ms| start + Duration::from_millis(ms);
    assert!(waiting.put_off("a", quiet(1).fingerprint, at(0), Deferral::OthersFirst, at(4000)));
    for size in 2..5 {
        waiting.observe("a", &quiet(size), RULES, at(1000 * size));
        assert_eq!(waiting.turn(&"a"), Some(at(4000)));
        assert!(waiting.put_off("a", quiet(size).fingerprint, at(0), Deferral::OthersFirst, at(9000)));
        assert_eq!(waiting.turn(&"a"), Some(at(4000)));
    }
    assert_eq!(waiting.observe("a", &quiet(4), RULES, at(9000)), Decision::Ready);
    assert_eq!(waiting.turn(&"a"), None, "it was taken");
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
