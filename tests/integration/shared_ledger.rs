//! Several archivers of one tree share a Redis ledger: each file ends under exactly one name, whoever is killed,
//! stopped, or restarted, the server included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::{Entry, Finished, Running, TestEnv, files, noise, run, wait_until, write};
use crate::support::port::Port;
use crate::support::redis::Redis;
use crate::watch::{Site, Summary, names, stop, watching};

#[cfg(feature = "failpoints")]
#[path = "shared_ledger_stopped.rs"]
mod stopped;

/// A directory of its own for every nanosecond, so that a second claim would show.
const FINE: &str = "%s%f";
/// So long that no test sees it end, however slow the machine.
const LONG: &str = "5m";
/// So short that tests see it end, and long enough that a slow machine seldom does where it should not.
const SHORT: &str = "4s";

/// Replicas' common tree, server and ledger.
struct Shared {
    site: Site,
    redis: Redis,
    ledger: String,
    lease: &'static str,
    /// All that was ever written.
    model: TestEnv,
}

impl Shared {
    fn new() -> Self {
        Self::with_lease(LONG)
    }

    fn with_lease(lease: &'static str) -> Self {
        let redis = Redis::start();
        Self { site: Site::new(), ledger: redis.url(), lease, redis, model: TestEnv::new() }
    }

    fn write(&self, name: &str, content: &[u8]) {
        write(&self.model.local(), name, content);
        write(&self.site.local(), name, content);
    }

    fn write_all(&self, range: std::ops::Range<u64>) {
        for number in range {
            self.write(&format!("{}/{number}.bin", number % 7), &noise(100 + number as usize % 50 * 400, number));
        }
    }

    fn finish(&self, mut command: Command, layout: &str) -> Command {
        command.args(["--ledger", &self.ledger, "--layout", layout]).env("ARCHIVER_LEDGER__LEASE", self.lease);
        command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
        command
    }

    fn push(&self, options: &[&str], layout: &str) -> Command {
        let site = &self.site;
        let mut command =
            site.env.archiver(["push", "--ssh-config", "none", "--summary", "json", "--to", &site.server.url()]);
        command.arg("--identity").arg(site.server.client_key());
        command.arg("--known-hosts").arg(site.server.known_hosts());
        command.args(options).arg(site.local());
        self.finish(command, layout)
    }

    fn watch(&self, options: &[&str], layout: &str) -> Command {
        let mut command = self.finish(self.site.command(options.iter().copied()), layout);
        command.args(["--scan-interval", "1s"]);
        command
    }

    /// Each file that was written has exactly one final name, with its bytes, and nothing else stands.
    #[track_caller]
    fn assert_each_once(&self) {
        let mut found: BTreeMap<PathBuf, Vec<(PathBuf, Entry)>> = BTreeMap::new();
        for (path, entry) in files(&self.site.remote()) {
            let below: PathBuf = path.components().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
            found.entry(below).or_default().push((path, entry));
        }
        let expected = files(&self.model.local());
        for (name, entry) in &expected {
            match found.remove(name).as_deref() {
                Some([(_, one)]) => assert_eq!(one, entry, "{}", name.display()),
                other => panic!("{}: {other:?}", name.display()),
            }
        }
        assert!(found.is_empty(), "what nobody wrote: {found:?}");
    }
}

/// What one left undone is another one's: its claim was lost to that.
#[track_caller]
fn assert_left_to_others(finished: &Finished) {
    assert!(matches!(finished.code(), Some(0 | 4)), "{:?}", finished.stderr);
    let summary = Summary::of(finished);
    assert_eq!(summary.total("failed"), 0, "{:?}", finished.stderr);
    let by_another = |row: &serde_json::Value| row["reason"].as_str().unwrap().contains("another");
    assert!(summary.rows("deferred").all(by_another), "{:?}", finished.stderr);
}

fn total(finished: &[Finished], name: &str) -> u64 {
    finished.iter().map(|finished| Summary::of(finished).total(name)).sum()
}

fn three_pushes_share_a_tree(after: &str) {
    const FILES: u64 = 400;
    let shared = Shared::new();
    shared.write_all(0..FILES);
    // With few in flight, no one of them can claim all before the others have begun.
    let options = ["--after", after, "--jobs", "4"];
    let running: Vec<_> = (0..3).map(|_| Running::start(&mut shared.push(&options, FINE))).collect();
    let finished: Vec<_> = running.into_iter().map(Running::finish).collect();
    for one in &finished {
        one.assert_code(0);
    }
    shared.assert_each_once();
    let shares: Vec<_> = finished.iter().map(|one| Summary::of(one).total("archived")).collect();
    eprintln!("three pushes, --after {after}: {FILES} files, archived {shares:?}");
    assert_eq!(total(&finished, "archived"), FILES);
    assert_eq!(total(&finished, "failed") + total(&finished, "deferred"), 0);
    let left = names(&shared.site.local()).len() as u64;
    assert_eq!(left, if after == "delete" { 0 } else { FILES });
    // All of it is on record, for a replica that comes later.
    let later = run(&mut shared.push(&["--after", after], FINE));
    later.assert_code(0);
    assert_eq!(Summary::of(&later).total("archived"), 0);
    assert_eq!(Summary::of(&later).total("skipped"), left);
    shared.assert_each_once();
}

#[test]
fn three_pushes_archive_each_file_once_and_keep_it() {
    three_pushes_share_a_tree("keep");
}

#[test]
fn three_pushes_archive_each_file_once_and_delete_it() {
    three_pushes_share_a_tree("delete");
}

/// The other one, whose turn it would be at about half of them, is stopped and takes none.
#[test]
fn a_push_ends_although_files_that_are_left_to_others_keep_changing() {
    let shared = Shared::new();
    let peer = watching(&mut shared.watch(&[], FINE));
    peer.freeze();
    shared.write_all(0..20);
    let (stop_writing, stopped) = mpsc::channel::<()>();
    let hot = shared.site.local().join("hot");
    let writer = thread::spawn(move || {
        let mut content = Vec::new();
        while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(50)) {
            content.push(b'.');
            for number in 0..8 {
                write(&hot, format!("{number}.log"), &content);
            }
        }
    });
    let finished = run(&mut shared.push(&[], FINE));
    drop(stop_writing);
    writer.join().unwrap();
    assert!(matches!(finished.code(), Some(0 | 4)), "{:?}", finished.stderr);
    assert_eq!(Summary::of(&finished).total("failed"), 0);
    peer.signal(Signal::CONT);
    assert_left_to_others(&stop(peer));
}

#[test]
fn a_ledger_that_was_never_made_is_no_empty_one() {
    let shared = Shared::new();
    for command in ["status", "verify", "retry --all", "ledger export"] {
        let mut asked = shared.site.env.archiver(command.split(' '));
        asked.args(["--ledger", &shared.ledger]);
        if command == "verify" {
            asked.args(["--to", &shared.site.server.url()]);
        }
        let answer = run(&mut asked);
        answer.assert_code(2);
        assert!(answer.stderr.contains("no archiver has made one"), "{command}: {:?}", answer.stderr);
    }
}

#[test]
fn watches_that_are_killed_are_succeeded_by_the_others() {
    let shared = Shared::with_lease(SHORT);
    let options = ["--after", "delete"];
    let survivor = watching(&mut shared.watch(&options, FINE));
    let mut kills = 0;
    for round in 0..4 {
        let victim = watching(&mut shared.watch(&options, FINE));
        shared.write_all(round * 100..round * 100 + 100);
        let before = names(&shared.site.remote()).len();
        wait_until("it gets on", || {
            names(&shared.site.remote()).len() > before + 10 || names(&shared.site.local()).is_empty()
        });
        victim.signal(Signal::KILL);
        assert_eq!(victim.finish().code(), None);
        kills += 1;
    }
    wait_until("all are archived and deleted", || names(&shared.site.local()).is_empty());
    assert_left_to_others(&stop(survivor));
    eprintln!("{kills} kills, 400 files");
    shared.assert_each_once();
}

/// Its ledger's server is killed again and again, and comes back with all it knew.
#[test]
fn a_server_that_restarts_with_its_data_costs_time_only() {
    let mut shared = Shared::new();
    let options = ["--after", "delete"];
    let watches: Vec<_> = (0..2).map(|_| watching(&mut shared.watch(&options, FINE))).collect();
    for round in 0..4 {
        shared.write_all(round * 60..round * 60 + 60);
        let before = names(&shared.site.remote()).len();
        wait_until("they get on", || names(&shared.site.remote()).len() > before + 5);
        shared.redis.restart();
    }
    wait_until("all are archived and deleted", || names(&shared.site.local()).is_empty());
    for finished in watches.into_iter().map(stop) {
        finished.assert_code(0);
    }
    eprintln!("4 restarts, 240 files");
    shared.assert_each_once();
}

/// It answers nothing for a while, and its connections stay.
#[test]
fn a_server_that_hangs_holds_work() {
    let shared = Shared::new();
    let mut running = watching(&mut shared.watch(&["--after", "delete"], FINE));
    shared.redis.signal(Signal::STOP);
    shared.write_all(0..30);
    running.expect_line("holding work until the ledger is back");
    assert!(names(&shared.site.remote()).is_empty());
    assert_eq!(names(&shared.site.local()).len(), 30);
    shared.redis.signal(Signal::CONT);
    wait_until("all are archived and deleted", || names(&shared.site.local()).is_empty());
    stop(running).assert_code(0);
    shared.assert_each_once();
}

/// It comes back empty: what stands on the server under its name of today, with the same bytes, counts as archived.
#[test]
fn a_server_that_restarts_empty_makes_no_second_copy_on_the_same_day() {
    let mut shared = Shared::new();
    let layout = "day";
    let watches: Vec<_> = (0..2).map(|_| watching(&mut shared.watch(&["--after", "keep"], layout))).collect();
    for round in 0..3 {
        shared.write_all(round * 60..round * 60 + 60);
        let before = names(&shared.site.remote()).len();
        wait_until("they get on", || names(&shared.site.remote()).len() > before + 5);
        shared.redis.restart_empty();
    }
    let all = files(&shared.model.local()).len();
    wait_until("all are archived", || names(&shared.site.remote()).len() >= all);
    // And on record again, each of them.
    let recorded = || shared.redis.cli(&["ZCARD", "{archiver}:recorded"]).parse() == Ok(all);
    wait_until("all are on record", recorded);
    for finished in watches.into_iter().map(stop) {
        // What one lost its claim of, the other may have archived without its knowing yet.
        assert!(matches!(finished.code(), Some(0 | 4)), "{:?}", finished.stderr);
        assert_eq!(Summary::of(&finished).total("failed"), 0);
    }
    eprintln!("3 restarts without data, {all} files");
    shared.assert_each_once();
}

#[test]
fn a_dry_run_tells_what_would_be_archived_and_changes_nothing() {
    let shared = Shared::new();
    shared.write_all(0..5);
    run(&mut shared.push(&[], FINE)).assert_code(0);
    shared.write_all(5..8);
    let before = shared.redis.cli(&["DEBUG", "DIGEST"]);
    let dry = run(&mut shared.push(&["--dry-run"], FINE));
    dry.assert_code(0);
    assert_eq!(Summary::of(&dry).total("skipped"), 8);
    assert_eq!(shared.redis.cli(&["DEBUG", "DIGEST"]), before);
    assert_eq!(names(&shared.site.remote()).len(), 5);
}

/// Beside whoever works with it: what is on record, and whether it stands.
#[test]
fn who_only_looks_sees_a_shared_ledger() {
    let shared = Shared::new();
    shared.write_all(0..12);
    run(&mut shared.push(&[], FINE)).assert_code(0);
    let before = shared.redis.cli(&["DEBUG", "DIGEST"]);
    let ask = |command: &str| {
        let mut command = shared.site.env.archiver([command]);
        command.args(["--ledger", &shared.ledger]);
        command
    };
    let status = run(&mut ask("status"));
    status.assert_code(0);
    assert!(status.stdout.contains(&shared.ledger) && status.stdout.contains("12"), "{}", status.stdout);
    let mut verify = ask("verify");
    verify.args(["--ssh-config", "none", "--to", &shared.site.server.url()]);
    verify.arg("--identity").arg(shared.site.server.client_key());
    verify.arg("--known-hosts").arg(shared.site.server.known_hosts());
    let verified = run(&mut verify);
    verified.assert_code(0);
    assert!(verified.stdout.contains("checked 12 files"), "{}", verified.stdout);
    assert_eq!(shared.redis.cli(&["DEBUG", "DIGEST"]), before);
}

/// A password: never in argv, and never shown.
#[test]
fn a_password_comes_from_the_environment_or_a_file() {
    let port = Port::reserve();
    let number = port.number().to_string();
    let redis = Redis::start_with(&["--port", &number, "--bind", "127.0.0.1", "--requirepass", "hunter2"]);
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let push = |ledger: Option<&str>| {
        let mut command = site.env.archiver(["push", "--ssh-config", "none", "--to", &site.server.url()]);
        command.arg("--identity").arg(site.server.client_key());
        command.arg("--known-hosts").arg(site.server.known_hosts()).arg(site.local());
        command.args(ledger.map(|ledger| format!("--ledger={ledger}")));
        command
    };
    let said = |finished: &Finished| format!("{}{}", finished.stdout, finished.stderr);
    let (with, without) = (format!("redis://:hunter2@127.0.0.1:{number}"), format!("redis://127.0.0.1:{number}"));

    let refused = run(&mut push(Some(&with)));
    refused.assert_code(2);
    assert!(
        said(&refused).contains("ARCHIVER_LEDGER_PASSWORD") && !said(&refused).contains("hunter2"),
        "{}",
        said(&refused)
    );
    let asked = run(&mut push(Some(&without)));
    asked.assert_code(2);
    assert!(said(&asked).contains("ledger.password-file"), "{}", said(&asked));
    let wrong = run(push(Some(&without)).env("ARCHIVER_LEDGER_PASSWORD", "hunter3"));
    wrong.assert_code(2);
    assert!(!said(&wrong).contains("hunter"), "{}", said(&wrong));

    run(push(Some(&without)).env("ARCHIVER_LEDGER_PASSWORD", "hunter2")).assert_code(0);
    run(push(None).env("ARCHIVER_LEDGER", &with)).assert_code(0);
    let file = write(site.env.path(), "password", "hunter2\n");
    run(push(Some(&without)).arg("--ledger-password-file").arg(&file)).assert_code(0);
    let shown = run(site.env.archiver(["config", "show"]).env("ARCHIVER_LEDGER", &with));
    shown.assert_code(0);
    assert!(said(&shown).contains(&without) && !said(&shown).contains("hunter2"), "{}", said(&shown));
    assert_eq!(names(&site.remote()).len(), 1);
    drop(redis);
}

/// Makes a certificate of its own authority for `localhost`.
fn certificate(directory: &Path) -> [PathBuf; 2] {
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| directory.join(name));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    assert!(command.output().expect("openssl is missing; scripts/test installs it").status.success());
    [key, certificate]
}

#[test]
fn tls_is_spoken_and_an_unknown_authority_is_refused() {
    let mut shared = Shared::new();
    let [key, certificate] = certificate(shared.site.env.path());
    let port = Port::reserve();
    let number = port.number().to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &number,
        "--bind",
        "127.0.0.1",
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-ca-cert-file",
        certificate.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
    ]);
    shared.write_all(0..3);
    let check = |trusted: bool| {
        let mut command =
            shared.site.env.archiver(["check", "--ssh-config", "none", "--to", &shared.site.server.url()]);
        command.arg("--identity").arg(shared.site.server.client_key());
        command.arg("--known-hosts").arg(shared.site.server.known_hosts());
        command.arg("--ledger").arg(format!("rediss://127.0.0.1:{number}"));
        if trusted {
            command.env("ARCHIVER_LEDGER__CA_FILE", &certificate);
        }
        run(&mut command)
    };
    let refused = check(false);
    refused.assert_code(2);
    let text = format!("{}{}", refused.stdout, refused.stderr);
    assert!(text.contains("ertificate"), "{text}");
    check(true).assert_code(0);
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
    shared.ledger = format!("rediss://127.0.0.1:{number}");
    run(shared.push(&[], FINE).env("ARCHIVER_LEDGER__CA_FILE", &certificate)).assert_code(0);
    assert_eq!(redis.cli(&["ZCARD", "{archiver}:recorded"]), "3");
}

/// Sentinel moves the master; the archivers follow it.
#[test]
fn sentinel_is_followed_to_the_new_master() {
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let [first, second, third] = [0, 1, 2].map(|at| ports[at].number().to_string());
    let on = |port: &str, more: &[&str]| Redis::start_with(&[&["--port", port, "--bind", "127.0.0.1"], more].concat());
    let mut master = on(&first, &[]);
    let replica = on(&second, &["--replicaof", &format!("127.0.0.1 {first}")]);
    wait_until("the replica follows", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    let mut shared = Shared::new();
    let config = write(
        shared.site.env.path(),
        "sentinel.conf",
        format!(
            "port {third}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {first} 1\nsentinel down-after-milliseconds main 5000\nsentinel failover-timeout main 10000\n"
        ),
    );
    let mut sentinel = shared.site.env.command("redis-server");
    let mut sentinel = Running::start(sentinel.arg(&config).arg("--sentinel"));
    let asks = |what: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &third]).args(what).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    wait_until("sentinel knows the replica", || asks(&["SENTINEL", "REPLICAS", "main"]).contains(&second));
    shared.ledger = format!("redis+sentinel://127.0.0.1:{third}/main");
    let running = watching(&mut shared.watch(&["--after", "delete"], FINE));
    shared.write_all(0..20);
    wait_until("all are archived and deleted", || names(&shared.site.local()).is_empty());
    wait_until("the replica has it all", || replica.cli(&["ZCARD", "{archiver}:recorded"]) == "20");
    master.kill();
    shared.write_all(20..40);
    wait_until("all are archived by the new master", || names(&shared.site.local()).is_empty());
    assert_eq!(replica.cli(&["ZCARD", "{archiver}:recorded"]), "40");
    stop(running).assert_code(0);
    shared.assert_each_once();
    sentinel.signal(Signal::KILL);
    sentinel.ends_within(crate::support::env::DEADLINE);
}

/// The node that is named sends us to the one that has our keys, all of them.
#[test]
fn a_cluster_is_followed_to_the_node_that_has_the_ledger() {
    let ports: Vec<_> = (0..4).map(|_| Port::reserve()).collect();
    let numbers: Vec<_> = ports.iter().map(|port| port.number().to_string()).collect();
    let node = |port: &str, bus: &str| {
        let common = ["--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-node-timeout", "30000"];
        Redis::start_with(&[&common[..], &["--port", port, "--cluster-port", bus]].concat())
    };
    let (named, other) = (node(&numbers[0], &numbers[1]), node(&numbers[2], &numbers[3]));
    let slot: u32 = named.cli(&["CLUSTER", "KEYSLOT", "{archiver}:ledger"]).parse().unwrap();
    let (below, above) = ((slot - 1).to_string(), (slot + 1).to_string());
    assert_eq!(named.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", &below, &above, "16383"]), "OK");
    assert_eq!(other.cli(&["CLUSTER", "ADDSLOTS", &slot.to_string()]), "OK");
    assert_eq!(other.cli(&["CLUSTER", "MEET", "127.0.0.1", &numbers[0], &numbers[1]]), "OK");
    let is_whole = |node: &Redis| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    wait_until("the nodes know each other", || is_whole(&named) && is_whole(&other));
    let mut shared = Shared::new();
    shared.ledger = format!("redis://127.0.0.1:{}", numbers[0]);
    shared.write_all(0..30);
    for after in ["keep", "delete"] {
        run(&mut shared.push(&["--after", after], FINE)).assert_code(0);
    }
    shared.assert_each_once();
    assert!(names(&shared.site.local()).is_empty());
    assert_eq!(other.cli(&["ZCARD", "{archiver}:recorded"]), "30");
    assert_eq!(named.cli(&["DBSIZE"]), "0");
}
