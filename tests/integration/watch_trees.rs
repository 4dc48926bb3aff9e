//! Directories that move, vanish and come back below `archiver watch`. Events alone must do: the next scan is far away.

use std::fs;
use std::path::PathBuf;

use super::watch::{Site, Summary, stop};
use crate::support::env::{files, write};

#[test]
fn a_directory_that_is_renamed_is_watched_under_its_new_name() {
    let site = Site::new();
    let local = site.local();
    write(&local, "old/sub/before.csv", "before");
    let running = site.watch([]);
    site.wait_for(1);
    fs::rename(local.join("old"), local.join("new")).unwrap();
    // Its file has another name now, and is archived under that too.
    site.wait_for(2);
    write(&local, "new/after.csv", "after");
    write(&local, "new/sub/below.csv", "below");
    site.wait_for(4);
    // The old name is free for a directory of its own.
    write(&local, "old/sub/again.csv", "again");
    site.wait_for(5);
    let finished = stop(running);
    finished.assert_code(0);
    let found: Vec<_> = site.archived().into_keys().collect();
    let expected =
        ["new/after.csv", "new/sub/before.csv", "new/sub/below.csv", "old/sub/again.csv", "old/sub/before.csv"];
    assert_eq!(found, expected.map(PathBuf::from));
    assert_eq!(Summary::of(&finished).totals(), (5, 0, 0, 0));
}

#[test]
fn a_directory_that_is_renamed_with_unfinished_files_loses_none() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch([]);
    for round in 0..20 {
        write(&local, format!("incoming/{round}/data/a.csv"), format!("{round} a"));
        write(&local, format!("incoming/{round}/b.csv"), format!("{round} b"));
        fs::rename(local.join(format!("incoming/{round}")), local.join(format!("ready {round}"))).unwrap();
        write(&local, format!("ready {round}/data/late.csv"), format!("{round} late"));
    }
    site.wait_for(60);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), files(&local));
    assert_eq!(Summary::of(&finished).totals(), (60, 0, 0, 0));
}

#[test]
fn a_directory_that_is_removed_and_made_again_is_watched_again() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch([]);
    for round in 1..=10 {
        write(&local, "spool/deep/a.csv", format!("{round}"));
        site.wait_for(round);
        fs::remove_dir_all(local.join("spool")).unwrap();
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (10, 0, 0, 0));
}

#[test]
fn links_and_replacements_are_files_of_their_own() {
    let site = Site::new();
    let local = site.local();
    let outside = write(site.env.path(), "outside.csv", "a hard link");
    let running = site.watch([]);
    fs::hard_link(outside, local.join("linked.csv")).unwrap();
    site.wait_for(1);
    for round in 0..5 {
        fs::rename(write(&local, "current.csv.tmp", format!("round {round}")), local.join("current.csv")).unwrap();
        site.wait_for(round + 2);
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (6, 0, 0, 0));
    assert_eq!(site.archived().len(), 6);
}
