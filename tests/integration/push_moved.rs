//! A ledger that moves: what is archived stays so, and what a killed run left is found by the next, on a real server.
//! And who takes part in one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::{Bench, Pushed, is_part};
use crate::support::env::{Finished, Running, files, noise, run, wait_until, write};
use crate::support::redis::Redis;

/// So short that a test sees it end.
const LEASE: &str = "3s";

fn with_ledger(command: &mut Command, ledger: &str) -> Command {
    let mut moved = Command::new(command.get_program());
    moved.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            moved.env(name, value);
        }
    }
    moved.env("ARCHIVER_LEDGER", ledger).env("ARCHIVER_LEDGER__LEASE", LEASE);
    moved
}

fn ledger(bench: &Bench, ledger: &str, arguments: &[&str]) -> Finished {
    run(&mut with_ledger(bench.env.archiver(["ledger"]).args(arguments), ledger))
}

fn push(bench: &Bench, ledger: &str, options: &[&str]) -> Command {
    with_ledger(bench.push([bench.env.local()]).args(options), ledger)
}

/// A push that is killed while the bytes of `name` are on their way.
fn cut_short(bench: &Bench, at: &str, name: &str, seed: u64) {
    write(&bench.env.local(), name, noise(4 << 20, seed));
    let running = Running::start(&mut push(bench, at, &["--after", "keep", "--limit-rate", "256KiB"]));
    wait_until("it uploads", || files(&bench.base).keys().any(|path| is_part(path)));
    // Nobody can move what it holds.
    let refused = ledger(bench, at, &["export"]);
    refused.assert_code(2);
    let pid = format!("pid {} on ", running.pid().as_raw_nonzero());
    assert!(refused.stderr.contains(&pid) && refused.stderr.contains("--live"), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code(), None);
}

/// Moves all by a file, and says what became of it.
fn move_on(bench: &Bench, from: &str, to: &str, file: &Path) -> String {
    let name = file.to_str().unwrap();
    // A dead process of another host counts as live until its lease is over.
    wait_until("nobody is at work", || ledger(bench, from, &["export", "-o", name]).code() == Some(0));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let checked = ledger(bench, to, &["import", "--dry-run", name]);
    checked.assert_code(0);
    assert!(checked.stdout.contains("nothing was changed"), "{}", checked.stdout);
    let first = ledger(bench, to, &["import", name]);
    first.assert_code(0);
    let again = ledger(bench, to, &["import", name]);
    again.assert_code(0);
    assert!(again.stdout.contains(": 0 added, ") && again.stdout.contains(" there already\n"), "{}", again.stdout);
    first.stdout
}

#[test]
fn a_ledger_moves_to_redis_and_back_and_nothing_is_archived_twice_or_left() {
    let (bench, _server) = Bench::plain();
    let redis = Redis::start();
    for number in 0..20 {
        write(&bench.env.local(), format!("{}/{number}.csv", number % 3), noise(100 + number as usize, number));
    }
    write(&bench.env.local(), "50% \u{e9}.csv", "a name");
    let at_home = bench.ledger().to_str().unwrap().to_owned();
    Pushed::run(&mut push(&bench, &at_home, &["--after", "keep"])).expect(0).assert_counts([21, 0, 0, 0]);
    cut_short(&bench, &at_home, "slow.bin", 90);
    let file = bench.env.home().join("ledger.jsonl");
    let said = move_on(&bench, &at_home, &redis.url(), &file);
    assert!(said.contains("22 entries imported") && said.contains("22 added\n"), "{said}");
    Pushed::run(&mut push(&bench, &redis.url(), &["--after", "keep"])).expect(0).assert_counts([1, 21, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();

    cut_short(&bench, &redis.url(), "slow-too.bin", 91);
    let back = bench.env.home().join("back.db").to_str().unwrap().to_owned();
    let said = move_on(&bench, &redis.url(), &back, &file);
    assert!(said.contains("23 added\n"), "{said}");
    Pushed::run(&mut push(&bench, &back, &["--after", "keep"])).expect(0).assert_counts([1, 22, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();

    // Into the one that it left: what came since is added.
    move_on(&bench, &back, &at_home, &file);
    Pushed::run(&mut push(&bench, &at_home, &["--after", "keep"])).expect(0).assert_counts([0, 23, 0, 0]);
}

#[test]
fn a_file_that_was_cut_off_is_refused_and_nothing_is_imported() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    bench.push_local();
    let exported = ledger(&bench, bench.ledger().to_str().unwrap(), &["export"]);
    exported.assert_code(0);
    let cut = write(&bench.env.home(), "cut.jsonl", &exported.stdout.as_bytes()[..exported.stdout.len() - 9]);
    let other = bench.env.home().join("other.db");
    let refused = ledger(&bench, other.to_str().unwrap(), &["import", cut.to_str().unwrap()]);
    refused.assert_code(2);
    assert!(
        refused.stderr.contains("line 3: ") && refused.stderr.contains("nothing was imported"),
        "{}",
        refused.stderr
    );
    assert!(!other.exists());
    // Nor is a ledger made for what comes from a pipe, where its first entries cannot be used.
    let redis = Redis::start();
    let mut import = with_ledger(bench.env.archiver(["ledger"]).args(["import", "-"]), &redis.url());
    let refused = run(import.stdin(fs::File::open(&cut).unwrap()));
    refused.assert_code(2);
    assert!(refused.stderr.contains("nothing was imported"), "{}", refused.stderr);
    assert_eq!(redis.cli(&["KEYS", "*"]), "");
}

fn replicas(bench: &Bench, at: &str) -> Vec<Value> {
    let status = run(&mut with_ledger(&mut bench.env.archiver(["status", "--format", "json"]), at));
    let status: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    status["replicas"].as_array().cloned().unwrap_or_default()
}

/// Two that upload and one that has nothing to do; then one of them is killed.
fn all_replicas_are_told_of(at: &str, of_the_dead: [&str; 2]) {
    let (bench, _server) = Bench::plain();
    let at = if at.is_empty() { bench.ledger().to_str().unwrap().to_owned() } else { at.to_owned() };
    let long =
        |mut command: Command| Running::start(with_ledger(&mut command, &at).env("ARCHIVER_LEDGER__LEASE", "5m"));
    let start = |name: &str| {
        write(&bench.env.local(), format!("{name}/{name}.bin"), noise(4 << 20, 7));
        let mut command = bench.push([bench.env.local().join(name)]);
        command.args(["--limit-rate", "64KiB"]);
        long(command)
    };
    let (one, two) = (start("one"), start("two"));
    fs::create_dir_all(bench.env.local().join("idle")).unwrap();
    let idle = long(bench.watch([bench.env.local().join("idle")]));
    let of = |running: &Running| {
        let pid = u64::from(running.pid().as_raw_nonzero().get().unsigned_abs());
        let replica = replicas(&bench, &at).into_iter().find(|replica| replica["pid"] == pid);
        replica.map(|replica| (replica["state"].as_str().unwrap().to_owned(), replica["files"].as_u64().unwrap()))
    };
    let live = |files| Some(("live".to_owned(), files));
    wait_until("all are told of", || of(&one) == live(1) && of(&two) == live(1) && of(&idle) == live(0));
    let table = || run(&mut with_ledger(&mut bench.env.archiver(["status"]), &at)).stdout;
    let told = table();
    assert_eq!((told.matches("at work").count(), told.matches("  idle  ").count()), (2, 1), "{told}");
    assert!(told.contains("replica on") && told.contains("oldest claim"), "{told}");
    for replica in replicas(&bench, &at) {
        assert!((1.0..=300.0).contains(&replica["lease_seconds_left"].as_f64().unwrap()), "{replica}");
        assert_eq!(replica["since"].is_string(), replica["files"] == 1, "{replica}");
    }
    let pid = u64::from(one.pid().as_raw_nonzero().get().unsigned_abs());
    one.signal(Signal::KILL);
    assert_eq!(one.finish().code(), None);
    let dead = replicas(&bench, &at).into_iter().find(|replica| replica["pid"] == pid).unwrap();
    assert_eq!(dead["state"], of_the_dead[0]);
    let told = table();
    let line = told.lines().find(|line| line.contains(&format!(" {pid} "))).unwrap();
    assert!(line.contains(of_the_dead[1]), "{told}");
    for running in [two, idle] {
        running.signal(Signal::KILL);
        running.finish();
    }
}

#[test]
fn replicas_on_redis_are_told_of_and_a_dead_one_while_its_lease_lasts() {
    // Nobody can know of a process on another host.
    let redis = Redis::start();
    all_replicas_are_told_of(&redis.url(), ["live", "at work"]);
}

#[test]
fn processes_on_sqlite_are_told_of_and_a_dead_one_as_dead() {
    all_replicas_are_told_of("", ["ended", "dead"]);
}
