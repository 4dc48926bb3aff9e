//! The rows of the report, with every size in one table.

use std::time::Duration;

use anyhow::Result;

use crate::args::Args;
use crate::burst::Scale;
use crate::markdown::Table;
use crate::race::{Race, Target};
use crate::racers::{self, Racer};
use crate::record::{Outcome, Verdict};
use crate::replicas::{AS_IT_COMES, BOUND_BY_LINK, Replicas};
use crate::scale::{Growth, Memory};
use crate::site::Site;
use crate::watching::{Idle, Lag};
use crate::workload::Tree;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A figure for claims, and a smaller one for a look.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<T> {
    pub full: T,
    pub quick: T,
}

impl<T: Copy> Sizes<T> {
    pub fn of(&self, args: &Args) -> T {
        if args.quick { self.quick } else { self.full }
    }
}

pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    work: Work,
    when: When,
}

enum Work {
    Race(Race),
    Memory(Memory),
    Growth(Growth),
    Idle(Idle),
    Lag(Lag),
    Scale(Scale),
    Replicas(Replicas),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Only where it is named.
    Named,
}

/// What a row found.
pub struct Findings {
    pub title: String,
    pub table: Table,
    pub commands: Vec<(String, String)>,
    pub verdicts: Vec<Verdict>,
    pub notes: Vec<String>,
    pub samples: serde_json::Value,
}

/// The workload of a real file writer.
const SMALL: Sizes<Tree> = Sizes { full: Tree::of(5000, 13 * KIB, 500), quick: Tree::of(1000, 13 * KIB, 100) };
const LARGE: Sizes<Tree> = Sizes { full: Tree::one(GIB), quick: Tree::one(256 * MIB) };
const FEW: Sizes<Tree> = Sizes { full: Tree::of(500, 13 * KIB, 100), quick: Tree::of(100, 13 * KIB, 50) };
const MEDIUM: Sizes<Tree> = Sizes { full: Tree::one(100 * MIB), quick: Tree::one(20 * MIB) };
/// Small files in the shape of a large archive.
const fn many(files: u64) -> Tree {
    Tree::of(files, KIB, 100)
}

const RUNS: Sizes<u32> = Sizes { full: 5, quick: 2 };
const FEW_RUNS: Sizes<u32> = Sizes { full: 3, quick: 1 };
const BOUND: Duration = Duration::from_secs(300);
const LONG_BOUND: Duration = Duration::from_secs(600);

const fn race(tree: Sizes<Tree>, racers: &'static [Racer], targets: &'static [Target]) -> Race {
    Race { tree, round_trip: None, runs: RUNS, bound: BOUND, racers, targets }
}

const fn slow(ms: u64, tree: Sizes<Tree>, racers: &'static [Racer], targets: &'static [Target]) -> Race {
    let round_trip = Some(Duration::from_millis(ms));
    Race { round_trip, runs: FEW_RUNS, bound: LONG_BOUND, ..race(tree, racers, targets) }
}

const SMALL_FIELD: &[Racer] = &[
    racers::ARCHIVER,
    racers::ARCHIVER_ON_DISK,
    racers::TAR,
    racers::RSYNC,
    racers::LFTP_4,
    racers::LFTP_4_TUNED,
    racers::LFTP_TUNED,
    racers::SFTP,
    racers::SCP,
    racers::SCP_OLD,
    racers::RCLONE_4,
    racers::RCLONE_16,
];
const LARGE_FIELD: &[Racer] = &[
    racers::ARCHIVER,
    racers::CAT,
    racers::CAT_DEFAULT,
    racers::SFTP,
    racers::SFTP_DEFAULT,
    racers::SCP,
    racers::SCP_OLD,
    racers::RSYNC,
    racers::LFTP_TUNED,
    racers::RCLONE_4,
];
const SLOW_SMALL_FIELD: &[Racer] = &[
    racers::ARCHIVER,
    racers::TAR,
    racers::RSYNC,
    racers::SLOW_LFTP_4,
    racers::SLOW_LFTP_4_TUNED,
    racers::SLOW_RCLONE_16,
    racers::SLOW_RCLONE_4,
    racers::SLOW_SFTP,
];
const SLOW_LARGE_FIELD: &[Racer] =
    &[racers::ARCHIVER, racers::CAT, racers::SFTP, racers::SCP, racers::RSYNC, racers::LFTP_TUNED, racers::RCLONE_4];

const fn at_most(at_most: f64, of: Racer) -> Target {
    Target { at_most, ours: None, of }
}

const fn of(ours: Racer, target: Target) -> Target {
    Target { ours: Some(ours), ..target }
}

const TO_SMALL: &[Target] =
    &[at_most(0.70, racers::TAR), at_most(0.25, racers::LFTP_4), at_most(0.25, racers::LFTP_4_TUNED)];
/// As it comes, and with the cipher that suits this machine.
const TO_LARGE: &[Target] =
    &[at_most(0.60, racers::SFTP_DEFAULT), at_most(0.60, racers::SFTP), at_most(1.2, racers::CAT)];
const TO_SLOW_SMALL: &[Target] =
    &[at_most(1.0, racers::RSYNC), at_most(0.06, racers::LFTP_4), at_most(0.06, racers::LFTP_4_TUNED)];
const LEDGER_FIELD: &[Racer] =
    &[racers::ARCHIVER, racers::ARCHIVER_REDIS, racers::ARCHIVER_REDIS_RELAYED, racers::ARCHIVER_REDIS_AWAY];
const TO_LEDGER: &[Target] = &[
    of(racers::ARCHIVER_REDIS, at_most(1.10, racers::ARCHIVER)),
    of(racers::ARCHIVER_REDIS_AWAY, at_most(1.05, racers::ARCHIVER_REDIS_RELAYED)),
];
const TO_SLOW_LARGE: &[Target] = &[at_most(1.05, racers::CAT)];

pub const ROWS: &[Row] = &[
    row("small", "many small files", Work::Race(race(SMALL, SMALL_FIELD, TO_SMALL))),
    row(
        "small-readback",
        "the same, read back and compared",
        Work::Race(race(SMALL, &[racers::ARCHIVER_READBACK, racers::SFTP], &[at_most(0.5, racers::SFTP)])),
    ),
    row("large", "one large file", Work::Race(race(LARGE, LARGE_FIELD, TO_LARGE))),
    row("small-50ms", "small files on a slow link", Work::Race(slow(50, FEW, SLOW_SMALL_FIELD, TO_SLOW_SMALL))),
    row("small-200ms", "small files on a slower link", Work::Race(slow(200, FEW, SLOW_SMALL_FIELD, TO_SLOW_SMALL))),
    row("large-50ms", "a large file on a slow link", Work::Race(slow(50, MEDIUM, SLOW_LARGE_FIELD, TO_SLOW_LARGE))),
    row("large-200ms", "a large file on a slower link", Work::Race(slow(200, MEDIUM, SLOW_LARGE_FIELD, TO_SLOW_LARGE))),
    row("ledger", "the ledger on Redis beside that in a file", Work::Race(race(SMALL, LEDGER_FIELD, TO_LEDGER))),
    row(
        "replicas",
        "1, 2 and 4 replicas that share one tree",
        Work::Replicas(Replicas {
            tree: Sizes { full: Tree::of(20_000, 13 * KIB, 500), quick: Tree::of(2000, 13 * KIB, 100) },
            round_trip: Duration::from_millis(50),
            counts: &[1, 2, 4],
            limits: &[BOUND_BY_LINK, AS_IT_COMES],
            runs: FEW_RUNS,
            bound: LONG_BOUND,
        }),
    ),
    row(
        "memory",
        "peak memory of push",
        Work::Memory(Memory {
            trees: Sizes {
                full: &[
                    (SMALL.full, Some(24 * MIB)),
                    (many(100_000), None),
                    (many(1_000_000), Some(64 * MIB)),
                    (Tree::sparse(10 * GIB), Some(48 * MIB)),
                ],
                quick: &[(many(1000), None), (many(10_000), None), (Tree::sparse(GIB), None)],
            },
            bound: LONG_BOUND,
        }),
    ),
    row(
        "growth",
        "files a second as the tree grows, and start to first byte",
        Work::Growth(Growth {
            trees: Sizes {
                full: &[(many(1000), 5), (many(10_000), 5), (many(100_000), 3), (many(1_000_000), 1)],
                quick: &[(many(500), 2), (many(2000), 2), (many(10_000), 1)],
            },
            bound: LONG_BOUND,
        }),
    ),
    row(
        "idle",
        "a sidecar with nothing to do",
        Work::Idle(Idle {
            tree: Tree::of(100, 13 * KIB, 10),
            look: Sizes { full: Duration::from_secs(60), quick: Duration::from_secs(10) },
        }),
    ),
    row(
        "lag",
        "from a finished file to its final name",
        Work::Lag(Lag { files: Sizes { full: 200, quick: 30 }, bytes: 13 * KIB, settle: &[("0s", 0), ("2s", 2)] }),
    ),
    row(
        "watch-scale",
        "watch over a large old tree, then a burst",
        Work::Scale(Scale {
            old: Sizes { full: many(1_000_000), quick: many(20_000) },
            burst: Sizes { full: 50_000, quick: 2000 },
            idle: Sizes { full: Duration::from_secs(30), quick: Duration::from_secs(5) },
            bound: LONG_BOUND,
        }),
    ),
    Row {
        when: When::Named,
        ..row(
            "small-hashcheck",
            "rclone's default, which asks the server's shell for the hash of each file: minutes",
            Work::Race(Race {
                bound: LONG_BOUND,
                runs: Sizes { full: 1, quick: 1 },
                ..race(SMALL, &[racers::ARCHIVER, racers::RCLONE_16, racers::RCLONE_HASH], &[])
            }),
        )
    },
];

const fn row(name: &'static str, about: &'static str, work: Work) -> Row {
    Row { name, about, work, when: When::Always }
}

impl Row {
    /// Whether it is measured where these rows are asked for; without any, all but the optional ones are.
    pub fn is_asked_for(&self, only: &[String]) -> bool {
        if only.is_empty() { self.when == When::Always } else { only.iter().any(|name| name == self.name) }
    }

    pub fn measure(&self, site: &Site, args: &Args) -> Result<Findings> {
        match &self.work {
            Work::Race(race) => race.run(site, args),
            Work::Memory(memory) => memory.run(site, args),
            Work::Growth(growth) => growth.run(site, args),
            Work::Idle(idle) => idle.run(site, args),
            Work::Lag(lag) => lag.run(site, args),
            Work::Scale(scale) => scale.run(site, args),
            Work::Replicas(replicas) => replicas.run(site, args),
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let optional = if self.when == When::Named { " (only where it is named)" } else { "" };
        write!(f, "{:16} {}{optional}", self.name, self.about)
    }
}

impl Findings {
    pub fn verdict(target: String, measured: String, reached: bool) -> Verdict {
        Verdict { target, measured, outcome: Outcome::of(reached) }
    }
}
