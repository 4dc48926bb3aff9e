//! A second time: nothing is sent again, unless it changed or was asked for. What then happens to the local files.

use std::os::unix::fs::MetadataExt;

use super::{Bench, Pushed, set_stamp};
use crate::support::embedded::Embedded;
use crate::support::env::{TestEnv, files, noise, tree, write};
use archiver::embedded::{Fault, Operation, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn a_second_push_skips_everything_and_sends_nothing() {
    let env = TestEnv::new();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        if matches!(request.operation, Operation::Open | Operation::Write | Operation::Mkdir) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        Fault::None
    });
    let bench = Bench::embedded(env, &server);
    for number in 0..40 {
        write(&bench.env.local(), format!("d{}/{number}", number % 3), noise(1000 + number, number as u64));
    }
    bench.push_local().assert_counts([40, 0, 0, 0]);
    let before = sent.swap(0, Ordering::SeqCst);
    assert!(before >= 80, "{before}");
    let second = bench.push_local();
    second.assert_counts([0, 40, 0, 0]);
    assert_eq!(sent.load(Ordering::SeqCst), 0);
    assert!(second.reason("/d0/0").contains("archived before as /in/d0/0"), "{}", second.reason("/d0/0"));
    bench.assert_same_files();
}

#[test]
fn a_new_version_is_archived_beside_the_old_one() {
    let (bench, _server) = Bench::plain();
    let file = write(&bench.env.local(), "report.csv", "first");
    bench.push_local().assert_counts([1, 0, 0, 0]);
    write(&bench.env.local(), "report.csv", "second!");
    let pushed = bench.push_local();
    pushed.assert_counts([1, 0, 0, 0]);
    let remote = pushed.row("/report.csv")["remote"].as_str().unwrap().to_owned();
    assert_ne!(remote, format!("{}/in/report.csv", bench.base.display()));
    assert_eq!(std::fs::read(remote).unwrap(), b"second!");
    assert_eq!(std::fs::read(bench.base.join("in/report.csv")).unwrap(), b"first");
    // Both versions are on record now; the one that stands is skipped.
    bench.push_local().assert_counts([0, 1, 0, 0]);
    assert_eq!(bench.archived().len(), 2);
    assert!(file.exists());
}

#[test]
fn force_archives_again_and_doubles_nothing() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "same bytes");
    write(&bench.env.local(), "b", "others");
    bench.push_local();
    std::fs::remove_file(bench.base.join("in/b")).unwrap();
    let there = std::fs::metadata(bench.base.join("in/a")).unwrap().ino();
    let pushed = Pushed::run(bench.push([bench.env.local()]).arg("--force")).expect(0);
    pushed.assert_counts([2, 0, 0, 0]);
    assert!(pushed.reason("/a").contains("the same bytes stood there already"), "{}", pushed.finished.stdout);
    assert_eq!(std::fs::metadata(bench.base.join("in/a")).unwrap().ino(), there);
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn a_dry_run_touches_nothing_on_either_side() {
    let (bench, server) = Bench::plain();
    write(&bench.env.local(), "old", "archived before");
    bench.push_local();
    write(&bench.env.local(), "new", "not yet");
    let everything = || {
        let mut all = tree(bench.env.path());
        // SQLite may make and remove these beside any reader.
        all.retain(|path, _| !path.to_string_lossy().ends_with("-shm") && !path.to_string_lossy().ends_with("-wal"));
        (all, tree(&bench.base))
    };
    let before = everything();
    let logins = server.log().matches("Accepted").count();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--dry-run", "--after", "delete"]));
    assert_eq!(everything(), before);
    assert_eq!(server.log().matches("Accepted").count(), logins, "a dry run needs no login");
    let pushed = pushed.expect(0);
    assert!(pushed.reason("/old").contains("archived before"), "{}", pushed.finished.stdout);
    assert!(pushed.row("/new")["remote"].as_str().unwrap().ends_with("/in/new"), "{}", pushed.finished.stdout);
    assert!(pushed.reason("/new").contains("dry run"), "{}", pushed.finished.stdout);
    // The same words still mean it afterwards.
    bench.push_local().assert_counts([1, 1, 0, 0]);
}

#[test]
fn a_dry_run_makes_no_ledger() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    Pushed::run(bench.push([bench.env.local()]).arg("-n")).expect(0);
    assert!(!bench.ledger().exists());
    assert!(tree(&bench.base).is_empty());
}

#[test]
fn what_is_archived_is_deleted_where_asked() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    write(&bench.env.local(), "deep/b", "b");
    let wanted = files(&bench.env.local());
    Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete"])).expect(0).assert_counts([2, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
    assert!(files(&bench.env.local()).is_empty());
}

#[test]
fn what_was_archived_and_kept_is_deleted_by_a_later_run_that_asks_for_it() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let wanted = files(&bench.env.local());
    bench.push_local();
    Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete"])).expect(0).assert_counts([0, 1, 0, 0]);
    assert!(files(&bench.env.local()).is_empty());
    assert_eq!(bench.archived(), wanted);
}

#[test]
fn what_is_archived_is_moved_where_asked() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    write(&bench.env.local(), "deep/b", "b");
    set_stamp(&bench.env.local().join("a"), 0o600, 1_500_000_000);
    let wanted = files(&bench.env.local());
    let done = bench.env.path().join("done");
    let after = format!("move={}", done.display());
    Pushed::run(bench.push([bench.env.local()]).args(["--after", &after])).expect(0).assert_counts([2, 0, 0, 0]);
    assert_eq!((bench.archived(), files(&done)), (wanted.clone(), wanted));
    assert!(files(&bench.env.local()).is_empty());
}

#[test]
fn a_directory_to_move_to_inside_the_source_is_no_source() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let wanted = files(&bench.env.local());
    let visible = format!("move={}", bench.env.local().join("done").display());
    let refused = Pushed::run(bench.push([bench.env.local()]).args(["--after", &visible])).expect(2);
    refused.says(&["lies below", "move them elsewhere"]);
    assert!(bench.archived().is_empty());

    let hidden = format!("move={}", bench.env.local().join(".done").display());
    for counts in [[1, 0, 0, 0], [0, 0, 0, 0]] {
        Pushed::run(bench.push([bench.env.local()]).args(["--after", &hidden])).expect(0).assert_counts(counts);
    }
    assert_eq!((bench.archived(), files(&bench.env.local().join(".done"))), (wanted.clone(), wanted));
}
