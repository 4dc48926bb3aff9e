//! What an `archiver watch` that was stopped in the middle leaves on the server, and what the next one makes of it.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use super::watch::{Lister, Site, Summary, stop, temporary, watching};
use crate::support::env::{Running, files, noise, wait_until, write};

const LARGE: usize = 70 << 20;

/// Kills a watch in the middle of a file that is large enough to be resumed.
fn killed_in_the_middle(site: &Site) -> PathBuf {
    let path = write(&site.local(), "large.bin", noise(LARGE, 9));
    let running = site.watch(["--limit-rate", "40MiB"]);
    wait_until("a part of it is on the server", || temporary(&site.remote()).values().sum::<u64>() > 10 << 20);
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code(), None);
    assert_eq!(temporary(&site.remote()).len(), 1);
    path
}

#[test]
fn a_large_file_is_taken_up_again_where_it_was_left() {
    let site = Site::new();
    killed_in_the_middle(&site);
    let before = temporary(&site.remote()).into_values().sum::<u64>();
    let lister = Lister::start(site.remote());
    let running = site.watch([]);
    site.wait_for(1);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(lister.finish().into_values().collect::<Vec<_>>(), [vec![LARGE as u64]]);
    assert_eq!(site.archived(), files(&site.local()));
    assert!(before > 0 && Summary::of(&finished).totals() == (1, 0, 0, 0));
}

#[test]
fn what_was_left_of_a_file_that_is_gone_is_removed() {
    let site = Site::new();
    fs::remove_file(killed_in_the_middle(&site)).unwrap();
    let running = site.watch([]);
    wait_until("nothing is left", || temporary(&site.remote()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (0, 0, 0, 0));
    assert!(files(&site.remote()).is_empty());
}

#[test]
fn what_was_left_of_an_older_version_is_removed() {
    let site = Site::new();
    fs::write(killed_in_the_middle(&site), "smaller now").unwrap();
    let running = site.watch([]);
    site.wait_for(1);
    wait_until("nothing is left", || temporary(&site.remote()).is_empty());
    stop(running).assert_code(0);
    assert_eq!(site.archived(), files(&site.local()));
}

/// Somebody else's temporary names are none of our business.
#[test]
fn names_that_only_look_like_ours_stay() {
    let site = Site::new();
    let foreign = write(&site.remote(), "2020/01/01/.a.csv.0123456789ab-7.part", "somebody's");
    write(&site.local(), "a.csv", "a");
    let running = site.watch([]);
    site.wait_for(1);
    stop(running).assert_code(0);
    assert_eq!(fs::read_to_string(foreign).unwrap(), "somebody's");
}

#[test]
fn directories_removed_on_the_server_are_made_again() {
    let site = Site::new();
    let running = site.watch([]);
    write(&site.local(), "x/a.csv", "a");
    site.wait_for(1);
    for entry in fs::read_dir(site.remote()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    write(&site.local(), "x/b.csv", "b");
    site.wait_for(1);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived().into_keys().collect::<Vec<_>>(), [PathBuf::from("x/b.csv")]);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
}

/// The grace bounds a drain that waits for a server that hangs, and the goodbye to it.
#[test]
fn a_server_that_hangs_holds_up_no_drain() {
    let site = Site::new();
    let running = site.watch(["--grace", "1s"]);
    write(&site.local(), "before.csv", "before");
    site.wait_for(1);
    site.server.freeze();
    write(&site.local(), "after.csv", "after");
    let finished = stop(running);
    site.server.thaw();
    finished.assert_code(4);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 1, 0));
    // The next one finds out what became of it.
    let running = site.watch([]);
    site.wait_for(2);
    stop(running).assert_code(0);
    assert_eq!(site.archived(), files(&site.local()));
}

/// A second interrupt needs no server either.
#[test]
fn a_server_that_hangs_holds_up_no_interrupt() {
    let site = Site::new();
    let mut running: Running = watching(&mut site.command(["--grace", "1h"]));
    write(&site.local(), "before.csv", "before");
    site.wait_for(1);
    site.server.freeze();
    write(&site.local(), "after.csv", "after");
    running.signal(Signal::INT);
    running.expect_line("interrupt again");
    running.signal(Signal::INT);
    let finished = running.finish();
    site.server.thaw();
    finished.assert_code(130);
}
