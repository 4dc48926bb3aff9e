//! Stopped at a failure point, as a machine is that sleeps, while others go on; and killed there.

use std::fs::File;
use std::process::Command;

use archiver::failpoint::{Point, VARIABLE};
use rustix::process::Signal;

use crate::support::env::{DEADLINE, Running, files, run, tree, wait_until, write};
use crate::support::namespace;
use crate::support::redis::Redis;
use crate::watch::{Site, names, stop, watching};

const MARKED: [&str; 4] = ["--after", "delete", "--marker", "{name}.ready"];

/// The file is gone and its marker is not yet; the application takes that for an invitation to write the next one.
fn the_next_version_comes_before_the_marker_went(what: &str) {
    let site = Site::new();
    write(&site.local(), "a.csv", "the first version");
    write(&site.local(), "a.csv.ready", "");
    let armed = format!("{}:1:{what}", Point::FileDisposed.name());
    let mut running = watching(site.command(MARKED).env(VARIABLE, armed));
    running.expect_line("failpoint file-disposed reached");
    match what {
        "kill" => assert!(running.ends_within(DEADLINE)),
        // It says so first; what comes before the stop would find it still going.
        _ => wait_until("it is stopped", || running.is_stopped()),
    }
    write(&site.local(), "a.csv", "the second one");
    write(&site.local(), "a.csv.ready", "");
    let running = match what {
        "kill" => site.watch(MARKED),
        _ => {
            running.signal(Signal::CONT);
            running
        }
    };
    wait_until("both versions and their marker are gone", || names(&site.local()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived().len(), 2);
}

#[test]
fn a_marker_of_the_next_version_is_not_taken_for_the_last_ones_when_stopped() {
    the_next_version_comes_before_the_marker_went("stop");
}

#[test]
fn a_marker_of_the_next_version_is_not_taken_for_the_last_ones_after_a_kill() {
    the_next_version_comes_before_the_marker_went("kill");
}

/// Killed while a file that failed for good goes into quarantine: it is not archived, and must not stay hidden.
#[test]
fn a_file_on_its_way_into_quarantine_is_not_forgotten() {
    for point in [Point::SetAside, Point::MoveDirectoryMade, Point::Moved] {
        let (site, quarantine) = killed_on_the_way_into_quarantine(point);
        // What was begun is finished, though it could be archived now: a part of it may stand there already.
        run(&mut into_quarantine(&site, &quarantine)).assert_code(0);
        assert_eq!(std::fs::read(quarantine.join("a.csv")).unwrap(), b"ours");
        assert!(!site.remote().join("taken/a.csv").exists());
        assert!(tree(&site.local()).is_empty(), "{point:?}: {:?}", tree(&site.local()));
    }
}

/// The same, and somebody gives it its name back and says that it is to be tried again.
#[test]
fn a_file_on_its_way_into_quarantine_that_is_put_back_into_the_queue_is_archived() {
    let (site, quarantine) = killed_on_the_way_into_quarantine(Point::SetAside);
    let aside = files(&site.local()).into_keys().next().expect("the file under another name");
    std::fs::rename(site.local().join(aside), site.local().join("a.csv")).unwrap();
    run(&mut site.env.archiver(["retry", "--all"])).assert_code(0);
    run(&mut into_quarantine(&site, &quarantine)).assert_code(0);
    assert_eq!(std::fs::read(site.remote().join("taken/a.csv")).unwrap(), b"ours");
    assert!(tree(&site.local()).is_empty(), "{:?}", tree(&site.local()));
    assert!(!quarantine.join("a.csv").exists());
}

/// A push to a name that somebody has, whose file goes into quarantine; killed there. By now nobody has the name any more.
fn killed_on_the_way_into_quarantine(point: Point) -> (Site, std::path::PathBuf) {
    let site = Site::new();
    write(&site.local(), "a.csv", "ours");
    write(&site.remote(), "taken/a.csv", "somebody else's");
    let quarantine = site.env.path().join("quarantine");
    let killed = run(into_quarantine(&site, &quarantine).env(VARIABLE, format!("{}:1:kill", point.name())));
    assert_eq!(killed.code(), None, "{point:?} was never reached");
    std::fs::remove_file(site.remote().join("taken/a.csv")).unwrap();
    (site, quarantine)
}

fn into_quarantine(site: &Site, quarantine: &std::path::Path) -> Command {
    let mut command = pushing(site);
    command.args(["--layout", "taken", "--on-conflict", "fail", "--after-failure"]);
    command.arg(format!("move={}", quarantine.display()));
    command
}

/// A push of the site's files that deletes them.
fn pushing(site: &Site) -> Command {
    pushing_with(site, "delete")
}

fn pushing_with(site: &Site, after: &str) -> Command {
    let mut command = site.env.archiver(["push", "--ssh-config", "none", "--to", &site.server.url()]);
    command.arg("--identity").arg(site.server.client_key());
    command.arg("--known-hosts").arg(site.server.known_hosts());
    command.args(["--after", after]).arg(site.local());
    command
}

/// The volume becomes read-only while the file is set aside: it can be neither deleted nor given its name back.
#[test]
fn a_file_that_cannot_be_given_its_name_back_is_not_forgotten() {
    if !namespace::possible() {
        return;
    }
    let site = Site::new();
    write(&site.local(), "a.csv", "ours");
    let local = site.local().display().to_string();
    let mut push = pushing(&site);
    push.env(VARIABLE, format!("{}:1:stop", Point::SetAside.name()));
    let mut running = Running::start(&mut namespace::within(&format!("mount --bind '{local}' '{local}'"), &push));
    running.expect_line("failpoint set-aside reached");
    wait_until("it is stopped", || running.is_stopped());
    namespace::enter(&running, &format!("mount -o remount,bind,ro '{local}'"));
    running.signal(Signal::CONT);
    let finished = running.finish();
    finished.assert_code(0);
    let hidden = tree(&site.local()).into_keys().next().unwrap().display().to_string();
    assert!(hidden.ends_with(".archived"), "{hidden}");
    assert!(finished.stderr.contains(&format!("it is hidden as {local}/{hidden}")), "{}", finished.stderr);

    run(&mut pushing(&site)).assert_code(0);
    assert!(tree(&site.local()).is_empty(), "{:?}", tree(&site.local()));
    assert_eq!(site.archived().len(), 1);
}

/// Somebody opens it for a moment, and writes nothing.
#[test]
fn a_file_that_is_opened_while_it_is_disposed_of_goes_at_the_next_scan() {
    let site = Site::new();
    write(&site.local(), "a.csv", "ours");
    let armed = format!("{}:1:stop", Point::SetAside.name());
    let mut running = watching(site.command(["--after", "delete", "--scan-interval", "400ms"]).env(VARIABLE, armed));
    running.expect_line("failpoint set-aside reached");
    wait_until("it is stopped", || running.is_stopped());
    let aside = tree(&site.local()).into_keys().next().unwrap();
    let writer = File::options().append(true).open(site.local().join(aside)).unwrap();
    running.signal(Signal::CONT);
    running.expect_line("opened for writing again");
    drop(writer);
    wait_until("it is gone", || names(&site.local()).is_empty());
    stop(running).assert_code(0);
    assert_eq!(site.archived().len(), 1);
}

/// Its disposal is another one's by then, which has begun a copy under the same temporary name, and dies over it.
#[test]
fn a_late_disposal_does_not_give_a_final_name_to_its_successors_half_copy() {
    let (site, redis) = (Site::new(), Redis::start());
    write(&site.local(), "a.csv", "ours");
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let moved = format!("move={}", elsewhere.path().display());
    let push = || {
        let mut command = pushing_with(&site, &moved);
        command.args(["--ledger", &redis.url()]).env("ARCHIVER_LEDGER__LEASE", "1s");
        command
    };
    let stopped = |point: Point| {
        let running = Running::start(push().env(VARIABLE, format!("{}:1:stop", point.name())));
        wait_until(&format!("it is stopped at {}", point.name()), || running.is_stopped());
        running
    };
    let late = stopped(Point::CopyFlushed);
    wait_until("its lease is over", || {
        let ends = redis.cli(&["HVALS", "{archiver}:owners"]);
        let ends: u128 = ends.split(' ').next().unwrap().parse().unwrap();
        ends < std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()
    });
    let successor = stopped(Point::CopyCreated);
    late.signal(Signal::CONT);
    late.finish();
    successor.signal(Signal::KILL);
    successor.finish();
    let half = files(elsewhere.path()).into_keys().filter(|path| path == std::path::Path::new("a.csv"));
    assert_eq!(half.count(), 0, "a final name of the successor's copy");
    wait_until("it is moved", || {
        run(&mut push()).assert_code(0);
        tree(&site.local()).is_empty()
    });
    assert_eq!(std::fs::read(elsewhere.path().join("a.csv")).unwrap(), b"ours");
    assert_eq!(tree(elsewhere.path()).len(), 1, "{:?}", tree(elsewhere.path()));
    assert_eq!(site.archived().len(), 1);
}

/// Two runs find what a third one left: one of them finishes it.
#[test]
fn a_disposal_that_was_cut_short_is_finished_by_one_run() {
    let site = Site::new();
    write(&site.local(), "a.csv", "ours");
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let moved = format!("move={}", elsewhere.path().display());
    let push = |point: Point, what: &str| {
        let mut command = site.env.archiver(["push", "--ssh-config", "none", "--to", &site.server.url()]);
        command.arg("--identity").arg(site.server.client_key());
        command.arg("--known-hosts").arg(site.server.known_hosts());
        command.args(["--after", &moved]).arg(site.local());
        command.env(VARIABLE, format!("{}:1:{what}", point.name()));
        command
    };
    assert_eq!(run(&mut push(Point::Disposing, "kill")).code(), None);
    let mut late = Running::start(&mut push(Point::UndisposedFound, "stop"));
    late.expect_line("failpoint undisposed-found reached");
    wait_until("it is stopped", || late.is_stopped());
    let mut first = Running::start(&mut push(Point::CopyCreated, "stop"));
    first.expect_line("failpoint copy-created reached");
    wait_until("it is stopped", || first.is_stopped());
    let half = tree(elsewhere.path());
    late.signal(Signal::CONT);
    late.finish();
    assert_eq!(tree(elsewhere.path()), half, "it is another one's");
    first.signal(Signal::CONT);
    first.finish().assert_code(0);
    assert!(tree(&site.local()).is_empty());
    assert_eq!(std::fs::read(elsewhere.path().join("a.csv")).unwrap(), b"ours");
}
