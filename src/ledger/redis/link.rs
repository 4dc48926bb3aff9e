//! The way to the server: one task owns the connection, takes all calls that wait, and sends them as one pipeline. So
//! what many callers ask for at the same time costs one round trip, and one wait for replicas; and where it is the same
//! for many files, one call of the script, for what surrounds a script costs the server more than what it does for a file.
//!
//! A call that finds the connection gone is repeated once on a new one: every script knows a call that it has done
//! already by its number. Beyond that the caller is told, and decides.

use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{mpsc, oneshot};

use super::CHUNK;
use super::connect::{Connector, Joined};
use super::error::{Connection, Refusal, Reply, told};
use super::scripts::{Effect, Script};
use super::words::Words;
use crate::domain::redis_url::HostPort;
use crate::ledger::LedgerError;

/// The most calls of one pipeline.
const BATCH: usize = 512;
/// How often a batch is sent before it counts as failed: a connection that broke, scripts that were flushed, a ledger that
/// was emptied, a cluster that moved it.
const ROUNDS: usize = 4;
/// Pause after a connection that failed, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A script with what is its own; what all have in common comes with the connection.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) script: Script,
    /// Behind the ledger's and the owners' keys.
    pub(super) keys: Words,
    pub(super) arguments: Words,
}

struct Call {
    request: Request,
    reply: oneshot::Sender<Result<Value, LedgerError>>,
}

/// Dropping it ends the task and the connection.
#[derive(Debug)]
pub(super) struct Link {
    calls: mpsc::Sender<Call>,
    location: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Connects, and goes on trying for `patience`.
    pub(super) async fn open(mut connector: Connector, patience: Duration) -> Result<Self, LedgerError> {
        let location = connector.location();
        let deadline = Instant::now() + patience;
        let mut pause = Pause::default();
        let joined = loop {
            match connector.connect(None).await {
                Ok(joined) => break joined,
                Err(Refusal::Unavailable(reason)) if Instant::now() < deadline => {
                    tracing::debug!(location, reason, "trying again to open the ledger");
                    tokio::time::sleep(pause.next()).await;
                }
                Err(refusal) => return Err(refusal.at(&location)),
            }
        };
        let (calls, waiting) = mpsc::channel(2 * BATCH);
        let worker = Worker {
            instance: joined.instance.clone(),
            location: location.clone(),
            connector,
            joined: Some(joined),
            node: None,
            pause: Pause::default(),
            not_before: Instant::now(),
        };
        Ok(Self { calls, location, task: tokio::spawn(worker.serve(waiting)) })
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Sends a request with all others that wait.
    pub(super) async fn call(&self, request: Request) -> Result<Value, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let ended = || LedgerError::Unusable {
            location: self.location.clone(),
            reason: "its connection's task ended unexpectedly; please report this".into(),
        };
        self.calls.send(Call { request, reply }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

struct Worker {
    connector: Connector,
    location: String,
    joined: Option<Joined>,
    /// Which ledger it was that we joined last.
    instance: String,
    /// Where a cluster sent us.
    node: Option<HostPort>,
    pause: Pause,
    not_before: Instant,
}

type Outcome = Result<Value, LedgerError>;

impl Worker {
    async fn serve(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut batch = Vec::with_capacity(BATCH);
        while calls.recv_many(&mut batch, BATCH).await > 0 {
            // What the same replies woke is about to call, too.
            tokio::task::yield_now().await;
            while batch.len() < BATCH
                && let Ok(call) = calls.try_recv()
            {
                batch.push(call);
            }
            let (requests, replies): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|call: Call| (call.request, call.reply)).unzip();
            let outcomes = self.exchange(&requests).await;
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // A caller that went away needs no answer.
                let _ = reply.send(outcome);
            }
        }
    }

    async fn exchange(&mut self, requests: &[Request]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = requests.iter().map(|_| None).collect();
        let mut why = Refusal::Unavailable("it changes faster than one can follow".into());
        for _ in 0..ROUNDS {
            let open: Vec<usize> = (0..requests.len()).filter(|at| outcomes[*at].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let is_new = self.joined.is_none();
            if let Err(refusal) = self.connected().await {
                why = refusal;
                break;
            }
            match self.send(requests, &open).await {
                Ok(replies) => {
                    for (at, reply) in replies {
                        outcomes[at] = self.judge(reply);
                    }
                }
                Err(refusal) => {
                    self.joined = None;
                    why = refusal;
                    // One that was open may have been closed long ago, which says nothing about the server.
                    if is_new {
                        break;
                    }
                }
            }
        }
        let failed = why.at(&self.location);
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(failed.clone()))).collect()
    }

    /// The outcome, or `None` where the call has to be sent again.
    fn judge(&mut self, reply: Result<Value, Reply>) -> Option<Outcome> {
        match reply {
            Ok(value) => Some(Ok(value)),
            Err(Reply::Again) => {
                self.joined = None;
                None
            }
            Err(Reply::Elsewhere(node)) => {
                self.joined = None;
                self.node = Some(node);
                None
            }
            Err(Reply::Failed(refusal, connection)) => {
                if connection == Connection::Drop {
                    self.joined = None;
                    self.node = None;
                }
                Some(Err(refusal.at(&self.location)))
            }
        }
    }

    async fn connected(&mut self) -> Result<(), Refusal> {
        if self.joined.is_some() {
            return Ok(());
        }
        tokio::time::sleep_until(self.not_before.into()).await;
        match self.connector.connect(self.node.as_ref()).await {
            Ok(joined) => {
                if !self.instance.is_empty() && joined.instance != self.instance {
                    tracing::warn!(
                        "the ledger {} was emptied since, or is another one now: what this process had claimed in it is lost, and claimed anew",
                        self.location
                    );
                }
                self.instance.clone_from(&joined.instance);
                self.joined = Some(joined);
                self.pause = Pause::default();
                Ok(())
            }
            Err(refusal) => {
                self.not_before = Instant::now() + self.pause.next();
                // The node that we were sent to may be gone; the one that was named knows the next.
                self.node = None;
                // Whatever it is, it let us in before.
                match refusal {
                    Refusal::Unusable(reason) => Err(Refusal::Unavailable(reason)),
                    refusal => Err(refusal),
                }
            }
        }
    }

    /// The replies to these requests, each with its place among all; an error where the connection failed.
    async fn send(
        &mut self,
        requests: &[Request],
        which: &[usize],
    ) -> Result<Vec<(usize, Result<Value, Reply>)>, Refusal> {
        let Some(joined) = &mut self.joined else { return Err(Refusal::Unavailable("it is not connected".into())) };
        let header = self.connector.header(&joined.instance);
        let common = [self.connector.keys.ledger().to_string(), self.connector.keys.owners().to_string()];
        let groups = groups(requests, which);
        let mut pipeline = Pipeline::with_capacity(groups.len() + 1);
        let mut changes = false;
        for group in &groups {
            let first = &requests[group[0]];
            changes |= first.script.effect() != Effect::Reads;
            let shared = first.script.shared_keys().unwrap_or(0);
            let of_group = || group.iter().map(|at| &requests[*at]);
            let own = of_group().map(|request| request.keys.len() - shared).sum::<usize>();
            let words = 9 + shared + own + of_group().map(|request| request.arguments.len()).sum::<usize>();
            let bytes = of_group().map(|request| request.keys.bytes() + request.arguments.bytes()).sum::<usize>();
            let mut call = Cmd::with_capacity(words, 256 + bytes);
            call.arg("EVALSHA").arg(first.script.sha1()).arg(common.len() + shared + own).arg(&common);
            first.keys.iter().take(shared).for_each(|key| add(&mut call, key));
            for request in of_group() {
                request.keys.iter().skip(shared).for_each(|key| add(&mut call, key));
            }
            call.arg(&header);
            for request in of_group() {
                request.arguments.iter().for_each(|argument| add(&mut call, argument));
            }
            pipeline.add_command(call);
        }
        let replicas = i64::from(self.connector.replicas());
        let waits = changes && replicas > 0;
        if waits {
            // <https://redis.io/docs/latest/commands/wait/>: for all that this connection changed so far.
            let limit = self.connector.timeout() / 2;
            pipeline.cmd("WAIT").arg(replicas).arg(limit.as_millis() as u64);
        }
        let sent = joined.connection.req_packed_commands(&pipeline, 0, pipeline.len()).await;
        let mut replies = sent.map_err(|error| Refusal::Unavailable(told(&error)))?;
        let reached = if waits { replies.pop() } else { None };
        let short = match reached {
            Some(Value::Int(reached)) if reached >= replicas => None,
            Some(Value::Int(reached)) => {
                Some(format!("{reached} of the {replicas} replicas that have to have each change do (ledger.replicas)"))
            }
            Some(_) => Some("it does not say how many of its replicas have a change".into()),
            None => None,
        };
        let foreign = || Refusal::Unavailable("its replies are not those to our requests".into());
        if replies.len() != groups.len() {
            return Err(foreign());
        }
        let mut judged = Vec::with_capacity(which.len());
        for (reply, group) in replies.into_iter().zip(groups) {
            let script = requests[group[0]].script;
            match (reply, &short) {
                (Value::ServerError(error), _) => judged.extend(group.iter().map(|at| (*at, Err(Reply::of(&error))))),
                // It may yet reach them; asked again, it counts once it has.
                (_, Some(why)) if script.effect() != Effect::Reads => {
                    let failed = || Reply::Failed(Refusal::Unavailable(why.clone()), Connection::Keep);
                    judged.extend(group.iter().map(|at| (*at, Err(failed()))));
                }
                (reply, _) if script.shared_keys().is_none() => judged.push((group[0], Ok(reply))),
                (Value::Array(each), _) if each.len() == group.len() => {
                    judged.extend(group.into_iter().zip(each.into_iter().map(Ok)));
                }
                _ => return Err(foreign()),
            }
        }
        Ok(judged)
    }
}

fn add(call: &mut Cmd, word: &[u8]) {
    call.arg(word);
}

/// Which requests go in one call of their script, which saves the server most of its work on them. Those of one script move
/// up to the first of them; what waits here together has no order, for each caller awaits its reply.
fn groups(requests: &[Request], which: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in which {
        let script = requests[*at].script;
        let fits = |group: &&mut Vec<usize>| requests[group[0]].script == script && group.len() < CHUNK;
        let open = script.shared_keys().and_then(|_| groups.iter_mut().find(fits));
        match open {
            Some(group) => group.push(*at),
            None => groups.push(vec![*at]),
        }
    }
    groups
}

/// The pauses between attempts to connect.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pause {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        // Not all replicas at once.
        pause.mul_f64(rand::random_range(0.5..1.0))
    }
}
