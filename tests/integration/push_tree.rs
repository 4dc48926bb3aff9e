//! Trees and files as they should be: byte for byte, with time and mode.

use std::path::Path;

use super::{Bench, Pushed, many_bytes, set_stamp, stamps};
use crate::support::env::{files, noise, tree, write};
use crate::support::openssh::OpenSsh;

/// A small tree with what is easily forgotten.
fn grow(root: &Path) {
    write(root, "a.csv", "a,b\n1,2\n");
    write(root, "empty", "");
    write(root, "below/one byte", "x");
    write(root, "below/deeper/still/five.bin", noise(5 << 20, 5));
    // Around the sizes at which something else begins: one packet, a whole read, a window.
    for size in [32 << 10, 255_000, 256 << 10, (256 << 10) + 1, (4 << 20) + 7] {
        write(root, format!("sizes/{size}"), noise(size, size as u64));
    }
    set_stamp(&root.join("a.csv"), 0o640, 1_000_000_000);
    set_stamp(&root.join("empty"), 0o600, 1);
    set_stamp(&root.join("below/one byte"), 0o755, 1_700_000_000);
}

#[test]
fn a_tree_arrives_byte_for_byte_with_time_and_mode() {
    let (bench, server) = Bench::plain();
    grow(&bench.env.local());
    let pushed = bench.push_local();
    pushed.assert_counts([9, 0, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();
    assert_eq!(stamps(&bench.base.join("in")), stamps(&bench.env.local()));

    assert_eq!(pushed.json["version"], 1);
    assert_eq!(pushed.json["destination"], bench.to());
    let row = pushed.row("/a.csv");
    assert_eq!(row["remote"], format!("{}/in/a.csv", server.base()));
    assert_eq!(row["path"], bench.env.local().join("a.csv").to_str().unwrap());
    assert_eq!((&row["source"], &row["bytes"], &row["attempts"]), (&"".into(), &8.into(), &1.into()));
    for (path, entry) in files(&bench.env.local()) {
        let crate::support::env::Entry::File { bytes, sha256 } = entry else { unreachable!() };
        let row = pushed.row(&format!("/{}", path.display()));
        assert_eq!((row["bytes"].as_u64().unwrap(), row["sha256"].as_str().unwrap()), (bytes, sha256.as_str()));
    }
}

#[test]
fn a_chroot_with_one_writable_directory_takes_a_tree() {
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let server = builder.start();
    let bench = Bench::openssh(&server);
    grow(&bench.env.local());
    bench.push_local().assert_counts([9, 0, 0, 0]);
    bench.assert_same_files();
    assert_eq!(stamps(&bench.base.join("in")), stamps(&bench.env.local()));
}

#[test]
fn a_file_beyond_the_size_that_is_resumed_arrives_whole() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "large.bin", many_bytes(70));
    Pushed::run(&mut bench.push([bench.env.local()])).expect(0).assert_counts([1, 0, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn directories_and_single_files_are_pushed_together() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "one/a", "1");
    write(&local, "two/deep/b", "2");
    write(&local, "three/c", "3");
    let arguments = [local.join("one"), local.join("two"), local.join("three/c")];
    Pushed::run(&mut bench.push(arguments)).expect(0).assert_counts([3, 0, 0, 0]);
    let names: Vec<_> = bench.archived().into_keys().collect();
    assert_eq!(names, ["a", "c", "deep/b"].map(Into::<std::path::PathBuf>::into));
}

#[test]
fn a_single_file_goes_by_its_own_name() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "deep/below/report.csv", "r");
    let mut command = bench.push(["deep/below/report.csv"]);
    command.current_dir(bench.env.local());
    Pushed::run(&mut command).expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(bench.archived().into_keys().collect::<Vec<_>>(), [Path::new("report.csv")]);
    // And without a slash in it: the file's directory is the working one.
    let mut command = bench.push(["report.csv"]);
    command.current_dir(bench.env.local().join("deep/below"));
    Pushed::run(&mut command).expect(0).assert_counts([0, 1, 0, 0]);
}

#[test]
fn an_empty_directory_is_no_work() {
    let (bench, _server) = Bench::plain();
    let pushed = bench.push_local();
    pushed.assert_counts([0, 0, 0, 0]);
    assert!(tree(&bench.base).is_empty());
}

#[test]
fn the_default_layout_is_the_date_of_today_in_utc() {
    let (bench, server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let today = || chrono::Utc::now().format("%Y/%m/%d").to_string();
    let before = today();
    let pushed = Pushed::run(bench.push([bench.env.local()]).env_remove("ARCHIVER_LAYOUT")).expect(0);
    let remote = pushed.row("/a")["remote"].as_str().unwrap();
    let possible = [before, today()].map(|day| format!("{}/{day}/a", server.base()));
    assert!(possible.iter().any(|path| path == remote), "{remote}");
    assert_eq!(std::fs::read(remote).unwrap(), b"a");
}

#[test]
fn paths_that_overlap_are_uploaded_once_for_each_place() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "sub/a", "1");
    // The same file twice, under one name: one upload.
    let pushed = Pushed::run(&mut bench.push([local.join("sub"), local.join("sub")])).expect(0);
    let [archived, skipped, deferred, failed] = pushed.counts();
    assert_eq!((archived, deferred, failed), (1, 0, 0), "{}", pushed.finished.stdout);
    assert!(skipped <= 1);
    assert_eq!(bench.archived().len(), 1);
}
