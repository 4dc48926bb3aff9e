//! More happens than the kernel tells of: its queue overflows, its watches run out, directories come in bursts. The
//! reconciling scan is far away, so what is found is found by what `archiver watch` makes of it at once.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;

use super::watch::{Site, Summary, names, stop};
use crate::support::env::{Running, TestEnv, files, wait_until, write};
use crate::support::namespace;

/// Makes the queue of whoever watches `directory` overflow, and stays below no event that a candidate could raise.
fn overflow(directory: &Path) -> usize {
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Two, for the same event twice in a row is one.
    let pair = [".noise a", ".noise b"].map(|name| write(directory, name, ""));
    for number in 0..limit + 100 {
        drop(File::open(&pair[number % 2]).unwrap());
    }
    limit
}

/// The archiver sleeps while more happens than its queue holds: new trees, changes, renamed and removed directories. It
/// finds all of it when it wakes, and what comes into the new directories later, too.
#[test]
fn what_happened_while_the_kernels_queue_overflowed_is_found_and_watched() {
    let site = Site::new();
    let local = site.local();
    write(&local, "renamed/sub/before.csv", "before");
    write(&local, "removed/before.csv", "before");
    write(&local, "stays/before.csv", "before");
    let mut running = site.watch(["--after", "delete"]);
    site.wait_for(3);
    wait_until("they are deleted", || names(&local).is_empty());
    running.freeze();
    let events = overflow(&local);
    let model = TestEnv::new();
    let place = |path: &str, content: &str| {
        write(&model.local(), path, content);
        write(&local, path, content);
    };
    for number in 0..100 {
        place(&format!("new/{number}/deep/er/file.csv"), &format!("new {number}"));
    }
    place("stays/during.csv", "during");
    fs::rename(local.join("renamed"), local.join("under another name")).unwrap();
    fs::remove_dir_all(local.join("removed")).unwrap();
    place("removed/during.csv", "during");
    place("under another name/sub/during.csv", "during");
    running.signal(Signal::CONT);
    running.expect_line("Overflow");
    site.wait_for(3 + files(&model.local()).len());
    // Nothing but events can tell of these.
    let woken = Instant::now();
    for number in 0..100 {
        place(&format!("new/{number}/deep/er/late.csv"), &format!("late {number}"));
    }
    place("removed/late.csv", "late");
    place("under another name/sub/late.csv", "late");
    place("stays/late.csv", "late");
    site.wait_for(3 + files(&model.local()).len());
    let expected = files(&model.local());
    eprintln!(
        "{events} events and more were lost; {} files found, the late ones {:?} after",
        expected.len(),
        woken.elapsed()
    );
    wait_until("they are deleted", || names(&local).len() == 2);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3 + expected.len() as u64, 0, 0, 0));
    let mut archived = site.archived();
    archived.retain(|path, _| !path.ends_with("before.csv"));
    assert_eq!(archived, expected);
}

/// A watch in a namespace where there are only so many inotify watches.
fn with_watches(site: &Site, limit: usize, arguments: &[&str]) -> Option<Running> {
    if !namespace::possible() {
        return None;
    }
    let setup = format!("echo {limit} > /proc/sys/user/max_inotify_watches");
    let command = site.command(arguments.iter().copied());
    Some(Running::start(&mut namespace::within(&setup, &command)))
}

#[test]
fn where_there_are_too_few_watches_at_the_start_it_polls() {
    let site = Site::new();
    for number in 0..20 {
        write(&site.local(), format!("{number}/before.csv"), format!("{number}"));
    }
    let Some(mut running) = with_watches(&site, 5, &["--scan-interval", "300ms"]) else { return };
    let line = running.expect_line("polling from now on");
    assert!(line.contains("fs.inotify.max_user_watches"), "{line}");
    site.wait_for(20);
    write(&site.local(), "19/late.csv", "late");
    write(&site.local(), "new/late.csv", "late");
    site.wait_for(22);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(finished.stderr.matches("polling from now on").count(), 1, "{}", finished.stderr);
    assert_eq!(Summary::of(&finished).totals(), (22, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

#[test]
fn where_watches_run_out_later_it_polls_from_then_on() {
    let site = Site::new();
    write(&site.local(), "0/before.csv", "before");
    let Some(mut running) = with_watches(&site, 40, &["--scan-interval", "300ms"]) else { return };
    running.expect_line("watching");
    for number in 0..100 {
        write(&site.local(), format!("{number}/a/b/file.csv"), format!("{number}"));
    }
    running.expect_line("polling from now on");
    site.wait_for(101);
    for number in 0..100 {
        write(&site.local(), format!("{number}/a/b/late.csv"), format!("late {number}"));
    }
    site.wait_for(201);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(finished.stderr.matches("polling from now on").count(), 1, "{}", finished.stderr);
    assert_eq!(Summary::of(&finished).totals(), (201, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

/// A thousand directories, each made with all above it and filled in the same breath, by two writers; some are moved as
/// soon as they are filled.
#[test]
fn a_thousand_directories_in_a_burst_lose_no_file() {
    let site = Site::new();
    let (local, outside) = (site.local(), site.env.path().join("outside"));
    let mut running = site.watch([]);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (local, outside) = (&local, &outside);
            scope.spawn(move || {
                for number in (writer..1000).step_by(2) {
                    let name = format!("{number}/b/c");
                    if number % 5 == 0 {
                        // Whole, from elsewhere.
                        write(outside, format!("{name}/file.csv"), format!("{number}"));
                        fs::rename(outside.join(number.to_string()), local.join(number.to_string())).unwrap();
                    } else {
                        write(local, format!("{name}/file.csv"), format!("{number}"));
                    }
                    if number % 7 == 0 {
                        write(local, format!("{name}/second.csv"), format!("second {number}"));
                    }
                }
            });
        }
    });
    let written = Instant::now();
    let expected = files(&local);
    site.wait_for(expected.len());
    eprintln!(
        "1,000 directories, {} files: all archived {:?} after the last was written",
        expected.len(),
        written.elapsed()
    );
    // Each of them is watched: a burst that overflowed a queue would have been scanned for.
    for number in 0..1000 {
        write(&local, format!("{number}/b/c/late.csv"), format!("late {number}"));
    }
    site.wait_for(expected.len() + 1000);
    running.signal(Signal::USR1);
    running.expect_line(" files ");
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (expected.len() as u64 + 1000, 0, 0, 0));
    assert_eq!(site.archived(), files(&local));
}

/// Directories that go as soon as they came, beside others that stay: a walk that meets a vanished one goes on.
#[test]
fn directories_that_come_and_go_take_no_others_watch_along() {
    let site = Site::new();
    let (local, outside) = (site.local(), site.env.path().join("outside"));
    let running = site.watch([]);
    for round in 0..40 {
        for number in 0..20 {
            fs::create_dir_all(outside.join(format!("{round}/{number}"))).unwrap();
        }
        fs::rename(outside.join(round.to_string()), local.join(round.to_string())).unwrap();
        for number in (0..20).step_by(2) {
            fs::remove_dir(local.join(format!("{round}/{number}"))).unwrap();
        }
    }
    // Whatever is to be noticed of the directories has been.
    write(&local, "last.csv", "last");
    site.wait_for(1);
    for round in 0..40 {
        for number in (1..20).step_by(2) {
            fs::write(local.join(format!("{round}/{number}/late.csv")), format!("{round} {number}")).unwrap();
        }
    }
    site.wait_for(401);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (401, 0, 0, 0));
}

/// Whoever may not make an instance of inotify at all polls, and says why.
#[test]
fn without_any_inotify_it_polls() {
    let site = Site::new();
    if !namespace::possible() {
        return;
    }
    let setup = "echo 0 > /proc/sys/user/max_inotify_instances";
    let mut running =
        Running::start(&mut namespace::within(setup, &site.command(["--scan-interval", "300ms", "--after", "delete"])));
    let line = running.expect_line("polling from now on");
    assert!(line.contains("fs.inotify.max_user_instances"), "{line}");
    for number in 0..20 {
        write(&site.local(), format!("{number}/a/file.csv"), format!("{number}"));
    }
    site.wait_for(20);
    wait_until("they are deleted", || names(&site.local()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (20, 0, 0, 0));
}
