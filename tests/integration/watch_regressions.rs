//! Mistakes that `archiver watch` once made, each at the moment at which it made it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use archiver::embedded::{Fault, Operation, Request, StatusCode};
use rustix::process::Signal;
use tokio::sync::Notify;

use super::watch::{Site, Summary, embedded_command, names, stop, watching};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Running, TestEnv, files, noise, run, tree, wait_until, write};

/// They are on record: there is nothing to settle, and nothing left to do.
#[test]
fn archived_files_that_are_kept_are_not_deferred_by_the_last_scan() {
    let site = Site::new();
    let arguments = ["--settle", "2s", "--grace", "1s"];
    for number in 0..20 {
        write(&site.local(), format!("{number}.csv"), "kept");
    }
    let running = site.watch(arguments);
    site.wait_for(20);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (20, 0, 0, 0));

    // Those of an earlier run are skipped, and stay so.
    let running = site.watch(arguments);
    write(&site.local(), "new.csv", "new");
    site.wait_for(21);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 20, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

#[test]
fn a_file_is_no_source_to_watch() {
    let site = Site::new();
    let file = write(&site.local(), "a.csv", "a");
    let finished = run(site.bare([]).arg(&file));
    finished.assert_code(2);
    assert!(finished.stderr.contains("a.csv is a file; name its directory"), "{}", finished.stderr);
    assert_eq!(finished.stdout, "");
}

/// A file that waits for its server is work.
#[test]
fn idleness_does_not_end_it_while_a_file_waits_for_the_server() {
    let mut site = Site::new();
    site.server.kill();
    write(&site.local(), "a.csv", "a");
    let mut running = Running::start(&mut site.command(["--idle-exit", "1s", "--grace", "1s"]));
    running.expect_line("is out");
    // Another one, with nothing to do, shows that the time is over.
    let elsewhere = TestEnv::new();
    let server = Embedded::start(&elsewhere);
    run(&mut embedded_command(&elsewhere, &server, ["--idle-exit", "2s"])).assert_code(0);
    assert!(names(&site.remote()).is_empty());
    site.server.restart();
    site.wait_for(1);
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    assert!(finished.stderr.contains("nothing happened for 1s"), "{}", finished.stderr);
}

#[test]
fn asked_by_a_signal_it_says_how_far_it_is_and_goes_on() {
    let site = Site::new();
    let mut running = site.watch([]);
    write(&site.local(), "a.csv", "a");
    site.wait_for(1);
    for _ in 0..2 {
        running.signal(Signal::USR1);
        running.expect_line("watching");
    }
    write(&site.local(), "b.csv", "b");
    site.wait_for(2);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
    let lines: Vec<_> = finished.stderr.lines().filter(|line| line.contains(" files · ")).collect();
    assert_eq!(lines.len(), 2, "{}", finished.stderr);
}

/// Not even for a moment: the directory would have another modification time.
#[test]
fn a_dry_run_makes_no_file_in_the_source() {
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let before = (tree(&site.local()), changed(&site));
    let finished = run(&mut site.command(["--dry-run", "--idle-exit", "700ms"]));
    assert_eq!((tree(&site.local()), changed(&site)), before);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (0, 1, 0, 0));
    assert!(tree(&site.remote()).is_empty());
}

fn changed(site: &Site) -> (i64, i64) {
    let stat = fs::metadata(site.local()).unwrap();
    (stat.mtime(), stat.mtime_nsec())
}

#[test]
fn force_archives_a_file_once_in_a_run_and_not_at_each_scan() {
    let env = TestEnv::new();
    let uploads = Arc::new(AtomicUsize::new(0));
    let counter = uploads.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        counter.fetch_add(usize::from(request.operation == Operation::Write), Ordering::SeqCst);
        Fault::None
    });
    write(&env.local(), "a.csv", "a");
    run(&mut embedded_command(&env, &server, ["--idle-exit", "500ms"])).assert_code(0);
    assert_eq!(uploads.load(Ordering::SeqCst), 1);

    let mut running = watching(&mut embedded_command(&env, &server, ["--force", "--scan-interval", "200ms", "-vv"]));
    wait_until("it is sent again", || uploads.load(Ordering::SeqCst) == 2);
    for _ in 0..6 {
        running.expect_line("scanning");
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    assert_eq!(uploads.load(Ordering::SeqCst), 2);
    assert_eq!(names(&env.remote()).len(), 1);
}

#[test]
fn a_file_that_pauses_keeps_no_other_one_waiting() {
    let env = TestEnv::new();
    let server = Embedded::with_faults(&env, |request: &Request| {
        let refused = request.operation == Operation::Open && request.path.contains("sick");
        if refused { Fault::Status(StatusCode::PermissionDenied) } else { Fault::None }
    });
    write(&env.local(), "sick.csv", "s");
    let mut command = embedded_command(&env, &server, ["-j", "1", "--grace", "300ms"]);
    command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "10h").env("ARCHIVER_RETRY__MAX_BACKOFF", "10h");
    let mut running = Running::start(&mut command);
    running.expect_line("trying again");
    write(&env.local(), "healthy.csv", "h");
    wait_until("the healthy one is archived", || names(&env.remote()).len() == 1);
    let finished = stop(running);
    finished.assert_code(4);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (1, 0, 1, 0));
    assert!(summary.reasons("deferred").contains_key("sick.csv"));
}

#[test]
fn a_second_interrupt_ends_it_while_another_process_holds_the_ledger() {
    let site = Site::new();
    let ledger = site.env.home().join("ledger.db");
    let running = watching(site.command(["--grace", "1h"]).env("ARCHIVER_LEDGER", &ledger));
    write(&site.local(), "a.csv", "a");
    site.wait_for(1);
    let mut running = running;
    let other = rusqlite::Connection::open(&ledger).unwrap();
    other.busy_timeout(crate::support::env::DEADLINE).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    write(&site.local(), "b.csv", "b");
    running.signal(Signal::INT);
    running.expect_line("interrupt again");
    running.signal(Signal::INT);
    let finished = running.finish();
    finished.assert_code(130);
    assert_eq!(names(&site.remote()).len(), 1);
    other.execute_batch("ROLLBACK").unwrap();
    // What it left is taken up again.
    let running = watching(site.command([]).env("ARCHIVER_LEDGER", &ledger));
    site.wait_for(2);
    stop(running).assert_code(0);
    assert_eq!(site.archived(), files(&site.local()));
}

/// A server that carries out the commit of one version late, on one session, while the next version is ready on another:
/// the last one wins, whatever the server does first.
#[test]
fn the_older_of_two_versions_never_overwrites_the_newer() {
    let env = TestEnv::new();
    let (send, commits) = channel();
    let late = Arc::new(Notify::new());
    let (release, count) = (late.clone(), AtomicUsize::new(0));
    let connections = Arc::new(AtomicU64::new(0));
    let connected = connections.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        let several = connected.fetch_max(request.connection, Ordering::SeqCst) > 0;
        if request.operation == Operation::Close && !several {
            // So that they meet.
            return Fault::Delay(Duration::from_millis(100));
        }
        if request.operation != Operation::PosixRename {
            return Fault::None;
        }
        // The test may be over.
        let _ = send.send(());
        if count.fetch_add(1, Ordering::SeqCst) == 0 { Fault::Hold(late.clone()) } else { Fault::None }
    });
    let overwriting = ["--after=delete", "--on-conflict=overwrite", "--layout=in", "--connections=2"];
    let running = watching(&mut embedded_command(&env, &server, overwriting));
    let archive = |content: &[u8]| write(&env.local(), "a.bin", content);
    archive(b"what stands at first");
    // Large files that come together make it open the second connection; each then has one of its own.
    for round in 0.. {
        (0..4).for_each(|n| drop(write(&env.local(), format!("{round}-{n}"), noise(1 << 20, 9 + n))));
        wait_until("all is archived", || names(&env.local()).is_empty());
        if connections.load(Ordering::SeqCst) > 0 {
            break;
        }
        assert!(round < 20, "it makes do with one connection");
    }
    archive(&noise(1 << 20, 1));
    commits.recv_timeout(DEADLINE).expect("the commit of a version");
    let last = noise(1 << 20, 2);
    archive(&last);
    // It must not come; where it comes, it comes soon.
    let overtaken = commits.recv_timeout(Duration::from_millis(700)).is_ok();
    if overtaken {
        wait_until("the last version is archived", || names(&env.local()).is_empty());
    }
    release.notify_one();
    wait_until("all is archived", || names(&env.local()).is_empty());
    stop(running).assert_code(0);
    assert!(fs::read(env.remote().join("in/a.bin")).unwrap() == last, "an older version stands");
}
