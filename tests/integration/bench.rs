//! What the benchmark's word depends on, for it is no test itself: it sees wrong answers, and it calculates rightly.

#[path = "../../benches/peers/markdown.rs"]
mod markdown;
#[path = "../../benches/peers/statistics.rs"]
mod statistics;
#[path = "../../benches/peers/stop.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod stop;
#[path = "../../benches/peers/verify.rs"]
mod verify;

use std::path::Path;

use markdown::Table;
use statistics::{largest, median, percentile, ratio, smallest};

use crate::support::env::{TestEnv, write};

/// Whether `remote/2026/11/21` holds exactly what `local` does.
fn verified(env: &TestEnv) -> Result<u64, String> {
    let tops = verify::dated(&env.remote()).map_err(|error| format!("{error:#}"))?;
    verify::same(&env.local(), &env.remote(), &tops).map_err(|error| format!("{error:#}"))
}

fn archived() -> TestEnv {
    let env = TestEnv::new();
    for (path, content) in [("a", "alpha"), ("d/b", "beta")] {
        write(&env.local(), path, content);
        write(&env.remote(), Path::new("2026/11/21").join(path), content);
    }
    env
}

#[test]
fn the_right_answer_is_taken_for_right() {
    let env = archived();
    assert_eq!(verified(&env), Ok(2));
    // Midnight came in the middle.
    std::fs::remove_file(env.remote().join("2026/11/21/a")).unwrap();
    write(&env.remote(), "2026/11/22/a", "alpha");
    assert_eq!(verified(&env), Ok(2));
}

#[test]
fn every_wrong_answer_is_seen() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("missing at the far side: d/b", |remote| std::fs::remove_file(remote.join("d/b")).unwrap()),
        ("within the 4 bytes from offset 0", |remote| std::fs::write(remote.join("d/b"), "bets").unwrap()),
        ("3 bytes and not 4", |remote| std::fs::write(remote.join("d/b"), "bet").unwrap()),
        ("holds 3 files and not 2", |remote| std::fs::write(remote.join("d/.b.0-1.part"), "").unwrap()),
        ("holds 3 files and not 2", |remote| std::os::unix::fs::symlink("a", remote.join("link")).unwrap()),
    ];
    for (complaint, damage) in damages {
        let env = archived();
        damage(&env.remote().join("2026/11/21"));
        let error = verified(&env).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn figures_do_not_depend_on_the_order_of_samples() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    assert_eq!((smallest(&[2.0, 1.0, 3.0]), largest(&[2.0, 1.0, 3.0])), (1.0, 3.0));
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!([50.0, 99.0, 100.0].map(|percent| percentile(&hundred, percent)), [50.0, 99.0, 100.0]);
    assert_eq!(percentile(&[7.0], 99.0), 7.0);
}

#[test]
fn a_round_in_which_the_machine_was_slow_does_not_change_the_ratio() {
    assert_eq!(ratio(&[1.0, 50.0, 1.1], &[2.0, 100.0, 2.2]), 0.5);
}

#[test]
fn a_table_is_aligned_for_readers_and_for_markdown() {
    let mut table = Table::new(&["tool", "min–max"]);
    table.push(["tar".into(), "1–2".into()]);
    table.push(["archiver".into(), "0.25–0.30".into()]);
    let text = "\
| tool     |   min–max |
| -------- | --------: |
| tar      |       1–2 |
| archiver | 0.25–0.30 |
";
    assert_eq!(table.to_string(), text);
}
