//! Connections shared by all jobs of one destination: grown while jobs wait, doubling at most, held back where the
//! server throttles, and replaced when they break. While the destination is out, every job waits here.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use super::breaker::{Breaker, Cause, Closed, Opened, Permit};
use super::connect::{Connection, Connector};
use super::ramp::{Ramp, Verdict, files_for};
use super::session::Session;
use crate::destination::error::Pressure;
use crate::destination::{Consequence, DestinationError};
use crate::domain::Backoff;

mod slot;
mod state;

pub use slot::Slot;
pub use state::{BreakerState, PoolState};

/// Connections where the user names no number.
const ADAPTIVE_CONNECTIONS: u16 = 4;
/// Open files where the server tells no limit: some have room for no more than 256, those of other clients included.
const UNKNOWN_HANDLES: usize = 100;
/// How often a person is told that an outage goes on.
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// How soon callers look again at a connection that has not answered yet.
const UNMEASURED: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Most connections at a time; `None` for up to 4, each only where it gains something (see [`ramp`](super::ramp)).
    pub connections: Option<u16>,
    /// Slots for each connection; `None` for as many as fill its round trip. Fewer where the server allows fewer open
    /// handles.
    pub files_per_connection: Option<u16>,
    /// Pauses while the destination is out, and between attempts to have more connections than it gave so far.
    pub backoff: Backoff,
    pub outage: OutagePolicy,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connections: None,
            files_per_connection: None,
            backoff: Backoff::default(),
            outage: OutagePolicy::Forever,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutagePolicy {
    /// After so many failures in a row, with no file through in between, `acquire` fails with the outage, from then on.
    GiveUpAfter(u32),
    /// Wait for as long as it takes.
    Forever,
}

/// A handle to the pool; clones are the same pool. Its connections end when the last handle and slot are gone.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.state()).finish()
    }
}

struct Inner {
    connector: Connector,
    config: PoolConfig,
    state: Mutex<State>,
    /// One caller is woken for each slot given back, all for anything else that changed.
    changed: Notify,
    /// Set while the state is locked.
    outage: watch::Sender<Option<String>>,
    tasks: Mutex<JoinSet<()>>,
}

struct State {
    members: Vec<Member>,
    /// Connections being made.
    connecting: usize,
    waiting: usize,
    breaker: Breaker,
    /// No growth before this time, because the last attempt to grow failed.
    grow_at: Option<Instant>,
    ramp: Ramp,
    /// Attempts to grow that failed in a row.
    held_back: u32,
    /// Whether any connection was ever made: a refusal before that is final, for it is a matter of settings.
    proved: Proved,
    /// Whether a file went through since the pool last had no connection.
    useful: Useful,
    /// Why `acquire` fails from now on.
    stopped: Option<DestinationError>,
    last_error: Option<DestinationError>,
    /// When it was last said that the destination is out.
    said: Instant,
}

#[derive(PartialEq, Clone, Copy)]
enum Proved {
    Yes,
    No,
}

#[derive(PartialEq, Clone, Copy)]
enum Useful {
    Yes,
    No,
}

struct Member {
    link: Arc<Link>,
    in_use: usize,
    /// Of these, large files.
    large: usize,
    /// Slots at most, for the server allows no more open handles.
    most: usize,
}

impl Member {
    fn slots(&self, config: &PoolConfig) -> usize {
        let files = config.files_per_connection.unwrap_or_else(|| files_for(self.link.session.round_trip()));
        usize::from(files.max(1)).min(self.most)
    }
}

/// A connection and its one session.
struct Link {
    session: Session,
    connection: Connection,
}

/// What a caller of `acquire` is told after one look.
enum Look {
    Have(Arc<Link>, Duty),
    Fail(DestinationError),
    /// Look again when something changed, or at this time.
    Wait(Option<Instant>),
}

/// What a job will do with its slot.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Load {
    /// A small file, or a question: many of them share a connection.
    Light,
    /// A file that may fill a connection by itself: it goes to one that has none such, and another connection is made
    /// where all have one.
    Heavy,
}

/// Whether the holder of a slot is the one who finds out if an outage is over.
#[derive(PartialEq, Clone, Copy)]
enum Duty {
    Work,
    Probe,
}

impl Pool {
    /// Makes no connection yet.
    pub fn new(connector: Connector, config: PoolConfig) -> Self {
        let state = State {
            members: Vec::new(),
            connecting: 0,
            waiting: 0,
            breaker: Breaker::new(config.backoff),
            grow_at: None,
            ramp: Ramp::new(Instant::now()),
            held_back: 0,
            proved: Proved::No,
            useful: Useful::No,
            stopped: None,
            last_error: None,
            said: Instant::now(),
        };
        let (state, tasks, outage) = (Mutex::new(state), Mutex::default(), watch::Sender::new(None));
        Self { inner: Arc::new(Inner { connector, config, state, changed: Notify::new(), outage, tasks }) }
    }

    /// Waits for a place on a session: through an outage, for a new connection, or for a slot to be given back.
    /// Fails only when waiting is of no use: the server refuses us before it ever let us in, the [`OutagePolicy`] says
    /// so, or the pool was closed. May be dropped at any time. A job must not hold a slot while it waits for another.
    pub async fn acquire(&self, load: Load) -> Result<Slot, DestinationError> {
        let _waiting = Waiting::begin(&self.inner);
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            match self.inner.look(load) {
                Look::Have(link, duty) => return Ok(Slot { link, duty, load, pool: self.inner.clone() }),
                Look::Fail(error) => return Err(error),
                Look::Wait(None) => changed.await,
                Look::Wait(Some(until)) => {
                    // Either way, the next thing to do is to look again.
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
    }

    /// A job met this error. An outage opens the breaker; a refusal stops the pool; for anything else there is
    /// [`Slot::broken`] or nothing to do.
    pub fn report(&self, error: &DestinationError) {
        let mut state = self.inner.state();
        match error.consequence {
            Consequence::Outage => self.inner.outage(&mut state, Cause::Job, error),
            Consequence::Refusal => {
                state.last_error = Some(error.clone());
                state.stopped.get_or_insert_with(|| error.clone());
            }
            Consequence::File | Consequence::Policy | Consequence::Session => return,
        }
        drop(state);
        self.inner.changed.notify_waiters();
    }

    /// A file went through: whatever outage there was is over, and failures are counted from zero.
    pub fn succeeded(&self) {
        let mut state = self.inner.state();
        state.useful = Useful::Yes;
        state.held_back = 0;
        if state.breaker.succeeded() == Closed::Now {
            self.inner.back(&mut state);
            drop(state);
            self.inner.changed.notify_waiters();
        }
    }

    pub fn state(&self) -> PoolState {
        let state = self.inner.state();
        let now = Instant::now();
        let live = state.members.iter().filter(|member| !member.link.session.is_closed());
        let connections = live.clone().count();
        let stopped = state.stopped.as_ref().map(ToString::to_string);
        let out = stopped.or_else(|| self.inner.outage.borrow().clone());
        let name = || self.inner.name();
        let down = out.or_else(|| (connections == 0).then(|| format!("there is no connection to {} yet", name())));
        PoolState {
            connections,
            busy: live.filter(|member| member.in_use > 0).count(),
            connecting: state.connecting,
            down,
            slots_in_use: state.members.iter().map(|member| member.in_use).sum(),
            waiting: state.waiting,
            breaker: match state.breaker.permit(now) {
                Permit::Go => BreakerState::Closed,
                Permit::NotBefore(until) => BreakerState::Open { retry_in: until - now },
                Permit::Probe(_) => BreakerState::Open { retry_in: Duration::ZERO },
                Permit::AfterProbe => BreakerState::HalfOpen,
            },
            last_error: state.last_error.as_ref().map(ToString::to_string),
        }
    }

    /// Why the destination is out; `None` while it is not. For whoever wants to hear of it: who waits for a session is
    /// woken in another way.
    pub fn outage(&self) -> watch::Receiver<Option<String>> {
        self.inner.outage.subscribe()
    }

    /// Callers that can have a session at the same time, as of now.
    pub fn slots(&self) -> usize {
        let state = self.inner.state();
        state.members.iter().map(|member| member.slots(&self.inner.config)).sum()
    }

    /// Ends it: waiting and later callers fail, connections without slots in use are closed politely, the others when
    /// their last slot is given back.
    pub async fn close(&self) {
        let members = {
            let mut state = self.inner.state();
            let closed = || DestinationError::session("waiting for a session", "the pool was closed");
            state.stopped.get_or_insert_with(closed);
            std::mem::take(&mut state.members)
        };
        self.inner.changed.notify_waiters();
        self.inner.tasks().abort_all();
        let links = members.into_iter().filter_map(|member| Arc::into_inner(member.link));
        futures::future::join_all(links.map(|link| {
            drop(link.session);
            link.connection.close()
        }))
        .await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().expect("no panic while held")
    }

    fn name(&self) -> String {
        let target = self.connector.target();
        format!("{}@{}:{}", target.user, target.host, target.port)
    }

    fn limit(&self) -> usize {
        self.config.connections.unwrap_or(ADAPTIVE_CONNECTIONS).max(1).into()
    }

    fn look(self: &Arc<Self>, load: Load) -> Look {
        let mut state = self.state();
        let now = Instant::now();
        let closed: Vec<_> =
            state.members.iter().filter(|m| m.link.session.is_closed()).map(|m| m.link.clone()).collect();
        closed.iter().for_each(|link| self.remove(&mut state, link));
        if let Some(error) = &state.stopped {
            return Look::Fail(error.clone());
        }
        let duty = match state.breaker.permit(now) {
            Permit::Go => Duty::Work,
            Permit::NotBefore(until) => return Look::Wait(Some(until)),
            Permit::AfterProbe => return Look::Wait(None),
            Permit::Probe(Cause::Connect) => {
                state.breaker.probing();
                self.start_connecting(&mut state);
                return Look::Wait(None);
            }
            Permit::Probe(Cause::Job) => Duty::Probe,
        };
        // Evenly, so that all connections carry their share of the work.
        let free = state.members.iter_mut().filter(|member| member.in_use < member.slots(&self.config));
        let free = free.min_by_key(|member| match load {
            Load::Light => (0, member.in_use),
            Load::Heavy => (member.large, member.in_use),
        });
        let Some(member) = free else {
            // Their first answers tell how many they take, and nobody else does.
            let measured = |member: &Member| member.link.session.round_trip().is_some();
            let wait_for_it = self.config.files_per_connection.is_none() && !state.members.is_empty();
            if wait_for_it && !state.members.iter().any(measured) {
                return Look::Wait(Some(now + UNMEASURED));
            }
            return Look::Wait(self.grow_if_worth_it(&mut state, now));
        };
        member.in_use += 1;
        let filled = load == Load::Heavy && member.large > 0;
        member.large += usize::from(load == Load::Heavy);
        let link = member.link.clone();
        match duty {
            Duty::Probe => state.breaker.probing(),
            // Whoever comes next has it better.
            Duty::Work if filled => _ = self.grow(&mut state, now),
            Duty::Work => {}
        }
        Look::Have(link, duty)
    }

    /// The number that a user named is what the user wants; else each has to be worth it.
    fn grow_if_worth_it(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Instant> {
        let have = state.members.len();
        if self.config.connections.is_none() && state.connecting == 0 && have < self.limit() {
            match state.ramp.verdict(have, now) {
                Verdict::Now => {}
                Verdict::NotBefore(at) => return Some(at),
            }
        }
        self.grow(state, now)
    }

    /// Makes another connection, where there may be one more: the first alone, for it may be refused, then as many at
    /// a time as there are. Tells when to look again, where only time keeps us from it.
    fn grow(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Instant> {
        let have = state.members.len();
        if state.connecting >= have.max(1) || have + state.connecting >= self.limit() {
            return None;
        }
        match state.grow_at {
            Some(at) if now < at && have > 0 => Some(at),
            _ => {
                state.breaker.probing();
                self.start_connecting(state);
                None
            }
        }
    }

    /// Makes one connection in a task of the pool's own, so that a caller who gives up does not take it along.
    fn start_connecting(self: &Arc<Self>, state: &mut State) {
        state.connecting += 1;
        let mut tasks = self.tasks();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!("a task that connects has panicked");
            }
        }
        let connector = self.connector.clone();
        // The task does not keep the pool alive; it ends with it.
        let mut attempt = Attempt(Some(Arc::downgrade(self)));
        let span = tracing::debug_span!("connect", destination = self.name());
        let work = async move {
            let result = async {
                let connection = connector.connect().await?;
                let session = connection.open_session().await?;
                Ok(Link { session, connection })
            };
            let result = result.await;
            if let Some(pool) = attempt.0.take().and_then(|pool| pool.upgrade()) {
                pool.connected(result);
            }
        };
        tasks.spawn(work.instrument(span));
    }

    fn connected(&self, result: Result<Link, DestinationError>) {
        let mut state = self.state();
        state.connecting -= 1;
        match result {
            Ok(link) => {
                let handles = link.session.features().max_open_handles;
                // One handle is left for listing a directory.
                let most = handles.and_then(|h| usize::try_from(h - 1).ok()).unwrap_or(UNKNOWN_HANDLES).max(1);
                if state.members.is_empty() {
                    state.useful = Useful::No;
                }
                state.proved = Proved::Yes;
                state.ramp.joined(Instant::now());
                if state.stopped.is_none() {
                    state.members.push(Member { link: Arc::new(link), in_use: 0, large: 0, most });
                }
                match state.breaker.connected() {
                    Closed::Now => self.back(&mut state),
                    // A job has to find out the rest.
                    Closed::Already => state.breaker.unproved(Instant::now()),
                }
            }
            Err(error) if error.consequence == Consequence::Refusal && state.proved == Proved::No => {
                state.last_error = Some(error.clone());
                state.stopped.get_or_insert(error);
            }
            // Others still work: the server has enough of us for now, and nothing is lost.
            Err(error) if !state.members.is_empty() => {
                state.held_back = state.held_back.saturating_add(1);
                let pause = self.config.backoff.ceiling(state.held_back);
                state.grow_at = Some(Instant::now() + pause);
                let why = match error.pressure {
                    Pressure::Throttled => "the server throttles",
                    Pressure::None => "it failed",
                };
                let (name, have) = (self.name(), state.members.len());
                tracing::debug!("no more than {have} connections to {name} for now, {why}: {error}");
                state.last_error = Some(error);
                state.breaker.unproved(Instant::now());
            }
            Err(error) => self.outage(&mut state, Cause::Connect, &error),
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn outage(&self, state: &mut State, cause: Cause, error: &DestinationError) {
        // A refusal that turns up while the destination is out (it came back with another host key, say) is news.
        let told = state.last_error.replace(error.clone()).is_some_and(|last| last.why == error.why);
        let is_refusal = error.consequence == Consequence::Refusal;
        match state.breaker.failed(cause, Instant::now(), rand::random()) {
            Opened::Already => return,
            Opened::Now(pause) | Opened::Again(pause) if is_refusal && !told => {
                let pause = humantime::format_duration(rounded(pause));
                let hint = error.hint.as_deref().unwrap_or("look at the server");
                tracing::warn!("destination {} is out: {error}; {hint}; retrying in {pause}", self.name());
            }
            Opened::Now(pause) => {
                let pause = humantime::format_duration(rounded(pause));
                state.said = Instant::now();
                tracing::warn!("destination {} is out: {error}; retrying in {pause}", self.name());
            }
            Opened::Again(pause) => {
                let pause = humantime::format_duration(rounded(pause));
                if state.said.elapsed() < SAY_AGAIN {
                    tracing::debug!("destination {} is still out: {error}; retrying in {pause}", self.name());
                } else {
                    state.said = Instant::now();
                    tracing::warn!("destination {} is still out: {error}; retrying in {pause}", self.name());
                }
            }
        }
        self.outage.send_replace(Some(error.to_string()));
        if let OutagePolicy::GiveUpAfter(most) = self.config.outage
            && state.breaker.failures() >= most
        {
            let mut last = error.clone();
            last.consequence = Consequence::Outage;
            if most > 1 {
                last.why = format!("{} ({most} attempts)", last.why);
            }
            state.stopped.get_or_insert(last);
        }
    }

    fn back(&self, state: &mut State) {
        state.last_error = None;
        self.outage.send_replace(None);
        tracing::info!("destination {} is back", self.name());
    }

    /// Takes a session out. One that broke before any file went through counts as an outage where it was the only
    /// one, or connecting and breaking would go round without a pause.
    fn remove(&self, state: &mut State, link: &Arc<Link>) {
        let before = state.members.len();
        state.members.retain(|member| !Arc::ptr_eq(&member.link, link));
        if state.members.len() < before && state.members.is_empty() && state.useful == Useful::No {
            let what = format!("using the connection to {}", self.name());
            let error = DestinationError::outage(what, "it was lost before any file went through");
            self.outage(state, Cause::Connect, &error);
        }
    }
}

/// Full milliseconds, which are enough for people.
fn rounded(pause: Duration) -> Duration {
    Duration::from_millis(pause.as_millis() as u64)
}

/// Tells the pool of an attempt that ended without a result. Emptied where there is one.
struct Attempt(Option<Weak<Inner>>);

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take().and_then(|pool| pool.upgrade()) {
            let mut state = pool.state();
            state.connecting -= 1;
            state.breaker.unproved(Instant::now());
            drop(state);
            pool.changed.notify_waiters();
        }
    }
}

/// Counts a caller of `acquire`.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn begin(pool: &'a Inner) -> Self {
        pool.state().waiting += 1;
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}
