//! `status`, `retry` and `verify`: what they say of an archive that was really made, and then tampered with.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::Bench;
use crate::support::env::{Finished, Running, noise, run, tree, wait_until, write};

/// A command that asks the ledger.
fn ask<const N: usize>(bench: &Bench, arguments: [&str; N]) -> Command {
    let mut command = bench.env.archiver(arguments);
    command.env("ARCHIVER_LEDGER", bench.ledger());
    command
}

fn verify<const N: usize>(bench: &Bench, arguments: [&str; N]) -> Command {
    let mut command = ask(bench, ["verify"]);
    command.args(arguments).args(["--to", &bench.to]).args(&bench.login);
    command
}

#[track_caller]
fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// What was found, by name: `a.csv missing`.
fn found(finished: &Finished) -> Vec<String> {
    let json = json(finished);
    let findings = json["destinations"][0]["findings"].as_array().unwrap().iter();
    let mut found: Vec<_> = findings
        .map(|finding| {
            let remote = finding["remote"].as_str().unwrap();
            format!("{} {}", remote.rsplit('/').next().unwrap(), finding["found"].as_str().unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn an_archive_that_was_tampered_with_is_found_out() {
    let (bench, _server) = Bench::plain();
    for number in 0..300 {
        write(&bench.env.local(), format!("{}/{number}.csv", number % 3), noise(100 + number as usize, number));
    }
    bench.push_local();
    let whole = run(&mut verify(&bench, ["--verify", "readback"]));
    whole.assert_code(0);
    assert!(whole.stdout.contains("checked 300 files") && whole.stdout.contains("all as recorded"), "{}", whole.stdout);

    let archive = bench.base.join("in");
    fs::remove_file(archive.join("0/0.csv")).unwrap();
    fs::write(archive.join("1/1.csv"), "cut").unwrap();
    let mut bytes = fs::read(archive.join("2/2.csv")).unwrap();
    bytes[50] ^= 1;
    fs::write(archive.join("2/2.csv"), bytes).unwrap();
    fs::remove_file(archive.join("0/3.csv")).unwrap();
    fs::create_dir(archive.join("0/3.csv")).unwrap();
    write(&archive, "new/planted.csv", "planted");
    write(&archive, "1/.4.csv.0123456789ab-7.part", "left over");
    let (before, ledger) = (tree(&bench.base), fs::read(bench.ledger()).unwrap());

    let size = run(&mut verify(&bench, ["--format", "json"]));
    size.assert_code(1);
    let seen = [
        ".4.csv.0123456789ab-7.part leftover",
        "0.csv missing",
        "1.csv wrong-size",
        "3.csv not-a-file",
        "planted.csv extra",
    ];
    assert_eq!(found(&size), seen);
    assert_eq!(json(&size)["destinations"][0]["checked"]["files"], 300);
    let content = run(&mut verify(&bench, ["--format", "json", "--verify", "readback"]));
    content.assert_code(1);
    let mut with_content = seen.to_vec();
    with_content.insert(3, "2.csv wrong-hash");
    assert_eq!(found(&content), with_content);
    // Only what is below the prefix.
    let below = run(&mut verify(&bench, ["in/2", "--format", "json"]));
    below.assert_code(0);
    assert_eq!(json(&below)["destinations"][0]["checked"]["files"], 100);
    let one = run(&mut verify(&bench, ["in/1/1.csv", "--format", "json"]));
    one.assert_code(1);
    assert_eq!(found(&one), ["1.csv wrong-size"]);
    let planted = run(&mut verify(&bench, ["in/new/planted.csv", "--format", "json"]));
    planted.assert_code(1);
    assert_eq!(found(&planted), ["planted.csv extra"]);
    let nowhere = run(&mut verify(&bench, ["2031/01"]));
    nowhere.assert_code(2);
    assert!(nowhere.stderr.contains("nothing is known below"), "{}", nowhere.stderr);
    let table = run(&mut verify(&bench, []));
    table.assert_code(1);
    assert!(table.stdout.contains("3 bytes instead of 101"), "{}", table.stdout);
    // It looked, and did nothing.
    assert_eq!((tree(&bench.base), fs::read(bench.ledger()).unwrap()), (before, ledger));
}

#[test]
fn a_destination_that_cannot_be_reached_is_no_difference() {
    let (bench, mut server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    bench.push_local();
    server.kill();
    let mut command = verify(&bench, ["--retries", "2"]);
    command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "1ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "20ms");
    run(&mut command).assert_code(3);
}

#[test]
fn a_name_with_several_records_is_judged_by_the_last() {
    let (bench, _server) = Bench::plain();
    for content in ["one", "second"] {
        write(&bench.env.local(), "a", content);
        let pushed = run(bench.push([bench.env.local()]).args(["--on-conflict", "overwrite"]));
        pushed.assert_code(0);
    }
    run(&mut verify(&bench, ["--verify", "readback"])).assert_code(0);
}

#[test]
fn status_counts_what_was_archived_and_what_failed() {
    let (bench, _server) = Bench::plain();
    let none = run(&mut ask(&bench, ["status"]));
    none.assert_code(2);
    assert!(none.stderr.contains("--ledger"), "{}", none.stderr);
    assert!(!bench.ledger().exists());

    write(&bench.env.local(), "good", "12345");
    write(&bench.env.local(), "bad", "123");
    write(&bench.base, "in/bad", "somebody's");
    let push = || run(bench.push([bench.env.local()]).args(["--on-conflict", "fail"]));
    push().assert_code(1);
    let before = fs::read(bench.ledger()).unwrap();
    let status = json(run(&mut ask(&bench, ["status", "--format", "json"])).assert_code(0));
    assert_eq!(status["totals"]["archived"], serde_json::json!({"files": 1, "bytes": 5}));
    assert_eq!(status["totals"]["failed"], serde_json::json!({"files": 1, "bytes": 3}));
    assert_eq!(status["failed"][0]["path"].as_str().unwrap(), bench.env.local().join("bad").to_str().unwrap());
    assert!(status["failed"][0]["failed_at"].is_string() && status["last_archived"]["path"].is_string());
    let table = run(&mut ask(&bench, ["status", "--failed"]));
    table.assert_code(0);
    assert!(table.stdout.contains("local/bad") && table.stdout.contains("archiver retry"), "{}", table.stdout);
    let capacity = json(run(&mut ask(&bench, ["status", "--capacity", "--format", "json"])).assert_code(0));
    assert_eq!(capacity["capacity"]["per_hour"]["peak_bytes"]["bytes"], 5);
    assert!(capacity["warnings"][0].as_str().unwrap().contains("rests on"), "{capacity}");

    // A retry says what it would do, and does nothing; then it does.
    let retry = |arguments: &[&str]| run(ask(&bench, ["retry"]).args(arguments));
    let would = retry(&["--dry-run", "--all"]);
    would.assert_code(0);
    assert!(would.stdout.contains("would go") && would.stdout.contains("local/bad"), "{}", would.stdout);
    let unmatched = retry(&["*.nothing"]);
    unmatched.assert_code(1);
    assert!(unmatched.stderr.contains("`*.nothing`"), "{}", unmatched.stderr);
    assert_eq!(fs::read(bench.ledger()).unwrap(), before);
    retry(&[]).assert_code(2);
    let done = retry(&["ba*"]);
    done.assert_code(0);
    assert!(done.stdout.contains("put back") && done.stdout.contains("1 file (3 B)"), "{}", done.stdout);
    let status = json(&run(&mut ask(&bench, ["status", "--format", "json"])));
    assert_eq!((&status["totals"]["failed"]["files"], &status["totals"]["waiting"]["files"]), (&0.into(), &1.into()));
    assert!(status["oldest_waiting"]["path"].as_str().unwrap().ends_with("bad"), "{status}");
    let table = run(&mut ask(&bench, ["status"]));
    assert!(table.assert_code(0).stdout.contains("nobody has in hand what waits"), "{}", table.stdout);
    fs::remove_file(bench.base.join("in/bad")).unwrap();
    push().assert_code(0);
    assert!(retry(&["--all"]).assert_code(0).stdout.contains("Nothing has failed"));
}

#[test]
fn a_quarantined_file_is_not_put_back_but_told_of() {
    let (bench, _server) = Bench::plain();
    let bad = bench.env.path().join("bad");
    let file = write(&bench.env.local(), "a", "ours");
    write(&bench.base, "in/a", "somebody's");
    let options = ["--on-conflict", "fail", "--after-failure", &format!("move={}", bad.display())];
    run(bench.push([bench.env.local()]).args(options)).assert_code(1);
    assert!(!file.exists());
    let left = run(&mut ask(&bench, ["retry", "--all"]));
    left.assert_code(1);
    assert!(left.stdout.contains("move it back"), "{}", left.stdout);
    fs::rename(bad.join("a"), &file).unwrap();
    run(&mut ask(&bench, ["retry", "--all"])).assert_code(0);
}

/// Without the retry, it would rest for half the interval between two scans.
#[test]
fn a_running_watch_takes_up_what_is_put_back() {
    let (bench, _server) = Bench::plain();
    let blocker = write(&bench.base, "in/a", "somebody's");
    write(&bench.env.local(), "a", "ours");
    let mut command = bench.watch([bench.env.local()]);
    command.args(["--on-conflict", "fail", "--settle", "0s", "--scan-interval", "1h"]);
    let mut running = Running::start(&mut command);
    running.expect_line("failed");
    fs::remove_file(&blocker).unwrap();
    let status = json(run(&mut ask(&bench, ["status", "--format", "json"])).assert_code(0));
    assert_eq!(status["totals"]["failed"]["files"], 1);
    run(&mut ask(&bench, ["retry", "a"])).assert_code(0);
    running.expect_line("put back");
    wait_until("the file is archived", || blocker.exists());
    running.signal(rustix::process::Signal::TERM);
    running.finish().assert_code(0);
}
