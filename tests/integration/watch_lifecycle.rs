//! How `archiver watch` starts, drains and ends, and what it says on which stream.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::watch::{Site, Summary, names, stop, watching};
use crate::support::env::{Running, TestEnv, files, noise, run, tree, wait_until, write};
use crate::support::openssh::keygen;

#[test]
fn a_file_that_is_finished_within_the_grace_is_archived() {
    let site = Site::new();
    let mut running = site.watch(["--grace", "20s"]);
    write(&site.local(), "early.csv", "early");
    let mut open = File::create(site.local().join("open.csv")).unwrap();
    open.write_all(b"first half, ").unwrap();
    site.wait_for(1);
    running.signal(Signal::TERM);
    running.expect_line("asked to terminate");
    open.write_all(b"second half").unwrap();
    drop(open);
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

#[test]
fn what_is_not_finished_when_the_grace_is_over_is_named() {
    let site = Site::new();
    write(&site.local(), "open.csv.done", "");
    let _open = File::create(site.local().join("open.csv")).unwrap();
    write(&site.local(), "unmarked.csv", "no marker");
    write(&site.local(), "marked.csv", "marked");
    write(&site.local(), "marked.csv.done", "");
    let running = site.watch(["--grace", "500ms", "--marker", "{name}.done"]);
    site.wait_for(1);
    let finished = stop(running);
    finished.assert_code(4);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (1, 0, 2, 0));
    let reasons = summary.reasons("deferred");
    assert_eq!(reasons["open.csv"], "still open for writing");
    assert_eq!(reasons["unmarked.csv"], "waiting for its marker unmarked.csv.done");
}

/// The last scan takes in what the moment of the signal finds, settled or not.
#[test]
fn files_written_right_before_the_signal_are_archived() {
    let site = Site::new();
    let running = site.watch([]);
    for number in 0..200 {
        write(&site.local(), format!("{}/{number}.csv", number % 7), format!("{number}"));
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (200, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

/// What it knows already is not walked again, be it ever so large, and nothing of it is lost.
#[test]
fn nothing_is_scanned_again_to_stop() {
    let site = Site::new();
    write(&site.local(), ".ignored", "each scan says so");
    let mut command = site.command([]);
    command.env("ARCHIVER_LOG", "info,archiver::pipeline::names=trace");
    let running = watching(&mut command);
    for number in 0..50 {
        write(&site.local(), format!("new/{number}.csv"), format!("{number}"));
    }
    site.wait_for(1);
    write(&site.local(), "last.csv", "last");
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (51, 0, 0, 0));
    let scans = finished.stderr.lines().filter(|line| line.contains(".ignored")).count();
    assert_eq!(scans, 1, "{}", finished.stderr);
    // The one that asked the kernel left nothing behind.
    let left = tree(site.env.path()).into_keys().filter(|path| path.to_string_lossy().contains("canary")).count();
    assert_eq!(left, 0);
}

#[test]
fn a_second_interrupt_ends_it_at_once() {
    let site = Site::new();
    let mut running = site.watch(["--grace", "1h"]);
    let _open = File::create(site.local().join("open.csv")).unwrap();
    running.signal(Signal::INT);
    running.expect_line("interrupt again");
    running.signal(Signal::INT);
    let finished = running.finish();
    finished.assert_code(130);
    Summary::of(&finished);
}

#[test]
fn a_second_interrupt_ends_it_while_the_server_is_gone() {
    let mut site = Site::new();
    site.server.kill();
    for number in 0..1500 {
        write(&site.local(), format!("{number}.csv"), "waiting");
    }
    let mut running = watch_without_server(&site, ["--grace", "1h"]);
    running.signal(Signal::INT);
    running.expect_line("interrupt again");
    running.signal(Signal::INT);
    let finished = running.finish();
    finished.assert_code(130);
    assert_eq!(Summary::of(&finished).total("archived"), 0);
}

#[test]
fn the_grace_ends_a_drain_while_the_server_is_gone() {
    let mut site = Site::new();
    site.server.kill();
    for number in 0..1500 {
        write(&site.local(), format!("{number}.csv"), "waiting");
    }
    // They settle for so long that all have been named by the time so many wait that nothing more is taken in.
    let running = watch_without_server(&site, ["--settle", "1s", "--grace", "4s"]);
    let finished = stop(running);
    finished.assert_code(4);
    assert_eq!(Summary::of(&finished).totals(), (0, 0, 1500, 0));
    // Nothing was lost by it.
    site.server.restart();
    let running = site.watch([]);
    site.wait_for(1500);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1500, 0, 0, 0));
}

#[test]
fn a_stop_file_drains() {
    let site = Site::new();
    let stop_file = site.env.path().join("stop");
    let running = site.watch(["--until", stop_file.to_str().unwrap()]);
    write(&site.local(), "a.csv", "a");
    File::create(&stop_file).unwrap();
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
}

/// Even while so much waits for a server that is gone that nothing more is taken in.
#[test]
fn a_stop_file_is_seen_while_the_server_is_gone() {
    let mut site = Site::new();
    site.server.kill();
    for number in 0..1500 {
        write(&site.local(), format!("{number}.csv"), "waiting");
    }
    let stop_file = site.env.path().join("stop");
    let mut running = watch_without_server(&site, ["--until", stop_file.to_str().unwrap(), "--grace", "3s"]);
    File::create(&stop_file).unwrap();
    running.expect_line("the stop file appeared");
    let finished = running.finish();
    finished.assert_code(4);
    // What had not been named when nothing more was taken in has no row.
    let (archived, skipped, deferred, failed) = Summary::of(&finished).totals();
    assert_eq!((archived, skipped, failed), (0, 0, 0));
    assert!((256..=1500).contains(&deferred), "{deferred}");
}

#[test]
fn idleness_ends_it() {
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let finished = run(&mut site.command(["--idle-exit", "700ms"]));
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
}

/// That it is time to look again is no sign of life.
#[test]
fn idleness_ends_it_though_it_scans_more_often() {
    for watcher in ["inotify", "poll"] {
        let site = Site::new();
        write(&site.local(), "a.csv", "a");
        let arguments = ["--idle-exit", "1s", "--scan-interval", "200ms", "--watcher", watcher];
        let finished = run(&mut site.command(arguments));
        finished.assert_code(0);
        assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0), "{watcher}");
    }
}

#[test]
fn standard_output_is_the_summary_and_standard_error_the_log() {
    let site = Site::new();
    write(&site.local(), "new\nline \u{1b}[31m.csv", "a");
    let running = site.watch(["--log-format", "json", "-vv"]);
    site.wait_for(1);
    let finished = stop(running);
    finished.assert_code(0);
    Summary::of(&finished);
    assert!(finished.stderr.lines().count() > 3);
    for line in finished.stderr.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["level"].is_string() && event["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_summary_file_leaves_standard_output_empty() {
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let summary = site.env.path().join("summary.json");
    let finished = run(&mut site.command(["--summary-file", summary.to_str().unwrap(), "--idle-exit", "500ms"]));
    finished.assert_code(0);
    assert_eq!(finished.stdout, "");
    assert!(fs::read_to_string(summary).unwrap().contains(r#""archived":1"#));
}

/// Starts a watch that finds no server, and waits until it says so.
fn watch_without_server<const N: usize>(site: &Site, arguments: [&str; N]) -> Running {
    let mut running = Running::start(&mut site.command(arguments));
    running.expect_line("is out");
    running
}

/// A refusal is a matter of settings: said at once, file or no file.
fn refused(command: &mut Command, expected: &str) {
    let finished = run(command);
    finished.assert_code(3);
    assert!(finished.stderr.contains(expected), "{}", finished.stderr);
    assert!(finished.stderr.contains("try: "), "{}", finished.stderr);
}

#[test]
fn a_key_that_may_not_log_in_ends_it_at_once() {
    for file in [None, Some("a.csv")] {
        let site = Site::new();
        file.into_iter().for_each(|name| drop(write(&site.local(), name, "a")));
        fs::remove_file(site.server.client_key()).unwrap();
        keygen(&site.server.client_key(), "ed25519");
        refused(&mut site.command([]), "the server refused; tried: publickey");
    }
}

#[test]
fn an_unknown_host_key_ends_it_at_once() {
    for file in [None, Some("a.csv")] {
        let site = Site::new();
        file.into_iter().for_each(|name| drop(write(&site.local(), name, "a")));
        fs::write(site.server.known_hosts(), "").unwrap();
        refused(&mut site.command([]), "host key");
    }
}

#[test]
fn a_source_that_is_missing_is_named() {
    let site = Site::new();
    let mut command = site.bare([]);
    command.arg(site.local()).arg(site.local().join("missing")).arg(site.local().join("also missing"));
    let finished = run(&mut command);
    finished.assert_code(2);
    assert_eq!(finished.stdout, "");
    for name in ["missing: no such file", "also missing: no such file"] {
        assert!(finished.stderr.contains(name), "{}", finished.stderr);
    }
}

/// Two replicas on one tree and one ledger: each file goes once.
#[test]
fn two_watchers_share_a_tree_and_archive_each_file_once() {
    let site = Site::new();
    write(&site.local(), "before.csv", "before");
    let watchers: [Running; 2] = std::array::from_fn(|_| watching(&mut site.command(["--scan-interval", "500ms"])));
    for number in 0..400 {
        write(&site.local(), format!("{}/{number}.csv", number % 9), format!("{number}"));
    }
    site.wait_for(401);
    watchers.iter().for_each(|running| running.signal(Signal::TERM));
    let summaries = watchers.map(|running| {
        let finished = running.finish();
        finished.assert_code(0);
        Summary::of(&finished)
    });
    assert_eq!(site.archived(), files(&site.local()));
    assert_eq!(summaries.iter().map(|summary| summary.total("archived")).sum::<u64>(), 401);
}

/// One of two replicas dies without a word: the other one takes over what it held, at its next scan.
#[test]
fn a_watcher_that_dies_is_replaced_by_the_other() {
    let site = Site::new();
    let arguments = ["--scan-interval", "500ms", "--after", "delete"];
    let [first, second]: [Running; 2] = std::array::from_fn(|_| watching(&mut site.command(arguments)));
    let expected = TestEnv::new();
    for number in 0..600 {
        for root in [expected.local(), site.local()] {
            write(&root, format!("{}/{number}.csv", number % 9), noise(number * 30, 5));
        }
        if number == 300 {
            site.wait_for(50);
            first.signal(Signal::KILL);
        }
    }
    assert_eq!(first.finish().code(), None);
    // What the dead one had set aside to be deleted goes with the next housekeeping, or the next start.
    let aside = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "archived");
    wait_until("all are archived and deleted", || names(&site.local()).keys().all(aside));
    let finished = stop(second);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).total("failed"), 0);
    assert_eq!(site.archived(), files(&expected.local()));
    run(&mut site.command(["--idle-exit", "100ms", "--after", "delete"])).assert_code(0);
    assert!(files(&site.local()).is_empty());
}
