//! The contract, and what is particular to Redis: replies that are lost, servers that restart, are emptied, full, or
//! replicas.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::ProptestConfig;
use rustix::process::Signal;

use super::*;
use crate::config::settings::Secret;
use crate::domain::{RedisUrl, Status};
use crate::ledger::contract::{self, World, claimed, key, record, request, row};

#[path = "../../../tests/support/redis.rs"]
mod server;
use server::Redis;

/// One that need not outlive a power cut.
pub(crate) fn quick_server() -> Arc<Redis> {
    Arc::new(Redis::start_with(&["--appendonly", "no"]))
}

const LEASE: Duration = Duration::from_secs(60);

/// Owners of one ledger on a server, and its clock.
pub(crate) struct Place {
    server: Arc<Redis>,
    prefix: String,
    client: Mutex<::redis::Connection>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::on(Arc::new(Redis::start()))
    }

    pub(crate) fn on(server: Arc<Redis>) -> Self {
        let client = ::redis::Client::open(format!("unix://{}", server.socket().display())).unwrap();
        let client = Mutex::new(client.get_connection().unwrap());
        let place = Self { server, prefix: format!("test-{:x}", rand::random::<u64>()), client };
        let start = DateTime::parse_from_rfc3339("2026-11-21T03:00:00Z").unwrap();
        place.ask::<()>(::redis::cmd("SET").arg(place.clock()).arg(start.timestamp_millis()));
        place
    }

    fn clock(&self) -> String {
        format!("{{{}}}:clock", self.prefix)
    }

    fn ask<T: ::redis::FromRedisValue>(&self, command: &::redis::Cmd) -> T {
        command.query(&mut self.client.lock().unwrap()).unwrap()
    }

    fn settings(&self) -> RedisSettings {
        RedisSettings {
            url: RedisUrl::parse(&self.server.url()).unwrap().0,
            password: None,
            password_file: None,
            ca_file: None,
            prefix: self.prefix.clone(),
            replicas: 0,
        }
    }

    fn config(&self, settings: RedisSettings) -> RedisConfig {
        RedisConfig { settings, retention: Duration::from_secs(3600), lease: LEASE, owner: OwnerId(rand::random()) }
    }

    async fn open(&self) -> RedisLedger {
        RedisLedger::open(self.config(self.settings())).await.unwrap()
    }

    async fn preview(&self, settings: RedisSettings) -> Result<RedisPreview, LedgerError> {
        RedisPreview::open(self.config(settings)).await
    }

    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(::redis::cmd("KEYS").arg("*"));
        keys.sort();
        keys
    }

    fn shift(&self, milliseconds: i64) {
        self.ask::<i64>(::redis::cmd("INCRBY").arg(self.clock()).arg(milliseconds));
    }
}

#[async_trait]
impl World for Place {
    async fn join(&self) -> Arc<dyn Ledger> {
        Arc::new(self.open().await)
    }

    async fn view(&self) -> Arc<dyn LedgerView> {
        Arc::new(RedisView::open(self.config(self.settings())).await.unwrap())
    }

    async fn kill(&self, ledger: Arc<dyn Ledger>) {
        // As if its lease had run out, and no other one's.
        let owner = ledger.owner().to_string();
        drop(ledger);
        self.ask::<i64>(::redis::cmd("HDEL").arg(format!("{{{}}}:owners", self.prefix)).arg(owner));
    }

    fn pass(&self, time: Duration) {
        self.shift(i64::try_from(time.as_millis()).unwrap());
    }

    fn set_back(&self, time: Duration) {
        self.shift(-i64::try_from(time.as_millis()).unwrap());
    }

    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.ask(::redis::cmd("GET").arg(self.clock()))).unwrap()
    }
}

mod suite {
    use super::Place;
    crate::ledger::contract::contract_suite!(Place::new());
}

fn histories(length: std::ops::Range<usize>, cases: u32) {
    let server = quick_server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..Default::default() });
    let outcome = runner.run(&contract::model::history(length), |history| {
        runtime.block_on(contract::model::agrees(Place::on(server.clone()), history));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn any_history_agrees_with_the_model() {
    histories(1..60, ProptestConfig::default().cases * 2 / 5);
}

#[test]
fn a_long_history_agrees_with_the_model() {
    histories(300..400, ProptestConfig::default().cases / 40);
}

async fn claim(ledger: &RedisLedger, name: &str) -> Claim {
    claimed(ledger.claim(vec![request(name, &format!("/{name}"))]).await.unwrap().remove(0))
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, LedgerError>, why: &str) {
    match result {
        Err(LedgerError::Unavailable { reason, .. }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn unusable<T: std::fmt::Debug>(result: Result<T, LedgerError>, why: &str) {
    match result {
        Err(LedgerError::Unusable { reason, .. }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn lost(result: Result<(), LedgerError>) {
    assert!(matches!(result, Err(LedgerError::LeaseLost)), "{result:?}");
}

#[tokio::test]
async fn what_was_done_is_not_done_again_where_only_the_reply_was_lost() {
    let place = Place::new();
    let (ledger, other) = (place.open().await, place.open().await);
    // The first time, nobody hears the reply.
    let asked = request("x", "/x");
    let id = asked.key.id();
    let number = ledger.number(id);
    ledger.link.call(ledger.calls.claim(std::slice::from_ref(&asked), &[(id, number)])).await.unwrap();
    ledger.is_unclear(id, number);
    assert!(matches!(other.claim(vec![asked.clone()]).await.unwrap()[0], ClaimReply::Held { .. }));
    let mine = claim(&ledger, "x").await;
    assert!(mine.predecessors.is_empty() && mine.remote.as_str() == "/x");
    assert!(matches!(ledger.claim(vec![asked.clone()]).await.unwrap()[0], ClaimReply::Held { .. }));

    for (name, repeated) in [("x", true), ("y", false)] {
        let mine = if name == "x" { mine.clone() } else { claim(&ledger, name).await };
        let (number, record) = (ledger.number(mine.key.id()), record("/x", place.now()));
        let request = ledger.calls.record(&mine, mine.key.id(), number, &record, Intention::Dispose);
        ledger.link.call(request).await.unwrap();
        if repeated {
            ledger.is_unclear(mine.key.id(), number);
            ledger.record(&mine, record.clone(), Intention::Dispose).await.unwrap();
        }
        lost(ledger.record(&mine, record, Intention::Dispose).await);
    }

    let mine = claim(&ledger, "w").await;
    let number = ledger.number(mine.key.id());
    ledger.link.call(ledger.calls.reissue(&mine, number)).await.unwrap();
    ledger.is_unclear(mine.key.id(), number);
    let later = ledger.reissue(&mine).await.unwrap();
    assert!(later.token > mine.token && later.predecessors == [mine.token], "{later:?}");
    assert_eq!(ledger.reissue(&mine).await.unwrap().token, later.token);
    ledger.confirm(&later).await.unwrap();

    let mine = claim(&ledger, "z").await;
    let release = Release::Unfinished { attempts: 3, staged: Staged::Maybe };
    let number = ledger.number(mine.key.id());
    ledger.link.call(ledger.calls.release(&mine, mine.key.id(), number, &release)).await.unwrap();
    ledger.is_unclear(mine.key.id(), number);
    ledger.release(&mine, release.clone()).await.unwrap();
    lost(ledger.release(&mine, release).await);
    assert_eq!(claim(&other, "z").await.predecessors, [mine.token]);
}

#[tokio::test]
async fn what_many_ask_at_once_is_one_call_and_each_has_its_own_reply() {
    use futures::future::join_all;
    const MANY: usize = CHUNK;
    const NOT_OURS: usize = 3;
    let place = Place::new();
    let ledger = place.open().await;
    let requests = (0..MANY).map(|n| request(&format!("f{n}"), &format!("/f{n}"))).collect();
    let mut claims: Vec<_> = ledger.claim(requests).await.unwrap().into_iter().map(claimed).collect();
    claims[NOT_OURS].token.0 += 1000;
    let calls = || {
        let text = place.server.cli(&["INFO", "commandstats"]);
        let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap();
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let only_that_is_lost = |replies: Vec<Result<(), LedgerError>>| {
        for (n, reply) in replies.into_iter().enumerate() {
            if n == NOT_OURS { lost(reply) } else { reply.unwrap() }
        }
    };

    let before = calls();
    only_that_is_lost(join_all(claims.iter().map(|claim| ledger.confirm(claim))).await);
    assert_eq!(calls() - before, 1);

    let before = calls();
    // Half of them are to be disposed of, and every other one is stored under a name of its own.
    let intention = |n| if n % 2 == 0 { Intention::Dispose } else { Intention::LeaveAlone };
    let records: Vec<_> = (0..MANY).map(|n| record(&format!("/stored/{n}"), place.now())).collect();
    let recording = claims.iter().zip(&records).enumerate();
    let recording = recording.map(|(n, (claim, record))| ledger.record(claim, record.clone(), intention(n)));
    only_that_is_lost(join_all(recording).await);
    assert_eq!(calls() - before, 1);

    let keys: Vec<_> = claims.iter().map(|claim| claim.key.clone()).collect();
    let stand = ledger.recorded(keys.clone()).await.unwrap();
    for (n, (stands, record)) in stand.into_iter().zip(records).enumerate() {
        assert_eq!(stands, (n != NOT_OURS).then_some(record), "{n}");
    }
    let index = |name: &str| -> usize { place.ask(::redis::cmd("ZCARD").arg(format!("{{{}}}:{name}", place.prefix))) };
    let destination = &keys[0].destination;
    let staged = index(&format!("staged:{destination}"));
    let disposing = || index(&format!("disposing:{destination}"));
    assert_eq!((index("recorded"), staged, disposing()), (MANY - 1, 1, MANY / 2));

    let before = calls();
    let disposed = join_all(keys.iter().step_by(2).map(|key| ledger.disposed(key))).await;
    disposed.into_iter().for_each(Result::unwrap);
    assert_eq!((calls() - before, disposing()), (1, 0));
}

#[tokio::test]
async fn a_ledger_that_is_emptied_loses_claims_and_nothing_is_guessed() {
    let mut place = Place::new();
    let ledger = place.open().await;
    let clock: String = place.ask(::redis::cmd("GET").arg(place.clock()));
    for restarted in [false, true] {
        let mine = claim(&ledger, "x").await;
        ledger.confirm(&mine).await.unwrap();
        if restarted {
            let clock_key = place.clock();
            drop(place.client);
            let mut server = Arc::into_inner(place.server).unwrap();
            server.restart_empty();
            server.cli(&["SET", &clock_key, &clock]);
            place = Place { server: Arc::new(server), prefix: place.prefix, client: Place::new().client };
        } else {
            place.ask::<()>(&::redis::cmd("FLUSHALL"));
            place.ask::<()>(::redis::cmd("SET").arg(place.clock()).arg(&clock));
        }
        lost(ledger.confirm(&mine).await);
        lost(ledger.record(&mine, record("/x", Utc::now()), Intention::Dispose).await);
        lost(ledger.release(&mine, Release::Forget { staged: Staged::Nothing }).await);
        ledger.renew().await.unwrap();
        let anew = claim(&ledger, "x").await;
        assert!(anew.token != mine.token && anew.predecessors.is_empty());
        ledger.release(&anew, Release::Forget { staged: Staged::Nothing }).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_away_holds_work_and_knows_all_when_it_is_back() {
    let mut server = Redis::start();
    let place = Place::on(Arc::new(Redis::start()));
    server.cli(&["SET", &place.clock(), &Utc::now().timestamp_millis().to_string()]);
    let url = RedisUrl::parse(&server.url()).unwrap().0;
    let ledger = RedisLedger::open(place.config(RedisSettings { url, ..place.settings() })).await.unwrap();
    let (first, second) = (claim(&ledger, "1").await, claim(&ledger, "2").await);
    server.kill();
    for _ in 0..3 {
        unavailable(ledger.confirm(&first).await, "");
        unavailable(ledger.record(&first, record("/1", Utc::now()), Intention::Dispose).await, "");
        unavailable(ledger.claim(vec![request("3", "/3")]).await, "");
    }
    server.restart();
    ledger.record(&first, record("/1", Utc::now()), Intention::Dispose).await.unwrap();
    ledger.confirm(&second).await.unwrap();
    let third = claim(&ledger, "3").await;
    // No token that was lost with the last second is issued again.
    assert!(third.token.0 >= second.token.0 + (1 << 24), "{third:?}");
    // It hangs: its connections stand, and nothing comes back.
    server.signal(Signal::STOP);
    unavailable(ledger.confirm(&second).await, "");
    server.signal(Signal::CONT);
    ledger.confirm(&second).await.unwrap();
    server.cli(&["SCRIPT", "FLUSH"]);
    ledger.confirm(&second).await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    ledger.confirm(&second).await.unwrap();
}

#[tokio::test]
async fn a_server_without_memory_holds_work() {
    let place = Place::new();
    let ledger = place.open().await;
    let mine = claim(&ledger, "x").await;
    let limit = |bytes: &str| place.ask::<()>(::redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]));
    limit("1");
    for _ in 0..2 {
        unavailable(ledger.record(&mine, record("/x", place.now()), Intention::Dispose).await, "out of memory");
        unavailable(ledger.claim(vec![request("y", "/y")]).await, "out of memory");
    }
    limit("0");
    ledger.record(&mine, record("/x", place.now()), Intention::Dispose).await.unwrap();
    claim(&ledger, "y").await;
}

#[tokio::test]
async fn replicas_are_refused_waited_for_and_survived() {
    let place = Place::new();
    let ledger = place.open().await;
    let careful = RedisSettings { replicas: 1, ..place.settings() };
    let careful = RedisLedger::open(place.config(careful)).await.unwrap();
    // No replica has it.
    unavailable(careful.claim(vec![request("x", "/x")]).await, "0 of the 1 replicas");
    let replica_of = |server: &Redis, whom: &[&str]| server.cli(&[&["REPLICAOF"], whom].concat());
    // Nobody is there to replicate from, but it is a replica at once.
    replica_of(&place.server, &["127.0.0.1", "1"]);
    unavailable(ledger.claim(vec![request("y", "/y")]).await, "");
    unavailable(place.preview(place.settings()).await, "replica");
    replica_of(&place.server, &["NO", "ONE"]);
    claim(&ledger, "y").await;
}

#[tokio::test]
async fn a_server_that_drops_keys_is_refused() {
    let place = Place::new();
    for command in [["SET", "maxmemory", "100mb"], ["SET", "maxmemory-policy", "allkeys-lru"]] {
        place.ask::<()>(::redis::cmd("CONFIG").arg(&command));
    }
    unusable(RedisLedger::open(place.config(place.settings())).await, "noeviction");
    place.ask::<()>(::redis::cmd("CONFIG").arg(&["SET", "maxmemory-policy", "volatile-lru"]));
    place.open().await;
}

#[tokio::test]
async fn a_login_is_asked_for_and_given() {
    let place = Place::new();
    let acl = format!(
        "pine on >hunter2 ~{{{}}}:* +@read +@write +@scripting +info +role +ping +config|get +wait",
        place.prefix
    );
    let command = acl.split(' ').fold(::redis::cmd("ACL").arg("SETUSER").to_owned(), |mut command, word| {
        command.arg(word);
        command
    });
    place.ask::<()>(&command);
    place.ask::<()>(::redis::cmd("ACL").arg(&["SETUSER", "default", "off"]));
    unusable(place.preview(place.settings()).await, "ledger.password-file");
    let url = RedisUrl { user: Some("pine".into()), ..place.settings().url };
    let wrong = RedisSettings { url: url.clone(), password: Some(Secret::new("hunter3")), ..place.settings() };
    let error = place.preview(wrong).await.unwrap_err();
    assert!(!format!("{error}{error:?}").contains("hunter"), "{error:?}");
    unusable::<()>(Err(error), "refused the user or password");
    let right = RedisSettings { url, password: Some(Secret::new("hunter2")), ..place.settings() };
    let ledger = RedisLedger::open(place.config(right)).await.unwrap();
    let mine = claim(&ledger, "x").await;
    ledger.record(&mine, record("/x", place.now()), Intention::Dispose).await.unwrap();
    ledger.finish().await.unwrap();
}

#[tokio::test]
async fn keys_of_others_and_of_later_versions_are_left_alone() {
    let place = Place::new();
    let ledger_key = format!("{{{}}}:ledger", place.prefix);
    place.ask::<()>(::redis::cmd("SET").arg(&ledger_key).arg("a letter"));
    unusable(RedisLedger::open(place.config(place.settings())).await, "ledger.prefix");
    unusable(place.preview(place.settings()).await, "ledger.prefix");
    assert_eq!(place.ask::<String>(::redis::cmd("GET").arg(&ledger_key)), "a letter");
    place.ask::<()>(::redis::cmd("DEL").arg(&ledger_key));
    place.ask::<()>(::redis::cmd("HSET").arg(&ledger_key).arg(&["version", "99", "instance", "i"]));
    unusable(RedisLedger::open(place.config(place.settings())).await, "schema 99");
    unusable(place.preview(place.settings()).await, "schema 99");
}

#[tokio::test]
async fn all_keys_have_one_hash_tag_and_two_prefixes_are_two_ledgers() {
    let place = Place::new();
    let ledger = place.open().await;
    let mine = claim(&ledger, "x").await;
    ledger.record(&mine, record("/x", place.now()), Intention::Dispose).await.unwrap();
    claim(&ledger, "y").await;
    let tag = format!("{{{}}}:", place.prefix);
    assert!(place.keys().iter().all(|key| key.starts_with(&tag)), "{:?}", place.keys());
    let other = RedisSettings { prefix: format!("{}-2", place.prefix), ..place.settings() };
    let clock = format!("{{{}-2}}:clock", place.prefix);
    place.ask::<()>(::redis::cmd("SET").arg(clock).arg(1));
    let other = RedisLedger::open(place.config(other)).await.unwrap();
    assert_ne!(claim(&other, "y").await.token, mine.token);
}

#[tokio::test]
async fn what_is_asked_for_at_the_same_time_goes_together() {
    let place = Place::new();
    let ledger = place.open().await;
    let requests = (0..500).map(|n| request(&n.to_string(), "/x")).collect();
    let claims: Vec<_> = ledger.claim(requests).await.unwrap().into_iter().map(claimed).collect();
    let reads = || -> u64 {
        let info: String = place.ask(::redis::cmd("INFO").arg("stats"));
        let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.unwrap().trim().parse().unwrap()
    };
    let (before, now) = (reads(), place.now());
    let records = claims.iter().map(|claim| ledger.record(claim, record("/x", now), Intention::LeaveAlone));
    futures::future::join_all(records).await.into_iter().for_each(Result::unwrap);
    // A pipeline of 500 calls is read in pieces of 16 KiB or more; one by one they would be 500 reads.
    let taken = reads() - before;
    assert!(taken < 60, "{taken} reads for 500 calls");
}

#[tokio::test]
async fn records_past_the_retention_go_once_their_file_is_gone() {
    let place = Place::new();
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("kept"), "").unwrap();
    let first = place.open().await;
    let record_all = async |names: &[&str]| {
        for name in names {
            let mut asked = request(name, "/x");
            asked.key.path = name.as_bytes().to_vec();
            // A volume that is not mounted here says nothing of its files.
            let root = if *name == "elsewhere" { "/nonexistent/volume".into() } else { volume.path().to_owned() };
            asked.local_path = root.join(name);
            let mine = claimed(first.claim(vec![asked]).await.unwrap().remove(0));
            first.record(&mine, record("/x", place.now()), Intention::LeaveAlone).await.unwrap();
        }
    };
    let many: Vec<String> = (0..2 * RETENTION_PAGE + 10).map(|n| format!("gone-{n}")).collect();
    record_all(&many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    record_all(&["kept", "elsewhere", "disposing"]).await;
    let key_of = |name: &str| FileKey { path: name.as_bytes().to_vec(), ..key(name) };
    first.disposing(&key_of("disposing")).await.unwrap();
    place.pass(Duration::from_secs(3601));
    first.renew().await.unwrap();
    record_all(&["young"]).await;
    first.finish().await.unwrap();
    let second = place.open().await;
    for (name, stays) in [
        ("gone-0", false),
        (&many[many.len() - 1], false),
        ("kept", true),
        ("elsewhere", true),
        ("disposing", true),
        ("young", true),
    ] {
        let found = second.recorded(vec![key_of(name)]).await.unwrap().remove(0);
        assert_eq!(found.is_some(), stays, "{name}");
    }
    assert_eq!(place.keys().iter().filter(|key| key.contains(":entry:")).count(), 4);
}

#[tokio::test]
async fn a_preview_knows_what_is_recorded_and_held_and_changes_nothing() {
    let place = Place::new();
    let before = place.keys();
    let preview = place.preview(place.settings()).await.unwrap();
    claimed(preview.claim(vec![request("x", "/x")]).await.unwrap().remove(0));
    preview.finish().await.unwrap();
    assert_eq!(place.keys(), before);

    let ledger = place.open().await;
    let mine = claim(&ledger, "recorded").await;
    ledger.record(&mine, record("/recorded", place.now()), Intention::LeaveAlone).await.unwrap();
    claim(&ledger, "held").await;
    let released = claim(&ledger, "pinned").await;
    ledger.release(&released, Release::Unfinished { attempts: 1, staged: Staged::Maybe }).await.unwrap();
    let digest = || place.ask::<String>(::redis::cmd("DEBUG").arg("DIGEST"));
    let before = digest();
    let preview = place.preview(place.settings()).await.unwrap();
    let names = ["free", "recorded", "held", "pinned"];
    let replies = preview.claim(names.map(|name| request(name, "/new")).to_vec()).await.unwrap();
    assert!(matches!(
        &replies[..],
        [ClaimReply::Claimed(free), ClaimReply::Recorded(_), ClaimReply::Held { owner }, ClaimReply::Claimed(pinned)]
            if free.remote.as_str() == "/new" && *owner == ledger.owner() && pinned.remote.as_str() == "/pinned"
    ));
    preview.put_rows(vec![RowOf::new(None, row("free", Status::Skipped, 1))]).await.unwrap();
    assert_eq!(preview.totals().await.unwrap().skipped, 1);
    preview.finish().await.unwrap();
    assert_eq!(digest(), before);
}

/// Those who take in the same, as long as they live; nobody who only has a ledger.
#[tokio::test]
async fn peers_are_those_who_take_in_the_same() {
    let place = Place::new();
    let [one, two, other, idle] = [place.open().await, place.open().await, place.open().await, place.open().await];
    async fn peers(ledger: &RedisLedger, scope: &str) -> std::collections::HashSet<OwnerId> {
        ledger.peers(scope).await.unwrap().into_iter().collect()
    }
    assert_eq!(peers(&one, "a").await, [one.owner()].into());
    assert_eq!(peers(&two, "a").await, [one.owner(), two.owner()].into());
    assert_eq!(peers(&other, "b").await, [other.owner()].into());
    assert_eq!(peers(&one, "a").await, [one.owner(), two.owner()].into());
    two.finish().await.unwrap();
    assert_eq!(peers(&one, "a").await, [one.owner()].into());
    // It has other settings now.
    assert_eq!(peers(&other, "a").await, [one.owner(), other.owner()].into());
    place.pass(LEASE + Duration::from_secs(1));
    assert_eq!(peers(&one, "a").await, [one.owner()].into());
    idle.finish().await.unwrap();
}
