//! What an application does with its files, and what `archiver watch` makes of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::watch::{Lister, Site, Summary, names, stop, watching};
use crate::support::env::{TestEnv, files, noise, pause, run, wait_until, write};

/// Files that stood before, that are written, moved in, copied in, and whole trees: all arrive, whoever watches.
fn every_way_in(kind: &str) {
    let site = Site::new();
    let (local, outside) = (site.local(), site.env.path().join("outside"));
    write(&local, "before.csv", "stood before the start");
    write(&local, "before/below.csv", "and below");
    let running = site.watch(["--watcher", kind, "--scan-interval", "500ms"]);
    write(&local, "written.csv", "written");
    write(&local, "empty.csv", "");
    write(&local, "a/b/c/deep.csv", "made with all its directories at once");
    for number in 0..20 {
        write(&local, format!("n/{number}/{}/file.csv", number % 3), format!("{number}"));
    }
    fs::rename(write(&outside, "moved.csv", "moved in"), local.join("moved.csv")).unwrap();
    let old = write(&outside, "old.csv", "copied in with an old modification time");
    File::open(&old).unwrap().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    run(site.env.command("cp").arg("-p").arg(&old).arg(local.join("copied.csv"))).assert_code(0);
    write(&outside, "tree/one/two.csv", "a tree that is moved in");
    write(&outside, "tree/three.csv", "with this too");
    fs::rename(outside.join("tree"), local.join("tree")).unwrap();
    write(&local, "big.bin", noise(3 << 20, 1));
    write(&local, "in flight.tmp", "no candidate");
    write(&local, ".hidden", "no candidate");
    fs::rename(write(&local, "final.tmp", "renamed when done"), local.join("final.csv")).unwrap();

    let mut expected = files(&local);
    expected.retain(|path, _| !["in flight.tmp", ".hidden"].contains(&path.to_str().unwrap()));
    site.wait_for(expected.len());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), expected);
    assert_eq!(Summary::of(&finished).totals(), (expected.len() as u64, 0, 0, 0));
}

#[test]
fn inotify_finds_every_way_in() {
    every_way_in("inotify");
}

#[test]
fn polling_finds_every_way_in() {
    every_way_in("poll");
}

/// A writer that holds its file open for many settle times.
#[test]
fn a_file_is_never_seen_before_its_writer_is_done() {
    let site = Site::new();
    let running = site.watch([]);
    let lister = Lister::start(site.remote());
    let content = noise(2_000_000, 2);
    let mut slow = File::create(site.local().join("slow.bin")).unwrap();
    for piece in content.chunks(100_000) {
        slow.write_all(piece).unwrap();
        // The writer's own pace, twenty times half of the settle time, is what is tested.
        pause(Duration::from_millis(50));
    }
    // Quiet for several settle times, and open still.
    pause(Duration::from_millis(400));
    assert_eq!(names(&site.remote()), BTreeMap::new());
    drop(slow);
    site.wait_for(1);
    stop(running).assert_code(0);
    let seen = lister.finish();
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [vec![content.len() as u64]]);
    assert_eq!(site.archived(), files(&site.local()));
}

/// A writer that opens its file for each piece, within the settle time.
#[test]
fn a_file_that_is_reopened_for_each_line_is_archived_whole() {
    let site = Site::new();
    let running = site.watch(["--settle", "1s"]);
    let lister = Lister::start(site.remote());
    let path = site.local().join("lines.log");
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    for line in 0..40 {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        writeln!(file, "line {line}").unwrap();
        drop(file);
        pause(Duration::from_millis(50));
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    site.wait_for(1);
    stop(running).assert_code(0);
    let sizes: Vec<_> = lister.finish().into_values().collect();
    // A machine that stalled the writer for longer than the settle time made a finished file of its beginning.
    if longest < Duration::from_millis(900) {
        assert_eq!(sizes, [vec![fs::metadata(&path).unwrap().len()]]);
        assert_eq!(site.archived(), files(&site.local()));
    }
}

#[test]
fn what_is_appended_or_cut_later_is_a_version_of_its_own() {
    let site = Site::new();
    let running = site.watch([]);
    let path = write(&site.local(), "app.log", "first\n");
    site.wait_for(1);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"second\n").unwrap();
    site.wait_for(2);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    site.wait_for(3);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
    let expected = contents([
        ("app.log", "first\n"),
        // The first eight digits of the SHA-256 of the bytes.
        ("app.dbea9325.log", "first\nsecond\n"),
        ("app.e3b0c442.log", ""),
    ]);
    assert_eq!(site.archived(), expected);
}

/// Names are part of a file's identity: a rotated log is archived under its new name too, and no version is lost.
#[test]
fn rotation_loses_no_version() {
    let site = Site::new();
    let running = site.watch([]);
    write(&site.local(), "app.log", "day one");
    site.wait_for(1);
    fs::rename(site.local().join("app.log"), site.local().join("app.log.1")).unwrap();
    write(&site.local(), "app.log", "day two!");
    site.wait_for(3);
    let finished = stop(running);
    finished.assert_code(0);
    let found = site.archived();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
    let local = files(&site.local());
    assert_eq!(found[Path::new("app.log.1")], local[Path::new("app.log.1")]);
    assert_eq!(found[Path::new("app.log")], local[Path::new("app.log.1")]);
    let second = found.iter().find(|(path, _)| !["app.log", "app.log.1"].contains(&path.to_str().unwrap()));
    assert_eq!(second.unwrap().1, &local[Path::new("app.log")]);
}

#[test]
fn links_lead_nowhere_not_even_when_planted_later() {
    let site = Site::new();
    let (local, outside) = (site.local(), site.env.path().join("outside"));
    let secret = write(&outside, "secret.csv", "secret");
    write(&outside, "deep/secret2.csv", "secret");
    std::os::unix::fs::symlink(&secret, local.join("planted before.csv")).unwrap();
    write(&local, "swapped/inside.csv", "inside");
    let running = site.watch(["--scan-interval", "300ms"]);
    std::os::unix::fs::symlink(&secret, local.join("planted.csv")).unwrap();
    std::os::unix::fs::symlink(&outside, local.join("directory")).unwrap();
    std::os::unix::fs::symlink("../..", local.join("loop")).unwrap();
    site.wait_for(1);
    // A directory that is watched becomes a link, and what is written through it raises events on neither side.
    fs::rename(local.join("swapped"), site.env.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(&outside, local.join("swapped")).unwrap();
    write(&outside, "inside.csv", "not inside any more");
    write(&local, "directory/through the link.csv", "not inside");
    write(&local, "real.csv", "real");
    site.wait_for(2);
    let finished = stop(running);
    finished.assert_code(0);
    let expected = contents([("swapped/inside.csv", "inside"), ("real.csv", "real")]);
    assert_eq!(site.archived(), expected);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
}

/// A directory inside the source is swapped for a link out of it again and again while files appear in both.
#[test]
fn a_race_of_links_leads_nowhere() {
    let site = Site::new();
    let (local, outside) = (site.local(), site.env.path().join("outside"));
    let parked = site.env.path().join("parked");
    for number in 0..50 {
        write(&local, format!("swap/{number}.csv"), "inside");
        write(&outside, format!("{number}.csv"), "OUTSIDE");
    }
    let running = site.watch(["--settle", "10ms", "--scan-interval", "100ms"]);
    for number in 50..150 {
        fs::rename(local.join("swap"), &parked).unwrap();
        std::os::unix::fs::symlink(&outside, local.join("swap")).unwrap();
        write(&outside, format!("{number}.csv"), "OUTSIDE");
        fs::remove_file(local.join("swap")).unwrap();
        fs::rename(&parked, local.join("swap")).unwrap();
        write(&local, format!("swap/{number}.csv"), "inside");
    }
    site.wait_for(150);
    stop(running).assert_code(0);
    assert_eq!(site.archived(), files(&local));
}

#[test]
fn a_source_that_is_removed_and_made_again_is_watched_again() {
    let site = Site::new();
    let mut running = site.watch([]);
    write(&site.local(), "one.csv", "one");
    site.wait_for(1);
    fs::remove_dir_all(site.local()).unwrap();
    running.expect_line("the directory is gone");
    write(&site.local(), "two.csv", "two");
    site.wait_for(2);
    write(&site.local(), "new/three.csv", "three");
    site.wait_for(3);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), contents([("one.csv", "one"), ("two.csv", "two"), ("new/three.csv", "three")]));
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
}

#[test]
fn each_source_has_its_own_rules_and_destination() {
    let site = Site::new();
    let other = Site::new();
    // Both servers know the same key.
    fs::copy(site.server.dir().join("authorized_keys"), other.server.dir().join("authorized_keys")).unwrap();
    let known: String = [&site, &other].map(|site| fs::read_to_string(site.server.known_hosts()).unwrap()).concat();
    let known = write(site.env.path(), "known_hosts", known);
    let config = format!(
        "[destination]\nurl = {:?}\n[[source]]\nname = \"logs\"\npaths = [{:?}]\ninclude = [\"*.log\"]\n\
         [[source]]\nname = \"data\"\npaths = [{:?}]\nafter = \"delete\"\ndestination.url = {:?}\n\
         destination.layout = \"{{source}}/%Y/%m\"\n",
        site.server.url(),
        site.local().join("logs"),
        site.local().join("data"),
        other.server.url(),
    );
    let config = write(site.env.path(), "archiver.toml", config);
    write(&site.local(), "logs/a.log", "a");
    write(&site.local(), "data/before.csv", "before");
    let mut command = site.env.archiver(["watch", "--ssh-config", "none", "--summary", "json", "--settle", "100ms"]);
    command.arg("--config").arg(config).arg("--identity").arg(site.server.client_key());
    let running = watching(command.arg("--known-hosts").arg(known));
    write(&site.local(), "logs/b.log", "b");
    write(&site.local(), "logs/no.csv", "not included");
    write(&site.local(), "data/x/c.csv", "c");
    site.wait_for(2);
    other.wait_for(2);
    wait_until("the archived files are deleted", || names(&site.local().join("data")).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), contents([("a.log", "a"), ("b.log", "b")]));
    // The layout of the second one has three levels too.
    assert_eq!(other.archived(), contents([("before.csv", "before"), ("x/c.csv", "c")]));
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (4, 0, 0, 0));
    assert_eq!(summary.rows("archived").filter(|row| row["source"] == "data").count(), 2);
}

/// What a tree with these files looks like.
fn contents<const N: usize>(wanted: [(&str, &str); N]) -> BTreeMap<PathBuf, crate::support::env::Entry> {
    let env = TestEnv::new();
    wanted.into_iter().for_each(|(path, content)| drop(write(&env.local(), path, content)));
    files(&env.local())
}
