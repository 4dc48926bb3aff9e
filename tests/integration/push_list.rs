//! `--files-from`: lists that `find` and people make.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{Bench, Pushed};
use crate::support::env::{Running, files, write};

/// The command with this text as its standard input.
fn fed(command: &mut Command, input: &[u8]) -> Pushed {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    Pushed::of(Running::start(command.stdin(Stdio::from(file))).finish())
}

#[test]
fn find_print0_is_understood_with_newlines_in_names() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    for name in ["new\nline/a\n.csv", "b.csv", "deep/er/c.csv", "-dash.csv", "not this.txt"] {
        write(&local, name, name);
    }
    let find =
        bench.env.command("find").current_dir(bench.env.path()).args(["local", "-name", "*.csv", "-print0"]).output();
    let list = find.unwrap().stdout;
    let pushed = fed(&mut bench.push(["--files-from", "-", "-0", "local"]), &list).expect(0);
    pushed.assert_counts([4, 0, 0, 0]);
    std::fs::remove_file(local.join("not this.txt")).unwrap();
    bench.assert_same_files();
    // The same list by absolute names, and by names below the directory: all on record.
    for command in [format!("find {} -type f -print0", local.display()), "cd local && find . -type f -print0".into()] {
        let list = bench.env.command("sh").args(["-c", &command]).output().unwrap().stdout;
        let pushed = fed(&mut bench.push(["--files-from", "-", "-0", "local"]), &list).expect(0);
        pushed.assert_counts([0, 4, 0, 0]);
    }
}

#[test]
fn without_a_directory_each_file_goes_by_its_own_name() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "deep/a", "1");
    write(&local, "deeper/still/b", "2");
    let list = write(bench.env.path(), "list", format!("local/deep/a\n{}\n", local.join("deeper/still/b").display()));
    let mut command = bench.push(["--files-from".as_ref(), list.as_os_str()]);
    Pushed::run(&mut command).expect(0).assert_counts([2, 0, 0, 0]);
    assert_eq!(bench.archived().into_keys().collect::<Vec<_>>(), ["a", "b"].map(std::path::PathBuf::from));
}

#[test]
fn bad_lines_fail_alone_and_say_what_to_do() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "good", "good");
    write(bench.env.path(), "outside", "outside");
    std::os::unix::fs::symlink("../outside", local.join("link")).unwrap();
    let outside = bench.env.path().join("outside");
    let list = format!("good\nmissing\n../outside\n{}\nlink\n\ngood\n", outside.display());
    let pushed = fed(&mut bench.push(["--files-from", "-", "local"]), list.as_bytes()).expect(1);
    assert_eq!(pushed.counts()[0], 1, "{}", pushed.finished.stdout);
    let reasons: String = pushed.rows().iter().filter_map(|row| row["reason"].as_str()).collect();
    assert!(reasons.contains("does not lie below") && reasons.contains("contains `..`"), "{reasons}");
    assert!(!pushed.row("missing")["status"].as_str().unwrap().contains("archived"));
    assert_eq!(bench.archived().len(), 1);
}

#[test]
fn a_list_that_is_missing_or_empty() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let pushed = Pushed::run(&mut bench.push(["--files-from", "no-such-list", "local"])).expect(2);
    pushed.says(&["no-such-list", "check the path"]);
    fed(&mut bench.push(["--files-from", "-", "local"]), b"").expect(0).assert_counts([0, 0, 0, 0]);
    assert!(bench.archived().is_empty());
}

#[test]
fn nul_separated_names_without_dash_0_are_explained() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    write(&bench.env.local(), "b", "b");
    let pushed = fed(&mut bench.push(["--files-from", "-", "local"]), b"a\0b\0").expect(1);
    let reason = pushed.rows()[0]["reason"].as_str().unwrap();
    assert!(reason.contains("add `-0`"), "{reason}");
    assert!(bench.archived().is_empty());
}

#[test]
fn what_is_listed_is_sent_though_it_is_hidden() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), ".hidden/x.tmp", "asked for");
    fed(&mut bench.push(["--files-from", "-", "local"]), b".hidden/x.tmp").expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(bench.archived(), files(&bench.env.local()));
}
