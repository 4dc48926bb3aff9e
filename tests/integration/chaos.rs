//! Killed with SIGKILL at every failure point and at random instants, over a tree that changes all the while; then run
//! to the end, and proved by a model: nothing lost, nothing doubled, nothing seen in part, nothing moved to another
//! date, nothing left behind, nothing of others touched (G1 to G5).
//!
//! `ARCHIVER_TEST_KILLS=N` asks for about so many kills in all (`scripts/test --long`), `ARCHIVER_TEST_SEED=N` for
//! the application's choices of an earlier run.

use archiver::embedded::{AnnouncedExtensions, Quirks, RenamePolicy};
use archiver::failpoint::Point;

use model::Copies;
use observer::Partial;
use run::Effort;
use writer::Marked;

#[path = "chaos_late.rs"]
mod late;
#[path = "chaos_model.rs"]
mod model;
#[path = "chaos_observer.rs"]
mod observer;
#[path = "chaos_plan.rs"]
mod plan;
#[path = "chaos_points.rs"]
mod points;
#[path = "chaos_replicas.rs"]
mod replicas;
#[path = "chaos_run.rs"]
mod run;
#[path = "chaos_stopped.rs"]
mod stopped;
#[path = "chaos_writer.rs"]
mod writer;

/// A directory of its own for every nanosecond, so that a second claim would show.
const FINE: &str = "%s%f";

/// One way of running the archiver, and the failure points that it is killed at.
pub struct Scenario {
    name: &'static str,
    mode: Mode,
    after: After,
    server: Server,
    layout: &'static str,
    options: &'static [&'static str],
    marked: Marked,
    copies: Copies,
    partial: Partial,
    refused: Refused,
    /// What is killed at.
    points: &'static [&'static [Point]],
    /// How often in the standard run.
    rounds: usize,
    /// Kills at random instants for 100 at points.
    at_random: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Push,
    Watch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    Delete,
    Move,
    /// To another filesystem, where there is one.
    MoveElsewhere,
}

/// What the server takes nothing of, ever; such files go into quarantine, on another filesystem where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Nothing,
    /// The files of [`REFUSED`].
    OneDirectory,
}

/// One of the directories that the application uses.
const REFUSED: &str = "d2";

#[derive(Clone, Copy)]
enum Server {
    OpenSsh,
    Embedded(fn() -> Quirks),
}

impl Scenario {
    fn points(&self) -> Vec<Point> {
        self.points.iter().copied().flatten().copied().collect()
    }
}

const PLAIN: Scenario = Scenario {
    name: "push",
    mode: Mode::Push,
    after: After::Delete,
    server: Server::OpenSsh,
    layout: FINE,
    options: &[],
    marked: Marked::No,
    copies: Copies::One,
    partial: Partial::Never,
    refused: Refused::Nothing,
    points: &[
        points::UPLOAD,
        points::TAKEN_OVER,
        points::GIVEN_UP,
        points::RENAMED,
        points::ON_RECORD,
        points::DISPOSAL,
        points::DELETED,
    ],
    rounds: 1,
    at_random: 50,
};
const WATCH: Scenario = Scenario { name: "watch", mode: Mode::Watch, ..PLAIN };
/// With a directory of another filesystem, and every byte read back.
const MOVE: Scenario = Scenario {
    name: "move to another filesystem",
    after: After::MoveElsewhere,
    options: &["--verify", "readback"],
    points: &[points::COPIED, &[Point::PutBack]],
    rounds: 2,
    ..PLAIN
};
const MARKED: Scenario = Scenario {
    name: "watch for markers, and move",
    mode: Mode::Watch,
    after: After::Move,
    marked: Marked::Yes,
    points: &[points::MOVED_WITH_MARKER],
    rounds: 2,
    ..PLAIN
};
/// A server that may rename over what stands, and so is asked for a hard link instead.
const LINKING: Scenario = Scenario {
    name: "a server with hard links",
    server: Server::Embedded(|| Quirks { rename: RenamePolicy::Overwrites, ..Quirks::default() }),
    points: &[points::LINKED],
    ..PLAIN
};
/// A server that has no extensions: no hard links, no fsync.
const BARE: Scenario = Scenario {
    name: "a server without extensions",
    server: Server::Embedded(|| Quirks { extensions: AnnouncedExtensions::None, ..Quirks::default() }),
    options: &["--verify", "readback"],
    points: &[&[Point::Renamed, Point::Verified, Point::Reconciled, Point::PredecessorAdopted, Point::Committed]],
    rounds: 2,
    ..PLAIN
};
/// One directory for all, where the versions of one name meet.
const CONFLICT: Scenario = Scenario { name: "conflicts", layout: "in", points: &[points::TAKEN], ..PLAIN };
const OVERWRITE: Scenario = Scenario {
    name: "overwriting",
    layout: "in",
    options: &["--on-conflict", "overwrite"],
    copies: Copies::OneAtMost,
    partial: Partial::AskedFor,
    points: &[points::OVERWRITTEN],
    ..PLAIN
};
const OVERWRITE_BARE: Scenario = Scenario {
    name: "overwriting on a server without extensions",
    server: BARE.server,
    points: &[points::PUT_ASIDE],
    ..OVERWRITE
};
const DIRECT: Scenario = Scenario {
    name: "direct publishing",
    server: Server::Embedded(|| Quirks {
        rename: RenamePolicy::Unsupported,
        extensions: AnnouncedExtensions::None,
        ..Quirks::default()
    }),
    options: &["--publish", "direct"],
    partial: Partial::AskedFor,
    points: &[points::DIRECT],
    rounds: 2,
    ..PLAIN
};

/// A server that refuses the files of one directory for ever.
const QUARANTINE: Scenario = Scenario {
    name: "quarantine on another filesystem",
    server: Server::Embedded(Quirks::default),
    refused: Refused::OneDirectory,
    points: &[
        &[
            Point::Begun,
            Point::SetAside,
            Point::Judged,
            Point::FileDisposed,
            Point::PutBack,
            Point::UndisposedFound,
            Point::UndisposedDone,
            Point::RowPut,
        ],
        points::COPIED,
    ],
    ..PLAIN
};

const SCENARIOS: &[&Scenario] =
    &[&PLAIN, &WATCH, &MOVE, &MARKED, &LINKING, &BARE, &CONFLICT, &OVERWRITE, &OVERWRITE_BARE, &DIRECT, &QUARANTINE];

fn chaos(scenario: &'static Scenario) {
    let kills =
        |scenario: &Scenario| scenario.rounds * scenario.points().len() * (100 + scenario.at_random as usize) / 100;
    let effort = Effort::of_environment(SCENARIOS.iter().map(|scenario| kills(scenario)).sum());
    run::run(scenario, &effort);
}

#[test]
fn push_killed_at_every_point() {
    chaos(&PLAIN);
}

#[test]
fn watch_killed_at_every_point() {
    chaos(&WATCH);
}

#[test]
fn killed_while_moving_to_another_filesystem() {
    chaos(&MOVE);
}

#[test]
fn killed_while_files_wait_for_markers_and_are_moved() {
    chaos(&MARKED);
}

#[test]
fn killed_on_a_server_with_hard_links() {
    chaos(&LINKING);
}

#[test]
fn killed_on_a_server_without_extensions() {
    chaos(&BARE);
}

#[test]
fn killed_where_names_are_taken() {
    chaos(&CONFLICT);
}

#[test]
fn killed_while_overwriting() {
    chaos(&OVERWRITE);
    chaos(&OVERWRITE_BARE);
}

#[test]
fn killed_while_publishing_directly() {
    chaos(&DIRECT);
}

#[test]
fn killed_while_files_go_into_quarantine() {
    chaos(&QUARANTINE);
}

#[test]
fn every_failure_point_is_struck_at() {
    let struck: std::collections::BTreeSet<_> =
        SCENARIOS.iter().flat_map(|scenario| scenario.points()).chain(crate::dedupe::stopped::points()).collect();
    let missed: Vec<_> = Point::ALL.iter().filter(|point| !struck.contains(point)).collect();
    assert!(missed.is_empty(), "no scenario kills at {missed:?}");
}
