//! Killed without a word in the middle of a burst, and many files at once.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal};

use super::watch::{Site, Summary, names, stop};
use crate::support::env::{TestEnv, files, noise, wait_until, write};

const BURST: usize = 1_500;

/// G3: killed five times while files arrive and are deleted, the archive ends with each file once and nothing else.
#[test]
fn kill_after_kill_loses_and_doubles_nothing() {
    let site = Site::new();
    let expected = TestEnv::new();
    let (local, model) = (site.local(), expected.local());
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let done = done.clone();
        move || {
            for number in 0..BURST {
                let (name, content) =
                    (format!("{}/{number}.bin", number % 11), noise(number % 97 * 500, number as u64));
                write(&model, &name, &content);
                write(&local, &name, &content);
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    for round in 1..=5 {
        let before = names(&site.remote()).len();
        let running = site.watch(["--after", "delete", "--settle", "20ms"]);
        wait_until("it gets on", || names(&site.remote()).len() > before + 37 * round || all_there(&site, &done));
        running.signal(Signal::KILL);
        assert_eq!(running.finish().code(), None);
    }
    writer.join().unwrap();
    let running = site.watch(["--after", "delete", "--settle", "20ms"]);
    wait_until("all are archived and deleted", || names(&site.local()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).total("failed"), 0);
    assert_eq!(site.archived(), files(&expected.local()));
}

fn all_there(site: &Site, done: &AtomicBool) -> bool {
    done.load(Ordering::SeqCst) && names(&site.remote()).len() == BURST
}

/// 3,000 files in 100 new directories as fast as they can be written, twice: all arrive, and what the process holds does
/// not grow with their number.
#[test]
fn a_burst_arrives_whole_and_leaves_nothing_behind() {
    let site = Site::new();
    let running = site.watch([]);
    let idle = Held::by(running.pid());
    let mut last = idle;
    for round in 0..2 {
        for number in 0..1500 {
            write(&site.local(), format!("{round}/{}/{number}.csv", number % 50), format!("{round} {number}"));
        }
        let written = std::time::Instant::now();
        site.wait_for((round + 1) * 1500);
        let now = Held::by(running.pid());
        eprintln!(
            "burst {round}: all archived {:?} after the last was written; idle {idle:?}, now {now:?}",
            written.elapsed()
        );
        if round > 0 {
            // The pool may have grown by a session or two.
            assert!(now.files <= last.files + 8, "{last:?} {now:?}");
        }
        last = now;
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3000, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "printed only")]
struct Held {
    files: usize,
    threads: usize,
    resident_kib: u64,
}

impl Held {
    fn by(process: Pid) -> Self {
        let proc = Path::new("/proc").join(process.as_raw_nonzero().to_string());
        // Its open files are shown to root only.
        let count = |name| fs::read_dir(proc.join(name)).map_or(0, Iterator::count);
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self { files: count("fd"), threads: count("task"), resident_kib }
    }
}
