//! `archiver run`: the command's life and the archive's, tied together.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::watch::{SETTLE, Site, Summary, names};
use crate::support::env::{Running, TestEnv, files, run, wait_until, write};

/// `archiver run` of a shell script in `local/`.
fn command<'a>(site: &Site, arguments: impl IntoIterator<Item = &'a str>, script: &str) -> Command {
    let mut command = site.env.archiver(["run", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key());
    command.arg("--known-hosts").arg(site.server.known_hosts());
    command.args(["--summary", "json", "--settle", SETTLE]).args(arguments).arg(site.local());
    command.args(["--", "sh", "-c", script]).current_dir(site.local());
    command
}

#[test]
fn what_the_command_wrote_to_its_last_moment_is_archived() {
    let site = Site::new();
    let finished = run(&mut command(&site, [], "echo first > a.csv; mkdir late; echo last > late/b.csv"));
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

#[test]
fn its_code_is_passed_on_and_its_files_are_archived() {
    let site = Site::new();
    let finished = run(&mut command(&site, [], "echo x > a.csv; exit 7"));
    finished.assert_code(7);
    assert_eq!(site.archived(), files(&site.local()));
    let finished = run(&mut command(&site, [], "kill -KILL $$"));
    finished.assert_code(128 + 9);
}

/// A file that cannot be archived shows where the command itself has nothing to complain about.
#[test]
fn without_a_complaint_of_its_own_the_code_is_the_archivers() {
    let site = Site::new();
    let finished = run(&mut command(&site, ["--marker", "{name}.done", "--grace", "300ms"], "echo x > a.csv"));
    finished.assert_code(4);
    let finished = run(&mut command(&site, ["--marker", "{name}.done", "--grace", "300ms"], "exit 3"));
    finished.assert_code(3);
}

#[test]
fn a_signal_goes_to_the_command_and_only_its_end_drains() {
    let site = Site::new();
    let script = "trap 'echo \"$(cat)\" > last.csv; exit 0' TERM; echo ready > ready.csv; while :; do sleep 0.02; done";
    let mut running = Running::start(&mut command(&site, [], script));
    site.wait_for(1);
    running.signal(Signal::TERM);
    running.expect_line("passed on to the command");
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

#[test]
fn a_second_interrupt_kills_it() {
    let site = Site::new();
    let script = "trap '' INT TERM; echo ready > ready.csv; while :; do sleep 0.02; done";
    let mut running = Running::start(&mut command(&site, [], script));
    site.wait_for(1);
    running.signal(Signal::INT);
    running.expect_line("passed on to the command");
    running.signal(Signal::INT);
    running.expect_line("stopping at once");
    running.finish().assert_code(128 + 9);
}

#[test]
fn what_cannot_be_started_has_the_codes_of_a_shell() {
    let site = Site::new();
    let mut command = site.env.archiver(["run", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key()).arg("--known-hosts").arg(site.server.known_hosts());
    command.arg(site.local()).args(["--", "there-is-no-such-command"]);
    let finished = run(&mut command);
    finished.assert_code(127);
    assert!(finished.stderr.contains("there-is-no-such-command"), "{}", finished.stderr);
}

#[test]
fn a_mistake_in_the_settings_starts_nothing() {
    let site = Site::new();
    let mut command = command(&site, ["--on-failure", "panic"], "echo started > started.csv");
    let finished = run(&mut command);
    finished.assert_code(2);
    assert!(names(&site.local()).is_empty());
    // Nor does a ledger that cannot be opened.
    let env = TestEnv::new();
    write(&env.local(), "ledger.db", "this is no ledger, but a file of somebody else's that is long enough");
    let ledger = env.local().join("ledger.db");
    let mut command = self::command(&site, ["--ledger", ledger.to_str().unwrap()], "echo started > started.csv");
    run(&mut command).assert_code(2);
    assert!(names(&site.local()).is_empty());
}

/// The server's host key is another one: nobody will let us in until a person looks at it.
fn refused<'a>(site: &Site, arguments: impl IntoIterator<Item = &'a str>, script: &str) -> Command {
    let wrong = site.env.local().with_file_name("wrong_hosts");
    let known = fs::read_to_string(site.server.known_hosts()).unwrap();
    let key = fs::read_to_string(site.server.client_key().with_extension("pub")).unwrap();
    let host = known.split_whitespace().next().unwrap();
    let key: Vec<_> = key.split_whitespace().take(2).collect();
    fs::write(&wrong, format!("{host} {}\n", key.join(" "))).unwrap();
    let mut command = site.env.archiver(["run", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key()).arg("--known-hosts").arg(wrong);
    command.args(arguments).arg(site.local()).args(["--", "sh", "-c", script]).current_dir(site.local());
    command
}

#[test]
fn a_failure_for_good_can_stop_the_command() {
    let site = Site::new();
    let patient = "trap 'exit 5' TERM; while :; do sleep 0.02; done";
    let finished = run(&mut refused(&site, ["--on-failure", "signal"], patient));
    finished.assert_code(5);
    assert!(finished.stderr.contains("asked to stop"), "{}", finished.stderr);
    let stubborn = "trap '' TERM; while :; do sleep 0.02; done";
    let finished = run(&mut refused(&site, ["--on-failure", "exit", "--grace", "100ms"], stubborn));
    finished.assert_code(128 + 9);
}

#[test]
fn a_failure_for_good_leaves_the_command_alone_unless_told_otherwise() {
    let site = Site::new();
    let script = "until [ -e go ]; do sleep 0.02; done";
    let mut running = Running::start(&mut refused(&site, [], script));
    running.expect_line("the command goes on without it");
    write(&site.local(), "go", "");
    // Its own code is 0, so what archiving came to is told.
    running.finish().assert_code(3);
}

#[test]
fn the_command_does_not_inherit_the_password() {
    let site = Site::new();
    let script = "env | grep -q 'hunter2' && exit 9; test \"$PINE\" = yes";
    let mut command = command(&site, [], script);
    command.env("ARCHIVER_PASSWORD", "hunter2-of-the-test").env("PINE", "yes");
    command.env("ARCHIVER_SOURCE__0__DESTINATION__PASSWORD", "hunter2-of-the-test");
    let finished = run(&mut command);
    finished.assert_code(0);
}

#[test]
fn a_command_that_outlives_the_archiving_is_told_of() {
    let site = Site::new();
    let script = "echo x > a.csv; until [ -e go ]; do sleep 0.02; done";
    let mut running = Running::start(&mut command(&site, ["--exclude", "go", "--idle-exit", "500ms"], script));
    let line = running.expect_line("files that come from now on are left for the next run");
    assert!(line.contains("WARN"), "{line}");
    write(&site.local(), "go", "");
    running.finish().assert_code(0);
    assert_eq!(names(&site.remote()).len(), 1);
}

/// As the first process of a container: orphans are waited for.
#[test]
fn orphans_are_reaped_by_the_first_process() {
    let site = Site::new();
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--pid", "--fork", "--mount-proc", "true"]);
    if !unshare.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces of one's own here (unshare --map-root-user --pid)");
        return;
    }
    // A grandchild whose parent ends becomes a child of process 1, and ends itself.
    let script = "(sh -c 'sleep 0.05; : > orphan.csv' &); until [ -e orphan.csv ]; do sleep 0.02; done; \
                  n=0; while grep -qs 'State:.Z' /proc/[0-9]*/status; do n=$((n+1)); [ $n -lt 500 ] || exit 9; sleep 0.02; done";
    let inner = command(&site, [], script);
    let mut outer = Command::new("unshare");
    outer.args(["--map-root-user", "--pid", "--fork", "--mount-proc"]).arg(inner.get_program()).args(inner.get_args());
    outer.env_clear();
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(site.local());
    let finished = run(&mut outer);
    finished.assert_code(0);
    wait_until("the orphan's file is archived", || names(&site.remote()).len() == 1);
}
