//! `archiver demo` as a stranger runs it: the real binary, no set-up.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use archiver::demo::World;
use rustix::process::Signal;

use crate::support::env::*;

/// Files of the demo's world.
const FILES: usize = 19;

/// A demo whose temporary directory is the environment's own, so that what it leaves behind can be seen.
fn demo(env: &TestEnv, arguments: &[&str]) -> std::process::Command {
    let mut command = env.archiver(["demo"].iter().chain(arguments));
    command.env("TMPDIR", env.local());
    command
}

#[track_caller]
fn assert_complete(finished: &Finished) {
    finished.assert_code(0);
    let (out, err) = (&finished.stdout, &finished.stderr);
    assert!(out.contains(&format!("archived {FILES} · skipped 0 · deferred 0 · failed 0 · ")), "{out}");
    let (_, drawn) = out.split_once("\nsftp://demo@127.0.0.1:").expect(out);
    for name in ["└── 20", "orders-emea.csv  ", "Pöytä & Söhne – final (2).json  ", "shipping.log  ", "stock.csv  "]
    {
        assert!(drawn.contains(name), "{name} is not in\n{drawn}");
    }
    for name in [".part", ".done", "index.json"] {
        assert!(!drawn.contains(name), "{name} is in\n{drawn}");
    }
    for told in
        ["marker arrived: ", "report arrived: ", "writer finished: ", &format!("All {FILES} files are on the server")]
    {
        assert!(err.contains(told), "{told} is not in\n{err}");
    }
    assert!(err.trim_end().lines().last().is_some_and(|line| line.contains("archiver check --to sftp://")), "{err}");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "nothing is coloured or drawn without a terminal");
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn everything_is_shown_and_nothing_is_left_behind() {
    let env = TestEnv::new();
    assert_complete(&run(&mut demo(&env, &[])));
    assert!(is_empty(&env.local()));
    let elsewhere: Vec<_> = tree(env.path()).into_keys().collect();
    assert_eq!(
        elsewhere,
        ["home", "home/.ssh", "local", "remote"].map(std::path::PathBuf::from),
        "the home directory is not touched"
    );
}

#[test]
fn two_at_once_and_without_a_home() {
    let env = TestEnv::new();
    let first = Running::start(demo(&env, &[]).env_remove("HOME").env_remove("XDG_STATE_HOME"));
    let second = Running::start(demo(&env, &[]).env("HOME", "/proc/nowhere").env("ARCHIVER_TO", "not a URL"));
    for running in [first, second] {
        assert_complete(&running.finish());
    }
    assert!(is_empty(&env.local()));
}

#[test]
fn quiet_leaves_the_summary_and_the_tree() {
    let env = TestEnv::new();
    let finished = run(&mut demo(&env, &["--quiet"]));
    assert_eq!(finished.assert_code(0).stderr, "");
    assert!(finished.stdout.contains("sftp://demo@127.0.0.1:"));
}

#[test]
fn keep_leaves_everything_and_says_where() {
    let env = TestEnv::new();
    let place = env.path().join("a place, kept");
    let finished = run(&mut demo(&env, &["--keep", "--dir", place.to_str().unwrap()]));
    assert_complete(&finished);
    let said = format!("left in {}", place.canonicalize().unwrap().display());
    assert!(finished.stderr.contains(&said), "{said} is not in\n{}", finished.stderr);
    assert_eq!(files(&place.join("server")).len(), FILES);
    assert_eq!(std::fs::metadata(place.join("keys/id_ed25519")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        place.join("ledger.db").exists()
            && World::left_alone().iter().all(|path| place.join("app").join(path).exists())
    );

    // It is in use now, and what is in it stays.
    let again = run(&mut demo(&env, &["--dir", place.to_str().unwrap()]));
    again.assert_code(2);
    assert!(again.stderr.contains("is not empty") && again.stderr.contains("--dir"), "{}", again.stderr);
    assert_eq!(files(&place.join("server")).len(), FILES);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let env = TestEnv::new();
        let mut running = Running::start(&mut demo(&env, &[]));
        running.expect_line("An application in");
        running.signal(signal);
        let finished = running.finish();
        assert_eq!(finished.assert_code(130).stderr.matches("interrupted").count(), 1, "{}", finished.stderr);
        assert!(is_empty(&env.local()));
    }
}

#[test]
fn a_place_that_cannot_be_used_is_a_mistake_of_usage() {
    let env = TestEnv::new();
    let finished = run(demo(&env, &[]).env("TMPDIR", "/proc/nowhere"));
    finished.assert_code(2);
    assert!(finished.stderr.contains("/proc/nowhere/archiver-demo-") && finished.stderr.contains("--dir"));
}
