//! Replicas of one archiver, processes of their own, on one tree with one Redis ledger: while all goes well they share the
//! work and seldom ask for the same file; and whoever is killed, or stopped for longer than its lease, at every failure
//! point on the way of a file and at random instants, the server of the ledger included, each version ends under one name.
//!
//! `ARCHIVER_TEST_KILLS`, `ARCHIVER_TEST_SEED`: as ever; `ARCHIVER_TEST_REPLICA_FILES`: so many files to share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use archiver::failpoint::{Point, VARIABLE};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::FINE;
use super::model::{Copies, Identity, Model, Violations};
use super::observer::{Directories, Foreign, Observer, Partial, Seen, View, key_of, local_path};
use super::run::Effort;
use super::writer::{AtWork, Full, MARKER, Marked, Writer};
use crate::support::env::{Running, files, run, wait_until};
use crate::support::redis::Redis;
use crate::watch::Site;

#[path = "chaos_share.rs"]
mod share;

const REPLICAS: usize = 4;
/// The shortest there is.
const LEASE: Duration = Duration::from_secs(1);
/// Longer than that, on a busy machine, too.
const ASLEEP: Duration = Duration::from_millis(1300);
/// Most random instants lie within the time in which a replica is at work.
const BUSY: Duration = Duration::from_millis(700);
/// How long a replica has to get to a failure point before it is struck elsewhere, and the point tried again.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tries to reach one point before the test fails.
const TRIES: usize = 25;

/// What replicas share.
struct Tree {
    site: Site,
    redis: Mutex<Redis>,
    ledger: String,
    model: Arc<Model>,
    writer: Arc<Mutex<Writer>>,
    violations: Arc<Mutex<Violations>>,
    after: &'static str,
    layout: &'static str,
    lease: Duration,
}

impl Tree {
    fn new(after: &'static str, layout: &'static str, lease: Duration, seed: u64) -> Self {
        let (site, redis, model) = (Site::new(), Redis::start(), Arc::new(Model::default()));
        let writer = Writer::new(site.local(), model.clone(), seed, Marked::No);
        Self {
            ledger: redis.url(),
            redis: Mutex::new(redis),
            writer: Arc::new(Mutex::new(writer)),
            violations: Arc::default(),
            site,
            model,
            after,
            layout,
            lease,
        }
    }

    fn command(&self, mode: &str) -> Command {
        let site = &self.site;
        let mut command = site.env.archiver([mode, "--ssh-config", "none", "--summary", "json"]);
        command.args(["--to", &site.server.url(), "--ledger", &self.ledger, "--layout", self.layout]);
        command.args(["--after", self.after]).arg("--identity").arg(site.server.client_key());
        command.arg("--known-hosts").arg(site.server.known_hosts()).arg(site.local());
        command.env("ARCHIVER_SETTLE", "50ms").env("ARCHIVER_LEDGER__LEASE", format!("{}ms", self.lease.as_millis()));
        command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
        command.env("ARCHIVER_LOG", "info,archiver::pipeline::intake=debug");
        // Large ones are taken up where they were left.
        command.env("ARCHIVER_FAILPOINT_RESUME_FROM", (1 << 20).to_string());
        command
    }

    fn view(&self) -> View {
        View {
            base: self.site.remote(),
            model: self.model.clone(),
            foreign: Foreign::default(),
            violations: self.violations.clone(),
            directories: if self.layout == FINE { Directories::OfOneFile } else { Directories::OfMany },
            partial: Partial::Never,
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
        let remote = self.site.remote();
        let (temporary, finals): (Vec<_>, Vec<_>) = files(&remote).into_keys().partition(|path| key_of(path).is_some());
        temporary.iter().for_each(|path| violations.add(format!("G3: {path:?} is left")));
        let standing: Vec<_> = finals
            .into_iter()
            .map(|path| (Identity::of(&std::fs::read(remote.join(&path)).unwrap(), &local_path(&path)), path))
            .collect();
        self.model.judge("the server", Copies::One, &standing, &mut violations);
        let by_path: BTreeMap<_, _> = standing.iter().map(|(identity, path)| (path, identity)).collect();
        for (path, identity) in &seen.finals {
            if by_path.get(path) != Some(&identity) {
                violations.add(format!("G5: {path:?} is not what it was"));
            }
        }
        if self.layout == FINE {
            let astray = seen.staged_in.iter().filter(|(_, directories)| directories.len() > 1);
            astray.for_each(|(key, directories)| violations.add(format!("G4: {key} in {directories:?}")));
        }
        let is_ours = |path: &Path| path.to_string_lossy().starts_with(".archiver-canary-");
        for path in files(&self.site.local()).into_keys().filter(|path| !is_ours(path)) {
            let is_hidden = path.to_string_lossy().ends_with(".archived") || path.ends_with(MARKER);
            if self.after != "keep" || is_hidden {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What happens to a replica, once it is at work.
#[derive(Debug, Clone, Copy)]
struct Strike {
    /// At a random instant without one.
    at: Option<Point>,
    blow: Blow,
    tries: usize,
}

#[derive(Default)]
struct Tally {
    at_points: BTreeMap<&'static str, [usize; 2]>,
    at_random: [usize; 2],
    takeovers: usize,
    leases_lost: usize,
    ended: usize,
}

/// What becomes of the ledger's server in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    WithData,
    Empty,
}

struct Scenario {
    name: &'static str,
    after: &'static str,
    layout: &'static str,
    blows: &'static [Blow],
    restart: Restart,
    /// Each of them is struck at.
    points: &'static [Point],
    /// What follows on a strike elsewhere: whoever meets it first is struck.
    rare: &'static [Point],
    at_random: usize,
}

const UPLOAD: &[Point] = &[
    Point::Discovered,
    Point::Ready,
    Point::Claimed,
    Point::Begun,
    Point::DirectoryMade,
    Point::StagingOpened,
    Point::SomeWritten,
    Point::AllWritten,
    Point::AttributesKept,
    Point::Closed,
    Point::Verified,
    Point::Unchanged,
    Point::LeaseConfirmed,
    Point::Renamed,
    Point::Committed,
    Point::Recorded,
    Point::RowPut,
];
const DELETED: &[Point] = &[
    Point::Claimed,
    Point::StagingOpened,
    Point::LeaseConfirmed,
    Point::Synced,
    Point::Renamed,
    Point::Committed,
    Point::Recorded,
    Point::Disposing,
    Point::SetAside,
    Point::Judged,
    Point::Deleted,
    Point::FileDisposed,
    Point::Disposed,
];
const TAKEN_OVER: &[Point] = &[Point::Inherited, Point::PredecessorRemoved, Point::Reconciled];

const KEEP: Scenario = Scenario {
    name: "replicas that keep",
    after: "keep",
    layout: FINE,
    blows: &[Blow::Kill, Blow::Stop],
    restart: Restart::WithData,
    points: UPLOAD,
    rare: TAKEN_OVER,
    at_random: 12,
};
const DELETE: Scenario = Scenario {
    name: "replicas that delete",
    after: "delete",
    points: DELETED,
    rare: &[
        Point::Inherited,
        Point::PredecessorRemoved,
        Point::Reconciled,
        Point::UndisposedFound,
        Point::UndisposedDone,
    ],
    ..KEEP
};
/// One directory for all: a ledger that forgot everything finds the same bytes under the name of before. Nobody is killed,
/// for whose temporary name that was only the ledger knew.
const EMPTIED: Scenario = Scenario {
    name: "replicas whose ledger is emptied",
    layout: "in",
    blows: &[Blow::Stop],
    restart: Restart::Empty,
    points: &[Point::Claimed, Point::AllWritten, Point::LeaseConfirmed, Point::Committed],
    rare: &[],
    at_random: 8,
    ..KEEP
};

const SCENARIOS: &[&Scenario] = &[&KEEP, &DELETE, &EMPTIED];

impl Scenario {
    fn strikes(&self, times: usize, random: &mut StdRng) -> Vec<Strike> {
        let mut strikes = Vec::new();
        for _ in 0..times {
            for blow in self.blows {
                strikes.extend(self.points.iter().map(|point| Strike { at: Some(*point), blow: *blow, tries: 0 }));
                strikes.extend((0..self.at_random).map(|_| Strike { at: None, blow: *blow, tries: 0 }));
            }
        }
        for at in 1..strikes.len() {
            strikes.swap(at, random.random_range(0..=at));
        }
        strikes
    }

    fn count(&self) -> usize {
        self.blows.len() * (self.points.len() + self.at_random)
    }
}

/// Strikes that are still to come.
struct Queue {
    strikes: VecDeque<Strike>,
    /// When the ledger's server is restarted: as so many of them are left.
    restarts: Vec<usize>,
}

/// What the threads that strike share.
struct Struck<'a> {
    scenario: &'a Scenario,
    tree: &'a Tree,
    queue: Mutex<Queue>,
    rare: Mutex<BTreeSet<(Point, usize)>>,
    tally: Mutex<Tally>,
}

fn chaos(scenario: &'static Scenario) {
    let effort = Effort::of_environment(SCENARIOS.iter().map(|scenario| scenario.count()).sum());
    let (seed, start) = (effort.seed, Instant::now());
    eprintln!("{}: ARCHIVER_TEST_SEED={seed}", scenario.name);
    let tree = Tree::new(scenario.after, scenario.layout, LEASE, seed);
    let observer = Observer::start(tree.view());
    let full = if scenario.after == "keep" { Full::Withdraws } else { Full::Waits };
    let application = AtWork::start(tree.writer.clone(), full);
    let mut random = StdRng::seed_from_u64(!seed);
    let strikes = scenario.strikes(effort.times, &mut random);
    let restarts: Vec<_> = (1..3).map(|third| strikes.len() * third / 3).collect();
    let rare = scenario.rare.iter().flat_map(|point| (0..scenario.blows.len()).map(|blow| (*point, blow)));
    let struck = Struck {
        scenario,
        tree: &tree,
        queue: Mutex::new(Queue { strikes: strikes.into(), restarts }),
        rare: Mutex::new(rare.collect()),
        tally: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..REPLICAS {
            let struck = &struck;
            let mut random = StdRng::seed_from_u64(random.random());
            scope.spawn(move || {
                while let Some(strike) = struck.next() {
                    struck.strike(strike, &mut random);
                }
            });
        }
    });
    application.stop();
    struck.complete();
    let seen = observer.stop();
    tree.prove(&seen);
    struck.print(&seen, start);
    tree.assert_nothing_is_wrong(seed);
}

impl Struck<'_> {
    fn next(&self) -> Option<Strike> {
        let mut queue = self.queue.lock().unwrap();
        let next = queue.strikes.pop_front();
        let left = queue.strikes.len();
        if queue.restarts.pop_if(|at| left <= *at).is_some() {
            let mut redis = self.tree.redis.lock().unwrap();
            match self.scenario.restart {
                Restart::WithData => redis.restart(),
                Restart::Empty => redis.restart_empty(),
            }
        }
        next
    }

    fn strike(&self, mut strike: Strike, random: &mut StdRng) {
        let mut armed: Vec<_> =
            strike.at.map(|point| self.arm(point, random.random_range(1..4), strike.blow)).into_iter().collect();
        let rare: BTreeSet<_> = self.rare.lock().unwrap().clone();
        let all = rare.iter().map(|(point, blow)| (*point, self.scenario.blows[*blow]));
        armed.extend(all.map(|(point, blow)| self.arm(point, 1, blow)));
        let mut running = Running::start(self.tree.command("watch").env(VARIABLE, armed.join(",")));
        let limit = match strike.at {
            Some(_) => PATIENCE,
            None => random.random_range(Duration::ZERO..BUSY),
        };
        let reached = reached(&mut running, limit);
        let blow = match &reached {
            Some((point, blow)) => {
                let at = self.scenario.blows.iter().position(|known| known == blow).unwrap();
                self.rare.lock().unwrap().retain(|(rare, known)| rare.name() != point || *known != at);
                self.count_at(point, *blow);
                *blow
            }
            None => {
                if running.ends_within(Duration::ZERO) {
                    let finished = running.finish();
                    return self.tree.violation(format!("a watch ended: {:?}\n{}", finished.status, finished.stderr));
                }
                self.tally.lock().unwrap().at_random[strike.blow as usize] += 1;
                running.signal(if strike.blow == Blow::Kill { Signal::KILL } else { Signal::STOP });
                strike.blow
            }
        };
        let is_at = reached.is_some_and(|(point, _)| strike.at.is_some_and(|wanted| wanted.name() == point));
        if strike.at.is_some() && !is_at {
            strike.tries += 1;
            match strike.tries {
                TRIES => self.tree.violation(format!("{:?} is never reached", strike.at)),
                _ => self.queue.lock().unwrap().strikes.push_back(strike),
            }
        }
        if blow == Blow::Stop {
            wait_until("it is stopped", || running.is_stopped());
            running.says_within("it sleeps", ASLEEP);
            running.signal(Signal::CONT);
            // It goes on with what it had, some of it another one's by now. It may meet another point then.
            let then = random.random_range(Duration::ZERO..BUSY);
            let met = self::reached(&mut running, then);
            if let Some((point, blow)) = &met {
                self.count_at(point, *blow);
            }
            if let Some((_, Blow::Stop)) = met {
                running.signal(Signal::KILL);
            } else if met.is_none() && (random.random_bool(0.5) || self.scenario.blows == [Blow::Stop]) {
                return self.drain(running);
            } else if met.is_none() {
                self.tally.lock().unwrap().at_random[Blow::Kill as usize] += 1;
                running.signal(Signal::KILL);
            }
        }
        self.listen(&running.finish().stderr);
    }

    fn arm(&self, point: Point, nth: usize, blow: Blow) -> String {
        format!("{}:{nth}:{}", point.name(), blow.name())
    }

    fn count_at(&self, point: &str, blow: Blow) {
        let name = Point::ALL.iter().map(|point| point.name()).find(|name| *name == point).expect("a known point");
        self.tally.lock().unwrap().at_points.entry(name).or_default()[blow as usize] += 1;
    }

    /// Told to stop, it ends in order: what is not its own any more is another one's.
    fn drain(&self, mut running: Running) {
        running.signal(Signal::TERM);
        // A point may be met on the way.
        let met = running.line_or_end("failpoint ").is_some();
        if met {
            running.signal(Signal::KILL);
        }
        let finished = running.finish();
        self.tally.lock().unwrap().ended += usize::from(!met);
        if !met && !matches!(finished.code(), Some(0 | 4)) {
            self.tree.violation(format!("a replica ended with {:?}:\n{}", finished.status, finished.stderr));
        }
        self.listen(&finished.stderr);
    }

    fn listen(&self, said: &str) {
        let mut tally = self.tally.lock().unwrap();
        tally.takeovers += said.matches("taking up what an earlier claim left").count();
        tally.leases_lost += said.matches("another archiver took it over").count();
    }

    /// Without any harm, all comes to its end; what the dead had in hand once their leases are over.
    fn complete(&self) {
        let is_over = || {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
            let owners = self.tree.ask(&["HVALS", "{archiver}:owners"]);
            let ends = owners.lines().filter_map(|line| line.split(' ').next()?.parse::<u128>().ok());
            ends.max().unwrap_or(0) < now
        };
        // What was removed on the server by one is looked for once more by the next.
        for _ in 0..2 {
            wait_until("all leases are over", is_over);
            let finished = run(&mut self.tree.command("push"));
            if finished.code() != Some(0) {
                self.tree.violation(format!("the last run ended with {:?}:\n{}", finished.status, finished.stderr));
            }
            self.listen(&finished.stderr);
        }
    }

    fn print(&self, seen: &Seen, start: Instant) {
        let tally = self.tally.lock().unwrap();
        let sum = |blow: Blow| tally.at_points.values().map(|blows| blows[blow as usize]).sum::<usize>();
        let points = tally.at_points.iter().map(|(point, [kills, stops])| format!("{point} {kills}+{stops}"));
        let (versions, bytes) = self.tree.model.totals();
        let [kills, stops] = [Blow::Kill, Blow::Stop].map(|blow| (sum(blow), tally.at_random[blow as usize]));
        eprintln!(
            "{}: {} kills ({} at points, {} at random instants), {} stops for longer than a lease ({} at points, {} at random \
             instants), {} ended in order; {} takeovers, {} leases lost; ledger restarted twice ({:?}); {versions} versions of \
             {bytes} bytes, {} archived; {} looks from outside saw {} final names; {:?}\n    kills+stops: {}",
            self.scenario.name,
            kills.0 + kills.1,
            kills.0,
            kills.1,
            stops.0 + stops.1,
            stops.0,
            stops.1,
            tally.ended,
            tally.takeovers,
            tally.leases_lost,
            self.scenario.restart,
            files(&self.tree.site.remote()).len(),
            seen.looks,
            seen.finals.len(),
            start.elapsed(),
            points.collect::<Vec<_>>().join(", "),
        );
        let missed = self.rare.lock().unwrap();
        if !missed.is_empty() {
            eprintln!("    never met: {missed:?}");
        }
    }
}

/// The failure point that a replica says it is at, within this time.
fn reached(running: &mut Running, limit: Duration) -> Option<(String, Blow)> {
    if !running.says_within("failpoint ", limit) {
        return None;
    }
    let line = running.said().lines().next_back()?;
    let point = line.split("failpoint ").nth(1)?.split(' ').next()?.to_owned();
    wait_until("it is stopped or dead", || running.is_stopped());
    // Dead, it has closed all it had.
    let blow = if running.ends_within(Duration::from_millis(50)) { Blow::Kill } else { Blow::Stop };
    Some((point, blow))
}

#[test]
fn replicas_that_keep_are_killed_and_stopped() {
    chaos(&KEEP);
}

#[test]
fn replicas_that_delete_are_killed_and_stopped() {
    chaos(&DELETE);
}

#[test]
fn replicas_are_stopped_while_their_ledger_is_emptied() {
    chaos(&EMPTIED);
}
