//! A server, or the way to it, that fails at a chosen request: each file ends under exactly one final name.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, Request, StatusCode};

use super::stop::is_commit;
use super::{Bench, Pushed, many_bytes};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Running, TestEnv, files, noise, write};
use crate::support::openssh::OpenSsh;

/// A server that does this to the first request of a kind for each file named `victim*`.
pub fn once(operation: Operation, fault: Fault, quirks: Quirks) -> (Bench, Embedded) {
    let env = TestEnv::new();
    let met = Mutex::new(HashSet::new());
    let faults = move |request: &Request| {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        // The temporary name holds the final one.
        let victim = name.trim_start_matches('.').split('.').next().unwrap_or_default().to_owned();
        match request.operation == operation && victim.starts_with("victim") && met.lock().unwrap().insert(victim) {
            true => fault.clone(),
            false => Fault::None,
        }
    };
    let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
    let mut bench = Bench::embedded(env, &server);
    bench.request_timeout = "2s";
    write(&bench.env.local(), "victim", noise(40_000, 1));
    write(&bench.env.local(), "bystander", noise(40_000, 2));
    (bench, server)
}

#[test]
fn a_lost_reply_or_connection_at_any_request_never_doubles_or_loses_a_file() {
    use Operation::{Close, Fsetstat, Fstat, Fsync, Hardlink, Open, Remove, Rename, Write};
    let plain = Quirks { extensions: AnnouncedExtensions::None, ..Quirks::default() };
    let mut cases = Vec::new();
    for operation in [Open, Write, Fsetstat, Fstat, Fsync, Close, Hardlink, Remove, Rename] {
        for fault in [Fault::ReplyLost, Fault::DropAfter, Fault::DropConnection] {
            // A server without hard links is needed to see the rename.
            let quirks = if operation == Rename { plain.clone() } else { Quirks::default() };
            cases.push((operation, fault, quirks));
        }
    }
    std::thread::scope(|scope| {
        for (operation, fault, quirks) in cases {
            scope.spawn(move || {
                let (bench, _server) = once(operation, fault.clone(), quirks);
                let wanted = files(&bench.env.local());
                let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete"]));
                assert_eq!(pushed.finished.code(), Some(0), "{operation:?} {fault:?}: {:?}", pushed.finished);
                pushed.assert_counts([2, 0, 0, 0]);
                assert_eq!(bench.archived(), wanted, "{operation:?} {fault:?}");
                bench.assert_no_part();
                assert!(files(&bench.env.local()).is_empty(), "{operation:?} {fault:?}");
            });
        }
    });
}

#[test]
fn an_overwrite_whose_reply_was_lost_is_found_again() {
    for fault in [Fault::ReplyLost, Fault::DropAfter] {
        let (bench, _server) = once(Operation::PosixRename, fault, Quirks::default());
        write(&bench.base, "in/victim", "theirs");
        Pushed::run(bench.push([bench.env.local()]).args(["--on-conflict", "overwrite"])).expect(0);
        bench.assert_same_files();
        bench.assert_no_part();
    }
}

#[test]
fn a_conflict_whose_rename_was_lost_makes_no_third_name() {
    for fault in [Fault::ReplyLost, Fault::DropAfter] {
        let env = TestEnv::new();
        let renames = AtomicUsize::new(0);
        // The first RENAME is refused, for the name is taken; the second one, to the name beside it, is lost.
        let server = Embedded::with_faults(&env, move |request: &Request| {
            match is_commit(request) && renames.fetch_add(1, Ordering::SeqCst) == 1 {
                true => fault.clone(),
                false => Fault::None,
            }
        });
        let mut bench = Bench::embedded(env, &server);
        bench.request_timeout = "2s";
        write(&bench.env.local(), "report.csv", "ours");
        write(&bench.base, "in/report.csv", "theirs");
        bench.push_local().assert_counts([1, 0, 0, 0]);
        assert_eq!(bench.archived().len(), 2);
        assert_eq!(std::fs::read(bench.base.join("in/report.csv")).unwrap(), b"theirs");
        bench.assert_no_part();
    }
}

#[test]
fn connections_that_break_again_and_again_lose_nothing() {
    let env = TestEnv::new();
    let requests = AtomicUsize::new(0);
    let server = Embedded::with_faults(&env, move |_: &Request| match requests.fetch_add(1, Ordering::SeqCst) {
        20 | 90 | 400 => Fault::DropAfter,
        50 | 200 | 800 => Fault::DropConnection,
        _ => Fault::None,
    });
    let bench = Bench::embedded(env, &server);
    for number in 0..150 {
        write(&bench.env.local(), format!("d{}/{number}", number % 7), noise(3000, number));
    }
    write(&bench.env.local(), "large", noise(6 << 20, 1));
    let wanted = files(&bench.env.local());
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--retries", "20"])).expect(0);
    pushed.assert_counts([151, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
    bench.assert_no_part();
}

#[test]
fn a_full_disk_holds_the_work_until_there_is_room() {
    let env = TestEnv::new();
    let filler = write(&env.remote(), "filler", noise(100_000, 9));
    let (send, full) = channel();
    let faults = move |request: &Request| {
        if request.operation == Operation::Statvfs {
            // The test may be over.
            let _ = send.send(());
        }
        Fault::None
    };
    let quirks = Quirks { quota: Some(150_000), ..Quirks::default() };
    let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
    let bench = Bench::embedded(env, &server);
    for number in 0..4 {
        write(&bench.env.local(), number.to_string(), noise(20_000, number));
    }
    let mut command = bench.push([bench.env.local()]);
    command.args(["--retries", "1000"]);
    let running = Running::start(&mut command);
    full.recv_timeout(DEADLINE).unwrap();
    std::fs::remove_file(filler).unwrap();
    let pushed = Pushed::of(running.finish()).expect(0);
    pushed.assert_counts([4, 0, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn a_disk_that_stays_full_ends_the_run_with_what_to_do() {
    let env = TestEnv::new();
    let server = Embedded::with_quirks(&env, Quirks { quota: Some(50_000), ..Quirks::default() });
    let bench = Bench::embedded(env, &server);
    for number in 0..4 {
        write(&bench.env.local(), number.to_string(), noise(20_000, number));
    }
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--retries", "3"])).expect(3);
    pushed.says(&["no space left", "make room on the server"]);
    let [archived, skipped, deferred, failed] = pushed.counts();
    assert_eq!((archived + failed, skipped, deferred), (4, 0, 0), "{}", pushed.finished.stdout);
    bench.assert_no_part();
    // What is archived is gone here and whole there; the rest is still here.
    assert_eq!(bench.archived().len() as u64, archived);
    assert_eq!(files(&bench.env.local()).len() as u64, failed);
    assert!(
        bench.archived().values().all(|entry| matches!(entry, crate::support::env::Entry::File { bytes: 20_000, .. }))
    );
}

#[test]
fn the_date_is_pinned_by_the_first_try() {
    let env = TestEnv::new();
    let refuse = Arc::new(AtomicUsize::new(1));
    let refusing = refuse.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        match is_commit(request) && refusing.load(Ordering::SeqCst) == 1 {
            true => Fault::Status(StatusCode::Failure),
            false => Fault::None,
        }
    });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "a", "a");
    // Every nanosecond has a directory of its own, as every midnight has by default.
    let push = || Pushed::run(bench.push([bench.env.local()]).args(["--layout", "%s%f", "--retries", "2"]));
    let first = push().expect(1);
    first.assert_counts([0, 0, 0, 1]);
    let again = push().expect(1);
    refuse.store(0, Ordering::SeqCst);
    let last = push().expect(0);
    last.assert_counts([1, 0, 0, 0]);
    let remote = |pushed: &Pushed| pushed.row("/a")["remote"].as_str().unwrap().to_owned();
    assert_eq!(remote(&first), remote(&again));
    assert_eq!(remote(&first), remote(&last));
    assert_eq!(files(&bench.base).len(), 1);
    assert_eq!(std::fs::read(bench.base.join(remote(&last).trim_start_matches('/'))).unwrap(), b"a");
}

#[test]
fn a_file_that_the_server_refuses_fails_alone_and_only_once() {
    let env = TestEnv::new();
    let server = Embedded::with_faults(&env, |request: &Request| {
        match request.operation == Operation::Open && request.path.contains("refused") {
            true => Fault::Status(StatusCode::PermissionDenied),
            false => Fault::None,
        }
    });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "refused", "r");
    write(&bench.env.local(), "taken", "t");
    let arguments = ["--after-failure".to_owned(), format!("move={}", bench.env.path().join("bad").display())];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(1);
    pushed.assert_counts([1, 0, 0, 1]);
    assert_eq!(pushed.row("/refused")["attempts"], 1);
    assert!(pushed.reason("/refused").contains("permission denied"), "{}", pushed.finished.stdout);
    assert_eq!(std::fs::read(bench.env.path().join("bad/refused")).unwrap(), b"r");
    bench.assert_no_part();
}

#[test]
fn a_server_that_is_killed_and_comes_back_gets_the_rest() {
    let mut server = OpenSsh::plain();
    let bench = Bench::openssh(&server);
    for number in 0..30 {
        write(&bench.env.local(), number.to_string(), noise(100_000, number));
    }
    write(&bench.env.local(), "large", many_bytes(66));
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    command.args(["--after", "delete", "--retries", "1000", "--limit-rate", "24MiB", "-v"]);
    let running = Running::start(&mut command);
    server.wait_for_log("Accepted publickey");
    crate::support::env::wait_until("something is being uploaded", || !files(&bench.base).is_empty());
    server.restart();
    let pushed = Pushed::of(running.finish()).expect(0);
    pushed.assert_counts([31, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
    bench.assert_no_part();
}
