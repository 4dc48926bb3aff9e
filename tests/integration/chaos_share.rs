//! Nobody is struck: each replica has its share, and few files are asked for in vain.

use std::time::{Duration, Instant};

use super::{After, KEEP, REPLICAS, Scenario, Tree};
use crate::chaos::observer::Observer;
use crate::chaos::plan::Told;
use crate::observe::{address, samples};
use crate::support::env::{Running, wait_until};
use crate::support::http::get;
use crate::watch::stop;

fn number(name: &str) -> Option<usize> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

const KEPT: Scenario = Scenario { layout: "in", ..KEEP };
const DELETED: Scenario = Scenario { after: After::Delete, ..KEPT };

fn files_are_shared(scenario: &'static Scenario) {
    const STANDARD: usize = 20_000;
    /// Files that come one by one, in which time the replicas get to know each other.
    const FIRST: usize = 20;
    /// Files that are written and not on record yet.
    const AHEAD: usize = 1_000;
    let count = number("ARCHIVER_TEST_REPLICA_FILES").unwrap_or(STANDARD);
    let tree = Tree::new(scenario, Duration::from_secs(60), 0);
    let observer = Observer::start(tree.view());
    let start = Instant::now();
    let mut replicas: Vec<_> = (0..REPLICAS)
        .map(|_| Running::start(tree.command("watch", Told::AsEver).args(["--metrics", "127.0.0.1:0"])))
        .collect();
    let addresses: Vec<_> = replicas.iter_mut().map(address).collect();
    replicas.iter_mut().for_each(|replica| drop(replica.expect_line("watching")));
    let mut written = 0;
    while written < count {
        wait_until("they keep up", || tree.recorded() + AHEAD > written);
        let some = (count - written).min(if written < FIRST { 1 } else { 250 });
        if written < FIRST {
            wait_until("it is on record", || tree.recorded() == written);
        }
        (0..some).for_each(|number| tree.writer.lock().unwrap().move_in(100 + number * 4));
        written += some;
    }
    let arrived = start.elapsed();
    wait_until("all are on record", || tree.recorded() == count);
    let look = || addresses.iter().map(|address| samples(&get(*address, "/metrics").body)).collect::<Vec<_>>();
    const ARCHIVED: &str = "archiver_files_total{source=\"\",status=\"archived\"}";
    let mut metrics = Vec::new();
    // Also the rows, and where it is asked for the disposal, of the last ones.
    wait_until("all are counted", || {
        metrics = look();
        metrics.iter().map(|samples| samples[ARCHIVED]).sum::<f64>() == count as f64
    });
    let of = |name: &str| metrics.iter().map(|samples| samples[name]).collect::<Vec<_>>();
    let shares = of(ARCHIVED);
    let claims =
        ["claimed", "recorded", "held"].map(|outcome| of(&format!("archiver_claims_total{{outcome=\"{outcome}\"}}")));
    let [claimed, _, held] = claims.each_ref().map(|counts| counts.iter().sum::<f64>());
    eprintln!(
        "--after {:?}: {count} files, archived by each {shares:?}; claims: claimed {:?}, recorded {:?}, held {:?} ({:.1}%); \
         arrived within {arrived:?}, all done after {:?}",
        scenario.after,
        claims[0],
        claims[1],
        claims[2],
        100.0 * held / claimed,
        start.elapsed(),
    );
    for finished in replicas.into_iter().map(stop) {
        finished.assert_code(0);
    }
    tree.prove(&observer.stop());
    tree.assert_nothing_is_wrong(0);
    assert_eq!((shares.iter().sum::<f64>(), claimed), (count as f64, count as f64));
    assert!(shares.iter().all(|share| *share >= count as f64 / 10.0), "{shares:?}");
    assert!(held <= 0.05 * claimed, "{held} of {claimed}");
    assert_eq!(of("archiver_lease_lost_total").iter().sum::<f64>(), 0.0);
}

#[test]
fn four_replicas_share_what_arrives_and_keep_it() {
    files_are_shared(&KEPT);
}

#[test]
fn four_replicas_share_what_arrives_and_delete_it() {
    files_are_shared(&DELETED);
}
