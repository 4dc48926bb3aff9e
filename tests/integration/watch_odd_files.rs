//! Files that are unlike others, below `archiver watch --after delete`: each is archived once, or left where it is and
//! accounted for.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat, unlinkat};

use super::watch::{Site, Summary, names, stop, watching};
use crate::support::env::{files, pause, wait_until, write};

#[test]
fn names_of_all_kinds_are_archived_and_deleted() {
    let site = Site::new();
    let local = site.local();
    let longest = "l".repeat(255);
    let of_two_bytes = format!("{}x", "é".repeat(127));
    let strange: [&[u8]; 18] = [
        b"-rf",
        b"--after=keep",
        b" leading",
        b"trailing ",
        b"new\nline",
        b"carriage\rreturn",
        b"esc\x1b[31mred",
        b"tab\tbell\x07",
        b"quote'\"`$(touch x);|&",
        b"back\\slash",
        b"*?[a-z]{b,c}",
        b"%41%2F%",
        b"caf\xe9.csv",
        b"\xff\xfe",
        "überlänge ☃ 🌲".as_bytes(),
        "\u{202e}txt.exe".as_bytes(),
        longest.as_bytes(),
        of_two_bytes.as_bytes(),
    ];
    let running = site.watch(["--after", "delete"]);
    let mut expected = 0;
    for name in strange {
        for below in [PathBuf::new(), PathBuf::from("in").join(OsStr::from_bytes(&name[..name.len().min(100)]))] {
            write(&local, below.join(OsStr::from_bytes(name)), name);
            expected += 1;
        }
    }
    site.wait_for(expected);
    wait_until("all are deleted", || names(&local).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (expected as u64, 0, 0, 0));
    assert!(!finished.stderr.contains('\x1b'), "{:?}", finished.stderr);
    // Each holds its own name twice: at the top, and below.
    for name in strange {
        let holding =
            files(&site.remote()).into_keys().filter(|path| fs::read(site.remote().join(path)).unwrap() == name);
        assert_eq!(holding.count(), 2, "{:?}", OsStr::from_bytes(name));
    }
}

/// What is no regular file is no candidate, blocks nobody, and stays.
#[test]
fn pipes_sockets_devices_and_links_stay_where_they_are() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch(["--after", "delete", "--scan-interval", "200ms"]);
    let node = |name: &str, kind| mknodat(CWD, local.join(name), kind, Mode::from_raw_mode(0o600), 0);
    node("pipe.csv", FileType::Fifo).unwrap();
    node("socket.csv", FileType::Socket).unwrap();
    let mut others = vec!["dangling.csv", "link.csv", "pipe.csv", "socket.csv"];
    // Numbers 0 and 0 are an overlay's whiteout, which anybody may make on new kernels.
    if node("device.csv", FileType::CharacterDevice).is_ok() {
        others.insert(1, "device.csv");
    }
    let outside = write(site.env.path(), "outside.csv", "outside");
    symlink(&outside, local.join("link.csv")).unwrap();
    symlink("nowhere", local.join("dangling.csv")).unwrap();
    write(&local, "real.csv", "real");
    site.wait_for(1);
    wait_until("it is deleted", || !local.join("real.csv").exists());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    let mut left: Vec<_> = fs::read_dir(&local).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, others);
    assert_eq!(fs::read(outside).unwrap(), b"outside");
}

/// It never has a settle time of quiet, so it is deferred, and nothing of it is archived or deleted.
#[test]
fn a_file_that_grows_for_ever_is_deferred_and_holds_up_no_other() {
    let site = Site::new();
    let local = site.local();
    let running = site.watch(["--after", "delete", "--settle", "500ms", "--grace", "300ms"]);
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (done, path) = (done.clone(), local.join("for ever.log"));
        move || {
            let mut lines = 0;
            while !done.load(Ordering::SeqCst) {
                // Opened for each line, so that only its growth tells.
                let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
                writeln!(file, "line {lines}").unwrap();
                lines += 1;
                drop(file);
                pause(Duration::from_millis(5));
            }
            lines
        }
    });
    for number in 0..20 {
        write(&local, format!("{number}.csv"), format!("{number}"));
    }
    site.wait_for(20);
    pause(Duration::from_millis(700));
    let finished = stop(running);
    done.store(true, Ordering::SeqCst);
    let lines = writer.join().unwrap();
    finished.assert_code(4);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (20, 0, 1, 0));
    assert!(summary.reasons("deferred").contains_key("for ever.log"));
    assert_eq!(names(&site.remote()).len(), 20);
    assert_eq!(fs::read_to_string(local.join("for ever.log")).unwrap().lines().count(), lines);
}

#[test]
fn a_file_that_is_mostly_holes_is_archived_whole() {
    let site = Site::new();
    let local = site.local();
    let sparse = File::create(local.join("sparse.bin")).unwrap();
    sparse.set_len(90 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 40 << 20).unwrap();
    let expected = files(&local);
    let running = site.watch(["--after", "delete"]);
    drop(sparse);
    site.wait_for(1);
    wait_until("it is deleted", || names(&local).is_empty());
    stop(running).assert_code(0);
    assert_eq!(site.archived(), expected);
}

/// The path that is given may be a link; what it leads to when the watch begins is the source.
#[test]
fn a_source_that_is_named_by_a_link_is_the_directory_behind_it() {
    let site = Site::new();
    let link = site.env.path().join("link");
    symlink(site.local(), &link).unwrap();
    let mut command = site.bare(["--after", "delete"]);
    let running = watching(command.arg(&link));
    write(&link, "through/the link.csv", "a");
    write(&site.local(), "past/the link.csv", "b");
    site.wait_for(2);
    wait_until("both are deleted", || names(&site.local()).is_empty());
    // Another directory behind the link is not what was asked for.
    let other = site.env.path().join("other");
    write(&other, "secret.csv", "secret");
    fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    write(&site.local(), "last.csv", "last");
    site.wait_for(3);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
    assert!(other.join("secret.csv").exists());
}

/// Directories in each other, made step by step, for no path may be that long; gives the handles' names from the top.
fn dig(root: &Path, levels: usize, name: &str) -> std::os::fd::OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = openat(CWD, root, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&here, name, Mode::from_raw_mode(0o755)).unwrap();
        here = openat(&here, name, flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = openat(&here, "deep.csv", flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(file).write_all(b"deep").unwrap();
    here
}

/// Deeper than a path may be long: it is accounted for, and stays; what can be reached is archived.
#[test]
fn what_lies_deeper_than_a_path_can_say_is_accounted_for_and_stays() {
    let site = Site::new();
    let local = site.local();
    // Well within PATH_MAX (4096) on both sides, and well beyond.
    let name = "d".repeat(100);
    let reachable = dig(&local, 30, &name);
    let (beyond, other) = (dig(&local, 0, ""), "e".repeat(200));
    drop(beyond);
    let beyond = dig(&local, 25, &other);
    write(&local, "plain.csv", "plain");
    let running = site.watch(["--after", "delete", "--grace", "2s"]);
    site.wait_for(3);
    write(&local, "late.csv", "late");
    site.wait_for(4);
    let there = |directory: &_| rustix::fs::statat(directory, "deep.csv", AtFlags::SYMLINK_NOFOLLOW).is_ok();
    wait_until("what can be reached is deleted", || !there(&reachable));
    assert!(there(&beyond), "it was not archived");
    let finished = stop(running);
    finished.assert_code(1);
    let summary = Summary::of(&finished);
    assert_eq!((summary.total("archived"), summary.total("failed")), (4, 1), "{}", finished.stderr);
    assert!(there(&beyond), "it was not archived");
    unlinkat(&beyond, "deep.csv", AtFlags::empty()).unwrap();
}
