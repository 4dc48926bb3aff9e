//! Volumes and Secrets that are missing, or another user's: what is said, and what goes all the same.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::watch::{Site, names};
use crate::support::env::{Running, run, write};
use crate::support::openssh::is_root;

/// The user that a process of these tests is, who owns nothing by himself.
const NOBODY: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `archiver COMMAND` of `local/` as a user of his own, with a state directory of his own; `None` where that cannot be had.
fn as_nobody(site: &Site, command: &str, key: &Path) -> Option<Command> {
    let env = &site.env;
    let program = env!("CARGO_BIN_EXE_archiver");
    let prefix = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", program];
    let mut trial = env.command("setpriv");
    let works = is_root() && trial.args(prefix).arg("--version").current_dir("/").output().unwrap().status.success();
    if !works {
        eprintln!("SKIPPED: only root can be another user, who must be able to run {program}");
        return None;
    }
    mode(env.path(), 0o755);
    let state = env.path().join("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let hosts = env.path().join("known_hosts");
    fs::copy(site.server.known_hosts(), &hosts).unwrap();
    mode(&hosts, 0o644);
    let mut nobody = env.command("setpriv");
    nobody.args(prefix).args([command, "--ssh-config", "none", "--to", &site.server.url(), "--settle", "50ms"]);
    nobody.arg("--identity").arg(key).arg("--known-hosts").arg(hosts).args(["--watcher", "poll"]);
    nobody.env("ARCHIVER_LEDGER", state.join("ledger.db"));
    if command == "push" {
        // It does not watch.
        nobody = without_watcher(nobody, env.command("setpriv"));
    }
    nobody.arg(env.local());
    Some(nobody)
}

fn without_watcher(from: Command, mut to: Command) -> Command {
    to.args(from.get_args().filter(|argument| *argument != "--watcher" && *argument != "poll"));
    to.envs(from.get_envs().filter_map(|(name, value)| Some((name, value?))));
    to
}

/// A copy of the key that may log in, with an owner, a group and a mode.
fn key(site: &Site, group: u32, bits: u32) -> std::path::PathBuf {
    let key = site.env.path().join("id_ed25519");
    fs::copy(site.server.client_key(), &key).unwrap();
    if is_root() {
        chown(&key, Some(0), Some(group)).unwrap();
    }
    mode(&key, bits);
    key
}

/// As a Secret comes in a pod: of root, for the group that `fsGroup` names.
#[test]
fn a_key_for_the_group_is_taken() {
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let key = key(&site, NOBODY, 0o440);
    let Some(mut command) = as_nobody(&site, "push", &key) else { return };
    run(&mut command).assert_code(0);
    assert_eq!(names(&site.remote()).len(), 1);
}

#[test]
fn a_key_of_another_user_says_whose_it_is_and_what_to_do() {
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let key = key(&site, 0, 0o400);
    for archiving in ["push", "watch"] {
        let _ = fs::remove_dir_all(site.env.path().join("state"));
        let Some(mut command) = as_nobody(&site, archiving, &key) else { return };
        let finished = run(&mut command);
        finished.assert_code(3);
        for part in ["user 0, group 0, with mode 0400", "user 65534, group 65534", "fsGroup", "0440"] {
            assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
        }
    }
}

#[test]
fn a_secret_that_is_not_there_is_named() {
    let site = Site::new();
    for (flag, code) in [("--password-file", 2), ("--passphrase-file", 2), ("--identity", 3)] {
        let missing = site.env.path().join("secrets/missing");
        let log = site.env.path().join("termination");
        let mut command = site.command([flag, missing.to_str().unwrap(), "--termination-log", log.to_str().unwrap()]);
        let finished = run(&mut command);
        finished.assert_code(code);
        for told in [finished.stderr, fs::read_to_string(log).unwrap()] {
            assert!(told.contains("secrets/missing") && told.contains("Secret"), "{flag}: {told}");
        }
    }
}

#[test]
fn a_state_volume_that_cannot_be_written_says_for_whom() {
    let site = Site::new();
    let key = key(&site, NOBODY, 0o440);
    let Some(mut command) = as_nobody(&site, "watch", &key) else { return };
    let volume = site.env.path().join("volume");
    fs::create_dir(&volume).unwrap();
    mode(&volume, 0o755);
    for ledger in ["ledger.db", "deeper/ledger.db"] {
        let finished = run(command.env("ARCHIVER_LEDGER", volume.join(ledger)));
        finished.assert_code(2);
        let volume = volume.display();
        for part in [
            format!("{volume} refuses: it belongs to user 0, group 0, with mode 0755"),
            "this process is user 65534, group 65534".to_owned(),
            format!("chown 65534:65534 {volume}"),
            "fsGroup: 65534".to_owned(),
        ] {
            assert!(finished.stderr.contains(&part), "{part}: {}", finished.stderr);
        }
    }
}

/// Once, and only where it is so.
#[test]
fn writers_that_cannot_be_seen_are_told_of() {
    const UNSEEN: &str = "cannot be seen";
    let site = Site::new();
    let key = key(&site, NOBODY, 0o440);
    let Some(mut command) = as_nobody(&site, "watch", &key) else { return };
    let of_nobody = write(&site.local(), "own.csv", "own");
    chown(&of_nobody, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut running = Running::start(&mut command);
    site.wait_for(1);
    assert!(!running.said().contains(UNSEEN));
    for name in ["a.csv", "b.csv"] {
        let file = File::create(site.local().join(name)).unwrap();
        mode(&site.local().join(name), 0o644);
        drop(file);
    }
    let said = running.expect_line(UNSEEN);
    for part in ["user 0", "user 65534", "--marker", "--settle"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    site.wait_for(3);
    running.signal(Signal::TERM);
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(finished.stderr.matches(UNSEEN).count(), 1, "{}", finished.stderr);
}
