use super::*;
use crate::pipeline::testing::{engine, version};

#[tokio::test]
async fn alone_nothing_is_left_to_others() {
    let home = tempfile::tempdir().unwrap();
    let engine = engine(home.path(), "keep");
    std::fs::write(home.path().join("in/a"), "a").unwrap();
    engine.peers.meet().await;
    assert_eq!(&*engine.peers.known().owners, [engine.ledger.owner()]);
    assert_eq!(engine.peers.leave_for(&engine.sources[0], &version(&engine, "a").candidate), None);
}

#[test]
fn each_file_is_left_to_those_who_come_before_and_no_longer() {
    let home = tempfile::tempdir().unwrap();
    let engine = engine(home.path(), "keep");
    let others = (2..12).map(|number: u128| OwnerId((number << 64) | number));
    engine.peers.known().owners = others.chain([engine.ledger.owner()]).collect();
    let (mut ours, mut left) = (0, 0);
    for number in 0..100 {
        let name = number.to_string();
        std::fs::write(home.path().join("in").join(&name), "a").unwrap();
        match engine.peers.leave_for(&engine.sources[0], &version(&engine, &name).candidate) {
            None => ours += 1,
            Some(time) => {
                assert!((TURN..=TURN * TURNS).contains(&time), "{time:?}");
                left += 1;
            }
        }
    }
    assert!(ours > 0 && left > ours, "{ours} {left}");
}

#[test]
fn what_another_holds_is_asked_for_again_well_within_a_lease() {
    let home = tempfile::tempdir().unwrap();
    let engine = engine(home.path(), "keep");
    let lease = engine.ledger.lease();
    for random in [0.0, 0.5, 1.0] {
        let pause = engine.peers.ask_again_in(random);
        assert!(pause >= lease / 12 && pause <= lease / 6, "{pause:?}");
    }
}

#[test]
fn those_who_are_slow_are_asked_after_seldom_and_those_who_are_gone_soon_replaced() {
    let lease = Duration::from_secs(60);
    let mut boldness = Boldness::default();
    assert_eq!(boldness.told(0, 0, lease), boldness);
    for pause in [2, 4, 8, 10] {
        boldness = boldness.told(8, 5, lease);
        assert_eq!(boldness, Boldness { files: 8, pause: Duration::from_secs(pause) });
    }
    for files in [16, 32, 64, 128, 256, 256] {
        boldness = boldness.told(8, 4, lease);
        assert_eq!(boldness, Boldness { files, pause: TURN });
    }
    assert_eq!(boldness.told(256, 129, lease).files, 8);
    // However short the lease is.
    assert_eq!(boldness.told(8, 8, Duration::from_secs(1)).pause, TURN);
}

#[test]
fn what_is_left_to_others_is_looked_at_soon_and_many_files_not_too_often() {
    let boldness = Boldness { files: 8, pause: Duration::from_secs(4) };
    for (files, millis) in [(0, 250), (2_500, 250), (10_000, 1_000), (50_000, 4_000)] {
        assert_eq!(boldness.look_again_in(files), Duration::from_millis(millis));
    }
}
