//! Strikes replicas one after the other, four at a time, while the application works and the ledger's server is restarted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use archiver::failpoint::{Point, VARIABLE};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::{Blow, LEASE, REPLICAS, Restart, SCENARIOS, Scenario, Tree};
use crate::chaos::After;
use crate::chaos::observer::{Observer, Seen};
use crate::chaos::plan::{Deed, Plan, Told};
use crate::chaos::run::Effort;
use crate::chaos::writer::{AtWork, Full};
use crate::support::env::{Running, files, run, wait_until};

/// Longer than a lease, on a busy machine, too.
const ASLEEP: Duration = Duration::from_millis(1300);
/// Most random instants lie within the time in which a replica is at work.
const BUSY: Duration = Duration::from_millis(700);
/// How long a replica has to get to a failure point before it is struck elsewhere, and the point tried again.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tries to reach one point before the test fails.
const TRIES: usize = 25;

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
    /// What something else has to come before: whoever gets there first is struck.
    rare: Mutex<BTreeSet<(Point, Blow)>>,
    tally: Mutex<Tally>,
}

/// Whether a point is come by on the way of any file.
fn is_rare(point: Point) -> bool {
    Plan::of(point) != Plan::of(Point::Claimed)
}

impl Scenario {
    fn strikes(&self, times: usize, random: &mut StdRng) -> Vec<Strike> {
        let mut strikes = Vec::new();
        for _ in 0..times {
            for blow in self.blows {
                strikes.extend(self.points().map(|point| Strike { at: Some(point), blow: *blow, tries: 0 }));
                strikes.extend((0..self.at_random).map(|_| Strike { at: None, blow: *blow, tries: 0 }));
            }
        }
        for at in 1..strikes.len() {
            strikes.swap(at, random.random_range(0..=at));
        }
        strikes
    }
}

pub fn chaos(scenario: &'static Scenario) {
    let effort = Effort::of_environment(SCENARIOS.iter().map(|scenario| scenario.count()).sum());
    let (seed, start) = (effort.seed, Instant::now());
    eprintln!("{}: ARCHIVER_TEST_SEED={seed}", scenario.name);
    let tree = Tree::new(scenario, LEASE, seed);
    let observer = Observer::start(tree.view());
    let full = if scenario.after == After::Keep { Full::Withdraws } else { Full::Waits };
    let application = AtWork::start(tree.writer.clone(), full);
    let mut random = StdRng::seed_from_u64(!seed);
    let strikes = scenario.strikes(effort.times, &mut random);
    let restarts: Vec<_> = (1..3).map(|third| strikes.len() * third / 3).collect();
    let rare = scenario.points().filter(|point| is_rare(*point));
    let struck = Struck {
        scenario,
        tree: &tree,
        rare: Mutex::new(rare.flat_map(|point| scenario.blows.iter().map(move |blow| (point, *blow))).collect()),
        queue: Mutex::new(Queue { strikes: strikes.into(), restarts }),
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
        let mut late = None;
        let plan = strike.at.map(Plan::of);
        if let (Some(point), Some(plan)) = (strike.at, plan)
            && is_rare(point)
        {
            if strike.tries > 0 && !self.rare.lock().unwrap().contains(&(point, strike.blow)) {
                return;
            }
            self.act(plan.made);
            if let Some(first) = plan.first {
                let nth = if first == Point::SomeWritten { random.random_range(1..12) } else { 1 };
                late = self.fell(first, nth, strike.blow);
                self.act(plan.between);
            }
        }
        let told = plan.map_or(Told::AsEver, |plan| plan.after);
        let changed_at = plan.and_then(|plan| plan.changed_at);
        let mut armed: Vec<_> = changed_at.into_iter().map(|point| arm(point, 1, Blow::Stop)).collect();
        // So that it is not always the first one, which comes before all others.
        let nth = if strike.at.is_some_and(is_rare) || strike.tries > 2 { 1 } else { random.random_range(1..4) };
        armed.extend(strike.at.map(|point| arm(point, nth, strike.blow)));
        armed.extend(self.rare.lock().unwrap().iter().map(|(point, blow)| arm(*point, 1, *blow)));
        let mut running = Running::start(self.tree.command("watch", told).env(VARIABLE, armed.join(",")));
        let limit = match strike.at {
            Some(_) => PATIENCE,
            None => random.random_range(Duration::ZERO..BUSY),
        };
        let mut reached = reached(&mut running, limit);
        if let (Some((point, Blow::Stop)), Some(changed_at)) = (&reached, changed_at)
            && point == changed_at.name()
        {
            self.tree.writer.lock().unwrap().append_to_all();
            running.signal(Signal::CONT);
            reached = self::reached(&mut running, limit);
        }
        let blow = match &reached {
            Some((point, blow)) => {
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
        self.again_unless_met(&mut strike, reached.as_ref().map(|(point, _)| point.as_str()));
        match blow {
            Blow::Kill => self.listen(&running.finish().stderr),
            Blow::Stop => {
                wait_until("it is stopped", || running.is_stopped());
                running.says_within("it sleeps", ASLEEP);
                self.awake(running, random);
            }
        }
        if let Some(late) = late {
            self.awake(late, random);
        }
    }

    fn again_unless_met(&self, strike: &mut Strike, at: Option<&str>) {
        let Some(wanted) = strike.at else { return };
        let is_met = match is_rare(wanted) {
            true => !self.rare.lock().unwrap().contains(&(wanted, strike.blow)),
            false => at == Some(wanted.name()),
        };
        if is_met {
            return;
        }
        strike.tries += 1;
        match strike.tries {
            TRIES => self.tree.violation(format!("{wanted:?} is never reached")),
            _ => self.queue.lock().unwrap().strikes.push_back(*strike),
        }
    }

    /// Strikes one whose successor is the one to be struck, and waits until its lease is over; one that is only stopped
    /// goes on sleeping.
    fn fell(&self, first: Point, nth: usize, blow: Blow) -> Option<Running> {
        let mut running = Running::start(self.tree.command("watch", Told::AsEver).env(VARIABLE, arm(first, nth, blow)));
        let pid = running.pid();
        let late = match reached(&mut running, PATIENCE) {
            Some((point, blow)) => {
                self.count_at(&point, blow);
                (blow == Blow::Stop).then_some(running)
            }
            None => {
                self.tally.lock().unwrap().at_random[Blow::Kill as usize] += 1;
                running.signal(Signal::KILL);
                self.listen(&running.finish().stderr);
                None
            }
        };
        let pid = format!(" {}", pid.as_raw_nonzero());
        wait_until("its lease is over", || self.lease_ends(|owner| owner.ends_with(&pid)) < now());
        late
    }

    /// It goes on with what it had, some of it another one's by now. It may meet another point then.
    fn awake(&self, mut running: Running, random: &mut StdRng) {
        running.signal(Signal::CONT);
        let then = random.random_range(Duration::ZERO..BUSY);
        let met = reached(&mut running, then);
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
        self.listen(&running.finish().stderr);
    }

    fn act(&self, deed: Deed) {
        let mut writer = self.tree.writer.lock().unwrap();
        match deed {
            Deed::Small => [2_000, 40_000].into_iter().for_each(|size| writer.move_in(size)),
            // Each replica has some of them.
            Deed::Large => [1_100_000, 1_500_000, 2_000_000].into_iter().for_each(|size| writer.move_in(size)),
            Deed::Again => (0..5).for_each(|_| writer.move_over(3_000)),
            Deed::Copied => writer.move_in_copied(5_000, &self.tree.bench.base.join(self.scenario.layout)),
            Deed::Withdraw => writer.withdraw_all(),
            Deed::Nothing => {}
        }
    }

    fn count_at(&self, point: &str, blow: Blow) {
        let point = *Point::ALL.iter().find(|known| known.name() == point).expect("a known point");
        self.rare.lock().unwrap().remove(&(point, blow));
        self.tally.lock().unwrap().at_points.entry(point.name()).or_default()[blow as usize] += 1;
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
            let failed: Vec<_> = finished.stdout.split("{\"").filter(|row| row.contains("\"failed\"")).collect();
            self.tree.violation(format!("a replica ended with {:?}: {failed:?}\n{}", finished.status, finished.stderr));
        }
        self.listen(&finished.stderr);
    }

    fn listen(&self, said: &str) {
        let mut tally = self.tally.lock().unwrap();
        tally.takeovers += said.matches("taking up what an earlier claim left").count();
        tally.leases_lost += said.matches("the claim on it is ours no longer").count();
    }

    /// When the last lease of these owners ends, in milliseconds.
    fn lease_ends(&self, of: impl Fn(&str) -> bool) -> u128 {
        let owners = self.tree.ask(&["HVALS", "{archiver}:owners"]);
        let ends = owners.lines().filter(|owner| of(owner)).filter_map(|line| line.split(' ').next()?.parse().ok());
        ends.max().unwrap_or(0)
    }

    /// Without any harm, all comes to its end; what the dead had in hand once their leases are over.
    fn complete(&self) {
        // What was removed on the server by one is looked for once more by the next, a lease later.
        let mut next = 0;
        for _ in 0..2 {
            wait_until("all leases are over", || self.lease_ends(|_| true).max(next) < now());
            let finished = run(&mut self.tree.command("push", Told::AsEver));
            if finished.code() != Some(0) {
                self.tree.violation(format!("the last run ended with {:?}:\n{}", finished.status, finished.stderr));
            }
            self.listen(&finished.stderr);
            next = now() + LEASE.as_millis();
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
            files(&self.tree.bench.base).len(),
            seen.looks,
            seen.finals.len(),
            start.elapsed(),
            points.collect::<Vec<_>>().join(", "),
        );
    }
}

fn arm(point: Point, nth: usize, blow: Blow) -> String {
    format!("{}:{nth}:{}", point.name(), blow.name())
}

fn now() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()
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
