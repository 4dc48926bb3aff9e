//! Stopped at a failure point, as a machine is that sleeps, until another archiver has the file; and killed there.

use std::time::SystemTime;

use archiver::failpoint::{Point, VARIABLE};
use rustix::process::Signal;

use super::{FINE, SHORT, Shared, assert_left_to_others};
use crate::support::env::{DEADLINE, Running, noise, run, wait_until};
use crate::watch::{names, stop, watching};

impl Shared {
    /// Until no owner is one any more.
    fn wait_for_leases(&self) {
        wait_until("all leases are over", || {
            let owners = self.redis.cli(&["HVALS", "{archiver}:owners"]);
            let ends = owners.lines().filter_map(|owner| owner.split(' ').next()?.parse::<u128>().ok());
            ends.max().is_none_or(|end| end < SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis())
        });
    }
}

/// Stopped at a moment of a file's way until its lease is over and another one has the file, then continued; or killed.
fn one_ends_at(points: &[Point], what: &str) {
    let mut reached = 0;
    for point in points {
        let shared = Shared::with_lease(SHORT);
        let options = ["--after", "delete", "--jobs", "4"];
        let mut victim = watching(shared.watch(&options, FINE).env(VARIABLE, format!("{}:3:{what}", point.name())));
        shared.write_all(0..20);
        match what {
            "kill" => assert!(victim.ends_within(DEADLINE), "{point:?} was not reached"),
            _ => wait_until(&format!("it is stopped at {point:?}"), || victim.is_stopped()),
        }
        reached += 1;
        let survivor = watching(&mut shared.watch(&options, FINE));
        shared.write_all(20..40);
        wait_until("the other one has taken over all", || names(&shared.site.local()).is_empty());
        if what == "stop" {
            victim.signal(Signal::CONT);
            // It goes on with what it had, and with what comes.
            shared.write_all(40..50);
            wait_until("all that came later is archived", || names(&shared.site.local()).is_empty());
            // What it had is another one's now, which has archived it since: nothing is left to do.
            let victim = stop(victim);
            victim.assert_code(0);
            assert_left_to_others(&victim);
        }
        assert_left_to_others(&stop(survivor));
        shared.assert_each_once();
    }
    eprintln!("{what}: {reached} of {} points", points.len());
    assert_eq!(reached, points.len());
}

/// It was told that the dead one has the file, and no event and no scan tells that it has it no longer.
#[test]
fn what_a_dead_one_held_is_taken_over_without_a_scan() {
    let shared = Shared::with_lease(SHORT);
    let quiet = |armed: &str| {
        let mut command = shared.finish(shared.site.command(["--after", "delete", "--scan-interval", "1h"]), FINE);
        command.env("ARCHIVER_LOG", "info,archiver::pipeline::watch=debug").env(VARIABLE, armed);
        watching(&mut command)
    };
    let victim = quiet(&format!("{}:1:stop", Point::StagingOpened.name()));
    let mut survivor = quiet("");
    shared.write_all(0..60);
    wait_until("it is stopped", || victim.is_stopped());
    survivor.expect_line("claimed by another archiver");
    victim.signal(Signal::KILL);
    wait_until("the other one has taken over all", || names(&shared.site.local()).is_empty());
    assert_left_to_others(&stop(survivor));
    shared.assert_each_once();
}

/// Nobody looks any more for names under the tokens of one that slept until its successors were done: one that it made
/// anew, and died over, would stay for ever.
#[test]
fn a_late_owner_opens_no_temporary_name() {
    for (point, predecessor) in
        [(Point::Begun, None), (Point::DirectoryMade, None), (Point::Begun, Some(Point::SomeWritten))]
    {
        let shared = Shared::with_lease(SHORT);
        let armed = |armed: &[(Point, &str)]| {
            let mut command = shared.push(&["--after", "keep"], FINE);
            // Large enough to be taken over.
            command.env("ARCHIVER_FAILPOINT_RESUME_FROM", (1 << 20).to_string());
            let armed: Vec<_> = armed.iter().map(|(point, what)| format!("{}:1:{what}", point.name())).collect();
            command.env(VARIABLE, armed.join(","));
            command
        };
        shared.write("0/a.bin", &noise(1_500_000, 1));
        if let Some(first) = predecessor {
            assert_eq!(run(&mut armed(&[(first, "kill")])).code(), None, "{first:?} was not reached");
            shared.wait_for_leases();
        }
        let names = [Point::StagingOpened, Point::ResumeChosen, Point::PredecessorAdopted];
        let killed = names.iter().map(|point| (*point, "kill"));
        let late = Running::start(&mut armed(&[(point, "stop")].into_iter().chain(killed).collect::<Vec<_>>()));
        wait_until(&format!("it is stopped at {point:?}"), || late.is_stopped());
        shared.wait_for_leases();
        run(&mut armed(&[])).assert_code(0);
        shared.assert_each_once();
        late.signal(Signal::CONT);
        let late = late.finish();
        late.assert_code(0);
        assert_left_to_others(&late);
        shared.assert_each_once();
    }
}

/// The note that its file is being disposed of was another one's meanwhile, which gave it up. What the late one sets aside,
/// and dies over, is known of again.
#[test]
fn a_late_owner_hides_no_file_that_nobody_knows_of() {
    for point in [Point::Recorded, Point::Disposing] {
        let shared = Shared::with_lease(SHORT);
        let is_shown = || shared.site.local().join("0/a.bin").exists();
        shared.write("0/a.bin", &noise(1000, 1));
        if point == Point::Disposing {
            run(&mut shared.push(&["--after", "keep"], FINE)).assert_code(0);
        }
        let armed = format!("{}:1:stop,{}:1:kill", point.name(), Point::SetAside.name());
        let late = Running::start(shared.push(&["--after", "delete"], FINE).env(VARIABLE, armed));
        wait_until(&format!("it is stopped at {point:?}"), || late.is_stopped());
        shared.wait_for_leases();
        run(&mut shared.push(&["--after", "keep"], FINE)).assert_code(0);
        assert!(is_shown());
        late.signal(Signal::CONT);
        assert_eq!(late.finish().code(), None, "it did not come to set it aside");
        assert!(!is_shown());
        shared.wait_for_leases();
        run(&mut shared.push(&["--after", "keep"], FINE)).assert_code(0);
        assert!(is_shown(), "{point:?}");
        shared.assert_each_once();
    }
}

#[test]
fn a_late_owner_harms_nothing_before_its_commit() {
    one_ends_at(&[Point::Claimed, Point::StagingOpened, Point::AllWritten, Point::LeaseConfirmed], "stop");
}

#[test]
fn a_late_owner_harms_nothing_after_its_commit() {
    one_ends_at(&[Point::Committed, Point::Recorded, Point::SetAside, Point::FileDisposed], "stop");
}

#[test]
fn a_dead_owner_is_succeeded_wherever_it_died() {
    one_ends_at(
        &[
            Point::Claimed,
            Point::StagingOpened,
            Point::LeaseConfirmed,
            Point::Committed,
            Point::Recorded,
            Point::SetAside,
        ],
        "kill",
    );
}
