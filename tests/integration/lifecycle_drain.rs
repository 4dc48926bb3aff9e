//! What a drain waits for, and what it names when the grace is over, in `watch` and in `run`.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use rustix::process::Signal;

use super::watch::{SETTLE, Site, Summary, names};
use crate::support::env::{Running, files, wait_until, write};

const LEFT: &str = "left for the next run";

/// `archiver run` of a shell script in `local/`.
fn command<'a>(site: &Site, arguments: impl IntoIterator<Item = &'a str>, script: &str) -> Command {
    let mut command = site.env.archiver(["run", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key()).arg("--known-hosts").arg(site.server.known_hosts());
    command.args(["--summary", "json", "--settle", SETTLE]).args(arguments).arg(site.local());
    command.args(["--", "sh", "-c", script]).current_dir(site.local());
    command
}

/// A writer that goes on when the command has ended, until `.go` stands.
const SLOW: &str = "(echo first; until [ -e .go ]; do sleep 0.02; done; echo second) > slow.csv 2> .errors & \
                    until [ -s slow.csv ]; do sleep 0.02; done";

#[test]
fn a_writer_that_outlives_the_command_has_the_grace() {
    let site = Site::new();
    let mut running = Running::start(&mut command(&site, ["--grace", "1h"], SLOW));
    running.expect_line("the command ended");
    write(&site.local(), ".go", "");
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    assert!(!finished.stderr.contains(LEFT), "{}", finished.stderr);
    let archived = names(&site.remote()).into_keys().next().unwrap();
    assert_eq!(fs::read_to_string(archived).unwrap(), "first\nsecond\n");
}

#[test]
fn what_a_run_leaves_is_named_everywhere() {
    let site = Site::new();
    let finished = Running::start(&mut command(&site, ["--grace", "300ms"], SLOW)).finish();
    write(&site.local(), ".go", "");
    finished.assert_code(4);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (0, 0, 1, 0));
    assert_eq!(summary.reasons("deferred")["slow.csv"], "still open for writing");
    let named =
        |line: &str| line.contains(LEFT) && line.contains("slow.csv") && line.contains("still open for writing");
    assert!(finished.stderr.lines().any(named), "{}", finished.stderr);
}

#[test]
fn what_a_watch_leaves_is_named_everywhere() {
    let site = Site::new();
    let open: Vec<_> =
        (0..30).map(|number| File::create(site.local().join(format!("{number}.csv"))).unwrap()).collect();
    let running = site.watch(["--grace", "300ms"]);
    running.signal(Signal::TERM);
    let finished = running.finish();
    drop(open);
    finished.assert_code(4);
    assert_eq!(Summary::of(&finished).totals(), (0, 0, 30, 0));
    // Some of them, and how many more.
    let named = finished.stderr.lines().filter(|line| line.contains(LEFT) && line.contains(".csv")).count();
    assert_eq!(named, 20, "{}", finished.stderr);
    assert!(finished.stderr.contains("10 more"), "{}", finished.stderr);
}

#[test]
fn a_slow_writer_is_waited_for_by_a_watch() {
    let site = Site::new();
    let mut running = site.watch(["--grace", "1h"]);
    let mut slow = File::create(site.local().join("slow.csv")).unwrap();
    slow.write_all(b"first").unwrap();
    running.signal(Signal::TERM);
    running.expect_line("asked to terminate");
    for part in 0..20 {
        write!(slow, "part {part}").unwrap();
        // A further one changes nothing about that.
        running.signal(Signal::TERM);
    }
    running.expect_line("still draining");
    drop(slow);
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(site.archived(), files(&site.local()));
}

/// The archiving ends; the command goes on, and has the last word.
#[test]
fn a_stop_file_and_idleness_end_the_archiving_and_not_the_command() {
    let stop_file = "../stop";
    for (arguments, said) in
        [(["--until", stop_file], "the stop file appeared"), (["--idle-exit", "600ms"], "nothing happened for")]
    {
        let site = Site::new();
        let script =
            "echo x > a.csv; until [ -e ../end ]; do sleep 0.02; done; echo late > late.csv; exit $(cat ../end)";
        let mut running = Running::start(&mut command(&site, arguments, script));
        site.wait_for(1);
        write(site.env.path(), "stop", "");
        running.expect_line(said);
        // Its end is not waited for by the command, nor the other way round.
        wait_until("the drain is over", || super::watch::temporary(&site.remote()).is_empty());
        write(site.env.path(), "end", "5");
        let finished = running.finish();
        finished.assert_code(5);
        assert!(names(&site.local()).keys().any(|path| path.ends_with("late.csv")));
        assert!(Summary::of(&finished).total("archived") >= 1);
    }
}
