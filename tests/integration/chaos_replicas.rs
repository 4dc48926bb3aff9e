//! Replicas of one archiver, processes of their own, on one tree with one Redis ledger: while all goes well they share the
//! work and seldom ask for the same file; and whoever is killed, or stopped for longer than its lease, at every failure
//! point and at random instants, the server of the ledger included, each version ends under one name.
//!
//! `ARCHIVER_TEST_KILLS`, `ARCHIVER_TEST_SEED`: as ever; `ARCHIVER_TEST_REPLICA_FILES`: so many files to share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archiver::failpoint::Point;
use tempfile::TempDir;

use super::model::{Copies, Identity, Model, Violations};
use super::observer::{Directories, Foreign, Partial, Seen, View, key_of, local_path};
use super::plan::Told;
use super::run::{Host, serve};
use super::writer::{MARKER, Marked, Writer};
use super::{After, FINE, Refused, Server, points};
use crate::push::Bench;
use crate::support::env::{TestEnv, files};
use crate::support::redis::Redis;

#[path = "chaos_share.rs"]
mod share;
#[path = "chaos_strikes.rs"]
mod strikes;

const REPLICAS: usize = 4;
/// The shortest there is.
const LEASE: Duration = Duration::from_secs(1);

/// One way of running replicas, and the failure points that they are struck at.
struct Scenario {
    name: &'static str,
    after: After,
    server: Server,
    layout: &'static str,
    options: &'static [&'static str],
    marked: Marked,
    copies: Copies,
    partial: Partial,
    blows: &'static [Blow],
    restart: Restart,
    points: &'static [&'static [Point]],
    /// Strikes at random instants, with each blow.
    at_random: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill,
    /// For longer than its lease.
    Stop,
}

impl Blow {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
        }
    }
}

/// What becomes of the ledger's server in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    WithData,
    Empty,
}

impl Scenario {
    fn points(&self) -> impl Iterator<Item = Point> {
        self.points.iter().copied().flatten().copied()
    }

    fn count(&self) -> usize {
        self.blows.len() * (self.points().count() + self.at_random)
    }
}

const KEEP: Scenario = Scenario {
    name: "replicas that keep",
    after: After::Keep,
    server: Server::OpenSsh,
    layout: FINE,
    options: &[],
    marked: Marked::No,
    copies: Copies::One,
    partial: Partial::Never,
    blows: &[Blow::Kill, Blow::Stop],
    restart: Restart::WithData,
    points: &[points::UPLOAD, points::TAKEN_OVER, &[Point::Renamed], points::ON_RECORD],
    at_random: 12,
};
const DELETE: Scenario = Scenario {
    name: "replicas that delete",
    after: After::Delete,
    points: &[
        &[Point::Claimed, Point::StagingOpened, Point::LeaseConfirmed],
        points::RENAMED,
        points::ON_RECORD,
        points::DISPOSAL,
        points::DELETED,
    ],
    at_random: 8,
    ..KEEP
};
/// Files that change, or go away with an upload begun.
const GIVEN_UP: Scenario =
    Scenario { name: "replicas that give files up", points: &[points::GIVEN_UP], at_random: 0, ..DELETE };
const MOVE: Scenario = Scenario {
    name: "replicas that move to another filesystem",
    after: After::MoveElsewhere,
    options: &["--verify", "readback"],
    points: &[points::COPIED],
    at_random: 2,
    ..KEEP
};
const MARKED: Scenario = Scenario {
    name: "replicas that wait for markers, and move",
    after: After::Move,
    marked: Marked::Yes,
    points: &[points::MOVED_WITH_MARKER],
    at_random: 2,
    ..KEEP
};
const LINKING: Scenario = Scenario {
    name: "replicas on a server with hard links",
    server: super::LINKING.server,
    points: &[points::LINKED],
    at_random: 2,
    ..DELETE
};
const CONFLICT: Scenario =
    Scenario { name: "replicas with conflicts", layout: "in", points: &[points::TAKEN], at_random: 2, ..DELETE };
const OVERWRITE: Scenario = Scenario {
    name: "replicas that overwrite",
    options: super::OVERWRITE.options,
    copies: Copies::OneAtMost,
    partial: Partial::AskedFor,
    points: &[points::OVERWRITTEN],
    ..CONFLICT
};
const OVERWRITE_BARE: Scenario = Scenario {
    name: "replicas that overwrite on a server without extensions",
    server: super::BARE.server,
    points: &[points::PUT_ASIDE],
    ..OVERWRITE
};
/// Killed alone: what is written in place cannot be called back from one that was stopped.
const DIRECT: Scenario = Scenario {
    name: "replicas that publish directly",
    server: super::DIRECT.server,
    options: super::DIRECT.options,
    partial: Partial::AskedFor,
    blows: &[Blow::Kill],
    points: &[points::DIRECT],
    at_random: 2,
    ..DELETE
};
/// One directory for all: a ledger that forgot everything finds the same bytes under the name of before. Nobody is killed,
/// for whose temporary name that was only the ledger knew.
const EMPTIED: Scenario = Scenario {
    name: "replicas whose ledger is emptied",
    layout: "in",
    blows: &[Blow::Stop],
    restart: Restart::Empty,
    points: &[&[Point::Claimed, Point::AllWritten, Point::LeaseConfirmed, Point::Committed]],
    at_random: 8,
    ..KEEP
};

const SCENARIOS: &[&Scenario] =
    &[&KEEP, &DELETE, &GIVEN_UP, &MOVE, &MARKED, &LINKING, &CONFLICT, &OVERWRITE, &OVERWRITE_BARE, &DIRECT, &EMPTIED];

/// What replicas share.
struct Tree {
    bench: Bench,
    _host: Host,
    redis: Mutex<Redis>,
    ledger: String,
    model: Arc<Model>,
    writer: Arc<Mutex<Writer>>,
    violations: Arc<Mutex<Violations>>,
    scenario: &'static Scenario,
    lease: Duration,
    /// Where local files are moved to.
    moved: Option<TempDir>,
}

impl Tree {
    fn new(scenario: &'static Scenario, lease: Duration, seed: u64) -> Self {
        let (bench, host) = serve(TestEnv::new(), scenario.server, Refused::Nothing);
        let (redis, model) = (Redis::start(), Arc::new(Model::default()));
        let writer = Writer::new(bench.env.local(), model.clone(), seed, scenario.marked);
        let moved = match scenario.after {
            After::Keep | After::Delete => None,
            After::Move => Some(tempfile::tempdir_in(bench.env.path()).unwrap()),
            After::MoveElsewhere => Some(tempfile::tempdir_in("/dev/shm").unwrap()),
        };
        Self {
            ledger: redis.url(),
            redis: Mutex::new(redis),
            writer: Arc::new(Mutex::new(writer)),
            violations: Arc::default(),
            bench,
            _host: host,
            model,
            scenario,
            lease,
            moved,
        }
    }

    fn command(&self, mode: &str, told: Told) -> Command {
        let local = [self.bench.env.local()];
        let mut command = match mode {
            "push" => self.bench.push(local),
            _ => self.bench.watch(local),
        };
        let after = match (told, self.scenario.after, &self.moved) {
            (Told::Keep, ..) | (_, After::Keep, _) => "keep".to_owned(),
            (Told::AsEver, _, None) => "delete".to_owned(),
            (Told::AsEver, _, Some(directory)) => format!("move={}", directory.path().display()),
        };
        command.args(["--ssh-config", "none", "--layout", self.scenario.layout, "--after", &after]);
        command.args(self.scenario.options);
        if self.scenario.marked == Marked::Yes {
            command.args(["--marker", &format!("{{name}}.{MARKER}")]);
        }
        command.env("ARCHIVER_LEDGER", &self.ledger);
        command.env("ARCHIVER_SETTLE", "50ms").env("ARCHIVER_LEDGER__LEASE", format!("{}ms", self.lease.as_millis()));
        command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
        command.env("ARCHIVER_LOG", "info,archiver::pipeline::intake=debug");
        // Large ones are taken up where they were left.
        command.env("ARCHIVER_FAILPOINT_RESUME_FROM", (1 << 20).to_string());
        command
    }

    fn view(&self) -> View {
        View {
            base: self.bench.base.clone(),
            model: self.model.clone(),
            foreign: Foreign::default(),
            violations: self.violations.clone(),
            directories: if self.scenario.layout == FINE { Directories::OfOneFile } else { Directories::OfMany },
            partial: self.scenario.partial,
        }
    }

    fn ask(&self, command: &[&str]) -> String {
        self.redis.lock().unwrap().cli(command)
    }

    fn recorded(&self) -> usize {
        self.ask(&["ZCARD", "{archiver}:recorded"]).parse().unwrap_or(0)
    }

    fn violation(&self, what: String) {
        self.violations.lock().unwrap().add(what);
    }

    /// Each version under one name, byte for byte, and nothing else on either side.
    fn prove(&self, seen: &Seen) {
        let mut violations = self.violations.lock().unwrap();
        let remote = &self.bench.base;
        let (temporary, finals): (Vec<_>, Vec<_>) = files(remote).into_keys().partition(|path| key_of(path).is_some());
        temporary.iter().for_each(|path| violations.add(format!("G3: {path:?} is left")));
        let read = |root: &Path, path: PathBuf, below: &dyn Fn(&Path) -> PathBuf| {
            (Identity::of(&std::fs::read(root.join(&path)).unwrap(), &below(&path)), path)
        };
        let (whole, _parts): (Vec<_>, Vec<_>) =
            finals.into_iter().map(|path| read(remote, path, &local_path)).partition(|(identity, _)| {
                // What direct publishing may leave.
                self.scenario.partial == Partial::Never || self.model.knows(identity)
            });
        self.model.judge("the server", self.scenario.copies, &whole, &mut violations);
        if let Some(moved) = &self.moved {
            // Markers go with their files.
            let is_marker = |path: &PathBuf| path.extension().is_some_and(|extension| extension == MARKER);
            let found = files(moved.path()).into_keys().filter(|path| !is_marker(path));
            let standing: Vec<_> = found.map(|path| read(moved.path(), path, &Path::to_owned)).collect();
            self.model.judge("the directory of moved files", Copies::One, &standing, &mut violations);
        }
        let by_path: BTreeMap<_, _> = whole.iter().map(|(identity, path)| (path, identity)).collect();
        for (path, identity) in &seen.finals {
            if by_path.get(path) != Some(&identity) {
                violations.add(format!("G5: {path:?} is not what it was"));
            }
        }
        if self.scenario.layout == FINE {
            let astray = seen.staged_in.iter().filter(|(_, directories)| directories.len() > 1);
            astray.for_each(|(key, directories)| violations.add(format!("G4: {key} in {directories:?}")));
        }
        let is_ours = |path: &Path| path.to_string_lossy().starts_with(".archiver-canary-");
        for path in files(&self.bench.env.local()).into_keys().filter(|path| !is_ours(path)) {
            let is_hidden = path.to_string_lossy().ends_with(".archived");
            if self.scenario.after != After::Keep || is_hidden {
                violations.add(format!("{path:?} is left of the local files"));
            }
        }
    }

    #[track_caller]
    fn assert_nothing_is_wrong(&self, seed: u64) {
        let violations = self.violations.lock().unwrap();
        assert!(violations.all().is_empty(), "seed {seed}: {:#?}", violations.all());
    }
}

#[test]
fn replicas_that_keep_are_killed_and_stopped() {
    strikes::chaos(&KEEP);
}

#[test]
fn replicas_that_delete_are_killed_and_stopped() {
    strikes::chaos(&DELETE);
}

#[test]
fn replicas_are_killed_and_stopped_over_files_that_change_or_go() {
    strikes::chaos(&GIVEN_UP);
}

#[test]
fn replicas_that_move_files_are_killed_and_stopped() {
    strikes::chaos(&MOVE);
    strikes::chaos(&MARKED);
}

#[test]
fn replicas_on_a_server_with_hard_links_are_killed_and_stopped() {
    strikes::chaos(&LINKING);
}

#[test]
fn replicas_are_killed_and_stopped_where_names_are_taken() {
    strikes::chaos(&CONFLICT);
}

#[test]
fn replicas_that_overwrite_are_killed_and_stopped() {
    strikes::chaos(&OVERWRITE);
    strikes::chaos(&OVERWRITE_BARE);
}

#[test]
fn replicas_that_publish_directly_are_killed() {
    strikes::chaos(&DIRECT);
}

#[test]
fn replicas_are_stopped_while_their_ledger_is_emptied() {
    strikes::chaos(&EMPTIED);
}

/// With both blows, but where a scenario says why not.
#[test]
fn every_failure_point_is_struck_at_among_replicas() {
    let of = |scenario: &&Scenario| scenario.points().collect::<Vec<_>>();
    let struck: BTreeSet<_> = SCENARIOS.iter().flat_map(of).chain(crate::dedupe::stopped::points()).collect();
    let missed: Vec<_> = Point::ALL.iter().filter(|point| !struck.contains(point)).collect();
    assert!(missed.is_empty(), "no scenario of replicas strikes at {missed:?}");
    let stopped: BTreeSet<_> = SCENARIOS
        .iter()
        .filter(|scenario| scenario.blows.contains(&Blow::Stop))
        .flat_map(of)
        .chain(crate::dedupe::stopped::points())
        .collect();
    let only_killed: Vec<_> = Point::ALL.iter().filter(|point| !stopped.contains(point)).collect();
    assert_eq!(only_killed, [&Point::DirectChosen, &Point::DirectWritten, &Point::DirectRemoved]);
}
