//! Markers and disposals of `archiver watch`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::watch::{Site, Summary, names, stop, watching};
use crate::support::env::{files, run, tree, wait_until, write};

/// Markers come after their data, before it, and away again; only marked files go, and their markers with them.
fn marked_and_unmarked(kind: &str) {
    let site = Site::new();
    let local = site.local();
    write(&local, "before.csv", "stood before, unmarked");
    let running = site.watch([
        "--marker={name}.done",
        "--after=delete",
        "--grace=300ms",
        "--scan-interval=200ms",
        "--watcher",
        kind,
    ]);
    write(&local, "a.csv", "data first");
    write(&local, "sub/b.csv.done", "");
    write(&local, "sub/b.csv", "marker first");
    write(&local, "withdrawn.csv.done", "");
    fs::remove_file(local.join("withdrawn.csv.done")).unwrap();
    write(&local, "withdrawn.csv", "marked too early, then no more");
    write(&local, "a.csv.done", "");
    write(&local, "alone.csv.done", "a marker without a file");
    site.wait_for(2);
    wait_until("the two are disposed of", || names(&local).len() == 3);
    write(&local, "before.csv.done", "");
    site.wait_for(3);
    wait_until("that is too", || names(&local).len() == 2);
    let finished = stop(running);
    finished.assert_code(4);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (3, 0, 1, 0));
    assert_eq!(summary.reasons("deferred")["withdrawn.csv"], "waiting for its marker withdrawn.csv.done");
    let archived: Vec<_> = site.archived().into_keys().collect();
    assert_eq!(archived, ["a.csv", "before.csv", "sub/b.csv"].map(Path::new));
    let left: Vec<_> = files(&local).into_keys().collect();
    assert_eq!(left, ["alone.csv.done", "withdrawn.csv"].map(Path::new));
}

#[test]
fn a_file_goes_with_its_marker_and_waits_without() {
    marked_and_unmarked("inotify");
}

#[test]
fn so_it_does_when_polled() {
    marked_and_unmarked("poll");
}

#[test]
fn a_stem_marker_speaks_for_every_file_of_its_stem() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch(["--marker", "{stem}.ok", "--after", "delete"]);
    for name in ["one.csv", "one.json", "two.csv"] {
        write(&local, name, name);
    }
    write(&local, "one.ok", "");
    site.wait_for(2);
    write(&local, "two.ok", "");
    site.wait_for(3);
    wait_until("data and markers are gone", || names(&local).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
}

#[test]
fn a_success_file_speaks_for_its_directory_only() {
    let site = Site::new();
    let local = site.local();
    for number in 0..10 {
        write(&local, format!("done/{number}.csv"), format!("{number}"));
        write(&local, format!("open/{number}.csv"), format!("{number}"));
    }
    let running = site.watch(["--marker", "_SUCCESS", "--after", "delete", "--grace", "300ms"]);
    write(&local, "done/_SUCCESS", "");
    site.wait_for(10);
    wait_until("its directory is empty", || fs::read_dir(local.join("done")).unwrap().count() == 0);
    let finished = stop(running);
    finished.assert_code(4);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (10, 0, 10, 0));
    assert!(summary.reasons("deferred").values().all(|reason| reason == "waiting for its marker _SUCCESS"));
    assert!(site.archived().keys().all(|path| path.starts_with("done")));
}

/// Moved below the source itself, files are not taken for new ones; neither are they elsewhere.
fn moved_to(directory: &str) {
    let site = Site::new();
    let local = site.local();
    let target = local.join(directory);
    let after = format!("move={}", target.display());
    write(&local, "x/before.csv", "before");
    let running = site.watch(["--marker", "{name}.done", "--after", &after, "--scan-interval", "300ms"]);
    write(&local, "x/before.csv.done", "");
    for number in 0..20 {
        write(&local, format!("{number}/{number}.csv"), format!("{number}"));
        write(&local, format!("{number}/{number}.csv.done"), "");
    }
    site.wait_for(21);
    wait_until("all are moved with their markers", || names(&target).len() == 42);
    // A scan after that finds nothing new.
    write(&local, "last.csv", "last");
    write(&local, "last.csv.done", "");
    site.wait_for(22);
    wait_until("the last is moved", || names(&target).len() == 44);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (22, 0, 0, 0));
    let mut moved = files(&target);
    moved.retain(|path, _| path.extension().is_some_and(|extension| extension == "csv"));
    assert_eq!(site.archived(), moved);
}

#[test]
fn files_move_to_a_directory_inside_of_the_source() {
    moved_to(".archived/here");
}

#[test]
fn a_directory_where_moved_files_would_be_found_again_is_refused() {
    let site = Site::new();
    let after = format!("move={}", site.local().join("archived").display());
    let finished = run(&mut site.command(["--after", &after]));
    finished.assert_code(2);
    assert!(finished.stderr.contains("would be found again"), "{}", finished.stderr);
}

#[test]
fn files_move_to_a_directory_outside_of_the_source() {
    moved_to("../archived");
}

#[test]
fn what_is_written_again_under_the_name_of_a_deleted_file_is_archived_too() {
    let site = Site::new();
    let running = site.watch(["--after", "delete"]);
    for round in 1..=5 {
        write(&site.local(), "report.csv", format!("round {round}"));
        site.wait_for(round);
        wait_until("it is deleted", || names(&site.local()).is_empty());
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (5, 0, 0, 0));
    assert!(tree(&site.local()).is_empty());
    assert_eq!(site.archived().len(), 5);
}

/// Run by a user who may not read everything: what cannot be read is named and fails, the rest goes on, and what can be
/// read later is archived then.
#[test]
fn what_may_not_be_read_is_named_and_stops_nothing_else() {
    if !crate::support::openssh::is_root() {
        eprintln!("SKIPPED: only root can run the archiver as another user");
        return;
    }
    let site = Site::new();
    let local = site.local();
    let secret = write(&local, "unreadable.csv", "unreadable");
    write(&local, "closed/inside.csv", "inside");
    write(&local, "open.csv", "open");
    let mut command = command_of_nobody(&site);
    command.args(["--scan-interval", "300ms"]);
    [&secret, &local.join("closed")].into_iter().for_each(|path| mode(path, 0));
    let mut running = watching(&mut command);
    running.expect_line("unreadable.csv");
    running.expect_line("closed");
    write(&local, "later.csv", "later");
    site.wait_for(2);
    mode(&secret, 0o600);
    site.wait_for(3);
    let finished = stop(running);
    finished.assert_code(1);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (3, 0, 0, 1));
    assert!(summary.reasons("failed")["closed"].contains("ermission denied"), "{:?}", summary.reasons("failed"));
    let archived: Vec<_> = names(&site.remote()).into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(archived, ["later.csv", "open.csv", "unreadable.csv"]);
}

/// No event tells that they went away, and nobody waits for them.
#[test]
fn unmarked_files_that_went_away_with_their_directory_are_not_waited_for() {
    for watcher in ["inotify", "poll"] {
        let site = Site::new();
        let local = site.local();
        for number in 0..300 {
            write(&local, format!("d/{number}.csv"), "unmarked");
        }
        let running =
            site.watch(["--marker={name}.done", "--grace=20s", "--scan-interval=300ms", "--watcher", watcher]);
        write(&local, "a.csv", "marked");
        write(&local, "a.csv.done", "");
        site.wait_for(1);
        fs::rename(local.join("d"), site.env.path().join("elsewhere")).unwrap();
        let finished = stop(running);
        finished.assert_code(0);
        assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0), "{watcher}");
    }
}

/// Events are all it takes: the next scan is minutes away.
#[test]
fn a_directory_that_is_opened_later_is_taken_in_and_no_failure_any_more() {
    if !crate::support::openssh::is_root() {
        eprintln!("SKIPPED: only root can run the archiver as another user");
        return;
    }
    let site = Site::new();
    let local = site.local();
    write(&local, "closed/below/inside.csv", "inside");
    let mut command = command_of_nobody(&site);
    mode(&local.join("closed"), 0);
    let mut running = watching(&mut command);
    running.expect_line("closed");
    mode(&local.join("closed"), 0o755);
    site.wait_for(1);
    write(&local, "closed/below/later.csv", "later");
    site.wait_for(2);
    let finished = stop(running);
    finished.assert_code(0);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (2, 1, 0, 0));
    assert!(summary.reasons("skipped")["closed"].contains("can be read now"), "{:?}", summary.reasons("skipped"));
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `archiver watch` of `local/`, all of which belongs to a user who is not root, by that user.
fn command_of_nobody(site: &Site) -> Command {
    const NOBODY: u32 = 65534;
    let key = site.env.home().join(".ssh/id_ed25519");
    fs::copy(site.server.client_key(), &key).unwrap();
    crate::support::openssh::run(site.env.command("chown").arg("-R").arg("nobody").arg(site.env.path()));
    let url = site.server.url();
    let mut command = site.env.archiver(["watch", "--ssh-config", "none", "--summary", "json", "--to", &url]);
    command.args(["--settle", "100ms"]).arg("--known-hosts").arg(site.server.known_hosts()).arg(site.local());
    command.uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn a_missing_marker_is_named_with_all_its_bytes() {
    let site = Site::new();
    write(&site.local(), OsStr::from_bytes(b"caf\xe9.csv"), "x");
    let running = site.watch(["--marker", "{name}.done", "--grace", "200ms"]);
    let finished = stop(running);
    finished.assert_code(4);
    let reasons: Vec<_> = Summary::of(&finished).reasons("deferred").into_values().collect();
    assert_eq!(reasons, ["waiting for its marker caf\\xe9.csv.done"]);
}
