//! `--termination-log`: one short line of JSON, whatever the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::watch::{Site, Summary, stop, watching};
use crate::support::env::{Running, TestEnv, run, write};

/// The only line of the log, which Kubernetes would read to its end.
#[track_caller]
fn told(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.len() <= 4096 && text.ends_with('\n') && text.lines().count() == 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn log(env: &TestEnv) -> PathBuf {
    env.path().join("termination")
}

fn with_log<'a>(command: &'a mut Command, log: &Path) -> &'a mut Command {
    command.arg("--termination-log").arg(log)
}

#[test]
fn a_good_end_is_told_with_its_totals() {
    let site = Site::new();
    write(&site.local(), "a.csv", "abc");
    // In place, as the file itself is mounted: its name belongs to the engine. What an earlier process left goes.
    let log = write(site.env.path(), "termination", "x".repeat(9000));
    let before = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&log).unwrap());
    let running = watching(with_log(&mut site.command([]), &log));
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
    site.wait_for(1);
    stop(running).assert_code(0);
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&log).unwrap()), before);
    let told = told(&log);
    assert_eq!((&told["version"], &told["exit"]), (&1.into(), &0.into()));
    assert_eq!(told["totals"]["archived"], 1);
    assert_eq!(told["totals"]["bytes"], 3);
    assert_eq!(told["more"], 0);
}

#[test]
fn what_was_left_is_named_as_far_as_there_is_room() {
    let site = Site::new();
    let name = |number: usize| format!("{}-{number}.csv", "long".repeat(50));
    let open: Vec<_> = (0..60).map(|number| File::create(site.local().join(name(number))).unwrap()).collect();
    let mut command = site.command(["--grace", "300ms"]);
    command.env("ARCHIVER_TERMINATION_LOG", log(&site.env));
    let running = watching(&mut command);
    running.signal(Signal::TERM);
    running.finish().assert_code(4);
    drop(open);
    let told = told(&log(&site.env));
    assert_eq!(told["exit"], 4);
    let named = told["files"].as_array().unwrap();
    assert!(!named.is_empty());
    assert!(named.iter().all(|file| file["reason"] == "still open for writing"), "{told}");
    assert_eq!(told["totals"]["deferred"].as_u64().unwrap(), named.len() as u64 + told["more"].as_u64().unwrap());
}

#[test]
fn files_that_had_nowhere_to_go_say_so() {
    let mut site = Site::new();
    site.server.kill();
    write(&site.local(), "a.csv", "abc");
    let log = log(&site.env);
    let mut running = Running::start(with_log(&mut site.command(["--grace", "300ms"]), &log));
    let out = running.expect_line("is out");
    assert_eq!(out.matches("127.0.0.1").count(), 2, "once for the destination, once for the attempt: {out}");
    let finished = stop(running);
    finished.assert_code(4);
    let reason = &Summary::of(&finished).reasons("deferred")["a.csv"];
    assert!(reason.starts_with("the destination was out: connecting to ") && reason.contains("refused"), "{reason}");
    assert!(finished.stderr.lines().any(|line| line.contains("left for the next run") && line.contains(reason)));
    assert_eq!(told(&log)["files"][0]["reason"], **reason);
}

#[test]
fn a_push_and_a_run_tell_their_end_too() {
    let site = Site::new();
    write(&site.local(), "a.csv", "abc");
    let mut command = site.env.archiver(["push", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key()).arg("--known-hosts").arg(site.server.known_hosts());
    run(with_log(command.arg(site.local()), &log(&site.env))).assert_code(0);
    assert_eq!(told(&log(&site.env))["totals"]["archived"], 1);

    let mut command = site.env.archiver(["run", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key()).arg("--known-hosts").arg(site.server.known_hosts());
    with_log(&mut command, &log(&site.env)).arg(site.local()).args(["--", "sh", "-c", "exit 7"]);
    run(&mut command).assert_code(7);
    let told = told(&log(&site.env));
    assert_eq!(told["exit"], 7);
    assert!(told["reason"].as_str().unwrap().starts_with("the command exited with 7"), "{told}");
}

#[test]
fn what_is_wrong_before_the_beginning_is_told() {
    let env = TestEnv::new();
    let log = log(&env);
    let reason = |code: i32| {
        let told = told(&log);
        assert_eq!(told["exit"], code);
        told["reason"].as_str().unwrap().to_owned()
    };
    // The configuration, with the place of the log in a flag, the environment and the file itself.
    let file = write(env.path(), "wrong.toml", "settel = \"1s\"\n[destination]\nurl = \"ftp://x\"\n");
    run(with_log(env.archiver(["watch", "--config"]).arg(&file), &log)).assert_code(2);
    let said = reason(2);
    assert!(said.contains("settel") && said.contains("ftp"), "{said}");
    run(env.archiver(["watch"]).env("ARCHIVER_TERMINATION_LOG", &log)).assert_code(2);
    assert!(reason(2).contains("no destination"));
    fs::write(&file, format!("settle = \"soon\"\n[shutdown]\ntermination-log = {log:?}\n")).unwrap();
    run(env.archiver(["push", "--config"]).arg(&file)).assert_code(2);
    assert!(reason(2).contains("soon"));
    // Even a command line that is none.
    run(with_log(&mut env.archiver(["watch", "--unknown-flag"]), &log)).assert_code(2);
    assert!(reason(2).contains("--unknown-flag"));
    run(with_log(&mut env.archiver(["run"]), &log)).assert_code(2);
    let said = reason(2);
    assert!(said.contains("not provided: <CMD>") && !said.contains("Usage"), "{said}");
}

#[test]
fn what_stops_a_beginning_is_told() {
    let site = Site::new();
    let log = log(&site.env);
    // A ledger that is none.
    let stranger = write(site.env.path(), "ledger.db", "x".repeat(200));
    run(with_log(&mut site.command(["--ledger", stranger.to_str().unwrap()]), &log)).assert_code(2);
    let reason = told(&log)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("ledger.db") && reason.contains("--ledger"), "{reason}");
    // A server that refuses.
    fs::write(site.server.known_hosts(), "").unwrap();
    run(with_log(&mut site.command([]), &log)).assert_code(3);
    let told = told(&log);
    assert_eq!(told["exit"], 3);
    assert!(told["reason"].as_str().unwrap().contains("host key"), "{told}");
}

#[test]
fn a_second_interrupt_is_told() {
    let site = Site::new();
    let _open = File::create(site.local().join("open.csv")).unwrap();
    let log = log(&site.env);
    let mut running: Running = watching(with_log(&mut site.command(["--grace", "1h"]), &log));
    running.signal(Signal::INT);
    running.expect_line("interrupt again");
    running.signal(Signal::INT);
    running.finish().assert_code(130);
    assert_eq!(told(&log)["exit"], 130);
}

/// It is no reason not to archive.
#[test]
fn a_log_that_cannot_be_written_is_said() {
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let log = site.env.path().join("missing/termination");
    let finished = run(with_log(&mut site.command(["--idle-exit", "100ms"]), &log));
    finished.assert_code(0);
    assert!(finished.stderr.contains("the termination log"), "{}", finished.stderr);
}
