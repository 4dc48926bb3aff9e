//! Commits of the less usual kinds, broken off: written directly, over another file, beside another file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, RenamePolicy, Request};

use russh_sftp::protocol::StatusCode;
use tokio::sync::Notify;

use super::crash::{Moment, Trap};
use super::faults::once;
use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, wait_until, write};

/// A server that cannot rename, as an object store's.
fn no_rename() -> Quirks {
    Quirks { rename: RenamePolicy::Unsupported, extensions: AnnouncedExtensions::None, ..Quirks::default() }
}

fn trapped(quirks: Quirks) -> (Bench, Embedded, Trap) {
    let env = TestEnv::new();
    let (faults, trap) = Trap::set();
    let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
    (Bench::embedded(env, &server), server, trap)
}

const DIRECT: [&str; 4] = ["--publish", "direct", "--after", "delete"];

#[test]
fn a_direct_upload_that_broke_off_goes_on_under_the_same_name() {
    use Operation::{Close, Fsetstat, Fstat, Open, Write};
    std::thread::scope(|scope| {
        for operation in [Open, Write, Fsetstat, Fstat, Close] {
            for fault in [Fault::ReplyLost, Fault::DropAfter, Fault::DropConnection] {
                scope.spawn(move || {
                    let (bench, _server) = once(operation, fault.clone(), no_rename());
                    let wanted = files(&bench.env.local());
                    let pushed = Pushed::run(bench.push([bench.env.local()]).args(DIRECT));
                    assert_eq!(pushed.finished.code(), Some(0), "{operation:?} {fault:?}: {:?}", pushed.finished);
                    pushed.assert_counts([2, 0, 0, 0]);
                    assert_eq!(bench.archived(), wanted, "{operation:?} {fault:?}");
                    assert!(files(&bench.env.local()).is_empty(), "{operation:?} {fault:?}");
                });
            }
        }
    });
}

#[test]
fn what_cannot_be_replaced_safely_is_refused() {
    let (bench, _server) = once(Operation::Open, Fault::None, no_rename());
    let finished =
        Running::start(bench.push([bench.env.local()]).args(DIRECT).args(["--on-conflict", "overwrite"])).finish();
    finished.assert_code(2);
    let said = &finished.stderr;
    assert!(said.contains("--on-conflict: ") && said.contains("publish = \"rename\""), "{said}");
    assert!(files(&bench.base).is_empty());
}

/// A server that loses the connection at the first of these requests, while this happens; and how often it was asked to
/// take a name away.
fn cut_at(operation: Operation, meanwhile: impl Fn() + Send + Sync + 'static) -> (Bench, Embedded, Arc<AtomicUsize>) {
    let env = TestEnv::new();
    let (met, removals) = (AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
    let count = removals.clone();
    let faults = move |request: &Request| {
        let is_ours = request.path.contains("report");
        if is_ours && request.operation == Operation::Remove {
            count.fetch_add(1, Ordering::SeqCst);
        }
        if !is_ours || request.operation != operation || met.swap(true, Ordering::SeqCst) {
            return Fault::None;
        }
        meanwhile();
        Fault::DropConnection
    };
    let server = Embedded::start_with(&env, no_rename(), Some(Arc::new(faults)));
    let mut bench = Bench::embedded(env, &server);
    bench.request_timeout = "2s";
    write(&bench.env.local(), "report", noise(40_000, 1));
    (bench, server, removals)
}

/// A removal that a server carries out late would take the whole file away, whose local one is gone by then.
#[test]
fn a_part_of_ours_is_written_over_and_never_removed() {
    let (bench, _server, removals) = cut_at(Operation::Write, || {});
    let wanted = files(&bench.env.local());
    Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0).assert_counts([1, 0, 0, 0]);
    assert!(files(&bench.env.local()).is_empty(), "it is archived, so it was deleted");
    assert_eq!(bench.archived(), wanted);
    assert_eq!(removals.load(Ordering::SeqCst), 0);
}

/// The server never got to our OPEN, and somebody else made a file of that name.
#[test]
fn a_file_that_came_while_our_session_was_broken_is_not_ours() {
    let base = Arc::new(OnceLock::<PathBuf>::new());
    let there = base.clone();
    let (bench, _server, removals) = cut_at(Operation::Open, move || {
        write(there.get().unwrap(), "in/report", "theirs");
    });
    base.set(bench.base.clone()).unwrap();
    Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(std::fs::read(bench.base.join("in/report")).unwrap(), b"theirs");
    assert_eq!(bench.archived().len(), 2, "{:?}", bench.archived());
    assert_eq!(removals.load(Ordering::SeqCst), 0);
}

/// The version goes away while its session is broken: its part does, too, before the next one comes.
#[test]
fn a_part_of_a_version_that_changed_is_taken_away_once() {
    let local = Arc::new(OnceLock::<PathBuf>::new());
    let there = local.clone();
    let (bench, _server, removals) = cut_at(Operation::Fsetstat, move || {
        write(there.get().unwrap(), "report", "the newer version");
    });
    local.set(bench.env.local()).unwrap();
    Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(4);
    assert_eq!(removals.load(Ordering::SeqCst), 1);
    assert!(files(&bench.base).is_empty(), "{:?}", files(&bench.base));
    let wanted = files(&bench.env.local());
    Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
}

/// The server made our file, and somebody else put a longer one in its place: it is neither written over nor taken away.
#[test]
fn a_file_that_replaced_our_part_is_not_ours() {
    for changes in [false, true] {
        let place = Arc::new(OnceLock::<[PathBuf; 2]>::new());
        let there = place.clone();
        let (bench, _server, removals) = cut_at(Operation::Write, move || {
            let [base, local] = there.get().unwrap();
            write(base, "in/report", noise(50_000, 2));
            if changes {
                write(local, "report", "the newer version");
            }
        });
        place.set([bench.base.clone(), bench.env.local()]).unwrap();
        Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(if changes { 4 } else { 0 });
        assert_eq!(std::fs::read(bench.base.join("in/report")).unwrap(), noise(50_000, 2));
        assert_eq!(bench.archived().len(), if changes { 1 } else { 2 }, "{:?}", bench.archived());
        assert_eq!(removals.load(Ordering::SeqCst), 0);
    }
}

/// The name may only be made anew, as on object stores: the part goes, and the file is written once more.
#[test]
fn a_server_that_lets_no_file_be_written_again_costs_an_attempt() {
    for status in [StatusCode::OpUnsupported, StatusCode::PermissionDenied] {
        let env = TestEnv::new();
        let (written, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        let faults = move |request: &Request| match request.operation {
            Operation::Write if !written.swap(true, Ordering::SeqCst) => Fault::DropConnection,
            Operation::Open if opened.fetch_add(1, Ordering::SeqCst) == 1 => Fault::Status(status),
            _ => Fault::None,
        };
        let server = Embedded::start_with(&env, no_rename(), Some(Arc::new(faults)));
        let bench = Bench::embedded(env, &server);
        write(&bench.env.local(), "report", noise(40_000, 1));
        let wanted = files(&bench.env.local());
        Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0).assert_counts([1, 0, 0, 0]);
        assert_eq!(bench.archived(), wanted);
    }
}

/// All of the bytes stand there, and their removal was asked for: it may still come.
#[test]
fn what_may_still_be_removed_does_not_count_as_archived() {
    let env = TestEnv::new();
    let late = Arc::new(Notify::new());
    let (closed, removed, release) = (AtomicBool::new(false), AtomicBool::new(false), late.clone());
    let faults = move |request: &Request| match request.operation {
        Operation::Close if !closed.swap(true, Ordering::SeqCst) => Fault::Status(StatusCode::Failure),
        Operation::Remove if !removed.swap(true, Ordering::SeqCst) => Fault::Outlast(late.clone()),
        _ => Fault::None,
    };
    let server = Embedded::start_with(&env, no_rename(), Some(Arc::new(faults)));
    let mut bench = Bench::embedded(env, &server);
    bench.request_timeout = "2s";
    write(&bench.env.local(), "report", noise(40_000, 1));
    let whole: Vec<_> = files(&bench.env.local()).into_values().collect();
    Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0).assert_counts([1, 0, 0, 0]);
    release.notify_one();
    wait_until("the server removed what it was told to", || !bench.base.join("in/report").exists());
    let archived: Vec<_> = bench.archived().into_values().collect();
    assert_eq!(archived, whole, "its local file is gone");
}

/// Files that come to one name follow one another, and those that wait keep no other file waiting.
#[test]
fn only_files_of_the_same_name_wait_for_one_that_is_being_written() {
    let env = TestEnv::new();
    let (closed, met) = (Arc::new(Mutex::new(Vec::new())), AtomicBool::new(false));
    let told = closed.clone();
    let faults = move |request: &Request| {
        if request.operation != Operation::Close {
            return Fault::None;
        }
        told.lock().unwrap().push(request.path.clone());
        // Whoever writes it first waits for that for long.
        let is_first = request.path == "/in/report" && !met.swap(true, Ordering::SeqCst);
        if is_first { Fault::ReplyLost } else { Fault::None }
    };
    let server = Embedded::start_with(&env, no_rename(), Some(Arc::new(faults)));
    let mut bench = Bench::embedded(env, &server);
    bench.request_timeout = "4s";
    let mut directories: Vec<_> = (0..6).map(|nth| bench.env.path().join(format!("{nth}"))).collect();
    for (nth, directory) in directories.iter().enumerate() {
        write(directory, "report", noise(40_000, nth as u64));
    }
    directories.push(bench.env.path().join("last"));
    write(directories.last().unwrap(), "zoo", "another one");
    let options = ["--jobs", "2", "--connections", "1"];
    let pushed = Pushed::run(bench.push(directories).args(DIRECT).args(options)).expect(0);
    pushed.assert_counts([7, 0, 0, 0]);
    let closed = closed.lock().unwrap();
    let first = |start: &str| closed.iter().position(|path| path.starts_with(start));
    assert!(first("/in/zoo") < first("/in/report."), "{closed:?}");
}

#[test]
fn killed_while_writing_directly() {
    use Operation::{Close, Fsetstat, Open, Write};
    std::thread::scope(|scope| {
        for (operation, nth) in [(Open, 1), (Write, 1), (Write, 4), (Fsetstat, 1), (Close, 1)] {
            for moment in [Moment::Before, Moment::After] {
                scope.spawn(move || {
                    let (bench, _server, trap) = trapped(no_rename());
                    write(&bench.env.local(), "only", noise(3 << 20, 3));
                    let wanted = files(&bench.env.local());
                    trap.kill_at(bench.push([bench.env.local()]).args(DIRECT), operation, nth, moment);
                    let pushed = Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0);
                    pushed.assert_counts([1, 0, 0, 0]);
                    // What a killed process left under the final name may be anybody's: it stays, and the whole
                    // file stands beside it.
                    let mut archived = bench.archived();
                    let whole = wanted.values().next().unwrap();
                    archived.retain(|_, file| file == whole);
                    assert_eq!(archived.len(), 1, "{operation:?} {nth} {moment:?}: {:?}", bench.archived());
                    assert!(files(&bench.env.local()).is_empty());
                });
            }
        }
    });
}

#[test]
fn killed_while_overwriting() {
    for moment in [Moment::Before, Moment::After] {
        let (bench, _server, trap) = trapped(Quirks::default());
        write(&bench.env.local(), "report", "ours");
        write(&bench.base, "in/report", "theirs");
        let wanted = files(&bench.env.local());
        let arguments = ["--on-conflict", "overwrite", "--after", "delete"];
        trap.kill_at(bench.push([bench.env.local()]).args(arguments), Operation::PosixRename, 1, moment);
        let stands = std::fs::read(bench.base.join("in/report")).unwrap();
        assert_eq!(stands, if moment == Moment::Before { &b"theirs"[..] } else { b"ours" });
        Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0).assert_counts([1, 0, 0, 0]);
        assert_eq!(bench.archived(), wanted);
    }
}

#[test]
fn killed_while_publishing_beside_another_file() {
    for (nth, moment) in [(1, Moment::After), (2, Moment::Before), (2, Moment::After)] {
        let (bench, _server, trap) = trapped(Quirks::default());
        write(&bench.env.local(), "report", "ours");
        write(&bench.base, "in/report", "theirs");
        let push = || bench.push([bench.env.local()]);
        trap.kill_at(&mut push(), Operation::Hardlink, nth, moment);
        Pushed::run(&mut push()).expect(0).assert_counts([1, 0, 0, 0]);
        assert_eq!(std::fs::read(bench.base.join("in/report")).unwrap(), b"theirs");
        assert_eq!(bench.archived().len(), 2, "{nth} {moment:?}: {:?}", bench.archived());
        bench.assert_no_part();
    }
}
