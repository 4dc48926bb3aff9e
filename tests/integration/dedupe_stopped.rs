//! Killed between any two steps, or stopped at one until its lease is over and another archiver has the bytes.

use archiver::failpoint::{Point, VARIABLE};
use rustix::process::Signal;

use super::Place;
use crate::push::each;
use crate::support::env::{DEADLINE, Running, files, run, wait_until};

const CONTENTS: u64 = 4;

const OWNER_DIES_AT: [Point; 11] = [
    Point::Claimed,
    Point::Reserved,
    Point::DuplicateFound,
    Point::StagingOpened,
    Point::Verified,
    Point::LeaseConfirmed,
    Point::Renamed,
    Point::Committed,
    Point::Recorded,
    Point::SetAside,
    Point::Disposed,
];

/// Where the owner dies, and then the one that settles what it left.
const BOTH_DIE_AT: [(Point, Point); 7] = [
    (Point::StagingOpened, Point::OtherFound),
    (Point::Reserved, Point::OtherClaimed),
    (Point::StagingOpened, Point::OtherDisarmed),
    (Point::LeaseConfirmed, Point::OtherReleased),
    (Point::Committed, Point::OtherClaimed),
    (Point::Committed, Point::OtherDisarmed),
    (Point::Committed, Point::OtherRecorded),
];

/// All at which a process dies here, and is stopped where the ledger is shared.
pub fn points() -> impl Iterator<Item = Point> {
    OWNER_DIES_AT.into_iter().chain(BOTH_DIE_AT.into_iter().flat_map(|(first, second)| [first, second]))
}

fn armed(point: Point, what: &str) -> String {
    format!("{}:1:{what}", point.name())
}

/// The first one dies with some bytes in hand; whoever comes next has other files with the same ones.
#[test]
fn a_dead_owner_is_succeeded_by_other_files_wherever_it_died() {
    for point in OWNER_DIES_AT {
        let place = Place::sqlite();
        place.write_all("one", 2 * CONTENTS, CONTENTS);
        place.write_all("two", CONTENTS, CONTENTS);
        let killed = run(place.push(&["one"], &["--jobs", "2"]).env(VARIABLE, armed(point, "kill")));
        assert_eq!(killed.code(), None, "{point:?} was not reached");
        run(&mut place.push(&["two"], &[])).assert_code(0);
        run(&mut place.push(&["one", "two"], &[])).assert_code(0);
        place.assert_each_content_once(CONTENTS);
    }
}

/// So does the one that settles what the first one left; and the next one has both.
#[test]
fn who_settles_a_dead_owners_files_may_die_as_well() {
    for (first, second) in BOTH_DIE_AT {
        let place = Place::sqlite();
        place.write_all("one", CONTENTS, CONTENTS);
        place.write_all("two", CONTENTS, CONTENTS);
        place.write_all("three", CONTENTS, CONTENTS);
        for (directory, point) in [("one", first), ("two", second)] {
            let killed = run(place.push(&[directory], &["--jobs", "1"]).env(VARIABLE, armed(point, "kill")));
            assert_eq!(killed.code(), None, "{point:?} after {first:?} was not reached");
        }
        run(&mut place.push(&["three"], &[])).assert_code(0);
        run(&mut place.push(&["one", "two", "three"], &[])).assert_code(0);
        place.assert_each_content_once(CONTENTS);
    }
}

/// Its local files are gone by then, so nobody will ever come to archive them.
#[test]
fn what_a_dead_owner_published_stands_though_its_file_is_gone() {
    for point in [Point::Reserved, Point::StagingOpened, Point::Committed] {
        let place = Place::sqlite();
        place.write_all("one", CONTENTS, CONTENTS);
        let killed = run(place.push(&["one"], &["--jobs", "1"]).env(VARIABLE, armed(point, "kill")));
        assert_eq!(killed.code(), None, "{point:?} was not reached");
        std::fs::remove_dir_all(place.site.local().join("one")).unwrap();
        // Only looks after what is left, and again once the names may have come back.
        place.write("other/file", b"other");
        run(&mut place.push(&["other"], &[])).assert_code(0);
        place.write_all("two", CONTENTS, CONTENTS);
        run(&mut place.push(&["two"], &[])).assert_code(0);
        place.assert_each_content_once(CONTENTS + 1);
    }
}

/// As a machine that sleeps: when it wakes up, another one has archived its bytes under another name.
fn a_late_owner(place: impl Fn() -> Place) {
    for point in [Point::Reserved, Point::StagingOpened, Point::AllWritten, Point::LeaseConfirmed, Point::Committed] {
        let place = Place { lease: "3s", ..place() };
        // A single one: a file that goes on meanwhile may be stopped with the database locked.
        place.write_all("one", 1, 1);
        place.write_all("two", CONTENTS, CONTENTS);
        let late = Running::start(place.push(&["one"], &[]).env(VARIABLE, armed(point, "stop")));
        wait_until(&format!("it is stopped at {point:?}"), || late.is_stopped());
        run(&mut place.push(&["two"], &[])).assert_code(0);
        late.signal(Signal::CONT);
        let late = late.finish();
        assert!(matches!(late.code(), Some(0 | 4)), "{point:?}: {:?}", late.stderr);
        run(&mut place.push(&["one", "two"], &[])).assert_code(0);
        place.assert_each_content_once(CONTENTS);
    }
}

#[test]
fn a_late_owner_archives_nothing_that_stands_by_now_with_sqlite() {
    a_late_owner(Place::sqlite);
}

#[test]
fn a_late_owner_archives_nothing_that_stands_by_now_with_redis() {
    a_late_owner(Place::redis);
}

/// A person puts a failed file back while another one with its bytes is about to settle it.
#[test]
fn a_failed_file_that_is_put_back_meanwhile_stays_in_the_queue() {
    let place = Place::sqlite();
    let ledger = place.site.env.home().join("ledger.db");
    let options = ["--ledger", ledger.to_str().unwrap()];
    place.write_all("one", 1, 1);
    place.write_all("two", 1, 1);
    let killed = run(place.push(&["one"], &options).env(VARIABLE, armed(Point::StagingOpened, "kill")));
    assert_eq!(killed.code(), None);
    let database = rusqlite::Connection::open(&ledger).unwrap();
    let failed = "UPDATE entry SET state = 'failed', reason = 'it was refused', attempts = 8, owner = NULL";
    assert_eq!(database.execute(failed, []).unwrap(), 1);
    let settling = Running::start(place.push(&["two"], &options).env(VARIABLE, armed(Point::OtherFound, "stop")));
    wait_until("it has found the other one", || settling.is_stopped());
    run(place.site.env.archiver(["retry", "--all"]).args(options)).assert_code(0);
    settling.signal(Signal::CONT);
    settling.finish().assert_code(0);
    let state = "SELECT state, attempts FROM entry WHERE recorded_at IS NULL";
    let state: (String, u32) = database.query_row(state, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(state, ("claimed".to_owned(), 0));
    run(&mut place.push(&["one"], &options)).assert_code(0);
    place.assert_each_content_once(1);
}

/// Starts a push that is killed or stopped at this point; gives the one that is only stopped.
fn struck(place: &Place, directory: &str, point: Point, what: &str) -> Option<Running> {
    let mut push = place.push(&[directory], &["--jobs", "2"]);
    let mut running = Running::start(push.env(VARIABLE, armed(point, what)));
    running.expect_line(&format!("failpoint {} reached", point.name()));
    if what == "kill" {
        assert!(running.ends_within(DEADLINE));
        return None;
    }
    wait_until(&format!("it is stopped at {point:?}"), || running.is_stopped());
    Some(running)
}

/// What one left is settled by the next one, which is struck as well, and so on; the last one goes through, before those
/// that were only stopped go on.
fn replicas_are_struck_at(points: &[Point], what: &str) {
    let place = Place { lease: "2s", ..Place::redis() };
    let directories = &["one", "two", "three"][..points.len() + 1];
    directories.iter().for_each(|directory| place.write_all(directory, 2 * CONTENTS, CONTENTS));
    let (last, struck_in) = directories.split_last().unwrap();
    let late: Vec<_> =
        struck_in.iter().zip(points).filter_map(|(directory, point)| struck(&place, directory, *point, what)).collect();
    run(&mut place.push(&[last], &[])).assert_code(0);
    for late in late {
        late.signal(Signal::CONT);
        let late = late.finish();
        assert!(matches!(late.code(), Some(0 | 4)), "{points:?}: {:?}", late.stderr);
    }
    // A disposal that a dead one had begun is its own as long as its lease.
    wait_until("all local files are disposed of", || {
        run(&mut place.push(directories, &[])).assert_code(0);
        files(&place.site.local()).is_empty()
    });
    place.assert_each_content_once(CONTENTS);
}

fn replicas_are_struck_everywhere(what: &str) {
    let both = BOTH_DIE_AT.iter().map(|(first, second)| vec![*first, *second]);
    let cases: Vec<_> = OWNER_DIES_AT.iter().map(|point| vec![*point]).chain(both).collect();
    each(&cases, |points| replicas_are_struck_at(points, what));
}

#[test]
fn replicas_that_were_killed_are_succeeded_by_other_files() {
    replicas_are_struck_everywhere("kill");
}

#[test]
fn replicas_that_are_stopped_are_succeeded_by_other_files() {
    replicas_are_struck_everywhere("stop");
}

/// One that is merely slow is waited for.
#[test]
fn a_live_owner_is_waited_for() {
    let place = Place::sqlite();
    place.write_all("one", 1, 1);
    place.write_all("two", 1, 1);
    let slow = Running::start(place.push(&["one"], &[]).env(VARIABLE, armed(Point::AllWritten, "stop")));
    wait_until("it is stopped", || slow.is_stopped());
    let mut waiting = Running::start(place.push(&["two"], &["-vv"]).env(VARIABLE, armed(Point::Claimed, "stop")));
    wait_until("the other one has begun", || waiting.is_stopped());
    waiting.signal(Signal::CONT);
    slow.signal(Signal::CONT);
    slow.finish().assert_code(0);
    assert!(waiting.ends_within(DEADLINE));
    waiting.finish().assert_code(0);
    place.assert_each_content_once(1);
}
