//! Kills the archiver again and again while the application works, and holds the end against the model.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use archiver::embedded::{Fault, Operation, Request, StatusCode};
use archiver::failpoint::{Point, VARIABLE};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::model::{Copies, Identity, Model, Violations};
use super::observer::{Directories, Foreign, Observer, Partial, Seen, View, key_of, local_path};
use super::plan::{Deed, Plan, Told};
use super::writer::{AtWork, Full, Marked, Writer};
use super::{After, Mode, REFUSED, Refused, Scenario, Server};
use crate::push::Bench;
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Entry, Finished, Running, TestEnv, files, tree, wait_until};
use crate::support::openssh::OpenSsh;

/// From this size on uploads are resumed in these tests.
const RESUME_FROM: usize = 1 << 20;
/// Long enough for a run to get to anything, also on a busy machine; most random instants lie within.
const BUSY: Duration = Duration::from_millis(450);
/// Tries to reach one point before the test fails.
const TRIES: usize = 25;

/// How often, and from which seed.
pub struct Effort {
    pub seed: u64,
    /// Kills of the standard run are multiplied by it.
    pub times: usize,
}

impl Effort {
    /// `ARCHIVER_TEST_SEED` and `ARCHIVER_TEST_KILLS`, as `scripts/test --long` sets it.
    pub fn of_environment(standard: usize) -> Self {
        let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
        let kills = number("ARCHIVER_TEST_KILLS").map_or(standard, |kills| kills as usize);
        Self { seed: number("ARCHIVER_TEST_SEED").unwrap_or_else(rand::random), times: kills.div_ceil(standard).max(1) }
    }
}

/// What was done.
#[derive(Default)]
struct Tally {
    at_random: usize,
    at_points: BTreeMap<Point, usize>,
    /// Runs that came to their end before they were killed.
    ended: usize,
}

/// The server of a test, and all that keeps it alive.
pub enum Host {
    OpenSsh(#[expect(dead_code, reason = "lives as long as the test")] Box<OpenSsh>),
    Embedded(#[expect(dead_code, reason = "lives as long as the test")] Box<Embedded>),
}

struct Chaos {
    scenario: &'static Scenario,
    bench: Bench,
    _host: Host,
    model: Arc<Model>,
    writer: Arc<Mutex<Writer>>,
    violations: Arc<Mutex<Violations>>,
    foreign: Foreign,
    random: StdRng,
    tally: Tally,
    /// Where local files are moved to.
    moved: Option<TempDir>,
    /// Where those go that the server refuses.
    quarantine: Option<TempDir>,
}

/// A server of this kind, and the bench of an archiver that may use it.
pub fn serve(env: TestEnv, server: Server, refused: Refused) -> (Bench, Host) {
    match server {
        Server::OpenSsh => {
            let server = OpenSsh::plain();
            (Bench::openssh_in(env, &server), Host::OpenSsh(Box::new(server)))
        }
        Server::Embedded(quirks) => {
            let refuse = move |request: &Request| {
                let is_refused = refused == Refused::OneDirectory
                    && request.operation == Operation::Open
                    && request.path.contains(&format!("/{REFUSED}/"));
                if is_refused { Fault::Status(StatusCode::PermissionDenied) } else { Fault::None }
            };
            let server = Embedded::start_with(&env, quirks(), Some(Arc::new(refuse)));
            (Bench::embedded(env, &server), Host::Embedded(Box::new(server)))
        }
    }
}

/// Runs a scenario to its end; `times` the kills of a standard run.
pub fn run(scenario: &'static Scenario, effort: &Effort) {
    let start = Instant::now();
    eprintln!("{}: ARCHIVER_TEST_SEED={}", scenario.name, effort.seed);
    let mut chaos = Chaos::new(scenario, effort.seed);
    let view = View {
        base: chaos.bench.base.clone(),
        model: chaos.model.clone(),
        foreign: chaos.foreign.clone(),
        violations: chaos.violations.clone(),
        directories: if scenario.layout == super::FINE { Directories::OfOneFile } else { Directories::OfMany },
        partial: scenario.partial,
    };
    let observer = Observer::start(view);
    let application = AtWork::start(chaos.writer.clone(), Full::Waits);
    for round in 0..effort.times * scenario.rounds {
        for point in scenario.points() {
            chaos.strike(point);
            if chaos.random.random_range(0..100) < scenario.at_random {
                chaos.strike_at_random();
            }
        }
        eprintln!("{}: round {round} done after {:?}", scenario.name, start.elapsed());
    }
    application.stop();
    chaos.complete();
    let seen = observer.stop();
    chaos.prove(&seen);
    chaos.print(&seen, start);
    let violations = chaos.violations.lock().unwrap();
    assert!(violations.all().is_empty(), "seed {}: {:#?}", effort.seed, violations.all());
}

impl Chaos {
    fn new(scenario: &'static Scenario, seed: u64) -> Self {
        let env = TestEnv::new();
        let (bench, host) = serve(env, scenario.server, scenario.refused);
        let moved = match scenario.after {
            After::Keep | After::Delete => None,
            After::Move => Some(tempfile::tempdir_in(bench.env.path()).unwrap()),
            After::MoveElsewhere => Some(tempfile::tempdir_in("/dev/shm").unwrap()),
        };
        let quarantine = match scenario.refused {
            Refused::Nothing => None,
            Refused::OneDirectory => Some(tempfile::tempdir_in("/dev/shm").unwrap()),
        };
        let model = Arc::new(Model::default());
        let writer = Writer::new(bench.env.local(), model.clone(), seed, scenario.marked);
        let mut chaos = Self {
            scenario,
            bench,
            _host: host,
            model,
            writer: Arc::new(Mutex::new(writer)),
            violations: Arc::default(),
            foreign: Foreign::default(),
            random: StdRng::seed_from_u64(!seed),
            tally: Tally::default(),
            moved,
            quarantine,
        };
        chaos.plant(Path::new(""));
        chaos
    }

    fn command(&self, told: Told) -> Command {
        let mut command = match self.scenario.mode {
            Mode::Push => self.bench.push([self.bench.env.local()]),
            Mode::Watch => self.bench.watch([self.bench.env.local()]),
        };
        let after = match &self.moved {
            _ if told == Told::Keep || self.scenario.after == After::Keep => "keep".to_owned(),
            None => "delete".to_owned(),
            Some(directory) => format!("move={}", directory.path().display()),
        };
        command.args(["--layout", self.scenario.layout, "--after", &after]).args(self.scenario.options);
        if let Some(quarantine) = &self.quarantine {
            command.args(["--after-failure", &format!("move={}", quarantine.path().display())]);
        }
        if self.scenario.mode == Mode::Watch {
            command.args(["--settle", "20ms"]);
        }
        if self.scenario.marked == Marked::Yes {
            command.args(["--marker", &format!("{{name}}.{}", super::writer::MARKER)]);
        }
        command.env("ARCHIVER_FAILPOINT_RESUME_FROM", RESUME_FROM.to_string());
        command
    }

    /// Gets the archiver killed at this point.
    fn strike(&mut self, point: Point) {
        let plan = Plan::of(point);
        for attempt in 0..TRIES {
            // So that it is not always the first one, which comes before all others.
            let nth = if attempt == 0 && plan.first.is_none() { self.random.random_range(1..4) } else { 1 };
            if let Some(first) = plan.first {
                self.act(plan.made);
                let nth = if first == Point::SomeWritten { self.random.random_range(1..12) } else { 1 };
                if !self.kill_at(first, nth, None, Told::AsEver, attempt) {
                    continue;
                }
                self.act(plan.between);
            } else {
                self.act(plan.made);
            }
            if self.kill_at(point, nth, plan.changed_at, plan.after, attempt) {
                return;
            }
        }
        self.violations.lock().unwrap().add(format!("{point:?} is never reached"));
    }

    fn act(&mut self, deed: Deed) {
        let mut writer = self.writer.lock().unwrap();
        match deed {
            Deed::Small => [2_000, 40_000].into_iter().for_each(|size| writer.move_in(size)),
            Deed::Large => {
                // Nothing smaller is before it then.
                writer.withdraw_all();
                writer.move_in(RESUME_FROM + self.random.random_range(1..2 << 20));
            }
            Deed::Again => (0..5).for_each(|_| writer.move_over(3_000)),
            Deed::Copied => writer.move_in_copied(5_000, &self.bench.base.join(self.scenario.layout)),
            Deed::Withdraw => writer.withdraw_all(),
            Deed::Nothing => {}
        }
    }

    /// Whether the run died there; otherwise it ended, or had to be killed elsewhere.
    fn kill_at(&mut self, point: Point, nth: usize, changed_at: Option<Point>, told: Told, attempt: usize) -> bool {
        let mut armed = format!("{}:{nth}:kill", point.name());
        if let Some(changed_at) = changed_at {
            armed += &format!(",{}:1:stop", changed_at.name());
        }
        let mut running = Running::start(self.command(told).env(VARIABLE, armed));
        if let Some(changed_at) = changed_at {
            // It may end without having had anything to do.
            let stopped = format!("failpoint {}", changed_at.name());
            let mut ended = false;
            while !ended && !running.says_within(&stopped, Duration::from_millis(50)) {
                ended = running.ends_within(Duration::ZERO);
            }
            if !ended {
                // It says so first, and a signal that came before the stop would be lost.
                wait_until("it is stopped", || running.is_stopped());
                self.writer.lock().unwrap().append_to_all();
                running.signal(Signal::CONT);
            }
        }
        // A push ends by itself. A watch that does not get there within this time needs other files; or more time, on a
        // busy machine.
        let limit = match self.scenario.mode {
            Mode::Push => DEADLINE,
            Mode::Watch => DEADLINE.min(4 * BUSY * (1 << attempt.min(8))),
        };
        let died = running.ends_within(limit);
        if !died {
            running.signal(Signal::KILL);
        }
        let finished = running.finish();
        match (died, finished.status.signal()) {
            (true, Some(signal)) if signal == Signal::KILL.as_raw() => {
                *self.tally.at_points.entry(point).or_default() += 1;
                true
            }
            (true, _) => {
                self.ended(finished);
                false
            }
            (false, _) => {
                self.tally.at_random += 1;
                false
            }
        }
    }

    fn strike_at_random(&mut self) {
        let directories: Vec<_> = std::fs::read_dir(&self.bench.base).unwrap().flatten().collect();
        if !directories.is_empty() {
            let directory = &directories[self.random.random_range(0..directories.len())];
            if directory.file_type().unwrap().is_dir() {
                self.plant(Path::new(&directory.file_name()));
            }
        }
        let instant = self.random.random_range(Duration::ZERO..BUSY);
        let mut running = Running::start(&mut self.command(Told::AsEver));
        if running.ends_within(instant) {
            self.ended(running.finish());
        } else {
            running.signal(Signal::KILL);
            running.finish();
            self.tally.at_random += 1;
        }
    }

    /// A run that came to its end: files may still be open, but none fails that the server takes.
    fn ended(&mut self, finished: Finished) {
        self.tally.ended += 1;
        if !matches!(finished.code(), Some(0 | 4)) && !self.failed_as_it_should(&finished) {
            let text = format!("a run ended with {:?}:\n{}\n{}", finished.status, finished.stdout, finished.stderr);
            self.violations.lock().unwrap().add(text);
        }
    }

    /// Whether all that the server refuses failed, and nothing else.
    fn failed_as_it_should(&self, finished: &Finished) -> bool {
        let Ok(summary) = serde_json::from_str::<Value>(&finished.stdout) else { return false };
        let refused = self.bench.env.local().join(REFUSED);
        self.scenario.refused == Refused::OneDirectory
            && finished.code() == Some(1)
            && summary["files"].as_array().unwrap().iter().all(|row| {
                let is_refused = Path::new(row["path"].as_str().unwrap()).starts_with(&refused);
                match row["status"].as_str().unwrap() {
                    "archived" => !is_refused,
                    "failed" => is_refused,
                    _ => true,
                }
            })
    }

    /// Somebody else's files, one of them with a name as ours have it.
    fn plant(&mut self, directory: &Path) {
        for name in ["stranger.txt", ".log1.csv.part", ".log1.csv.0123456789ab-5.part"] {
            let path = directory.join(name);
            self.foreign.lock().unwrap().insert(path.clone());
            std::fs::write(self.bench.base.join(&path), name).unwrap();
        }
    }

    /// One run without any harm has to bring everything to its end.
    fn complete(&mut self) {
        let mut running = Running::start(&mut self.command(Told::AsEver));
        if self.scenario.mode == Mode::Watch {
            running.expect_line("watching");
            // What is left after that is for the proof to name.
            let start = Instant::now();
            while !self.writer.lock().unwrap().standing().is_empty() && start.elapsed() < DEADLINE {
                assert!(!running.ends_within(Duration::from_millis(5)), "the watch ended by itself");
            }
            running.signal(Signal::TERM);
        }
        let finished = running.finish();
        if finished.code() != Some(0) && !self.failed_as_it_should(&finished) {
            let text =
                format!("the last run ended with {:?}:\n{}\n{}", finished.status, finished.stdout, finished.stderr);
            self.violations.lock().unwrap().add(text);
        }
    }

    fn prove(&self, seen: &Seen) {
        let mut violations = self.violations.lock().unwrap();
        let foreign = self.foreign.lock().unwrap();
        // G5: what others put there.
        for path in foreign.iter() {
            let standing = std::fs::read(self.bench.base.join(path)).ok();
            if standing.as_deref() != Some(path.file_name().unwrap().as_encoded_bytes()) {
                violations.add(format!("G5: the foreign {path:?} is {standing:?}"));
            }
        }
        // G3: no temporary name, on either side.
        let ours = |root: &Path| files(root).into_keys().filter(|path| !foreign.contains(path)).collect::<Vec<_>>();
        let (temporary, finals): (Vec<_>, Vec<_>) =
            ours(&self.bench.base).into_iter().partition(|path| key_of(path).is_some());
        let directories = tree(&self.bench.base).into_iter().filter(|(_, entry)| *entry == Entry::Directory);
        let temporary = directories.map(|(path, _)| path).filter(|path| key_of(path).is_some()).chain(temporary);
        temporary.for_each(|path| violations.add(format!("G3: {path:?} is left")));
        let left = files(&self.bench.env.local());
        // One of a watch that was killed right between making and removing it is removed by a later one, but not before it
        // is sure to be nobody's.
        let left = left.keys().filter(|path| !path.to_string_lossy().starts_with(".archiver-canary-"));
        left.for_each(|path| violations.add(format!("G3: {path:?} is left of the local files")));
        // G2, G3: nothing lost, nothing doubled, byte for byte.
        let read = |root: &Path, path: PathBuf, below: &dyn Fn(&Path) -> PathBuf| {
            (Identity::of(&std::fs::read(root.join(&path)).unwrap(), &below(&path)), path)
        };
        let standing: Vec<_> = finals.into_iter().map(|path| read(&self.bench.base, path, &local_path)).collect();
        let (parts, whole): (Vec<_>, Vec<_>) = standing
            .into_iter()
            .partition(|(identity, _)| self.scenario.partial == Partial::AskedFor && !self.model.knows(identity));
        if self.scenario.copies == Copies::One && !parts.is_empty() {
            eprintln!(
                "{}: {} parts were left under final names, as direct publishing may",
                self.scenario.name,
                parts.len()
            );
        }
        match &self.quarantine {
            None => self.model.judge("the server", self.scenario.copies, &whole, &mut violations),
            Some(quarantine) => {
                let quarantined = files(quarantine.path()).into_keys();
                let quarantined: Vec<_> =
                    quarantined.map(|path| read(quarantine.path(), path, &Path::to_owned)).collect();
                let astray = |path: &Path, is_refused: bool| path.starts_with(REFUSED) != is_refused;
                for (_, path) in whole.iter().filter(|(_, path)| astray(&local_path(path), false)) {
                    violations.add(format!("the server: {path:?} was refused, and stands"));
                }
                for (_, path) in quarantined.iter().filter(|(_, path)| astray(path, true)) {
                    violations.add(format!("the quarantine: nobody refused {path:?}"));
                }
                assert!(!quarantined.is_empty(), "nothing went into quarantine");
                let beside =
                    |(identity, path): &(Identity, PathBuf)| (identity.clone(), Path::new("quarantine").join(path));
                let all: Vec<_> = whole.iter().cloned().chain(quarantined.iter().map(beside)).collect();
                self.model.judge("the server and the quarantine", Copies::One, &all, &mut violations);
            }
        }
        if let Some(moved) = &self.moved {
            // Markers go with their files.
            let is_marker =
                |path: &PathBuf| path.extension().is_some_and(|extension| extension == super::writer::MARKER);
            let found = files(moved.path()).into_keys().filter(|path| !is_marker(path));
            let standing: Vec<_> = found.map(|path| read(moved.path(), path, &Path::to_owned)).collect();
            self.model.judge("the directory of moved files", Copies::One, &standing, &mut violations);
        }
        // G5: what had a final name keeps it.
        let by_path: BTreeMap<_, _> = whole.iter().map(|(identity, path)| (path, identity)).collect();
        for (path, identity) in &seen.finals {
            if by_path.get(path) != Some(&identity) {
                violations.add(format!("G5: {path:?} is not what it was"));
            }
        }
        self.prove_directories(seen, &mut violations);
    }

    /// G4: the directory of a version is the one of its first claim, for each try and in the end.
    fn prove_directories(&self, seen: &Seen, violations: &mut Violations) {
        let ledger = rusqlite::Connection::open(self.bench.ledger()).unwrap();
        let mut statement = ledger
            .prepare("SELECT destination, source, path, inode, size, mtime_ns, remote, record_remote FROM entry")
            .unwrap();
        let mut rows = statement.query([]).unwrap();
        let base = match self.scenario.server {
            Server::OpenSsh => self.bench.base.clone(),
            Server::Embedded(_) => "/".into(),
        };
        let directory = |remote: &str| Path::new(remote).strip_prefix(&base).unwrap().parent().unwrap().to_owned();
        while let Some(row) = rows.next().unwrap() {
            let key = archiver::domain::FileKey {
                destination: row.get::<_, String>(0).unwrap().into(),
                source: row.get::<_, String>(1).unwrap().into(),
                path: row.get(2).unwrap(),
                fingerprint: archiver::domain::Fingerprint {
                    inode: row.get::<_, i64>(3).unwrap() as u64,
                    size: row.get::<_, i64>(4).unwrap() as u64,
                    mtime_ns: row.get(5).unwrap(),
                },
            };
            let mut directories = BTreeSet::from([directory(&row.get::<_, String>(6).unwrap())]);
            directories.extend(row.get::<_, Option<String>>(7).unwrap().as_deref().map(directory));
            directories.extend(seen.staged_in.get(&key.id().to_string()).into_iter().flatten().cloned());
            if directories.len() > 1 {
                violations.add(format!("G4: one version in several directories: {directories:?}"));
            }
        }
    }

    fn print(&self, seen: &Seen, start: Instant) {
        let (versions, bytes) = self.model.totals();
        let at_points: usize = self.tally.at_points.values().sum();
        let fewest = self
            .scenario
            .points()
            .into_iter()
            .map(|point| self.tally.at_points.get(&point).copied().unwrap_or(0))
            .min();
        let kills = self.tally.at_points.iter().map(|(point, kills)| format!("{} {kills}", point.name()));
        let kills = kills.collect::<Vec<_>>().join(", ");
        eprintln!(
            "{}: {} kills ({at_points} at {} failure points, each at least {} times; {} at random instants), {} runs ended; \
             {versions} versions of {bytes} bytes, {} archived; {} looks from outside saw {} final names; {:?}\n    {kills}",
            self.scenario.name,
            at_points + self.tally.at_random,
            self.tally.at_points.len(),
            fewest.unwrap_or(0),
            self.tally.at_random,
            self.tally.ended,
            files(&self.bench.base).len() - self.foreign.lock().unwrap().len(),
            seen.looks,
            seen.finals.len(),
            start.elapsed(),
        );
    }
}
