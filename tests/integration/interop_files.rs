//! Trees of files: every one arrives, byte for byte, once.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::{Commit, Expected, Keeps, Names, Site};
use crate::push::{Pushed, set_stamp, stamps};
use crate::support::env::{Entry, Running, files, noise, wait_until, write};

/// 2001-09-09: no server gives it by itself.
const PAST: u64 = 1_000_000_000;

pub fn odd_names_and_all_sizes(expected: &'static Expected) {
    let Some(site) = Site::start(expected) else { return };
    let local = site.bench.env.local();
    let long = "é".repeat(110) + ".csv";
    let odd = [
        "plain.csv",
        "with space",
        " leading and trailing ",
        "quote\"'`",
        "-leading-dash",
        "back\\slash",
        "emoji 🌲",
        "café",
        "cafe\u{301}",
        "per%cent",
        "a;b|c&d",
        "$HOME",
        "*",
        "[x]",
        "{name}",
        "~",
        "#hash",
        "?",
        ".hidden",
        "..dots",
        &long,
        "dir with space/f",
        ".hidden dir/f",
    ];
    for (number, name) in odd.iter().enumerate() {
        let path = write(&local, name, format!("bytes of {name:?}"));
        set_stamp(&path, [0o640, 0o600, 0o644][number % 3], PAST + number as u64);
    }
    for (number, bytes) in [0, 1, 32_767, 32_768, 32_769, 255_001, 1 << 20, (5 << 20) + 17].into_iter().enumerate() {
        let path = write(&local, format!("sizes/{bytes}"), noise(bytes, number as u64));
        set_stamp(&path, 0o640, PAST);
    }
    let count = odd.len() as u64 + 8;
    let wanted = files(&local);
    let run = |arguments: &[&str]| Pushed::run(site.push().args(["--include", "**"]).args(arguments)).expect(0);
    run(&["--verify", "readback"]).assert_counts([count, 0, 0, 0]);
    assert_eq!(site.bench.archived(), wanted);
    site.bench.assert_no_part();
    let kept = stamps(&site.bench.base.join("in"));
    for (path, (mode, mtime)) in stamps(&local) {
        let there = kept[&path];
        match expected.keeps {
            Keeps::TimesAndModes => assert_eq!(there, (mode, mtime), "{path:?}"),
            Keeps::Times => assert_eq!(there.1, mtime, "{path:?}"),
            Keeps::Nothing => assert_ne!(there.1, mtime, "{path:?}"),
        }
    }
    // Again: nothing is sent, nothing stands twice; and what was archived may go.
    run(&[]).assert_counts([0, count, 0, 0]);
    run(&["--force", "--after", "delete"]).assert_counts([count, 0, 0, 0]);
    assert_eq!(site.bench.archived(), wanted);
    assert!(files(&local).is_empty());
    site.bench.assert_no_part();

    let controls = ["new\nline", "tab\there", "\x1b[31mred", "new\nline/f"].map(|name| format!("controls/{name}x"));
    controls.iter().for_each(|name| drop(write(&local, name, name)));
    let mut command = site.push();
    command.args(["--verify", "readback", "--after", "delete", "--retries", "2", "--layout", "odd"]);
    match expected.names {
        Names::All => {
            let wanted = files(&local);
            Pushed::run(&mut command).expect(0).assert_counts([4, 0, 0, 0]);
            assert_eq!(files(&site.bench.base.join("odd")), wanted);
        }
        // What is not read back is not archived, and what is not archived stays here.
        Names::NoControls => {
            Pushed::run(&mut command).expect(1).assert_counts([0, 0, 0, 4]);
            assert_eq!(files(&local).len(), 4);
        }
    }
}

/// Two archivers at once, each with several sessions, into one dated folder.
pub fn many_sessions_make_dated_folders(expected: &'static Expected) {
    let Some(site) = Site::start(expected) else { return };
    let local = site.bench.env.local();
    let theirs = site.bench.env.path().join("theirs");
    for number in 0..60 {
        let name = format!("{}/{number}.csv", number % 12);
        write(&local, &name, noise(3000, number));
        // Where the means are atomic, files of one name and other bytes do not cost each other anything.
        let seed = if expected.commit == Commit::Atomic { number + 1000 } else { number };
        write(&theirs, &name, noise(3000, seed));
    }
    let many = ["--connections", "4", "--jobs", "24", "--layout", "%Y/%m/%d", "--after", "delete"];
    let mut sent: Vec<Entry> = files(&local).into_values().collect();
    if expected.commit == Commit::Atomic {
        sent.extend(files(&theirs).into_values());
    }
    let here = Running::start(site.push().args(many));
    if expected.commit == Commit::Direct {
        // What is being written there by another one is other bytes: one after the other.
        Pushed::of(here.finish()).expect(0).assert_counts([60, 0, 0, 0]);
    } else {
        let mut there = site.push_of(&theirs);
        site.other(there.args(many), "other.db");
        let there = Running::start(&mut there);
        for running in [here, there] {
            Pushed::of(running.finish()).expect(0).assert_counts([60, 0, 0, 0]);
        }
        assert!(files(&theirs).is_empty());
    }
    assert!(files(&local).is_empty());
    let stands = files(&site.bench.base);
    let date = |path: &PathBuf| path.components().take(3).collect::<PathBuf>();
    let dates: Vec<_> = stands.keys().map(date).collect();
    assert!(dates.iter().all(|date| date.components().count() == 3));
    let sorted = |mut entries: Vec<Entry>| {
        entries.sort_by_key(|entry| format!("{entry:?}"));
        entries
    };
    assert_eq!(sorted(stands.into_values().collect()), sorted(sent));
    site.bench.assert_no_part();
}

pub fn killed_in_the_middle_of_a_run(expected: &'static Expected) {
    // What a killed process left under a final name that it wrote in place cannot be told from another's file.
    if expected.commit == Commit::Direct {
        return;
    }
    let Some(site) = Site::start(expected) else { return };
    let local = site.bench.env.local();
    for number in 0..120 {
        write(&local, format!("{}/{number}", number % 5), noise(20_000, number));
    }
    let wanted = files(&local);
    for round in 1..=3 {
        let running = Running::start(site.push().args(["--after", "delete", "--jobs", "6", "--connections", "2"]));
        wait_until("some files arrived", || gone_from(&local) >= round * 15);
        running.signal(Signal::KILL);
        running.finish();
    }
    Pushed::run(site.push().args(["--after", "delete"])).expect(0);
    assert_eq!(site.bench.archived(), wanted);
    assert!(files(&local).is_empty());
    site.bench.assert_no_part();
}

/// How many of the 120 files were disposed of.
fn gone_from(local: &Path) -> usize {
    let left = |directory: PathBuf| std::fs::read_dir(directory).map(|entries| entries.count()).unwrap_or(0);
    120 - (0..5).map(|number| left(local.join(number.to_string()))).sum::<usize>()
}
