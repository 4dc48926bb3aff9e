//! A destination that is out: said once, and no other one waits for it.

use std::net::TcpListener;
use std::time::Instant;

use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Running, TestEnv, files, noise, peak_memory, wait_until, write};

const FILES: u64 = 1_000;

/// Two sources with a thousand files each, and a destination for each: one works, the other one accepts and is silent.
struct Two {
    bench: Bench,
    _server: Embedded,
    _silent: TcpListener,
}

impl Two {
    fn new() -> Self {
        let env = TestEnv::new();
        let server = Embedded::start(&env);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for number in 0..FILES {
            write(&env.local(), format!("a/{number}"), noise(200, number));
            write(&env.local(), format!("b/{number}"), noise(200, number));
        }
        // The one that is out is named first.
        let source = |name: &str| {
            let path = env.local().join(name);
            format!("[[source]]\nname = \"{name}\"\npaths = [\"{}\"]\nafter = \"delete\"\n", path.display())
        };
        let config = format!(
            "[destination]\nurl = \"{}\"\nlayout = \"in\"\n[ledger]\nurl = \"{}\"\n\
             [retry]\nmax-attempts = 4\ninitial-backoff = \"1ms\"\nmax-backoff = \"20ms\"\n\
             [pool]\nconnect-timeout = \"300ms\"\n{}destination.url = \"sftp://u@{}/x\"\n{}",
            server.url("/"),
            env.home().join("ledger.db").display(),
            source("a"),
            silent.local_addr().unwrap(),
            source("b"),
        );
        write(env.path(), "archiver.toml", config);
        let bench = Bench::embedded(env, &server);
        Self { bench, _server: server, _silent: silent }
    }
}

#[test]
fn a_watch_archives_for_the_destination_that_works() {
    let two = Two::new();
    let mut command = two.bench.env.archiver(["watch", "--settle", "50ms"]);
    let running = Running::start(&mut command);
    let memory = peak_memory(running.pid());
    // Files go away meanwhile, so that they are only counted.
    let here = |name: &str| std::fs::read_dir(two.bench.env.local().join(name)).unwrap().count() as u64;
    wait_until("all of the one that works is archived", || here("b") == 0);
    assert_eq!((here("a"), two.bench.archived().len() as u64), (FILES, FILES));
    drop(running);
    let memory = memory.join().unwrap();
    println!("{memory} KiB");
    assert!(memory < 96 << 10, "{memory} KiB");
}

#[test]
fn a_push_archives_for_the_destination_that_works_and_says_once_that_the_other_one_does_not() {
    let two = Two::new();
    let begin = Instant::now();
    let pushed = Pushed::run(two.bench.env.archiver(["push"]).env("ARCHIVER_SUMMARY", "json")).expect(3);
    assert!(begin.elapsed() < DEADLINE);
    pushed.assert_counts([FILES, 0, 0, FILES]);
    assert_eq!(two.bench.archived().len() as u64, FILES);
    assert_eq!(files(&two.bench.env.local().join("a")).len() as u64, FILES);
    assert!(files(&two.bench.env.local().join("b")).is_empty());
    // The summary names each file; standard error names the destination.
    assert!(pushed.rows().iter().all(|row| row["status"] == "archived" || row["reason"] != ""));
    let errors: Vec<_> = pushed.finished.stderr.lines().collect();
    assert!(errors.len() < 20, "{} lines:\n{}", errors.len(), pushed.finished.stderr);
    let given_up = errors.iter().filter(|line| line.contains("giving the destination up")).count();
    assert_eq!(given_up, 1, "{}", pushed.finished.stderr);
}
