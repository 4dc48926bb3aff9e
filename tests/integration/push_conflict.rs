//! The final name is taken: by other bytes, the same bytes, a directory. Nothing that stands there is lost (G5).

use sha2::{Digest, Sha256};

use super::{Bench, Pushed};
use crate::support::env::{Entry, files, tree, write};
use crate::support::openssh::OpenSsh;

/// `local/report.csv` is to be pushed, and other bytes stand under its name.
fn taken() -> (Bench, OpenSsh) {
    let (bench, server) = Bench::plain();
    write(&bench.env.local(), "report.csv", "ours");
    write(&bench.base, "in/report.csv", "theirs");
    (bench, server)
}

fn digits(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn stands(bench: &Bench, name: &str, bytes: &str) {
    assert_eq!(std::fs::read_to_string(bench.base.join("in").join(name)).unwrap(), bytes);
}

#[test]
fn other_bytes_get_another_name_and_only_one() {
    let (bench, _server) = taken();
    let beside = format!("report.{}.csv", digits(b"ours"));
    for force in [None, Some("--force"), Some("--force")] {
        let pushed = Pushed::run(bench.push([bench.env.local()]).args(force)).expect(0);
        pushed.assert_counts([1, 0, 0, 0]);
        assert!(pushed.row("/report.csv")["remote"].as_str().unwrap().ends_with(&format!("/in/{beside}")));
        stands(&bench, "report.csv", "theirs");
        stands(&bench, &beside, "ours");
        assert_eq!(bench.archived().len(), 2);
    }
    bench.assert_no_part();
}

#[test]
fn both_names_taken_by_others_fails_and_says_so() {
    let (bench, _server) = taken();
    let beside = format!("report.{}.csv", digits(b"ours"));
    write(&bench.base, format!("in/{beside}"), "theirs too");
    let before = tree(&bench.base);
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--retries", "2", "--after", "delete"])).expect(1);
    pushed.assert_counts([0, 0, 0, 1]);
    assert!(pushed.reason("/report.csv").contains(&beside), "{}", pushed.finished.stdout);
    assert_eq!(tree(&bench.base), before);
    assert!(bench.env.local().join("report.csv").exists());
}

#[test]
fn skip_leaves_both_sides_alone() {
    let (bench, _server) = taken();
    let before = tree(&bench.base);
    let arguments = ["--on-conflict", "skip", "--after", "delete"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0);
    pushed.assert_counts([0, 1, 0, 0]);
    assert!(pushed.reason("/report.csv").contains("another file stands at"), "{}", pushed.finished.stdout);
    assert_eq!(tree(&bench.base), before);
    // Not archived, so not disposed of either, and not on record: once the name is free it goes through.
    assert!(bench.env.local().join("report.csv").exists());
    std::fs::remove_file(bench.base.join("in/report.csv")).unwrap();
    bench.push_local().assert_counts([1, 0, 0, 0]);
    stands(&bench, "report.csv", "ours");
}

#[test]
fn overwrite_replaces() {
    let (bench, _server) = taken();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--on-conflict", "overwrite"])).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn fail_fails_and_leaves_both_sides_alone() {
    let (bench, _server) = taken();
    let before = tree(&bench.base);
    let arguments = ["--on-conflict", "fail", "--after", "delete", "--retries", "2"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(1);
    pushed.assert_counts([0, 0, 0, 1]);
    let reason = pushed.reason("/report.csv");
    assert!(reason.contains("something else has that name") && reason.contains("--on-conflict rename"), "{reason}");
    assert_eq!(tree(&bench.base), before);
    assert!(bench.env.local().join("report.csv").exists());
}

#[test]
fn the_same_bytes_count_as_archived_under_every_policy() {
    for policy in ["rename", "skip", "overwrite", "fail"] {
        let (bench, _server) = Bench::plain();
        write(&bench.env.local(), "report.csv", "the same");
        write(&bench.env.local(), "empty", "");
        write(&bench.base, "in/report.csv", "the same");
        write(&bench.base, "in/empty", "");
        let before = tree(&bench.base);
        let arguments = ["--on-conflict", policy, "--after", "delete"];
        let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0);
        pushed.assert_counts([2, 0, 0, 0]);
        assert!(pushed.reason("/report.csv").contains("the same bytes stood there already"), "{policy}");
        assert_eq!(tree(&bench.base), before, "{policy}");
        assert!(files(&bench.env.local()).is_empty(), "{policy}: archived, so disposed of");
    }
}

#[test]
fn a_directory_in_the_way_is_never_replaced() {
    for (policy, code) in [("rename", 0), ("skip", 0), ("overwrite", 1), ("fail", 1)] {
        let (bench, _server) = Bench::plain();
        write(&bench.env.local(), "report.csv", "ours");
        write(&bench.base, "in/report.csv/within", "theirs");
        let arguments = ["--on-conflict", policy, "--retries", "2"];
        let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(code);
        stands(&bench, "report.csv/within", "theirs");
        bench.assert_no_part();
        match policy {
            "rename" => stands(&bench, &format!("report.{}.csv", digits(b"ours")), "ours"),
            "overwrite" => assert!(pushed.reason("/report.csv").contains("directory"), "{}", pushed.finished.stdout),
            _ => assert_eq!(bench.archived().len(), 1),
        }
    }
}

#[test]
fn a_file_where_a_directory_is_needed_fails_and_says_which() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "reports/a", "a");
    write(&bench.env.local(), "other", "o");
    write(&bench.base, "in/reports", "a file");
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--retries", "2"])).expect(1);
    pushed.assert_counts([1, 0, 0, 1]);
    let reason = pushed.reason("/reports/a");
    assert!(reason.contains("in/reports") && reason.contains("a file of that name stands in its place"), "{reason}");
    stands(&bench, "reports", "a file");
}

#[test]
fn a_link_in_the_way_is_neither_followed_nor_replaced() {
    for (policy, code) in [("rename", 0), ("overwrite", 1)] {
        let (bench, _server) = Bench::plain();
        write(&bench.env.local(), "report.csv", "ours");
        let target = write(bench.env.path(), "precious", "ours");
        std::fs::create_dir(bench.base.join("in")).unwrap();
        std::os::unix::fs::symlink(&target, bench.base.join("in/report.csv")).unwrap();
        Pushed::run(bench.push([bench.env.local()]).args(["--on-conflict", policy, "--retries", "1"])).expect(code);
        assert_eq!(tree(&bench.base)[std::path::Path::new("in/report.csv")], Entry::Link(target.clone()));
        assert_eq!(std::fs::read(target).unwrap(), b"ours");
    }
}

#[test]
fn files_of_one_name_from_two_directories_never_meet() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    for number in 0..20 {
        write(&local, format!("{number}/same.csv"), format!("bytes of {number}"));
    }
    let arguments = (0..20).map(|number| local.join(number.to_string()).join("same.csv"));
    let pushed = Pushed::run(&mut bench.push(arguments)).expect(0);
    pushed.assert_counts([20, 0, 0, 0]);
    let mut remote: Vec<_> = pushed.rows().iter().map(|row| row["remote"].as_str().unwrap().to_owned()).collect();
    remote.sort();
    remote.dedup();
    assert_eq!((remote.len(), bench.archived().len()), (20, 20));
    for row in pushed.rows() {
        let local = std::fs::read(row["path"].as_str().unwrap()).unwrap();
        assert_eq!(local, std::fs::read(row["remote"].as_str().unwrap()).unwrap());
    }
    bench.assert_no_part();
}
