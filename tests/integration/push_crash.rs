//! Killed (`kill -9`) at chosen requests, and then run to the end: each file under exactly one name, byte for byte, with
//! nothing temporary left (G3), under the date of the first try (G4).

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, Request};
use rustix::process::Signal;

use super::stop::{gate, is_commit, is_question};
use super::{Bench, Pushed, many_bytes};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Running, TestEnv, files, noise, write};

/// Whether the request at which the world ends still happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    Before,
    After,
}

#[derive(Default)]
struct State {
    /// Where to strike: the so-manieth request of a kind from now on.
    armed: Option<(Operation, usize, Moment)>,
    /// It has struck: nothing reaches the server any more.
    cut: bool,
}

/// A server that cuts itself off at a chosen request, so that the moment of the crash is exact.
pub struct Trap {
    state: Arc<Mutex<State>>,
    struck: Receiver<()>,
}

impl Trap {
    pub fn set() -> (impl Fn(&Request) -> Fault + Send + Sync, Self) {
        let state = Arc::new(Mutex::new(State::default()));
        let (send, struck): (Sender<()>, _) = channel();
        let shared = state.clone();
        let send = Mutex::new(send);
        let faults = move |request: &Request| {
            let mut state = shared.lock().unwrap();
            if state.cut {
                return Fault::DropConnection;
            }
            match &mut state.armed {
                Some((operation, left, moment)) if *operation == request.operation && !is_question(request) => {
                    *left -= 1;
                    if *left > 0 {
                        return Fault::None;
                    }
                    let moment = *moment;
                    state.armed = None;
                    state.cut = true;
                    // The test may be over.
                    let _ = send.lock().unwrap().send(());
                    if moment == Moment::After { Fault::DropAfter } else { Fault::DropConnection }
                }
                _ => Fault::None,
            }
        };
        (faults, Self { state, struck })
    }

    /// Starts the command and kills it at this moment.
    #[track_caller]
    pub fn kill_at(&self, command: &mut std::process::Command, operation: Operation, nth: usize, moment: Moment) {
        *self.state.lock().unwrap() = State { armed: Some((operation, nth, moment)), cut: false };
        let running = Running::start(command);
        if self.struck.recv_timeout(DEADLINE).is_err() {
            panic!("{operation:?} number {nth} never came: {:?}", running.finish());
        }
        running.signal(Signal::KILL);
        assert_eq!(running.finish().code(), None, "it ended before it was killed");
        *self.state.lock().unwrap() = State::default();
    }
}

fn bench(extensions: AnnouncedExtensions) -> (Bench, Embedded, Trap) {
    let env = TestEnv::new();
    let (faults, trap) = Trap::set();
    let quirks = Quirks { extensions, ..Quirks::default() };
    let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
    (Bench::embedded(env, &server), server, trap)
}

/// A directory of its own for every nanosecond, so that a second claim would show.
const PINNED: [&str; 4] = ["--layout", "%s%f", "--after", "delete"];

/// Each wanted file stands once, whatever its dated directory is, and nothing else does.
#[track_caller]
fn assert_each_once(
    bench: &Bench,
    wanted: &std::collections::BTreeMap<std::path::PathBuf, crate::support::env::Entry>,
) {
    let stands: Vec<_> = files(&bench.base)
        .into_iter()
        .map(|(path, entry)| (path.components().skip(1).collect::<std::path::PathBuf>(), entry))
        .collect();
    let names: Vec<_> = stands.iter().map(|(path, _)| path).collect();
    assert_eq!(stands.len(), wanted.len(), "{names:?}");
    assert_eq!(&stands.into_iter().collect::<std::collections::BTreeMap<_, _>>(), wanted);
}

#[test]
fn killed_ten_times_in_one_tree_and_then_finished() {
    use Operation::{Close, Fsync, Hardlink, Mkdir, Open, Write};
    let (bench, _server, trap) = bench(AnnouncedExtensions::All);
    for number in 0..250 {
        write(&bench.env.local(), format!("{}/{number}", number % 11), noise(1000 + 37 * number as usize, number));
    }
    for number in 0..3 {
        write(&bench.env.local(), format!("large/{number}"), noise(5 << 20, 100 + number));
    }
    let wanted = files(&bench.env.local());
    let moments = [
        (Mkdir, 1, Moment::After),
        (Open, 1, Moment::Before),
        (Open, 7, Moment::After),
        (Write, 5, Moment::Before),
        (Write, 25, Moment::After),
        (Fsync, 4, Moment::After),
        (Close, 9, Moment::Before),
        (Close, 14, Moment::After),
        (Hardlink, 1, Moment::Before),
        (Hardlink, 20, Moment::After),
        (Hardlink, 3, Moment::After),
        (Operation::Remove, 2, Moment::After),
    ];
    for (operation, nth, moment) in moments {
        trap.kill_at(bench.push([bench.env.local()]).args(PINNED), operation, nth, moment);
        // G1: what has a final name is whole.
        for (path, entry) in files(&bench.base).into_iter().filter(|(path, _)| !super::is_part(path)) {
            assert_eq!(wanted[&path.components().skip(1).collect::<std::path::PathBuf>()], entry, "{path:?}");
        }
    }
    Pushed::run(bench.push([bench.env.local()]).args(PINNED)).expect(0);
    assert!(files(&bench.env.local()).is_empty());
    assert_each_once(&bench, &wanted);
}

#[test]
fn killed_at_each_request_of_a_single_file() {
    use Operation::{Close, Fsetstat, Fsync, Hardlink, Open, Remove, Rename, Write};
    std::thread::scope(|scope| {
        for operation in [Open, Write, Fsetstat, Fsync, Close, Hardlink, Remove, Rename] {
            for moment in [Moment::Before, Moment::After] {
                scope.spawn(move || {
                    // A server without hard links is needed to see the rename.
                    let (bench, _server, trap) = bench(match operation {
                        Rename => AnnouncedExtensions::None,
                        _ => AnnouncedExtensions::All,
                    });
                    write(&bench.env.local(), "only", noise(70_000, 3));
                    let wanted = files(&bench.env.local());
                    let mut remote = None;
                    trap.kill_at(bench.push([bench.env.local()]).args(PINNED), operation, 1, moment);
                    if let Some(path) = files(&bench.base).into_keys().next() {
                        remote = Some(path.parent().unwrap().to_owned());
                    }
                    let pushed = Pushed::run(bench.push([bench.env.local()]).args(PINNED)).expect(0);
                    pushed.assert_counts([1, 0, 0, 0]);
                    assert_each_once(&bench, &wanted);
                    assert!(files(&bench.env.local()).is_empty(), "{operation:?} {moment:?}");
                    let directory = files(&bench.base).into_keys().next().unwrap().parent().unwrap().to_owned();
                    assert!(remote.is_none_or(|first| first == directory), "{operation:?} {moment:?}: the date moved");
                });
            }
        }
    });
}

#[test]
fn a_large_file_goes_on_where_it_was_interrupted() {
    let (bench, server, trap) = bench(AnnouncedExtensions::All);
    write(&bench.env.local(), "large", many_bytes(80));
    let wanted = files(&bench.env.local());
    trap.kill_at(bench.push([bench.env.local()]).args(PINNED), Operation::Write, 250, Moment::After);
    let [(part, _)] = files(&bench.base).into_iter().collect::<Vec<_>>().try_into().unwrap();
    let part = bench.base.join(part);
    let there = std::fs::metadata(&part).unwrap().len();
    assert!(there > 40 << 20, "{there}");
    // What was sent before is not trusted: here somebody tampered with it.
    let tampered = std::fs::File::options().write(true).open(part).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&tampered, b"tampered", 5 << 20).unwrap();
    trap.kill_at(bench.push([bench.env.local()]).args(PINNED), Operation::Write, 20, Moment::After);
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(PINNED)).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    assert_each_once(&bench, &wanted);
    drop(server);
}

#[test]
fn a_version_that_is_replaced_after_a_crash_leaves_nothing_behind() {
    let (bench, _server, trap) = bench(AnnouncedExtensions::All);
    let path = write(&bench.env.local(), "only", noise(70_000, 3));
    trap.kill_at(bench.push([bench.env.local()]).args(PINNED), Operation::Close, 1, Moment::After);
    assert_eq!(files(&bench.base).len(), 1);
    std::fs::remove_file(&path).unwrap();
    write(&bench.env.local(), "only", "another version");
    let wanted = files(&bench.env.local());
    Pushed::run(bench.push([bench.env.local()]).args(PINNED)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_each_once(&bench, &wanted);

    // And where the file is gone altogether, so is what it left.
    write(&bench.env.local(), "second", noise(70_000, 4));
    trap.kill_at(bench.push([bench.env.local()]).args(PINNED), Operation::Close, 1, Moment::After);
    std::fs::remove_file(bench.env.local().join("second")).unwrap();
    Pushed::run(bench.push([bench.env.local()]).args(PINNED)).expect(0).assert_counts([0, 0, 0, 0]);
    assert_each_once(&bench, &wanted);
}

#[test]
fn killed_between_the_commit_and_the_record() {
    let env = TestEnv::new();
    let (faults, held) = gate(1, is_commit);
    let server = Embedded::with_faults(&env, faults);
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "only", "bytes");
    let wanted = files(&bench.env.local());
    let running = Running::start(bench.push([bench.env.local()]).args(PINNED));
    held.wait();
    // Nobody can write to the ledger from here on.
    let lock = rusqlite::Connection::open(bench.ledger()).unwrap();
    lock.busy_timeout(DEADLINE).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    held.open();
    crate::support::env::wait_until("the file is published", || {
        files(&bench.base).keys().any(|path| !super::is_part(path))
    });
    running.signal(Signal::KILL);
    running.finish();
    assert!(bench.env.local().join("only").exists(), "no record, so no disposal");
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    Pushed::run(bench.push([bench.env.local()]).args(PINNED)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_each_once(&bench, &wanted);
    assert!(files(&bench.env.local()).is_empty());
}
