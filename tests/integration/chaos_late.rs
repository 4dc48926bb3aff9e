//! Requests that a server carries out late, when nobody is there any more who asked for them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, RenamePolicy, Request};
use archiver::failpoint::{Point, VARIABLE};
use russh_sftp::protocol::StatusCode;
use rustix::process::Signal;
use tokio::sync::Notify;

use crate::push::stop::is_commit;
use crate::push::{Bench, is_part};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Running, TestEnv, files, wait_until, write};

/// A server that carries out the first of these requests once it is told to, whoever is gone by then; and where it says
/// that it has it.
fn slow_at(env: &TestEnv, wanted: Operation) -> (Embedded, Arc<Notify>, Receiver<()>) {
    let (send, asked) = channel();
    let late = Arc::new(Notify::new());
    let (release, is_first) = (late.clone(), AtomicBool::new(true));
    let server = Embedded::with_faults(env, move |request: &Request| {
        let is_wanted = request.operation == wanted && (wanted != Operation::Open || is_part(request.path.as_ref()));
        if !is_wanted || !is_first.swap(false, Ordering::SeqCst) {
            return Fault::None;
        }
        let _ = send.send(());
        Fault::Outlast(late.clone())
    });
    (server, release, asked)
}

fn parts(bench: &Bench) -> Vec<PathBuf> {
    files(&bench.base).into_keys().filter(|path| is_part(path)).collect()
}

/// Lets the time go by after which what was seen to be gone is looked for once more.
fn let_a_lease_pass(bench: &Bench) {
    let ledger = rusqlite::Connection::open(bench.ledger()).unwrap();
    let changed = ledger.execute("UPDATE entry SET gone_at = gone_at - 3600000 WHERE gone_at IS NOT NULL", []).unwrap();
    assert_eq!(changed, 1, "nobody will look again");
}

/// The name appears when its file is archived; the next run removes it.
fn a_name_that_comes_late_is_removed(bench: &Bench, release: &Notify) {
    assert_eq!(bench.archived(), files(&bench.env.local()));
    bench.assert_no_part();
    release.notify_one();
    wait_until("the server made the file", || parts(bench).len() == 1);
    let_a_lease_pass(bench);
    bench.push_local().assert_counts([0, 1, 0, 0]);
    bench.assert_no_part();
    let ledger = rusqlite::Connection::open(bench.ledger()).unwrap();
    let left = ledger.query_row("SELECT count(*) FROM entry WHERE staged IS NOT NULL", [], |row| row.get::<_, u32>(0));
    assert_eq!(left.unwrap(), 0, "it is looked for once more, not for ever");
}

/// A name that cannot be removed is looked for by each run, which adds none of its own to it.
#[test]
fn what_cannot_be_removed_is_noted_once() {
    let env = TestEnv::new();
    let server = Embedded::with_faults(&env, |request: &Request| match request.operation {
        Operation::Remove if is_part(request.path.as_ref()) => Fault::Status(StatusCode::PermissionDenied),
        _ => Fault::None,
    });
    let bench = Bench::embedded(env, &server);
    let path = write(&bench.env.local(), "a.csv", "a");
    let armed = format!("{}:1:kill", Point::AllWritten.name());
    assert_eq!(Running::start(bench.push([bench.env.local()]).env(VARIABLE, armed)).finish().code(), None);
    std::fs::remove_file(path).unwrap();
    for _ in 0..3 {
        Running::start(&mut bench.push([bench.env.local()])).finish().assert_code(0);
        assert_eq!(parts(&bench).len(), 1);
    }
    let ledger = rusqlite::Connection::open(bench.ledger()).unwrap();
    let staged: String = ledger.query_row("SELECT staged FROM entry", [], |row| row.get(0)).unwrap();
    assert!(!staged.contains(','), "{staged}");
}

#[test]
fn a_temporary_file_of_a_killed_run_that_appears_late_is_removed() {
    let env = TestEnv::new();
    let (server, release, asked) = slow_at(&env, Operation::Open);
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "a.csv", "a");
    let running = Running::start(&mut bench.push([bench.env.local()]));
    asked.recv_timeout(DEADLINE).expect("an upload");
    running.signal(Signal::KILL);
    running.finish();
    bench.push_local().assert_counts([1, 0, 0, 0]);
    a_name_that_comes_late_is_removed(&bench, &release);
}

#[test]
fn a_temporary_file_of_a_broken_session_that_appears_late_is_removed() {
    let env = TestEnv::new();
    let (server, release, asked) = slow_at(&env, Operation::Open);
    let mut bench = Bench::embedded(env, &server);
    bench.request_timeout = "2s";
    write(&bench.env.local(), "a.csv", "a");
    // The server owes a reply, and is given up for another session.
    bench.push_local().assert_counts([1, 0, 0, 0]);
    asked.try_recv().expect("the first OPEN");
    a_name_that_comes_late_is_removed(&bench, &release);
}

/// A killed run had asked for a commit that replaces what stands. The next version is archived, and its local file may be
/// gone, before the server gets to it.
#[test]
fn a_late_commit_of_a_killed_run_does_not_replace_a_newer_version() {
    let env = TestEnv::new();
    let (mut server, _release, asked) = slow_at(&env, Operation::PosixRename);
    let bench = Bench::embedded(env, &server);
    write(&bench.base, "in/a.csv", "what stands at first");
    let overwriting = || {
        let mut command = bench.push(["--on-conflict", "overwrite"]);
        command.arg(bench.env.local());
        command
    };
    write(&bench.env.local(), "a.csv", "the older version");
    let running = Running::start(&mut overwriting());
    asked.recv_timeout(DEADLINE).expect("a commit");
    running.signal(Signal::KILL);
    running.finish();

    write(&bench.env.local(), "a.csv", "the newer version of it");
    // Killed before it could look after what is left behind.
    let armed = format!("{}:1:kill", Point::Recorded.name());
    assert_eq!(Running::start(overwriting().env(VARIABLE, armed)).finish().code(), None);
    let newer = files(&bench.env.local());
    assert_eq!(bench.archived().get(&PathBuf::from("a.csv")), newer.get(&PathBuf::from("a.csv")));
    // It carries out what it was asked for, and ends.
    server.stop();
    assert_eq!(bench.archived().get(&PathBuf::from("a.csv")), newer.get(&PathBuf::from("a.csv")));
}

/// A commit is asked for and not answered; on another session the file is sent again, and is half there when the server
/// gets to what it was asked for first.
#[test]
fn a_late_commit_of_a_broken_session_publishes_nothing_of_the_next_attempt() {
    let env = TestEnv::new();
    let (send, asked) = channel();
    let (late, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (commit, write_on) = (late.clone(), go_on.clone());
    let (is_first, is_second) = (AtomicBool::new(true), AtomicBool::new(true));
    let server = Embedded::with_faults(&env, move |request: &Request| {
        let is_ours = request.path.contains("a.csv");
        if is_ours && is_commit(request) && is_first.swap(false, Ordering::SeqCst) {
            let _ = send.send("the commit");
            return Fault::Outlast(commit.clone());
        }
        let is_begun = !is_first.load(Ordering::SeqCst);
        if is_ours && is_begun && request.operation == Operation::Write && is_second.swap(false, Ordering::SeqCst) {
            let _ = send.send("the next attempt");
            return Fault::Hold(write_on.clone());
        }
        Fault::None
    });
    let mut bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "a.csv", "the whole of it");
    bench.request_timeout = "5s";
    let running = Running::start(&mut bench.push([bench.env.local()]));
    assert_eq!(asked.recv_timeout(DEADLINE), Ok("the commit"));
    assert_eq!(asked.recv_timeout(DEADLINE), Ok("the next attempt"));
    late.notify_one();
    // By the time another file has gone through, the server has done it.
    let beside = write(bench.env.path(), "beside.csv", "beside");
    Running::start(&mut bench.push([beside])).finish().assert_code(0);
    let shown = bench.archived().into_keys().collect::<Vec<_>>();
    assert!(!shown.contains(&PathBuf::from("a.csv")), "what is not written yet is shown: {shown:?}");
    go_on.notify_one();
    running.finish().assert_code(0);
    let archived = bench.archived();
    assert_eq!(archived.len(), 2, "{archived:?}");
    assert_eq!(archived.get(&PathBuf::from("a.csv")), files(&bench.env.local()).get(&PathBuf::from("a.csv")));
    bench.assert_no_part();
}

/// A server without `posix-rename`, which carries out late what first takes away the file that has the final name.
fn slow_to_free_the_name(env: &TestEnv, rename: RenamePolicy) -> (Embedded, Receiver<Operation>) {
    let (send, asked) = channel();
    let is_first = AtomicBool::new(true);
    let faults = move |request: &Request| {
        let takes_away = matches!(request.operation, Operation::Remove | Operation::Rename);
        let is_final = request.path.ends_with("/a.csv");
        if !takes_away || !is_final || !is_first.swap(false, Ordering::SeqCst) {
            return Fault::None;
        }
        let _ = send.send(request.operation);
        // Nobody tells it to: it does so when it ends.
        Fault::Outlast(Arc::default())
    };
    let quirks = Quirks { extensions: AnnouncedExtensions::None, rename, ..Quirks::default() };
    (Embedded::start_with(env, quirks, Some(Arc::new(faults))), asked)
}

const RENAMES: [RenamePolicy; 2] = [RenamePolicy::RefusesExisting, RenamePolicy::Overwrites];

fn replacing(bench: &Bench) -> std::process::Command {
    let mut command = bench.push(["--on-conflict", "overwrite", "--after", "delete"]);
    command.arg(bench.env.local());
    command
}

/// What a killed run asked for to make way for its own version.
#[test]
fn a_name_that_a_killed_run_frees_late_keeps_the_newer_version() {
    for rename in RENAMES {
        let env = TestEnv::new();
        let (mut server, asked) = slow_to_free_the_name(&env, rename);
        let bench = Bench::embedded(env, &server);
        write(&bench.base, "in/a.csv", "what stands at first");
        write(&bench.env.local(), "a.csv", "the older version");
        let running = Running::start(&mut replacing(&bench));
        asked.recv_timeout(DEADLINE).expect("the name to be freed");
        running.signal(Signal::KILL);
        running.finish();

        write(&bench.env.local(), "a.csv", "the newer version of it");
        let newer = files(&bench.env.local());
        Running::start(&mut replacing(&bench)).finish().assert_code(0);
        assert!(files(&bench.env.local()).is_empty(), "it is archived, so it was deleted");
        server.stop();
        assert_eq!(files(&bench.base.join("in")), newer);
        bench.assert_no_part();
    }
}

/// As above, on a session that the server keeps waiting: the next attempt is one of the same process.
#[test]
fn a_name_that_a_broken_session_frees_late_keeps_the_version_of_the_next_attempt() {
    for rename in RENAMES {
        let env = TestEnv::new();
        let (mut server, asked) = slow_to_free_the_name(&env, rename);
        let mut bench = Bench::embedded(env, &server);
        bench.request_timeout = "2s";
        write(&bench.base, "in/a.csv", "what stands at first");
        write(&bench.env.local(), "a.csv", "ours");
        let wanted = files(&bench.env.local());
        Running::start(&mut replacing(&bench)).finish().assert_code(0);
        asked.try_recv().expect("the name to be freed");
        assert!(files(&bench.env.local()).is_empty(), "it is archived, so it was deleted");
        server.stop();
        assert_eq!(files(&bench.base.join("in")), wanted);
        bench.assert_no_part();
    }
}

/// A run dies after it took away what stands and before its own version has the name, which the application takes back.
#[test]
fn what_a_killed_run_put_aside_gets_its_name_back() {
    for rename in RENAMES {
        let env = TestEnv::new();
        let quirks = Quirks { extensions: AnnouncedExtensions::None, rename, ..Quirks::default() };
        let server = Embedded::with_quirks(&env, quirks);
        let bench = Bench::embedded(env, &server);
        write(&bench.base, "in/a.csv", "what stands at first");
        let stood = files(&bench.base.join("in"));
        let path = write(&bench.env.local(), "a.csv", "ours");
        let armed = format!("{}:1:kill", Point::OtherPutAside.name());
        assert_eq!(Running::start(replacing(&bench).env(VARIABLE, armed)).finish().code(), None);
        assert!(!bench.base.join("in/a.csv").exists());
        std::fs::remove_file(path).unwrap();
        Running::start(&mut replacing(&bench)).finish().assert_code(0);
        assert_eq!(files(&bench.base.join("in")), stood);
        bench.assert_no_part();
    }
}

/// The next version finds the name free, gives it back, and then has to make way for itself: in its only attempt.
#[test]
fn what_a_killed_run_put_aside_costs_the_next_version_no_attempt() {
    for rename in RENAMES {
        let env = TestEnv::new();
        let quirks = Quirks { extensions: AnnouncedExtensions::None, rename, ..Quirks::default() };
        let server = Embedded::with_quirks(&env, quirks);
        let bench = Bench::embedded(env, &server);
        write(&bench.base, "in/a.csv", "what stands at first");
        write(&bench.env.local(), "a.csv", "the older version");
        let armed = format!("{}:1:kill", Point::OtherPutAside.name());
        assert_eq!(Running::start(replacing(&bench).env(VARIABLE, armed)).finish().code(), None);
        write(&bench.env.local(), "a.csv", "the newer version of it");
        let newer = files(&bench.env.local());
        Running::start(replacing(&bench).args(["--retries", "1"])).finish().assert_code(0);
        assert_eq!(files(&bench.base.join("in")), newer);
        bench.assert_no_part();
    }
}

/// The server has posix-rename by the next run, after an update.
#[test]
fn what_a_killed_run_put_aside_is_cleared_where_nothing_is_put_aside_any_more() {
    for changes in [false, true] {
        let env = TestEnv::new();
        let is_old = Arc::new(AtomicBool::new(true));
        let answers_as_before = is_old.clone();
        let server = Embedded::with_faults(&env, move |request: &Request| match request.operation {
            // VERSION, and no extension behind it.
            Operation::Init if answers_as_before.load(Ordering::SeqCst) => Fault::RawAfter(request.reply(2, &[])),
            _ => Fault::None,
        });
        let bench = Bench::embedded(env, &server);
        write(&bench.base, "in/a.csv", "what stands at first");
        write(&bench.env.local(), "a.csv", "the older version");
        let armed = format!("{}:1:kill", Point::OtherPutAside.name());
        assert_eq!(Running::start(replacing(&bench).env(VARIABLE, armed)).finish().code(), None);
        is_old.store(false, Ordering::SeqCst);
        if changes {
            write(&bench.env.local(), "a.csv", "the newer version of it");
        }
        let wanted = files(&bench.env.local());
        Running::start(&mut replacing(&bench)).finish().assert_code(0);
        assert_eq!(files(&bench.base.join("in")), wanted);
        bench.assert_no_part();
    }
}

/// Neither the commit goes through nor what undoes it: the next attempt puts back first what stood there.
#[test]
fn what_could_not_be_put_back_is_put_back_by_the_next_attempt() {
    for rename in RENAMES {
        let env = TestEnv::new();
        let (commits, undone) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let met = Arc::new(Mutex::new(Vec::new()));
        let told = met.clone();
        let faults = move |request: &Request| {
            let (count, what) = match request.operation {
                Operation::Rename if request.path.contains("/.old.") => (&undone, "put back"),
                Operation::Rename if request.target.ends_with("/a.csv") => (&commits, "commit"),
                _ => return Fault::None,
            };
            if count.fetch_add(1, Ordering::SeqCst) > 0 {
                return Fault::None;
            }
            told.lock().unwrap().push(what);
            Fault::Status(StatusCode::Failure)
        };
        let quirks = Quirks { extensions: AnnouncedExtensions::None, rename, ..Quirks::default() };
        let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
        let bench = Bench::embedded(env, &server);
        write(&bench.base, "in/a.csv", "what stands at first");
        write(&bench.env.local(), "a.csv", "ours");
        let wanted = files(&bench.env.local());
        Running::start(&mut replacing(&bench)).finish().assert_code(0);
        assert_eq!(*met.lock().unwrap(), ["commit", "put back"]);
        assert_eq!(files(&bench.base.join("in")), wanted);
        bench.assert_no_part();
    }
}
