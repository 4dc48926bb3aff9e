//! Stopped at a failure point, as a machine is that sleeps, until another archiver has the file; and killed there.

use archiver::failpoint::{Point, VARIABLE};
use rustix::process::Signal;

use super::{FINE, SHORT, Shared, assert_left_to_others};
use crate::support::env::{DEADLINE, wait_until};
use crate::watch::{names, stop, watching};

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
