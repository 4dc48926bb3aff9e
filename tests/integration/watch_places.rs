//! Places that change under a running watch: a source that is mounted over, or may only be read, and disks that fill up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::watch::{Site, Summary, names, stop};
use crate::support::env::{Running, TestEnv, files, noise, wait_until, write};
use crate::support::namespace::{self, enter, seen_by};

/// Starts a watch after these shell commands, in namespaces of its own.
fn watch_within(setup: &str, command: &Command) -> Running {
    let mut running = Running::start(&mut namespace::within(setup, command));
    running.expect_line("watching");
    running
}

fn mount_tmpfs(directory: &Path, size: &str) -> String {
    fs::create_dir_all(directory).unwrap();
    format!("mount -t tmpfs -o size={size} tmpfs '{}'", directory.display())
}

/// It cannot delete what it archived: each file is archived once and stays, and that is said, once.
#[test]
fn a_read_only_source_is_archived_once_and_the_disposal_is_not_tried_without_end() {
    if !namespace::possible() {
        return;
    }
    let site = Site::new();
    let local = site.local();
    for number in 0..20 {
        write(&local, format!("{}/{number}.csv", number % 3), format!("{number}"));
    }
    let before = files(&local);
    let place = local.display();
    let setup = format!("mount --bind '{place}' '{place}'; mount -o remount,bind,ro '{place}'");
    let command = site.command(["--after", "delete", "--scan-interval", "200ms", "-vv"]);
    let mut running = watch_within(&setup, &command);
    site.wait_for(20);
    let ledger = site.env.home().join(".local/state/archiver/ledger.db-wal");
    // Three scans, so that whatever is to be tried once has been; then some more, in which nothing is.
    let scans = |running: &mut Running| (0..3).for_each(|_| drop(running.expect_line("scanning")));
    scans(&mut running);
    let quiet = fs::metadata(&ledger).unwrap().modified().unwrap();
    scans(&mut running);
    scans(&mut running);
    let still = fs::metadata(&ledger).unwrap().modified().unwrap();
    let finished = stop(running);
    finished.assert_code(0);
    let told = finished.stderr.matches("is read-only").count();
    eprintln!("20 files, told {told} times that they cannot be deleted");
    assert_eq!(told, 20, "{}", finished.stderr);
    assert_eq!(still, quiet, "the disposal is tried again at each scan");
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (20, 0, 0, 0));
    for (name, reason) in summary.reasons("archived") {
        assert!(reason.contains("read-only") && reason.contains("--after keep"), "{name}: {reason}");
    }
    assert_eq!((files(&local), site.archived()), (before.clone(), before));
}

/// A volume that is mounted over the source, and goes away again: what stands there is archived each time.
#[test]
fn a_source_that_is_mounted_over_is_watched_on_either_side() {
    if !namespace::possible() {
        return;
    }
    let site = Site::new();
    let local = site.local();
    write(&local, "below/before.csv", "before");
    let mut running = watch_within("", &site.command(["--after", "delete"]));
    site.wait_for(1);
    enter(&running, &mount_tmpfs(&local, "1m"));
    running.expect_line("RootReplaced");
    let mounted = seen_by(&running, &local);
    write(&mounted, "on the volume/a.csv", "a");
    site.wait_for(2);
    // What is written below the mount is out of sight meanwhile, and is found afterwards.
    write(&local, "below/hidden.csv", "hidden");
    write(&mounted, "on the volume/b.csv", "b");
    site.wait_for(3);
    wait_until("they are deleted", || names(&mounted).is_empty());
    enter(&running, &format!("umount -l '{}'", local.display()));
    running.expect_line("RootReplaced");
    site.wait_for(4);
    write(&local, "below/late.csv", "late");
    site.wait_for(5);
    wait_until("all are deleted", || names(&local).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (5, 0, 0, 0));
    let found: Vec<_> = site.archived().into_keys().collect();
    let expected =
        ["below/before.csv", "below/hidden.csv", "below/late.csv", "on the volume/a.csv", "on the volume/b.csv"];
    assert_eq!(found, expected.map(PathBuf::from));
}

/// Takes all the space of the filesystem at `directory`.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut chunk = vec![b'#'; 64 << 10];
    let mut file = fs::File::create(&path).unwrap();
    while !chunk.is_empty() {
        if std::io::Write::write_all(&mut file, &chunk).is_err() {
            chunk.truncate(chunk.len() / 2);
        }
    }
    path
}

/// While there is no room for a record nothing is deleted; when there is, all goes on by itself.
#[test]
fn a_full_disk_of_the_ledger_holds_the_work_until_there_is_room() {
    if !namespace::possible() {
        return;
    }
    let site = Site::new();
    let local = site.local();
    let state = site.env.path().join("state");
    let mut command = site.command(["--after", "delete"]);
    command.arg("--ledger").arg(state.join("ledger.db"));
    let mut running = watch_within(&mount_tmpfs(&state, "3m"), &command);
    write(&local, "first.csv", "first");
    site.wait_for(1);
    wait_until("it is deleted", || names(&local).is_empty());
    let filler = fill(&seen_by(&running, &state));
    let model = TestEnv::new();
    for number in 0..300 {
        for root in [model.local(), local.clone()] {
            write(&root, format!("{}/{number}.csv", number % 7), noise(500, number));
        }
    }
    let line = running.expect_line("its filesystem is full");
    assert!(line.contains("ledger.db"), "{line}");
    // Whatever is gone here stands there.
    let archived = names(&site.remote()).len();
    let left = names(&local).len();
    assert!(left > 0 && archived + left > 300, "{archived} archived, {left} left");
    fs::remove_file(filler).unwrap();
    site.wait_for(301);
    wait_until("all are deleted", || names(&local).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (301, 0, 0, 0));
    // Three hundred files waited, and it is said once each time.
    let told = finished.stderr.matches("holding work until").count();
    assert!(told <= 1 + finished.stderr.matches("the ledger is back").count(), "{}", finished.stderr);
    write(&model.local(), "first.csv", "first");
    assert_eq!(site.archived(), files(&model.local()));
}

/// Files are moved to a disk that is full: those that find no room stay where they are, whole, and no half of one is
/// left on the other side.
#[test]
fn a_full_disk_that_files_are_moved_to_loses_none() {
    if !namespace::possible() {
        return;
    }
    let site = Site::new();
    let (local, target) = (site.local(), site.env.path().join("moved"));
    for number in 0..6 {
        write(&local, format!("{number}.csv"), noise(40_000, number));
    }
    let before = files(&local);
    let after = format!("move={}", target.display());
    let command = site.command(["--after", &after]);
    let running = watch_within(&mount_tmpfs(&target, "128k"), &command);
    site.wait_for(6);
    let moved = seen_by(&running, &target);
    // The namespace, and what was moved, goes with the process.
    let own = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let sizes = |directory: &Path| names(directory).into_iter().filter(|(path, _)| !own(path)).collect::<Vec<_>>();
    wait_until("what finds room is moved", || sizes(&moved).len() == 3 && sizes(&local).len() == 3);
    assert_eq!(names(&moved).len(), 3, "a part of one is left");
    let mut both = files(&local);
    both.extend(files(&moved));
    assert_eq!(both, before);
    let finished = stop(running);
    finished.assert_code(0);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (6, 0, 0, 0));
    let stayed = summary.reasons("archived").values().filter(|reason| reason.contains("cannot be moved")).count();
    assert_eq!(stayed, names(&local).len());
    assert_eq!(site.archived(), before);
}
