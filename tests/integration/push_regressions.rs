//! Mistakes that `archiver push` once made, each at the moment at which it made it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use archiver::domain::{DestinationUrl, FileKey, Fingerprint, OwnerId};
use archiver::embedded::{AnnouncedExtensions, Operation, Quirks, RenamePolicy, Request};
use archiver::ledger::{Ledger, SqliteConfig, SqliteLedger};
use chrono::{Duration, Utc};

use super::crash::{Moment, Trap};
use super::stop::{gate, is_commit};
use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, tree, wait_until, write};

/// A server that cannot rename.
fn no_rename() -> Quirks {
    Quirks { rename: RenamePolicy::Unsupported, extensions: AnnouncedExtensions::None, ..Quirks::default() }
}

fn embedded() -> (Bench, Embedded) {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    (Bench::embedded(env, &server), server)
}

/// More than settle at a time: the rest must wait to be named, not be forgotten.
#[test]
fn more_files_than_settle_at_a_time_are_all_accounted_for() {
    let (bench, _server) = embedded();
    for number in 0..11_000 {
        write(&bench.env.local(), format!("{}/{number}", number % 40), "");
    }
    let arguments = ["--settle", "1s", "--dry-run"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0);
    assert_eq!(pushed.rows().len(), 11_000);
    pushed.assert_counts([0, 11_000, 0, 0]);
}

/// A run of ours died before it created the name, so it cannot be ours, however much the file looks like a part of ours.
#[test]
fn a_file_that_looks_like_a_part_of_ours_is_never_removed() {
    let env = TestEnv::new();
    let (faults, trap) = Trap::set();
    let server = Embedded::start_with(&env, no_rename(), Some(Arc::new(faults)));
    let bench = Bench::embedded(env, &server);
    let ours = noise(200_000, 1);
    write(&bench.env.local(), "report.bin", &ours);
    let direct = ["--publish", "direct"];
    trap.kill_at(bench.push([bench.env.local()]).args(direct), Operation::Open, 1, Moment::Before);
    assert!(!bench.base.join("in/report.bin").exists());

    let theirs = [&ours[..32 << 10], b"and then something else"].concat();
    write(&bench.base, "in/report.bin", &theirs);
    Pushed::run(bench.push([bench.env.local()]).args(direct)).expect(0).assert_counts([1, 0, 0, 0]);
    let stands = bench.archived();
    assert_eq!(stands.len(), 2, "{stands:?}");
    assert!(fs::read(bench.base.join("in/report.bin")).unwrap() == theirs, "theirs was touched");
    let other = stands.keys().find(|path| path.to_str() != Some("report.bin")).unwrap();
    assert!(fs::read(bench.base.join("in").join(other)).unwrap() == ours);
}

#[test]
fn a_version_that_changed_while_it_was_written_directly_leaves_nothing_behind() {
    for size in [50_000, 12 << 20] {
        let env = TestEnv::new();
        let (faults, held) = gate(1, |request: &Request| request.operation == Operation::Write);
        let server = Embedded::start_with(&env, no_rename(), Some(Arc::new(faults)));
        let bench = Bench::embedded(env, &server);
        let path = write(&bench.env.local(), "victim", noise(size, 1));
        let running = Running::start(bench.push([bench.env.local()]).args(["--publish", "direct"]));
        held.wait();
        fs::write(&path, noise(size, 2)).unwrap();
        held.open();
        let pushed = Pushed::of(running.finish()).expect(4);
        pushed.assert_counts([0, 0, 1, 0]);
        assert!(files(&bench.base).is_empty(), "{size}: {:?}", files(&bench.base));
        Pushed::run(bench.push([bench.env.local()]).args(["--publish", "direct"])).expect(0);
        bench.assert_same_files();
    }
}

const MARKED: [&str; 4] = ["--marker", "{name}.done", "--after", "delete"];

/// The marker that stands now speaks for the version that stands now.
#[test]
fn the_marker_of_a_version_that_came_during_the_commit_stays() {
    let env = TestEnv::new();
    let (faults, held) = gate(1, is_commit);
    let server = Embedded::with_faults(&env, faults);
    let bench = Bench::embedded(env, &server);
    let local = bench.env.local();
    write(&local, "report", "first");
    write(&local, "report.done", "");
    let running = Running::start(bench.push([&local]).args(MARKED));
    held.wait();
    for (name, content) in [("report", "second, and longer"), ("report.done", "again")] {
        let new = write(bench.env.path(), "new", content);
        fs::rename(new, local.join(name)).unwrap();
    }
    let stands = tree(&local);
    held.open();
    let pushed = Pushed::of(running.finish()).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    assert_eq!(tree(&local), stands);
    assert_eq!(fs::read(bench.base.join("in/report")).unwrap(), b"first");

    Pushed::run(bench.push([&local]).args(MARKED)).expect(0).assert_counts([1, 0, 0, 0]);
    assert!(tree(&local).is_empty(), "{:?}", tree(&local));
    assert_eq!(bench.archived().len(), 2);
}

/// The state that a crash between the record and the end of the disposal leaves: on record, the disposal begun, and the
/// file renamed aside.
fn died_while_disposing() -> (Bench, Embedded, PathBuf) {
    let (bench, server) = embedded();
    let path = write(&bench.env.local(), "report", "finished");
    write(&bench.env.local(), "report.done", "");
    let keep = ["--marker", "{name}.done", "--after", "keep"];
    Pushed::run(bench.push([bench.env.local()]).args(keep)).expect(0).assert_counts([1, 0, 0, 0]);

    let stat = fs::metadata(&path).unwrap();
    let mtime_ns = stat.mtime() * 1_000_000_000 + stat.mtime_nsec();
    let key = FileKey {
        destination: bench.to().parse::<DestinationUrl>().unwrap().to_string().into(),
        source: "".into(),
        path: path.to_str().unwrap().as_bytes().to_vec(),
        fingerprint: Fingerprint { inode: stat.ino(), size: stat.len(), mtime_ns },
    };
    let config = SqliteConfig {
        path: bench.ledger(),
        retention: std::time::Duration::from_secs(3600),
        lease: std::time::Duration::from_secs(60),
        owner: OwnerId(rand::random()),
        clock: Arc::new(Utc::now),
    };
    let dead = SqliteLedger::open(config).unwrap();
    server.block_on(async {
        assert!(dead.recorded(vec![key.clone()]).await.unwrap()[0].is_some(), "another key");
        dead.disposing(&key).await.unwrap();
    });
    drop(dead);
    fs::rename(&path, path.with_file_name(format!(".report.{}.archived", key.id()))).unwrap();
    (bench, server, path)
}

#[test]
fn a_disposal_that_was_cut_short_is_finished_with_its_marker() {
    let (bench, _server, _) = died_while_disposing();
    Pushed::run(bench.push([bench.env.local()]).args(MARKED)).expect(0);
    assert!(tree(&bench.env.local()).is_empty(), "{:?}", tree(&bench.env.local()));
    assert_eq!(bench.archived().len(), 1);
}

#[test]
fn a_disposal_that_was_cut_short_is_undone_where_files_are_kept_now() {
    let (bench, _server, path) = died_while_disposing();
    let keep = ["--marker", "{name}.done", "--after", "keep"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(keep)).expect(0);
    pushed.assert_counts([0, 1, 0, 0]);
    assert_eq!(fs::read(path).unwrap(), b"finished");
    assert_eq!(tree(&bench.env.local()).len(), 2, "{:?}", tree(&bench.env.local()));
    assert_eq!(bench.archived().len(), 1);
}

/// The application made a new file meanwhile, so the old one gets a name beside it, under which it is archived already.
#[test]
fn a_disposal_that_is_undone_beside_a_new_file_archives_nothing_twice() {
    let (bench, _server, path) = died_while_disposing();
    write(&bench.env.local(), "report", "the next one");
    let pushed =
        Pushed::run(bench.push([bench.env.local()]).args(["--after", "keep", "--exclude", "*.done"])).expect(0);
    pushed.assert_counts([1, 1, 0, 0]);
    assert_eq!(fs::read(path).unwrap(), b"the next one");
    let local = tree(&bench.env.local());
    assert!(local.len() == 3 && local.contains_key(Path::new("report.done")), "{local:?}");
    assert_eq!(bench.archived().len(), 2);
    // Nor when files are deleted again.
    Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--exclude", "*.done"])).expect(0);
    assert_eq!(tree(&bench.env.local()).len(), 1);
    assert_eq!(bench.archived().len(), 2);
}

/// G4 holds for a file that `--on-conflict skip` left alone, too.
#[test]
fn a_file_that_was_skipped_for_another_keeps_its_date() {
    const DATED: [&str; 3] = ["--layout", "%Y%m%d-%H%M%S", "--on-conflict"];
    let (bench, _server) = embedded();
    write(&bench.env.local(), "report", "ours");
    let directory = |second: i64| (Utc::now() + Duration::seconds(second)).format("%Y%m%d-%H%M%S").to_string();
    // Whenever the claim is made, another file has the name.
    for second in 0..90 {
        write(&bench.base, format!("{}/report", directory(second)), "theirs");
    }
    let first = Pushed::run(bench.push([bench.env.local()]).args(DATED).arg("skip")).expect(0);
    first.assert_counts([0, 1, 0, 0]);
    let reason = first.reason("/report").to_owned();
    let ended = directory(0);
    wait_until("another second began", || directory(0) > ended);

    let second = Pushed::run(bench.push([bench.env.local()]).args(DATED).arg("rename")).expect(0);
    second.assert_counts([1, 0, 0, 0]);
    let remote = second.row("/report")["remote"].as_str().unwrap();
    let pinned = remote.trim_start_matches('/').split('/').next().unwrap();
    assert!(reason.contains(&format!("/{pinned}/report")), "{reason}, and then {remote}");
    assert_eq!(files(&bench.base).len(), 91);
    assert_eq!(fs::read(bench.base.join(remote.trim_start_matches('/'))).unwrap(), b"ours");
}

#[test]
fn a_file_that_is_listed_twice_is_archived_once() {
    let (bench, _server) = embedded();
    write(&bench.env.local(), "a", "1");
    let list = write(bench.env.path(), "list", "local/a\nlocal/a\n");
    let mut command = bench.push(["--files-from".as_ref(), list.as_os_str()]);
    let pushed = Pushed::run(command.args(["--settle", "200ms"])).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    bench.assert_same_files();
}

#[test]
fn what_is_no_file_and_leads_nowhere_is_a_failed_row() {
    let (bench, _server) = embedded();
    let local = bench.env.local();
    crate::support::openssh::run(bench.env.command("mkfifo").arg(local.join("fifo")));
    std::os::unix::fs::symlink("missing", local.join("dangling")).unwrap();
    std::os::unix::fs::symlink("looping", local.join("looping")).unwrap();
    for (name, text) in [("fifo", "a FIFO"), ("dangling", "symbolic link"), ("looping", "symbolic link")] {
        let pushed = Pushed::run(&mut bench.push([local.join(name)])).expect(1);
        pushed.assert_counts([0, 0, 0, 1]);
        let reason = pushed.reason(name);
        assert!(reason.contains(text), "{name}: {reason}");
    }
}
