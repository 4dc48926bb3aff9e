//! How applications write and rotate their logs while `archiver watch --after delete` looks on: no line is lost.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use super::watch::{Site, Summary, names, stop};
use crate::support::env::{files, pause, wait_until, write};

const DELETE: [&str; 2] = ["--after", "delete"];

/// How often each line stands in the archive.
fn lines(site: &Site) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for path in files(&site.remote()).into_keys() {
        for line in fs::read_to_string(site.remote().join(path)).unwrap().lines() {
            *found.entry(line.to_owned()).or_default() += 1;
        }
    }
    found
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// `app.log` becomes `app.log.1`, that `app.log.2`, and so on, as logrotate does it.
fn shift(directory: &Path, keep: usize) {
    for number in (1..keep).rev() {
        // What was archived is gone.
        let _ =
            fs::rename(directory.join(format!("app.log.{number}")), directory.join(format!("app.log.{}", number + 1)));
    }
    fs::rename(directory.join("app.log"), directory.join("app.log.1")).unwrap();
}

/// The application has its log open all the time, and opens a new one when it is told that the old one was renamed.
#[test]
fn a_log_that_is_rotated_by_renaming_is_archived_once_under_its_last_name() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch(DELETE);
    let mut log = open(&local.join("app.log"));
    for round in 0..5 {
        for line in 0..20 {
            writeln!(log, "{round} {line}").unwrap();
        }
        shift(&local, 5);
        // It goes on writing into the renamed file for a while.
        writeln!(log, "{round} last").unwrap();
        log = open(&local.join("app.log"));
        site.wait_for(round + 1);
        wait_until("it is deleted", || !local.join("app.log.1").exists());
    }
    drop(log);
    wait_until("all are archived and deleted", || names(&local).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    let found = lines(&site);
    assert_eq!(found.len(), 5 * 21);
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    // Five, and the empty one that was open last.
    assert_eq!(Summary::of(&finished).totals(), (6, 0, 0, 0));
}

/// Rotated faster than files are archived, so that names shift while their files are on their way.
#[test]
fn a_log_that_is_rotated_all_the_time_loses_no_line() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch(["--after", "delete", "--settle", "20ms"]);
    let mut log = open(&local.join("app.log"));
    for round in 0..60 {
        for line in 0..20 {
            writeln!(log, "{round} {line}").unwrap();
        }
        shift(&local, 100);
        log = open(&local.join("app.log"));
        pause(Duration::from_millis(10));
    }
    drop(log);
    wait_until("all are archived and deleted", || names(&local).is_empty());
    stop(running).assert_code(0);
    let found = lines(&site);
    let twice = found.values().filter(|count| **count > 1).count();
    eprintln!(
        "{} lines; {twice} of them under two names, renamed between their commit and their deletion",
        found.len()
    );
    assert_eq!(found.len(), 60 * 20);
}

/// `copytruncate`: the log is copied, then cut, and the application never closes it.
#[test]
fn a_log_that_is_copied_and_cut_loses_no_line_and_stays_open() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch(DELETE);
    let mut log = open(&local.join("app.log"));
    for round in 0..5 {
        for line in 0..20 {
            writeln!(log, "{round} {line}").unwrap();
        }
        fs::copy(local.join("app.log"), local.join("app.log.1")).unwrap();
        log.set_len(0).unwrap();
        site.wait_for(round + 1);
        wait_until("it is deleted", || !local.join("app.log.1").exists());
    }
    writeln!(log, "5 end").unwrap();
    assert!(local.join("app.log").exists(), "it is open");
    drop(log);
    wait_until("all are archived and deleted", || names(&local).is_empty());
    stop(running).assert_code(0);
    let found = lines(&site);
    assert_eq!(found.len(), 5 * 20 + 1);
    assert!(found.values().all(|count| *count == 1), "{found:?}");
}

/// The file is closed, and still written to through memory.
#[test]
fn a_file_that_is_written_through_memory_is_open_until_it_is_unmapped() {
    const BYTES: usize = 64 << 10;
    let site = Site::new();
    let local = site.local();
    let running = site.watch(DELETE);
    let file = File::options().create_new(true).read(true).write(true).open(local.join("mapped.bin")).unwrap();
    file.set_len(BYTES as u64).unwrap();
    // SAFETY: a new mapping of a file of that length, which nobody truncates.
    let memory = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), BYTES, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(memory, libc::MAP_FAILED);
    drop(file);
    for number in 0..10 {
        // SAFETY: within the mapping.
        unsafe { memory.cast::<u8>().add(number * 4096).write(b'a' + number as u8) };
        pause(Duration::from_millis(50));
    }
    assert!(names(&site.remote()).is_empty(), "it is still written to");
    // SAFETY: nobody holds a pointer into it any more.
    assert_eq!(unsafe { libc::munmap(memory, BYTES) }, 0);
    let expected = files(&local);
    site.wait_for(1);
    wait_until("it is deleted", || names(&local).is_empty());
    stop(running).assert_code(0);
    assert_eq!(site.archived(), expected);
}

/// Two names of one file are two files; a third one elsewhere stays.
#[test]
fn hard_links_are_archived_and_deleted_each_by_its_name() {
    let site = Site::new();
    let local = site.local();
    let outside = write(site.env.path(), "outside.csv", "linked");
    for name in ["one.csv", "sub/two.csv"] {
        fs::create_dir_all(local.join("sub")).unwrap();
        fs::hard_link(&outside, local.join(name)).unwrap();
    }
    let expected = files(&local);
    let running = site.watch(DELETE);
    site.wait_for(2);
    wait_until("both are deleted", || names(&local).is_empty());
    // Made while it is looked at.
    fs::hard_link(&outside, local.join("three.csv")).unwrap();
    site.wait_for(3);
    wait_until("it is deleted", || names(&local).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
    assert_eq!(fs::read(outside).unwrap(), b"linked");
    assert!(expected.iter().all(|(path, entry)| site.archived()[path] == *entry));
}
